// Tabs, theme, and the server's state.

import { call } from "./api.js";
import { startChat } from "./chat.js";
import { listCollections } from "./collections.js";
import { startCompare } from "./compare.js";
import { byId } from "./dom.js";
import { startInspect } from "./inspect.js";
import { startSearch } from "./search.js";

const THEME = "bgem3-theme";

function startTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const show = (chosen, focus) => {
    for (const tab of tabs) {
      const selected = tab === chosen;
      tab.setAttribute("aria-selected", selected);
      tab.tabIndex = selected ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = !selected;
    }
    history.replaceState(null, "", `#${chosen.id.replace("tab-", "")}`);
    if (focus) chosen.focus();
  };
  for (const [place, tab] of tabs.entries()) {
    tab.addEventListener("click", () => show(tab));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: place + 1, ArrowLeft: place - 1 + tabs.length, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      show(tabs[to % tabs.length], true);
    });
  }
  show(byId(`tab-${location.hash.slice(1)}`) ?? tabs[0]);
}

function startTheme() {
  const set = (theme) => (document.documentElement.dataset.theme = theme);
  const system = matchMedia("(prefers-color-scheme: dark)");
  set(localStorage.getItem(THEME) ?? (system.matches ? "dark" : "light"));
  system.addEventListener("change", () => localStorage.getItem(THEME) ?? set(system.matches ? "dark" : "light"));
  byId("theme").addEventListener("click", () => {
    set(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    localStorage.setItem(THEME, document.documentElement.dataset.theme);
  });
}

async function untilReady() {
  for (;;) {
    const answer = await fetch("ready").catch(() => null);
    if (answer?.ok) return;
    byId("status").textContent = answer ? "Loading the model …" : "The server does not answer";
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

startTheme();
startTabs();
startCompare();
startInspect();
startSearch();
await untilReady();
const info = await call("GET", "v1/info");
const [model] = (await call("GET", "v1/models")).data;
byId("status").textContent = `${model.id} · ${model.backend} · ${model.precision}`;
byId("about").textContent = `bgem3 ${info.version} · reads ${model.max_length.toLocaleString("en")} tokens`;
startChat(info);
await listCollections();
document.documentElement.dataset.ready = "true";
