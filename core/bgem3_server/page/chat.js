// Chat: questions to a collection; a citation opens its passage.

import { stream } from "./api.js";
import { byId, element, onSubmit } from "./dom.js";
import { chips } from "./search.js";

let turns = [];

export function startChat(info) {
  byId("chat-lead").textContent = info.chat_model
    ? `Ask a collection; ${info.chat_model} answers from its passages and names them.`
    : "No language model is set on this server, so answers quote the passages word for word.";
  byId("chat-clear").addEventListener("click", clear);
  byId("chat-collection").addEventListener("change", clear);
  onSubmit(byId("chat-form"), byId("chat-problem"), ask);
  clear();
}

function clear() {
  turns = [];
  byId("chat-log").replaceChildren(element("p", { className: "empty" }, "Choose a collection and ask. You may ask in another language than its documents."));
  byId("chat-problem").hidden = true;
}

async function ask() {
  const name = byId("chat-collection").value;
  if (!name) throw new Error("There is no collection yet: fill one on the Search tab.");
  const question = byId("chat-question").value;
  const log = byId("chat-log");
  if (!turns.length) log.replaceChildren();
  const shown = element("div", { className: "said assistant", dir: "auto", ariaBusy: "true" }, "…");
  const asked = element("div", { className: "said user", dir: "auto" }, question);
  log.append(asked, shown);
  log.scrollTop = log.scrollHeight;
  turns.push({ role: "user", content: question });
  byId("chat-question").value = "";
  try {
    turns.push({ role: "assistant", content: await answer(name, shown, log) });
  } catch (error) {
    turns.pop();
    asked.remove();
    shown.remove();
    byId("chat-question").value = question;
    throw error;
  }
}

async function answer(name, shown, log) {
  let passages = [];
  let text = "";
  let failure;
  await stream(`v1/collections/${name}/chat`, { messages: turns }, (event, data) => {
    if (event === "sources") passages = data.passages;
    if (event === "error") failure = data.message;
    if (event !== "text") return;
    text += data.text;
    shown.replaceChildren(...cited(text, passages));
    log.scrollTop = log.scrollHeight;
  });
  if (failure) throw new Error(failure);
  shown.ariaBusy = "false";
  return text;
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
