// Compare: every text against every other, one heat map a head.

import { call } from "./api.js";
import { byId, clamp, element, examples, fixed, heard, HEADS, NAMES, onSubmit } from "./dom.js";

const EXAMPLES = {
  "One statement in five languages, and two others": [
    "Artificial intelligence is changing the way people live, learn and work together.",
    "人工智能正在改变人们生活、学习和共同工作的方式。",
    "人工知能は、人々の暮らし方、学び方、そして共に働く方法を変えつつあります。",
    "يغيّر الذكاء الاصطناعي الطريقة التي يعيش بها الناس ويتعلمون ويعملون معا.",
    "La inteligencia artificial está cambiando la manera en que las personas viven, aprenden y trabajan juntas.",
    "The bakery on the corner sells warm bread from six in the morning.",
    "昨天晚上下了一场大雨，河水涨了很多。",
  ],
  "Codes and names": [
    "Which pump takes part KX-220B?",
    "Part KX-220B fits the small pump.",
    "Part KX-220D fits the large pump.",
    "Ersatzteil KX-220B passt zur kleinen Pumpe.",
  ],
  "Same words, other meaning": [
    "The bank raised its interest rate.",
    "We sat on the bank of the river.",
    "Die Bank hat den Zins erhöht.",
    "Lending money became more expensive.",
  ],
};
const MOST = 24;
let scores;
// the numbers that the texts have in the list
let numbers;

export function startCompare() {
  examples(byId("compare-example"), EXAMPLES, setTexts);
  byId("compare-add").addEventListener("click", () => {
    addText("");
    byId("compare-texts").lastElementChild.querySelector("textarea").focus();
  });
  byId("threshold").addEventListener("input", draw);
  onSubmit(byId("compare-form"), byId("compare-problem"), compare, byId("compare-result"));
}

function setTexts(texts) {
  byId("compare-texts").replaceChildren();
  texts.forEach(addText);
}

function addText(text) {
  const list = byId("compare-texts");
  const area = element("textarea", { value: text, rows: 1, dir: "auto" });
  const remove = element("button", { type: "button", className: "quiet", ariaLabel: "Remove this text" }, "×");
  const item = element("li", {}, area, remove);
  remove.addEventListener("click", () => {
    const next = item.nextElementSibling?.querySelector("button") ?? byId("compare-add");
    item.remove();
    count();
    next.focus();
  });
  list.append(item);
  count();
}

/** Number the texts, and let no more be added than can be compared. */
function count() {
  const areas = [...byId("compare-texts").querySelectorAll("textarea")];
  areas.forEach((area, place) => (area.ariaLabel = `Text ${place + 1}`));
  const full = areas.length >= MOST;
  Object.assign(byId("compare-add"), { disabled: full, title: full ? `${MOST} texts are as many as can be compared.` : "" });
}

async function compare() {
  const texts = [...byId("compare-texts").querySelectorAll("textarea")].map((area) => area.value);
  const written = [...texts.keys()].filter((place) => texts[place].trim());
  if (written.length < 2) throw new Error("Two texts or more, please.");
  const sent = written.map((place) => texts[place]);
  scores = (await call("POST", "v1/score", { queries: sent, passages: sent })).scores;
  numbers = written.map((place) => place + 1);
  draw();
  return `${sent.length} texts compared: 4 maps`;
}

function draw() {
  const threshold = Number(byId("threshold").value);
  byId("threshold-value").textContent = fixed(threshold);
  byId("compare-maps").replaceChildren(...["hybrid", ...HEADS].map((head) => map(head, scores[head], threshold)));
}

function map(head, rows, threshold) {
  const pairs = rows.flatMap((row, i) => row.slice(i + 1));
  const related = pairs.filter((value) => value >= threshold).length;
  // Sparse scores of a text with itself are far below 1: each map is coloured up to its own largest value.
  const largest = Math.max(...rows.flat(), 1e-9);
  const top = element("tr", {}, element("td"), ...numbers.map((number) => element("th", { scope: "col" }, `${number}`)));
  const body = rows.map((row, i) =>
    element("tr", {}, element("th", { scope: "row" }, `${numbers[i]}`), ...row.map((value) => cell(value, largest, value >= threshold))),
  );
  const table = element("table", { className: "heat" }, element("thead", {}, top), element("tbody", {}, ...body));
  const title = element("header", {}, element("h2", {}, NAMES[head]), element("small", {}, `${related} of ${pairs.length} pairs related`));
  const scroll = element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `${NAMES[head]} similarity` }, table);
  return element("article", { className: `map card ${head}-map` }, title, scroll);
}

function cell(value, largest, related) {
  return element("td", { className: `cell${related ? " related" : ""}`, style: { "--value": clamp(value / largest) } }, fixed(value), related ? heard(" related") : "");
}
