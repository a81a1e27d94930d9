// Search: the query, its options, and hits that show why they were found.

import { call } from "./api.js";
import { startBuild } from "./build.js";
import { collectionPath, listCollections, withChosen } from "./collections.js";
import { attempt, byId, drawPieces, element, fixed, HEADS, milliseconds, NAMES, onSubmit } from "./dom.js";
import { parseFilter } from "./filter.js";

// How a piece of a hit matches.
const KINDS = { word: "in the query too", near: "near a token of the query" };
const sample = (kind, text) => element("mark", { className: kind, style: { "--value": 1 } }, text);
const LEGEND = element("p", { className: "hint" }, sample("word", "Coloured"), `: ${KINDS.word}. `, sample("near", "Underlined"), `: ${KINDS.near}.`);

export function startSearch() {
  startBuild();
  byId("search-preset").addEventListener("change", (event) => event.target.value && setWeights(event.target.value.split(",")));
  for (const head of HEADS) {
    byId(`weight-${head}`).addEventListener("input", () => {
      byId("search-preset").value = "";
      byId(`weight-${head}-value`).textContent = byId(`weight-${head}`).value;
    });
  }
  const chosen = byId("search-collection");
  const problem = byId("search-problem");
  onSubmit(byId("search-form"), problem, () => withChosen(chosen, search), byId("search-result"));
  byId("search-drop").addEventListener("click", (event) => attempt(event.target, problem, () => withChosen(chosen, drop)));
}

function setWeights(values) {
  HEADS.forEach((head, place) => {
    byId(`weight-${head}`).value = values[place];
    byId(`weight-${head}-value`).textContent = values[place];
  });
}

async function drop(name) {
  if (!confirm(`Delete ${name} and all its documents?`)) return;
  await call("DELETE", collectionPath(name));
  byId("search-result").replaceChildren(element("p", { className: "empty" }, `${name} is deleted.`));
  byId("search-result").hidden = false;
  byId("search-said").textContent = `${name} is deleted.`;
  await listCollections();
}

async function search(name) {
  const preset = byId("search-preset").value.split(",");
  const chosen = preset.length === 3 ? preset : HEADS.map((head) => byId(`weight-${head}`).value);
  const weights = Object.fromEntries(HEADS.map((head, place) => [head, Number(chosen[place])]));
  const mode = byId("search-mode").value;
  const strategy = byId("search-strategy").value;
  const answer = await call("POST", `${collectionPath(name)}/search`, {
    query: byId("search-query").value,
    k: Number(byId("search-k").value),
    mode,
    strategy,
    where: parseFilter(byId("search-where").value),
    weights,
    explain: true,
  });
  // on a narrow screen what was filled in would push the hits out of sight
  if (matchMedia("(max-width: 52rem)").matches) byId("build").open = byId("options").open = false;
  // elsewhere the score is no weighted mean, so that nothing has a share in it
  const shared = mode === "hybrid" && strategy !== "rrf";
  const list = element("ol", { className: "hits" }, ...answer.hits.map((hit, rank) => card(hit, rank, shared ? shares(hit, weights) : [])));
  const legend = answer.hits.some((hit) => hit.matches.length) ? LEGEND : "";
  byId("search-result").replaceChildren(legend, answer.hits.length ? list : element("p", { className: "empty" }, "Nothing found."), stages(answer));
  return answer.hits.length === 1 ? "1 hit" : `${answer.hits.length} hits`;
}

/** Draw what each head adds to a weighted mean. */
function shares(hit, weights) {
  const total = HEADS.reduce((sum, head) => sum + weights[head], 0);
  const parts = HEADS.map((head) => {
    const share = Math.max(0, (hit.scores[head] * weights[head]) / total);
    return element("div", { className: `bar-part ${head}-map`, style: { width: `${share * 100}%` } });
  });
  return [element("div", { className: "split", ariaHidden: "true" }, ...parts)];
}

function card(hit, rank, bar) {
  const legend = HEADS.filter((head) => head in hit.scores).map((head) =>
    element("span", { className: `head-name ${head}-map` }, `${NAMES[head]} ${fixed(hit.scores[head])}`),
  );
  return element(
    "li",
    { className: "hit card" },
    element("div", { className: "hit-head" }, element("span", {}, `${rank + 1} · ${hit.id}`), element("b", {}, fixed(hit.score, 3))),
    element("p", { className: "hit-text", dir: "auto" }, ...drawPieces(hit.text, joined(hit.matches ?? []), marked)),
    ...bar,
    element("div", { className: "legend-row" }, ...legend),
    element("div", { className: "chips" }, ...chips(hit.metadata)),
  );
}

/** One piece a place: a word that both have and a token that is alike may be the same. */
function joined(matches) {
  const places = new Map();
  for (const { start, end, strength, head } of matches) {
    const piece = places.get(start) ?? { start, end, word: 0, near: 0 };
    piece[head === "sparse" ? "word" : "near"] = strength;
    places.set(start, piece);
  }
  return [...places.values()].sort((a, b) => a.start - b.start);
}

function marked(text, piece) {
  const kinds = ["word", "near"].filter((kind) => piece[kind] > 0);
  const title = kinds.map((kind) => KINDS[kind]).join(", ");
  return element("mark", { className: kinds.join(" "), title, style: { "--value": piece.word || piece.near } }, text);
}

export function chips(metadata) {
  return Object.entries(metadata).map(([key, value]) => element("span", { className: "chip" }, `${key}: ${[value].flat().join(", ")}`));
}

function stages(answer) {
  const rows = answer.stages.map(({ name, candidates, seconds }) =>
    element("tr", {}, element("th", { scope: "row" }, name.replaceAll("_", "-")), element("td", {}, `${candidates}`), element("td", {}, milliseconds(seconds))),
  );
  const head = element("tr", {}, ...["Stage", "Left", "Time"].map((name) => element("th", { scope: "col" }, name)));
  return element(
    "details",
    { className: "stages card", open: true },
    element("summary", {}, `${milliseconds(answer.seconds)} in all`),
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)),
  );
}
