// Chat: questions to a collection; a citation opens its passage.

import { stream } from "./api.js";
import { collectionPath, withChosen } from "./collections.js";
import { byId, element, onSubmit, tell } from "./dom.js";
import { chips } from "./search.js";

// The server takes 100 messages; an odd number of the last ones begins with a question, as it ends with one.
const MOST = 99;
let turns = [];
let about;
let running = new AbortController();

export function startChat() {
  byId("chat-clear").addEventListener("click", clear);
  byId("chat-collection").addEventListener("change", clear);
  onSubmit(byId("chat-form"), byId("chat-problem"), () => withChosen(byId("chat-collection"), ask));
  clear();
}

export function introduceChat(model) {
  byId("chat-lead").textContent = model
    ? `Ask a collection; ${model} answers from its passages and names them.`
    : "No language model is set on this server, so answers quote the passages word for word.";
}

function clear() {
  running.abort();
  turns = [];
  byId("chat-log").replaceChildren(element("p", { className: "empty" }, "Choose a collection and ask. You may ask in another language than its documents."));
  tell(byId("chat-problem"), "");
}

async function ask(name) {
  // a conversation is about one collection, also when it was filling one that chose another
  if (name !== about) clear();
  about = name;
  const { signal } = (running = new AbortController());
  const question = byId("chat-question").value;
  const log = byId("chat-log");
  log.querySelector(".empty")?.remove();
  const shown = element("div", { className: "said assistant", dir: "auto", ariaBusy: "true" }, "…");
  const asked = element("div", { className: "said user", dir: "auto" }, question);
  log.append(asked, shown);
  log.scrollTop = log.scrollHeight;
  const request = { role: "user", content: question };
  const reply = { role: "assistant", content: "" };
  byId("chat-question").value = "";
  try {
    await answer(name, [...turns, request].slice(-MOST), reply, shown, signal);
    if (!signal.aborted) turns.push(request, reply);
  } catch (error) {
    if (signal.aborted) return;
    byId("chat-question").value ||= question;
    if (reply.content) shown.append(element("small", {}, "This answer is unfinished."));
    else [asked, shown].forEach((one) => one.remove());
    log.scrollTop = log.scrollHeight;
    throw error;
  } finally {
    shown.ariaBusy = "false";
  }
}

/** Fill the reply, and show it as it comes. */
async function answer(name, messages, reply, shown, signal) {
  const log = byId("chat-log");
  let passages = [];
  let end;
  const take = (event, data) => {
    if (event === "sources") passages = data.passages;
    if (event === "done" || event === "error") end = data;
    if (event !== "text") return;
    reply.content += data.text;
    shown.replaceChildren(...cited(reply.content, passages));
    log.scrollTop = log.scrollHeight;
  };
  await stream(`${collectionPath(name)}/chat`, { messages }, take, signal);
  if (!end) throw new Error("The server stopped answering.");
  if (end.message) throw new Error(end.message);
}

/** Turn [1] into a button where there is a passage 1. */
function cited(text, passages) {
  return text.split(/(\[\d+\])/).map((part) => {
    const passage = passages[Number(/^\[(\d+)\]$/.exec(part)?.[1]) - 1];
    if (!passage) return part;
    const button = element("button", { type: "button", className: "cite", ariaLabel: `Passage ${part.slice(1, -1)}` }, part.slice(1, -1));
    button.addEventListener("click", () => open(passage));
    return button;
  });
}

function open(passage) {
  byId("passage-title").textContent = passage.metadata.title ?? passage.id;
  byId("passage-text").textContent = passage.text;
  byId("passage-metadata").replaceChildren(...chips(passage.metadata));
  byId("passage").showModal();
}
