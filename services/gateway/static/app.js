/** Picks the view by the fragment of the address, as in #/ask?q=…&method=s3, and keeps the header up to date. */

import { json, key, onMissingKey, readiness } from "./api.js";
import { ask } from "./ask.js";
import { compare } from "./compare.js";
import { failure, h } from "./dom.js";
import { indexes } from "./indexes.js";
import { system } from "./system.js";
import { training } from "./training.js";

const VIEWS = {
  ask: { title: "Ask", open: ask, methods: true },
  compare: { title: "Compare", open: compare, methods: true },
  indexes: { title: "Indexes", open: indexes },
  training: { title: "Training", open: training },
  system: { title: "System", open: system },
};
const main = document.getElementById("main");
let view = {}; // what the view returned: `leave` ends its work, `escape` is for the Escape key
let shown = 0; // counts views, so that one that comes late does not replace a newer one

function place() {
  const [, path, query] = /^#?\/?([^?]*)\??(.*)$/s.exec(location.hash);
  return { name: Object.hasOwn(VIEWS, path) ? path : "ask", link: new URLSearchParams(query) };
}

async function show() {
  view.leave?.();
  view = {};
  const turn = ++shown;
  const { name, link } = place();
  const { title, open, methods } = VIEWS[name];
  document.title = `${title} · search-agent`;
  for (const item of document.querySelectorAll("nav a")) {
    if (item.hash === `#/${name}`) item.setAttribute("aria-current", "page");
    else item.removeAttribute("aria-current");
  }
  const setLink = (values) => {
    const query = new URLSearchParams(Object.entries(values).map(([field, value]) => [field, typeof value === "object" ? JSON.stringify(value) : String(value)]));
    history.replaceState(null, "", `#/${name}?${query}`);
  };
  const page = h("div", { class: "view" });
  main.replaceChildren(page);
  try {
    const known = methods ? await json("v1/methods") : [];
    if (turn !== shown) return;
    const opened = (await open(page, { methods: known, link, setLink })) ?? {};
    if (turn === shown) view = opened;
    else opened.leave?.();
  } catch (error) {
    if (turn !== shown) return;
    const again = h("button", { type: "button", onclick: show }, "Try again");
    page.replaceChildren(h("h1", {}, title), failure(error), again);
  }
}

const state = document.getElementById("state");
const STATES = { ready: "Ready", "not ready": "Not ready" };

async function look() {
  const { status } = await readiness().catch(() => ({}));
  const word = STATES[status] ?? "Unknown";
  state.dataset.state = status;
  state.lastChild.textContent = word;
  state.setAttribute("aria-label", `State of the backends: ${word}`);
}

const THEMES = { auto: "as the system", light: "light", dark: "dark" };
const theme = document.getElementById("theme");

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  theme.title = `Theme: ${THEMES[name]}`;
  theme.setAttribute("aria-label", theme.title);
}

theme.addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length];
  setTheme(next);
  try {
    localStorage.setItem("search-agent.theme", next);
  } catch {
    // It holds until the page is left.
  }
});

const keyDialog = document.getElementById("key-dialog");

function askForKey(reason) {
  document.getElementById("key-reason").textContent = reason;
  const field = document.getElementById("key-value");
  field.value = key.value;
  keyDialog.returnValue = "cancel";
  if (!keyDialog.open) keyDialog.showModal();
  return new Promise((resolve) => {
    keyDialog.addEventListener(
      "close",
      () => {
        const used = keyDialog.returnValue === "use";
        if (used) key.value = field.value.trim();
        field.value = "";
        document.getElementById("key").classList.toggle("set", Boolean(key.value));
        resolve(used && Boolean(key.value));
      },
      { once: true },
    );
  });
}

document.getElementById("key-cancel").addEventListener("click", () => keyDialog.close("cancel"));
onMissingKey(askForKey);
document.getElementById("key").classList.toggle("set", Boolean(key.value));
document.getElementById("key").addEventListener("click", () => askForKey("Needed only where the gateway asks for one."));
document.getElementById("shortcuts").addEventListener("click", () => document.getElementById("keyboard-dialog").showModal());

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment is the view's
  main.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "k" && (event.ctrlKey || event.metaKey) && !event.altKey) {
    event.preventDefault();
    const question = main.querySelector("textarea");
    if (question) question.focus();
    else location.hash = "#/ask";
  } else if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
    view.escape?.();
  }
});

setTheme(document.documentElement.dataset.theme);
window.addEventListener("hashchange", show);
show();
look();
setInterval(() => document.visibilityState === "visible" && look(), 15_000);
