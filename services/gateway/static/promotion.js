/** The dialogs that put a checkpoint in the searcher's place, and that take it back. */

import { events, json } from "./api.js";
import { dialogue } from "./dialogue.js";
import { count, h, quoted } from "./dom.js";

const OUTCOMES = {
  passed: "The gate was passed.",
  not_better: "The checkpoint is not better. The searcher stays.",
  inconclusive: "The gate was inconclusive. The searcher stays.",
};

/** Asks whether a checkpoint of the run may take the searcher's place if it passes the gate. */
export function promote(id, checkpoints) {
  const checkpoint = h("select", { id: "checkpoint" }, checkpoints.toReversed().map((step) => h("option", { value: step }, `step ${step}`)));
  dialogue(
    `Promote ${id}`,
    "A gate asks the checkpoint and the current searcher the same questions. The checkpoint replaces the searcher only if it is better. Closing this window stops the gate.",
    [h("label", { for: "checkpoint" }, "Checkpoint"), checkpoint],
    "Start the gate",
    async (outcome, signal) => {
      const body = { checkpoint: Number(checkpoint.value), stream: true };
      const bar = h("progress", { "aria-label": "Answers of the gate" });
      const told = h("p", { class: "hint" }, "The gate is starting.");
      outcome.append(bar, told);
      for await (const [name, data] of events(`v1/runs/${encodeURIComponent(id)}/promote`, { body, signal })) {
        if (name === "progress") {
          bar.max = data.total;
          bar.value = data.done;
          told.textContent = `${count(data.done)} of ${count(data.total)} answers, ${count(data.failed)} failed`;
        } else if (name === "done") {
          outcome.replaceChildren(verdict(data));
        }
      }
    },
  );
}

function verdict({ gate, promoted, model }) {
  const share = (value) => `${(100 * value).toFixed(1)} %`;
  const points = (value) => `${value < 0 ? "−" : "+"}${Math.abs(100 * value).toFixed(1)}`;
  const facts = {
    Checkpoint: share(gate.candidate),
    "Searcher now": share(gate.current),
    Difference: `${points(gate.difference)} points, 95 % interval ${points(gate.low)} to ${points(gate.high)}`,
    Questions: `${count(gate.compared)} compared, ${count(gate.failed)} failed`,
  };
  return h(
    "div",
    { class: "verdict" },
    h("strong", {}, OUTCOMES[gate.outcome] ?? gate.outcome),
    quoted("p", {}, promoted ? `${model} serves now.` : gate.reason),
    h("dl", {}, Object.entries(facts).map(([fact, value]) => h("div", {}, h("dt", {}, fact), h("dd", {}, value)))),
  );
}

/** Asks whether what the latest promotion replaced should serve again. */
export function rollBack() {
  dialogue(
    "Roll back",
    "The searcher that served before the latest promotion serves again.",
    [],
    "Roll back",
    async (outcome, signal) => {
      const { model, before } = await json("v1/rollback", { body: {}, signal });
      outcome.append(quoted("p", {}, `${model} serves now, ${before} did until now.`));
    },
  );
}
