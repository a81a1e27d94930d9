// Inspect: lexical weights in colour, and which tokens of the passage each token of the query finds.

import { call } from "./api.js";
import { byId, clamp, drawPieces, element, examples, fixed, heard, NAMES, onSubmit } from "./dom.js";

const EXAMPLES = {
  "A part number": ["Which pump takes part KX-220B?", "Part KX-220B fits the small pump; KX-220D does not."],
  "Across languages": ["What in tea calms people?", "茶叶含有茶氨酸，能让人放松。"],
  "The same, said differently": ["How do I reset my password?", "Forgotten your secret word? Choose a new one in the settings."],
};

export function startInspect() {
  examples(byId("inspect-example"), EXAMPLES, ([query, passage]) => {
    byId("inspect-query").value = query;
    byId("inspect-passage").value = passage;
  });
  onSubmit(byId("inspect-form"), byId("inspect-problem"), inspect, byId("inspect-result"));
}

async function inspect() {
  const [query, passage] = [byId("inspect-query").value, byId("inspect-passage").value];
  const found = await call("POST", "v1/inspect", { query, passage });
  byId("inspect-result").replaceChildren(scoreCards(found.scores), weights(query, passage, found), alignment(found));
  return `${found.query.length} and ${found.passage.length} tokens`;
}

function scoreCards(scores) {
  const cards = ["hybrid", "dense", "sparse", "multi_vector"].map((head) =>
    element("div", { className: `card ${head}-map` }, element("dt", { className: "head-name" }, NAMES[head]), element("dd", {}, fixed(scores[head]))),
  );
  return element("dl", { className: "scores" }, ...cards);
}

function weights(query, passage, found) {
  const largest = Math.max(...[...found.query, ...found.passage].map((token) => token.weight), 1e-9);
  const coloured = (text, tokens) =>
    drawPieces(text, tokens, (piece, token) =>
      element("span", {
        className: `token-piece${token.shared ? " shared" : ""}`,
        title: `${token.piece}  ${fixed(token.weight, 3)}${token.shared ? ", in both texts" : ""}`,
        style: { "--value": clamp(token.weight / largest) },
      }, piece),
    );
  const heaviest = [...found.query, ...found.passage].filter((token) => token.weight > 0);
  heaviest.sort((a, b) => b.weight - a.weight);
  const items = heaviest.slice(0, 10).map((token) => element("li", {}, `${token.piece.replace("▁", "")}  ${fixed(token.weight, 3)}`));
  return element(
    "article",
    { className: "card sparse-map" },
    element("h2", { className: "head-name" }, "Lexical weights"),
    element("p", { className: "hint" }, "The darker, the more a token weighs. Underlined: both texts have it, so it counts."),
    element("h3", {}, "Query"),
    element("p", { className: "tokens", dir: "auto" }, ...coloured(query, found.query)),
    element("h3", {}, "Passage"),
    element("p", { className: "tokens", dir: "auto" }, ...coloured(passage, found.passage)),
    element("details", {}, element("summary", {}, "The heaviest tokens as a list"), element("ul", { className: "heaviest" }, ...items)),
  );
}

function alignment(found) {
  const name = (token) => token.piece.replace("▁", "") || "␣";
  const top = element("tr", {}, element("td"), ...found.passage.map((token) => element("th", { scope: "col" }, element("div", { className: "token" }, name(token)))));
  const rows = found.query.map((token, i) =>
    element(
      "tr",
      {},
      element("th", { scope: "row", className: "token" }, name(token)),
      ...found.similarity[i].map((value, j) =>
        element("td", {
          className: `cell${found.best[i] === j ? " best" : ""}`,
          title: `${name(token)} × ${name(found.passage[j])}: ${fixed(value, 3)}`,
          style: { "--value": clamp(value) },
        }, fixed(value), found.best[i] === j ? heard(" best") : ""),
      ),
    ),
  );
  const table = element("table", { className: "heat" }, element("thead", {}, top), element("tbody", {}, ...rows));
  return element(
    "article",
    { className: "card multi_vector-map" },
    element("h2", { className: "head-name" }, "Token by token"),
    element("p", { className: "hint" }, "Rows are the query, columns the passage. The frame is each query token’s best match; their mean is the multi-vector score."),
    element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Alignment of tokens" }, table),
  );
}
