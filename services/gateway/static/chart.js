/** Draws a metric over the steps of a run, as SVG. */

import { h, svg } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 132;
const EDGE = { top: 8, right: 8, bottom: 20, left: 40 };

/** Returns round numbers that span the values: about `wanted` of them. */
export function ticks(low, high, wanted = 4) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / wanted;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((each) => each >= rough);
  const found = [];
  for (let at = Math.floor(low / step) * step; found.length < 12; at += step) {
    found.push(Number(at.toPrecision(12)));
    if (at >= high) break;
  }
  return found;
}

/** Returns the means of each value and up to `before` values before it. */
export function smoothed(values, before = 9) {
  return values.map((_, index) => {
    const window = values.slice(Math.max(0, index - before), index + 1);
    return window.reduce((sum, value) => sum + value, 0) / window.length;
  });
}

/** Turns "policy/choice_entropy" into "Choice entropy". */
export function titled(name) {
  const words = name.split("/").pop().replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export const short = (value) => Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });

export class Chart {
  constructor(name) {
    this.name = name;
    this.points = [];
    this.value = h("span", { class: "value" });
    this.plot = svg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: "0" });
    this.figure = h("figure", {}, h("figcaption", {}, h("span", {}, titled(name)), this.value), this.plot);
    this.plot.addEventListener("pointermove", (event) => this.#point(event));
    this.plot.addEventListener("pointerleave", () => this.#point(null));
    this.plot.addEventListener("keydown", (event) => this.#key(event));
    this.plot.addEventListener("blur", () => this.#at(null));
  }

  add(step, value) {
    this.points.push([step, value]);
  }

  draw() {
    const steps = this.points.map(([step]) => step);
    const values = this.points.map(([, value]) => value);
    const marks = ticks(Math.min(...values), Math.max(...values), 3);
    const [low, high] = [marks[0], marks.at(-1) === marks[0] ? marks[0] + 1 : marks.at(-1)];
    const [first, last] = [steps[0], steps.at(-1)];
    this.x = (step) => EDGE.left + ((step - first) / (last - first || 1)) * (WIDTH - EDGE.left - EDGE.right);
    this.y = (value) => HEIGHT - EDGE.bottom - ((value - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
    const path = (drawn) => steps.map((step, index) => `${index ? "L" : "M"}${this.x(step).toFixed(1)} ${this.y(drawn[index]).toFixed(1)}`).join("");
    const long = steps.length > 20;
    this.cursor = svg("g", { class: "cursor", visibility: "hidden" }, svg("line", { y1: EDGE.top, y2: HEIGHT - EDGE.bottom }), svg("circle", { r: 3 }));
    this.plot.replaceChildren(
      ...marks.map((mark) =>
        svg(
          "g",
          { class: "tick" },
          svg("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: this.y(mark), y2: this.y(mark) }),
          svg("text", { x: EDGE.left - 6, y: this.y(mark) + 3.5, "text-anchor": "end" }, short(mark)),
        ),
      ),
      svg("text", { class: "step", x: EDGE.left, y: HEIGHT - 4 }, String(first)),
      svg("text", { class: "step", x: WIDTH - EDGE.right, y: HEIGHT - 4, "text-anchor": "end" }, `step ${last}`),
      svg("path", { class: long ? "each" : "line", d: path(values) }),
      ...(long ? [svg("path", { class: "line", d: path(smoothed(values)) })] : []),
      ...(steps.length === 1 ? [svg("circle", { class: "single", cx: this.x(first), cy: this.y(values[0]), r: 3 })] : []),
      this.cursor,
    );
    const range = `from ${short(values[0])} at step ${first} to ${short(values.at(-1))} at step ${last}`;
    this.plot.setAttribute("aria-label", `${this.name}: ${range}`);
    this.#at(null);
  }

  #point(event) {
    if (!event) return this.#at(null);
    const box = this.plot.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    let nearest = 0;
    this.points.forEach(([step], index) => {
      if (Math.abs(this.x(step) - x) < Math.abs(this.x(this.points[nearest][0]) - x)) nearest = index;
    });
    this.#at(nearest);
  }

  #key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const from = this.index ?? this.points.length - (by > 0 ? 1 : 0);
    this.#at(Math.min(Math.max(from + by, 0), this.points.length - 1));
  }

  /** Shows the point with that index, or the last value without a step. */
  #at(index) {
    this.index = index;
    this.cursor.setAttribute("visibility", index === null ? "hidden" : "visible");
    const [step, value] = this.points[index ?? this.points.length - 1];
    this.value.textContent = index === null ? short(value) : `step ${step}: ${short(value)}`;
    const [line, circle] = this.cursor.children;
    line.setAttribute("x1", this.x(step));
    line.setAttribute("x2", this.x(step));
    circle.setAttribute("cx", this.x(step));
    circle.setAttribute("cy", this.y(value));
  }
}
