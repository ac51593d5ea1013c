/** The view of the backends and indexes. */

import { json, readiness } from "./api.js";
import { count, failure, h, quoted } from "./dom.js";

export async function system(main) {
  const backends = h("ul", { class: "backends" });
  const indexes = h("div", { class: "indexes" });
  main.append(h("h1", {}, "System"), h("h2", {}, "Backends"), backends, h("h2", {}, "Indexes"), indexes);

  const [ready, served] = await Promise.allSettled([readiness(), json("v1/indexes")]);
  if (ready.status === "fulfilled") {
    const states = Object.entries(ready.value.backends);
    backends.append(...states.map(([name, state]) => backend(name, state)));
  } else {
    backends.replaceWith(failure(ready.reason));
  }
  if (served.status === "fulfilled") {
    indexes.append(...served.value.map(index));
    if (!served.value.length) indexes.append(h("p", { class: "hint" }, "The retriever serves no index."));
  } else {
    indexes.append(failure(served.reason));
  }
}

function backend(name, state) {
  const known = state === "ok" ? "ready" : state.startsWith("not configured") ? "unknown" : "not ready";
  return h("li", { "data-state": known }, h("span", { class: "dot", "aria-hidden": "true" }), h("strong", {}, name), quoted("span", {}, state));
}

function index({ name, version, passages, modes, kind, dim, encoder, reranker, source, licence, ...about }) {
  const facts = {
    Passages: modes.length ? count(passages) : "on another server",
    Version: version,
    Modes: modes.join(", "),
    Kind: kind,
    Encoder: encoder && `${encoder}, ${dim} dimensions`,
    Reranker: reranker,
    Source: source,
    Licence: licence,
  };
  return h(
    "article",
    { class: "index" },
    h("h3", {}, quoted("span", {}, name), about.default ? h("span", { class: "tag" }, "default") : null),
    h(
      "dl",
      {},
      Object.entries(facts)
        .filter(([, value]) => value)
        .map(([fact, value]) => h("div", {}, h("dt", {}, fact), quoted("dd", {}, value))),
    ),
  );
}
