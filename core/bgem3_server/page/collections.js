// The collections that the Search and Chat tabs choose from.

import { call } from "./api.js";
import { element } from "./dom.js";

/** Read the collections and put them into every select; `chosen` becomes the selected one. */
export async function listCollections(chosen) {
  const { collections } = await call("GET", "v1/collections");
  for (const select of document.querySelectorAll("select.collections")) {
    const kept = chosen ?? select.value;
    select.replaceChildren(
      ...collections.map(({ name, count }) => element("option", { value: name }, `${name} (${count.toLocaleString("en")})`)),
    );
    if (!collections.length) select.append(element("option", { value: "" }, "none yet"));
    if (collections.some(({ name }) => name === kept)) select.value = kept;
  }
}
