// The collections that the Search and Chat tabs choose from.

import { call } from "./api.js";
import { element } from "./dom.js";

let listed = false;

export const collectionPath = (name) => `v1/collections/${encodeURIComponent(name)}`;

/** Read the collections and put them into every select; `chosen` becomes the selected one. */
export async function listCollections(chosen) {
  const { collections } = await call("GET", "v1/collections");
  listed = true;
  for (const select of document.querySelectorAll("select.collections")) {
    const kept = chosen ?? select.value;
    const there = collections.some(({ name }) => name === kept);
    const options = collections.map((one) => element("option", { value: one.name }, label(one)));
    // the place of a collection that is gone stays empty: nobody has chosen another one
    if (!collections.length) options.push(element("option", { value: "" }, "none yet"));
    else if (kept && !there) options.unshift(element("option", { value: "" }, "choose one"));
    select.replaceChildren(...options);
    if (there) select.value = kept;
  }
}

function label({ name, count }) {
  return count === null ? `${name} (cannot be opened)` : `${name} (${count.toLocaleString("en")})`;
}

/** Do `work(name)` with the collection that a select shows. */
export async function withChosen(select, work) {
  if (!listed) await listCollections();
  if (!select.value) throw new Error(select.length > 1 ? "Choose a collection." : "There is no collection yet: fill one on the Search tab.");
  try {
    return await work(select.value);
  } catch (error) {
    if (error.status === 404) await listCollections();
    throw error;
  }
}
