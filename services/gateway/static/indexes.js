/** The view of the indexes: what each holds, and how it changes. */

import { json } from "./api.js";
import { dialogue } from "./dialogue.js";
import { count, counted, failure, h, quoted, say } from "./dom.js";

const LOOK_MS = 1500; // while something is built
const UNDER_WAY = ["waiting", "building"];
const SHAPE = '{"id": "w1", "title": "Warsaw Pact", "text": "It was signed in 1955.", "metadata": {"year": 1955}}\n{"id": "w2", "deleted": true}';

export async function indexes(main) {
  const list = h("div", { class: "indexes" });
  const made = h("button", { type: "button", onclick: () => create(look) }, "New index…");
  main.append(h("div", { class: "row" }, h("h1", {}, "Indexes"), made), list);
  const shown = new Map();
  let timer = 0;
  let left = false;

  function show(served) {
    for (const index of served) {
      if (!shown.has(index.name)) shown.set(index.name, new Entry(index.name, look));
      shown.get(index.name).update(index);
    }
    const entries = served.map(({ name }) => shown.get(name).element);
    if (entries.length !== list.children.length || entries.some((entry, at) => entry !== list.children[at])) list.replaceChildren(...entries);
    if (!entries.length) list.replaceChildren(h("p", { class: "hint" }, "The retriever serves no index."));
    return served.some(({ changes }) => changes.some(({ state }) => UNDER_WAY.includes(state)));
  }

  async function look() {
    clearTimeout(timer);
    let busy = true;
    try {
      busy = show(await json("v1/indexes"));
    } catch (error) {
      list.replaceChildren(failure(error));
    }
    if (busy && !left) timer = setTimeout(look, LOOK_MS);
  }

  show(await json("v1/indexes"));
  look();
  return {
    leave: () => {
      left = true;
      clearTimeout(timer);
    },
  };
}

/** One index. What is rebuilt while it is looked at keeps its buttons, and so the focus. */
class Entry {
  constructor(name, look) {
    this.name = name;
    this.look = look;
    this.tags = h("span", { class: "tags" });
    this.facts = h("dl");
    this.progress = h("div", { class: "building" });
    this.add = h("button", { type: "button", onclick: () => add(name, look) }, "Add passages…");
    this.versions = h("details", { class: "versions" }, h("summary", {}, "Versions"), h("ul"));
    this.element = h(
      "article",
      { class: "index" },
      h("header", { class: "row" }, h("h2", {}, quoted("span", {}, name), this.tags), this.add),
      this.facts,
      this.progress,
      this.versions,
    );
  }

  update(index) {
    this.tags.replaceChildren(...(index.default ? [h("span", { class: "tag" }, "default")] : []), ...(index.writable ? [] : [h("span", { class: "badge" }, "read-only")]));
    this.add.hidden = !index.writable;
    const facts = {
      Passages: index.modes.length ? count(index.passages) : "on another server",
      Version: index.version,
      Modes: index.modes.join(", "),
      Kind: index.kind,
      Encoder: index.encoder && `${index.encoder}, ${index.dim} dimensions`,
      Reranker: index.reranker,
      Metadata: index.keys.join(", "),
      Source: index.source,
      Licence: index.licence,
      Fault: index.fault,
    };
    this.facts.replaceChildren(
      ...Object.entries(facts)
        .filter(([, value]) => value)
        .map(([fact, value]) => h("div", {}, h("dt", {}, fact), quoted("dd", {}, value))),
    );
    this.#progress(index.changes);
    this.#versions(index);
  }

  #progress(changes) {
    const open = changes.find(({ state }) => UNDER_WAY.includes(state));
    const failed = !open && changes[0]?.state === "failed" ? changes[0] : null;
    if (this.building && !open && !failed) say(`${this.name}: the change is done.`);
    this.building = Boolean(open);
    if (open) {
      const what = open.phase || open.state;
      const bar = h("progress", { "aria-label": `Change of ${this.name}: ${what}`, max: open.total || null, value: open.total ? open.done : null });
      const done = open.total ? `${count(open.done)} of ${count(open.total)} new passages` : "";
      this.progress.replaceChildren(bar, h("p", { class: "hint" }, [edits(open), what, done].filter(Boolean).join(" · ")));
    } else {
      this.progress.replaceChildren(...(failed ? [h("p", { class: "warning" }, "The build failed: ", quoted("span", {}, failed.error))] : []));
    }
  }

  #versions({ version, versions }) {
    this.versions.hidden = !versions.length;
    this.versions.lastChild.replaceChildren(
      ...versions.map((each) => {
        const again = each.version === version
          ? h("span", { class: "tag" }, "serves")
          : h("button", { type: "button", "aria-label": `Roll back to ${each.version}`, onclick: () => rollBack(this.name, each, this.look) }, "Roll back…");
        const when = new Date(each.built * 1000).toLocaleString();
        return h("li", { class: "row" }, h("span", {}, h("span", { class: "id" }, each.version), h("span", { class: "hint" }, ` ${counted(each.passages, "passage")}, ${when}`)), again);
      }),
    );
  }
}

const edits = ({ upserts, removals }) => [upserts && `${count(upserts)} added or replaced`, removals && `${count(removals)} removed`].filter(Boolean).join(", ");
const path = (name, what = "") => `v1/indexes/${encodeURIComponent(name)}${what}`;

function create(look) {
  const name = h("input", { id: "index-name", required: true, maxlength: 64, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", title: "letters, digits, dots, dashes and underscores", autocomplete: "off", spellcheck: "false" });
  const encoder = h("select", { id: "index-encoder" }, h("option", { value: "same" }, "dense and BM25"), h("option", { value: "none" }, "BM25 only"));
  dialogue(
    "New index",
    "The new index is empty and is served at once. It uses the default index's encoder.",
    [h("label", { for: "index-name" }, "Name"), name, h("label", { for: "index-encoder" }, "Searched by"), encoder],
    "Make it",
    async (outcome, signal) => {
      const body = { name: name.value, ...(encoder.value === "none" ? { encoder: "" } : {}) };
      const made = await json("v1/indexes", { body, signal });
      outcome.append(quoted("p", {}, `${made.name} serves now.`));
      look();
    },
  );
}

function add(name, look) {
  const file = h("input", { id: "index-file", type: "file", accept: ".jsonl,.ndjson,.json" });
  const text = h("textarea", { id: "index-text", rows: 6, spellcheck: "false", dir: "auto", placeholder: SHAPE });
  dialogue(
    `Add passages to ${name}`,
    "JSON, one passage per line. A passage with an existing id is replaced; the old version answers until the new one is built.",
    [h("label", { for: "index-file" }, "From a file"), file, h("label", { for: "index-text" }, "Or pasted"), text],
    "Add",
    async (outcome, signal) => {
      const change = await json(path(name, "/passages"), { lines: file.files[0] ?? text.value, signal });
      outcome.append(quoted("p", {}, `Accepted: ${edits(change)}.`));
      look();
    },
  );
}

function rollBack(name, { version, passages }, look) {
  dialogue(
    `Roll back ${name}`,
    `Version ${version} with ${counted(passages, "passage")} serves again. The versions after it are kept.`,
    [],
    "Roll back",
    async (outcome, signal) => {
      const index = await json(path(name, "/rollback"), { body: { version }, signal });
      outcome.append(quoted("p", {}, `${index.version} serves now.`));
      look();
    },
  );
}
