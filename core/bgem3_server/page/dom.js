// Elements, numbers and errors: what every tab uses.

export const HEADS = ["dense", "sparse", "multi_vector"];
export const NAMES = { dense: "Dense", sparse: "Sparse", multi_vector: "Multi-vector", hybrid: "Hybrid" };

export const byId = (id) => document.getElementById(id);

/** Make an element: properties, then children; texts are never read as HTML. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") for (const [key, one] of Object.entries(value)) made.style.setProperty(key, one);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export const fixed = (value, digits = 2) => value.toFixed(digits).replace(/^-(0\.0*)$/, "$1");
export const milliseconds = (seconds) => `${(seconds * 1000).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
export const clamp = (value) => Math.max(0, Math.min(1, value));

/** What is seen, for those who hear it. */
export const heard = (text) => element("span", { className: "visually-hidden" }, text);

/** Say what is wrong, or with "" nothing. */
export function tell(problem, message) {
  problem.textContent = message;
  problem.hidden = !message;
}

/**
 * Run a form's work: its button rests meanwhile, and what goes wrong is said under it, in place of the result.
 * A result has a line that is read out, with what the work returns.
 */
export function onSubmit(form, problem, work, result) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await attempt(form.querySelector(".primary"), problem, work, result);
  });
}

export async function attempt(button, problem, work, result) {
  const said = result && byId(result.id.replace("result", "said"));
  tell(problem, "");
  if (result) said.textContent = "";
  button.disabled = true;
  try {
    const found = await work();
    if (result) {
      result.hidden = false;
      said.textContent = found;
    }
  } catch (error) {
    tell(problem, error.message);
    if (result) result.hidden = true;
  } finally {
    button.disabled = false;
  }
}

/** Fill a select with named examples. */
export function examples(select, named, use) {
  select.append(...Object.keys(named).map((name) => element("option", { value: name }, name)));
  select.addEventListener("change", () => use(named[select.value]));
  use(named[select.value]);
}

/** Cut a text (in code points, as the server counts) at pieces {start, end, ...}; `draw` makes an element of each. */
export function drawPieces(text, pieces, draw) {
  const points = Array.from(text);
  const nodes = [];
  let end = 0;
  for (const piece of pieces) {
    if (piece.start < end || piece.end <= piece.start) continue;
    nodes.push(points.slice(end, piece.start).join(""));
    nodes.push(draw(points.slice(piece.start, piece.end).join(""), piece));
    end = piece.end;
  }
  nodes.push(points.slice(end).join(""));
  return nodes;
}
