// Tabs, theme, and the server's state.

import { call } from "./api.js";
import { introduceChat, startChat } from "./chat.js";
import { listCollections } from "./collections.js";
import { startCompare } from "./compare.js";
import { byId, tell } from "./dom.js";
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
  const addressed = () => byId(`tab-${location.hash.slice(1)}`);
  // other anchors, as that of "Skip to content", are no tabs
  addEventListener("hashchange", () => addressed() && show(addressed()));
  show(addressed() ?? tabs[0]);
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

const STATES = {
  loading: "Loading the model …",
  failed: "The model could not be loaded: the server’s log says why",
  gone: "The folder of the collections is not there any more",
};

async function untilReady() {
  for (;;) {
    const answer = await fetch("ready").catch(() => null);
    if (answer?.ok) return;
    const state = await answer?.json().catch(() => null);
    byId("status").textContent = STATES[state?.status] ?? "The server does not answer";
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

async function introduce() {
  try {
    const info = await call("GET", "v1/info");
    const [model] = (await call("GET", "v1/models")).data;
    byId("status").textContent = `${model.id} · ${model.backend} · ${model.precision}`;
    byId("about").textContent = `bgem3 ${info.version} · reads ${model.max_length.toLocaleString("en")} tokens`;
    introduceChat(info.chat_model);
  } catch (error) {
    byId("status").textContent = error.message;
    // what failed for want of a key works once one is given
    document.addEventListener("key", introduce, { once: true });
    return;
  }
  await listCollections().catch((error) => ["search", "chat"].forEach((tab) => tell(byId(`${tab}-problem`), error.message)));
}

startTheme();
startTabs();
startCompare();
startInspect();
startSearch();
startChat();
await untilReady();
await introduce();
document.documentElement.dataset.ready = "true";
