// The server's HTTP API, with the key where one is asked for.

import { byId, tell } from "./dom.js";

const KEY = "bgem3-key";

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Call the API; a body is sent as JSON, unless it is a file's bytes. */
export async function call(method, path, body) {
  const response = await send(method, path, body);
  return response.json();
}

/** Call the API and hand each server-sent event to `take(name, data)`, until `signal` aborts it. */
export async function stream(path, body, take, signal) {
  const response = await send("POST", path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => {
      throw new ApiError("The server stopped answering.");
    });
    if (done) return;
    const events = (pending + value).split("\n\n");
    pending = events.pop();
    for (const event of events) {
      const [name, data] = event.split("\n").map((line) => line.slice(line.indexOf(":") + 2));
      take(name, JSON.parse(data));
    }
  }
}

async function send(method, path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  const raw = body instanceof Blob;
  if (body !== undefined) headers["Content-Type"] = raw ? "application/octet-stream" : "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: raw || body === undefined ? body : JSON.stringify(body) });
  } catch {
    throw new ApiError("The server does not answer. Is it still running?");
  }
  if (response.status === 401) {
    // while this call was under way, another one may have asked for the key
    if (sessionStorage.getItem(KEY) === key) await askForKey(key !== null);
    return send(method, path, body, signal);
  }
  if (!response.ok) throw new ApiError(await reason(response), response.status);
  return response;
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

let asking;

/** Show the dialog, once for all calls that wait; closed without a key, it fails them, and the next call asks again. */
function askForKey(refused) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = byId("key");
    tell(byId("key-problem"), refused ? "The server refused this key." : "");
    dialog.returnValue = byId("key-value").value = "";
    const closed = () => {
      asking = undefined;
      if (dialog.returnValue) resolve();
      else reject(new ApiError("This server asks for a key, and none was given."));
    };
    dialog.addEventListener("close", closed, { once: true });
    dialog.showModal();
  });
  return asking;
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = byId("key-value").value;
  // fetch throws on what a header cannot carry
  if (!/^[ -~]+$/.test(given)) return tell(byId("key-problem"), "A key has only letters, digits and signs of ASCII.");
  sessionStorage.setItem(KEY, given);
  byId("key").close("given");
  document.dispatchEvent(new Event("key"));
});
