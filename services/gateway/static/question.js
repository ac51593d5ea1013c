/** The box for a question, and the fields for a method's parameters. */

import { h } from "./dom.js";

const EXAMPLE = '{"year": {"gte": 1990}}';

/** Returns the form and its textarea. While `submit` runs, its button stops it, and so does Escape. */
export function questionBox({ controls, submit, stop }) {
  const question = h("textarea", {
    name: "question",
    rows: 1,
    maxlength: 4000,
    dir: "auto",
    placeholder: "Ask a question",
    "aria-label": "Question",
    "aria-keyshortcuts": "Control+K",
    enterkeyhint: "go",
  });
  const button = h("button", { class: "primary", type: "submit" }, "Ask");
  const form = h("form", { class: "box" }, question, h("div", { class: "row" }, h("div", { class: "controls" }, controls), button));
  let running = false;

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return stop();
    const text = question.value.trim();
    if (!text) return question.focus();
    running = true;
    button.textContent = "Stop";
    button.classList.remove("primary");
    try {
      await submit(text);
    } finally {
      running = false;
      button.textContent = "Ask";
      button.classList.add("primary");
    }
  });
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!running) form.requestSubmit();
  });
  return { form, question };
}

/** Returns a field for each parameter of the method, and a function that gives the values that are not the default. */
export function parametersOf(method, link) {
  const properties = Object.entries(method?.parameters.properties ?? {});
  const inputs = properties.map(([name, schema]) => [name, schema, input(name, schema, link.get(name))]);
  const elements = inputs.map(([name, schema, field]) => {
    const about = h("span", { class: "hint", id: `about-${name}` }, schema.description ?? "");
    return h("div", { class: "field" }, h("label", { for: `parameter-${name}` }, name), field, about);
  });
  const values = () =>
    Object.fromEntries(
      inputs.map(([name, schema, field]) => [name, value(schema, field)]).filter(([name, given]) => given !== undefined),
    );
  return { elements, values };
}

/** Returns the value of JSON; text that is none goes on as it is, and the gateway says what is wrong with it. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function input(name, schema, given) {
  const about = { id: `parameter-${name}`, name, "aria-describedby": `about-${name}` };
  const options = schema.enum ?? (schema.type === "boolean" ? [true, false] : null);
  if (options) {
    const select = h("select", about, options.map((option) => h("option", { value: String(option) }, String(option))));
    select.value = options.map(String).includes(given) ? given : String(schema.default);
    return select;
  }
  const numeric = schema.type === "integer" || schema.type === "number";
  return h("input", {
    ...about,
    type: numeric ? "number" : "text",
    min: schema.minimum,
    max: schema.maximum,
    step: schema.type === "integer" ? 1 : "any",
    placeholder: schema.type === "object" ? EXAMPLE : String(schema.default ?? ""),
    value: given ?? "",
    spellcheck: "false",
  });
}

/** Returns the value that a field has, and undefined where it is the default. */
function value(schema, field) {
  const text = field.value.trim();
  if (text === "" || text === String(schema.default)) return undefined;
  if (schema.type === "object") return parsed(text);
  if (schema.type === "boolean") return text === "true";
  return schema.type === "integer" || schema.type === "number" ? Number(text) : text;
}
