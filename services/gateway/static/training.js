/** The view of training runs and their curves. */

import { events, json } from "./api.js";
import { Chart } from "./chart.js";
import { failure, h, quoted } from "./dom.js";
import { promote, rollBack } from "./promotion.js";

const FIRST = ["reward/accuracy", "reward/coverage", "reward/gain", "reward/reward", "conduct/searches", "conduct/selected", "policy/choice_entropy", "policy/entropy"];
const GROUPS = {
  reward: "Reward",
  conduct: "Conduct",
  samples: "Samples",
  policy: "Policy",
  validation: "Validation",
  seconds: "Seconds",
  gpu: "GPU",
};

export async function training(main, { link, setLink }) {
  const back = h("button", { type: "button", onclick: rollBack }, "Roll back…");
  main.append(h("div", { class: "row" }, h("h1", {}, "Training"), back));
  const runs = await json("v1/runs");
  if (!runs.length) {
    main.append(
      h("p", { class: "lead" }, "There is no run yet. Start one from a shell:"),
      h("pre", {}, h("code", {}, "search-agent train start smollm2-demo")),
    );
    return {};
  }
  const list = h("ul", { class: "runs" });
  const detail = h("div", { class: "run" });
  main.append(h("div", { class: "split" }, h("nav", { "aria-label": "Runs" }, list), detail));
  let watching = new AbortController();

  const show = (id) => {
    watching.abort();
    watching = new AbortController();
    setLink({ run: id });
    for (const item of list.querySelectorAll("button")) item.setAttribute("aria-pressed", String(item.dataset.run === id));
    watch(id, detail, watching.signal);
  };
  list.append(
    ...runs.map(({ id, state, created_at: created }) =>
      h(
        "li",
        {},
        h("button", { type: "button", "data-run": id, onclick: () => show(id) }, quoted("strong", {}, id), badge(state), h("span", { class: "hint" }, when(created))),
      ),
    ),
  );
  const linked = runs.find(({ id }) => id === link.get("run"));
  show((linked ?? runs[0]).id);
  return { leave: () => watching.abort() };
}

async function watch(id, detail, signal) {
  const about = h("div", { class: "about" });
  const curves = h("div", { class: "curves" }, h("p", { class: "hint" }, "No step has been logged yet."));
  detail.replaceChildren(about, curves);
  const path = `v1/runs/${encodeURIComponent(id)}`;
  const charts = new Map();
  const stale = new Set();
  const frame = () => {
    lay(charts, curves);
    for (const chart of stale) chart.draw();
    stale.clear();
  };
  try {
    tell(about, await json(path, { signal }));
    let waiting = 0;
    for await (const [name, data] of events(`${path}/events`, { signal })) {
      if (name === "run") tell(about, data);
      if (name !== "step") continue;
      for (const [metric, value] of Object.entries(data.metrics)) {
        if (!charts.has(metric)) charts.set(metric, new Chart(metric));
        charts.get(metric).add(data.step, value);
        stale.add(charts.get(metric));
      }
      if (!waiting) waiting = requestAnimationFrame(() => ((waiting = 0), signal.aborted || frame()));
    }
  } catch (error) {
    if (error.name !== "AbortError") about.append(failure(error));
  }
}

function tell(about, { id, state, reason, created_at: created, changed_at: changed, checkpoints, config }) {
  const open = about.querySelector("details")?.open ?? false;
  const promotion = h("button", { type: "button", onclick: () => promote(id, checkpoints) }, "Promote…");
  const yaml = config || about.querySelector("code")?.textContent || "";
  const saved = checkpoints.length ? `Checkpoints at ${checkpoints.length > 1 ? "steps" : "step"} ${checkpoints.join(", ")}` : "No checkpoint";
  about.replaceChildren(
    h("div", { class: "row" }, h("h2", {}, quoted("span", {}, id), badge(state)), ...(checkpoints.length ? [promotion] : [])),
    h("p", { class: "hint" }, `Started ${when(created)}, last changed ${when(changed)}. ${saved}.`),
    ...(reason ? [quoted("p", { class: "warning" }, reason)] : []),
    ...(yaml ? [h("details", { open }, h("summary", {}, "Configuration"), h("pre", { tabindex: "0" }, h("code", {}, yaml)))] : []),
  );
}

/** Lays the charts out: the main ones first, then every group folded. Leaves what stands already. */
function lay(charts, curves) {
  const names = [...charts.keys()].filter((name) => !charts.get(name).figure.isConnected);
  if (!names.length) return;
  curves.querySelector(":scope > .hint")?.remove();
  const grid = (key, make) => {
    const found = curves.querySelector(`[data-group="${CSS.escape(key)}"]`);
    if (found) return found;
    const made = h("div", { class: "grid", "data-group": key });
    make(made);
    return made;
  };
  for (const name of FIRST.filter((each) => names.includes(each))) {
    grid("first", (made) => curves.prepend(made)).append(charts.get(name).figure);
  }
  for (const name of names.filter((each) => !FIRST.includes(each)).sort()) {
    const group = name.split("/")[0];
    const fold = (made) => curves.append(h("details", {}, h("summary", {}, GROUPS[group] ?? group), made));
    grid(group, fold).append(charts.get(name).figure);
  }
}

function badge(state) {
  return h("span", { class: "badge", "data-run-state": state }, state);
}

function when(time) {
  const date = new Date(time);
  const text = Number.isNaN(date.valueOf()) ? time : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  return text || "at an unknown time";
}
