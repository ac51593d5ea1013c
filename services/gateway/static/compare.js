/** The view that asks several methods the same question. */

import { h, say, svg } from "./dom.js";
import { Outcome } from "./outcome.js";
import { questionBox } from "./question.js";

const MOST = 3;
const FIRST = ["naive_rag", "s3"];

export async function compare(main, { methods, link, setLink }) {
  const names = methods.map(({ name }) => name);
  const linked = (link.get("methods") ?? "").split(",").filter((name) => names.includes(name));
  const chosen = new Set((linked.length ? linked : FIRST.filter((name) => names.includes(name))).slice(0, MOST));
  const boxes = methods.map(({ name, summary }) =>
    h("label", { class: "chip", title: summary }, h("input", { type: "checkbox", value: name, checked: chosen.has(name), onchange: limit }), name),
  );
  const columns = h("div", { class: "columns" });
  let asked = null;
  const stop = () => asked?.abort();
  const box = questionBox({
    controls: [h("fieldset", { class: "chips" }, h("legend", {}, "Two or three methods"), boxes)],
    submit,
    stop,
  });
  main.append(
    h("h1", {}, "Compare methods"),
    h("p", { class: "lead" }, "The same question, one method after another, so that none slows another down."),
    box.form,
    columns,
  );
  box.question.value = link.get("q") ?? "";
  limit();
  if (matchMedia("(pointer: fine)").matches) box.question.focus(); // elsewhere a keyboard would cover the page

  function inputs() {
    return boxes.map((label) => label.firstChild);
  }

  function limit() {
    const full = inputs().filter((input) => input.checked).length >= MOST;
    for (const input of inputs()) input.disabled = full && !input.checked;
  }

  async function submit(question) {
    const picked = inputs().filter((input) => input.checked).map((input) => input.value);
    asked = new AbortController();
    setLink({ q: question, methods: picked.join(",") });
    const outcomes = picked.map((name) => {
      const outcome = new Outcome(3, (text) => say(`${name}: ${text}`));
      const more = h("details", {}, h("summary", {}, "Search and passages"), outcome.search, outcome.passages);
      const waiting = h("p", { class: "hint waiting" }, "Waiting for its turn");
      const column = h("section", { class: "column", "aria-label": name }, h("h2", {}, name), waiting, outcome.answer, outcome.facts, outcome.times, more);
      outcome.answer.hidden = more.hidden = true;
      return { name, outcome, column, waiting, more };
    });
    columns.replaceChildren(...outcomes.map(({ column }) => column));
    if (!outcomes.length) columns.append(h("p", { class: "hint" }, "Choose at least one method."));
    for (const { name, outcome, waiting, more } of outcomes) {
      waiting.remove();
      outcome.answer.hidden = more.hidden = false;
      await outcome.play({ question, method: name }, asked.signal);
      if (asked.signal.aborted) break;
    }
    measure(columns);
  }

  return { leave: stop, escape: stop };
}

/** Draws each figure as a bar, as long as its share of the largest in its row. */
function measure(columns) {
  const facts = [...columns.querySelectorAll("[data-fact]")];
  const most = {};
  for (const { dataset } of facts) most[dataset.fact] = Math.max(most[dataset.fact] ?? 0, Number(dataset.value));
  for (const fact of facts) {
    const width = (100 * Number(fact.dataset.value)) / (most[fact.dataset.fact] || 1);
    const bar = svg("rect", { x: 0, y: 0, width, height: 1 });
    fact.append(svg("svg", { class: "bar", viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" }, bar));
  }
}
