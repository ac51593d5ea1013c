/** The view of the backends. */

import { readiness } from "./api.js";
import { h, quoted } from "./dom.js";

export async function system(main) {
  const states = Object.entries((await readiness()).backends);
  main.append(h("h1", {}, "System"), h("h2", {}, "Backends"), h("ul", { class: "backends" }, states.map(backend)));
}

function backend([name, state]) {
  const known = state === "ok" ? "ready" : state.startsWith("not configured") ? "unknown" : "not ready";
  return h("li", { "data-state": known }, h("span", { class: "dot", "aria-hidden": "true" }), h("strong", {}, name.replace(/[:,]/g, "$& ")), quoted("span", {}, state));
}
