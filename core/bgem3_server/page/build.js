// Fill a collection: files, pasted text or the samples, a few documents at a time so that the bar is true.

import { call } from "./api.js";
import { collectionPath, listCollections } from "./collections.js";
import { attempt, byId, onSubmit } from "./dom.js";

const AT_ONCE = 16;

export function startBuild() {
  const form = byId("build-form");
  const problem = byId("search-problem");
  onSubmit(form, problem, () => fill(chosenDocuments));
  byId("build-samples").addEventListener("click", (event) => {
    if (form.reportValidity()) attempt(event.target, problem, () => fill(async () => (await call("GET", "page/samples.json")).documents));
  });
  const drop = byId("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") byId("build-files").files = event.dataTransfer.files;
    });
  }
}

async function fill(read) {
  byId("build-bar").value = 0;
  try {
    await add(await read());
  } catch (error) {
    // how many were added before it is still worth knowing
    if (!byId("build-bar").value) byId("build-progress").hidden = true;
    throw error;
  }
}

async function chosenDocuments() {
  const files = [...byId("build-files").files];
  const pasted = byId("build-text").value.trim();
  if (pasted) files.push(new File([pasted], `pasted-${Date.now().toString(36)}.txt`));
  if (!files.length) throw new Error("Choose a file, or paste some text.");
  const empty = files.find((file) => !file.size);
  if (empty) throw new Error(`${empty.name} is empty.`);
  const documents = [];
  for (const file of files) {
    say(`Reading ${file.name} …`);
    documents.push(...(await call("POST", `v1/parse?filename=${encodeURIComponent(file.name)}`, file)).documents);
  }
  return documents;
}

async function add(documents) {
  const name = byId("build-name").value;
  checkIds(documents);
  for (let done = 0; done < documents.length; done += AT_ONCE) {
    say(`${done} of ${documents.length} passages`, done, documents.length);
    await call("POST", `${collectionPath(name)}/documents`, { documents: documents.slice(done, done + AT_ONCE) });
  }
  say(`${documents.length} passages added to ${name}.`, documents.length, documents.length);
  byId("build-text").value = byId("build-files").value = "";
  await listCollections(name);
}

/** The server sees one batch at a time: in a later one the same id would replace the document. */
function checkIds(documents) {
  const seen = new Set();
  for (const { id } of documents) {
    if (seen.has(id)) throw new Error(`Two passages have the id “${id}”. Nothing was added.`);
    seen.add(id);
  }
}

function say(text, done, total) {
  byId("build-progress").hidden = false;
  byId("build-said").textContent = text;
  const bar = byId("build-bar");
  if (total === undefined) bar.removeAttribute("value");
  else Object.assign(bar, { max: Math.max(total, 1), value: done });
}
