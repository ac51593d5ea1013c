/** Builds elements. Text is always set as text, so that nothing in a passage becomes markup. */

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Returns an HTML element; attributes named on… are listeners, and empty ones are left out. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Returns an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** Returns text that others wrote, whose direction follows its letters. */
export function quoted(tag, attributes, text) {
  return h(tag, { dir: "auto", ...attributes }, text);
}

/** Tells screen readers something that others see. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const count = (value) => whole.format(value);
export const counted = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;
export const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`);

/** Shows what went wrong, in the words of the problem. */
export function failure(error) {
  const notes = error.status === 403 ? ["Use the key button to enter another one."] : [];
  if (error.retryAfter) notes.push(`Try again in ${counted(error.retryAfter, "second")}.`);
  if (error.requestId) notes.push(`The logs have it as request ${error.requestId}.`);
  return h(
    "div",
    { class: "problem", role: "alert" },
    h("strong", {}, error.title ?? "Something went wrong"),
    quoted("p", {}, error.message),
    notes.length ? h("p", { class: "hint" }, notes.join(" ")) : null,
  );
}
