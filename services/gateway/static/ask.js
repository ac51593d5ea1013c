/** The view that asks one question and shows how it was answered. */

import { h, say } from "./dom.js";
import { Outcome } from "./outcome.js";
import { parametersOf, questionBox } from "./question.js";

export async function ask(main, { methods, link, setLink }) {
  const parameters = h("details", { class: "parameters" }, h("summary", {}, "Parameters"), h("div", { class: "fields" }));
  const method = h(
    "select",
    { "aria-label": "Method", name: "method" },
    methods.map(({ name }) => h("option", {}, name)),
  );
  const summary = h("span", { class: "hint" });
  const result = h("div", { class: "result" });
  let asked = null;
  const stop = () => asked?.abort();
  const box = questionBox({ controls: [method, summary], submit, stop });

  main.append(
    h("h1", {}, "Ask, and watch it search"),
    h("p", { class: "lead" }, "A small model decides what to search for and which passages to keep. Another model answers from these passages."),
    box.form,
    parameters,
    result,
  );

  method.value = methods.some(({ name }) => name === link.get("method")) ? link.get("method") : methods[0]?.name;
  box.question.value = link.get("q") ?? "";
  let fields = { values: () => ({}) };
  const refill = () => {
    const chosen = methods.find(({ name }) => name === method.value);
    summary.textContent = chosen?.summary ?? "";
    fields = parametersOf(chosen, link);
    parameters.lastChild.replaceChildren(...fields.elements);
    parameters.hidden = !fields.elements.length;
    parameters.open = Object.keys(fields.values()).length > 0;
  };
  method.addEventListener("change", () => {
    link = new URLSearchParams();
    refill();
  });
  refill();
  result.append(explained());
  if (matchMedia("(pointer: fine)").matches) box.question.focus(); // elsewhere a keyboard would cover the page

  async function submit(question) {
    asked = new AbortController();
    const values = fields.values();
    main.classList.add("asked");
    setLink({ q: question, method: method.value, ...values });
    const outcome = new Outcome(2, say);
    const column = h("div", { class: "evidence" }, outcome.search, outcome.passages);
    result.replaceChildren(outcome.answer, h("div", { class: "measured" }, outcome.facts, outcome.times), column);
    outcome.answer.scrollIntoView({ block: "nearest" });
    await outcome.play({ question, method: method.value, parameters: values }, asked.signal);
  }

  return { leave: stop, escape: stop };
}

function explained() {
  const steps = [
    ["Search", "The searcher writes a query, and the retriever returns its best passages."],
    ["Keep", "The searcher keeps the passages that help. Then it searches again, or ends the search."],
    ["Answer", "The generator reads only what was kept. Citations link to the passages."],
  ];
  return h("ol", { class: "steps" }, steps.map(([name, text]) => h("li", {}, h("strong", {}, name), h("span", {}, text))));
}
