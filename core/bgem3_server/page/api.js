// The server's HTTP API, with the key where one is asked for.

import { byId } from "./dom.js";

const KEY = "bgem3-key";

export class ApiError extends Error {}

/** Call the API; a body is sent as JSON, unless it is a file's bytes. */
export async function call(method, path, body) {
  const response = await send(method, path, body);
  return response.json();
}

/** Call the API and hand each server-sent event to `take(name, data)`. */
export async function stream(path, body, take) {
  const response = await send("POST", path, body);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (pending + value).split("\n\n");
    pending = events.pop();
    for (const event of events) {
      const [name, data] = event.split("\n").map((line) => line.slice(line.indexOf(":") + 2));
      take(name, JSON.parse(data));
    }
  }
}

async function send(method, path, body) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  const raw = body instanceof Blob;
  if (body !== undefined) headers["Content-Type"] = raw ? "application/octet-stream" : "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: raw || body === undefined ? body : JSON.stringify(body) });
  } catch {
    throw new ApiError("The server does not answer. Is it still running?");
  }
  if (response.status === 401) {
    await askForKey();
    return send(method, path, body);
  }
  if (!response.ok) throw new ApiError(await reason(response));
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

function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key");
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.showModal();
    byId("key-form").addEventListener(
      "submit",
      (event) => {
        event.preventDefault();
        sessionStorage.setItem(KEY, byId("key-value").value);
        dialog.close();
        asking = undefined;
        resolve();
      },
      { once: true },
    );
  });
  return asking;
}
