/** One question played by one method: its parts fill while the events come. */

import { events } from "./api.js";
import { count, counted, failure, h, quoted, seconds, svg } from "./dom.js";
import { withAnswerMarked } from "./marks.js";

const STOPPED = {
  complete: "The search was complete.",
  max_turns: "The search ended after the last turn that was allowed.",
  budget: "The search ended because another turn would not have fit into the token budget.",
  invalid: "The search ended because the searcher's last move was malformed.",
};
const STAGES = { retrieve: "retriever", search: "searcher", generate: "generator" };

export class Outcome {
  /** `level` is that of the headings. `tell` is told each step in words. */
  constructor(level, tell = () => {}) {
    const heading = (text) => h(`h${level}`, { class: "label" }, text);
    this.level = level;
    this.tell = tell;
    this.turns = [];
    this.cards = new Map();

    this.progress = h("p", { class: "progress" }, h("span", { class: "pulse", "aria-hidden": "true" }), h("span"));
    this.text = h("p", { class: "answer-text", dir: "auto" });
    this.notes = h("div", { class: "notes" });
    this.answer = h("section", { class: "answer" }, heading("Answer"), this.progress, this.text, this.notes);
    this.facts = h("dl", { class: "facts" });
    this.times = h("div", { class: "times" });
    this.timeline = h("ol", { class: "turns" });
    this.search = h("section", { class: "search" }, heading("Search"), this.timeline);
    this.kept = h("div", { class: "cards" });
    this.passages = h("section", { class: "passages" }, heading("Passages kept"), this.kept);
  }

  /** Plays the question. Returns the finished answer, or null if it failed or was stopped. */
  async play(body, signal) {
    const started = performance.now();
    const clock = setInterval(() => this.#tick(started), 100);
    this.answer.setAttribute("aria-busy", "true");
    this.#now("Searching");
    this.#tick(started);
    let done = null;
    try {
      for await (const [name, data] of events("v1/answer", { body: { ...body, stream: true }, signal })) {
        if (name === "turn") this.#turn(data);
        else if (name === "documents") this.#documents(data.documents);
        else if (name === "answer.delta") this.#delta(data.text);
        else if (name === "done") this.#done((done = data));
      }
      if (!done) this.#ended(failure({ title: "Unfinished", message: "The answer ended before it was complete." }));
    } catch (error) {
      if (error.name === "AbortError") {
        this.tell("Stopped.");
        this.#ended(h("p", { class: "hint" }, "Stopped. What was found so far stays below."));
      } else {
        this.#ended(failure(error));
      }
    } finally {
      clearInterval(clock);
      this.progress.hidden = true;
      this.answer.removeAttribute("aria-busy");
    }
    return done;
  }

  /** Opens a passage and moves there. */
  show(id) {
    const card = this.cards.get(id);
    if (!card) return;
    for (const each of this.cards.values()) each.element.classList.toggle("shown", each === card);
    card.element.closest("details")?.setAttribute("open", "");
    card.open();
    card.element.focus({ preventScroll: true });
    (card.element.querySelector("mark") ?? card.element).scrollIntoView({ block: "center" });
  }

  #now(doing) {
    this.doing = doing;
  }

  #tick(started) {
    this.progress.lastChild.textContent = `${this.doing}… ${((performance.now() - started) / 1000).toFixed(1)} s`;
  }

  #turn(turn) {
    this.turns.push(turn);
    const number = this.turns.length;
    const kept = new Set(turn.selected);
    const digests = turn.selected.filter((id) => !turn.retrieved.includes(id));
    const row = (id, rank) => {
      const title = quoted("span", { class: "title" }, turn.titles[id] || id);
      const body = kept.has(id)
        ? h("button", { class: "found kept", type: "button", onclick: () => this.show(id) }, title, h("span", { class: "tag" }, "kept"))
        : h("span", { class: "found" }, title, h("span", { class: "unseen" }, "not kept"));
      return h("li", {}, h("span", { class: "rank" }, rank), body);
    };
    const found = [...turn.retrieved.map((id, index) => row(id, String(index + 1))), ...digests.map((id) => row(id, "∑"))];
    this.timeline.append(
      h(
        "li",
        { class: "turn" },
        h("p", { class: "query" }, h("span", { class: "unseen" }, `Search ${number}: `), quoted("q", {}, turn.query)),
        found.length ? h("ol", { class: "ranked" }, found) : h("p", { class: "hint" }, "Nothing was found."),
        turn.error ? h("p", { class: "warning" }, "The searcher's move was malformed: ", quoted("span", {}, turn.error)) : null,
      ),
    );
    this.#now(kept.size ? `Kept ${counted(kept.size, "passage")}; what next` : "Kept nothing; what next");
    this.tell(`Search ${number}: kept ${kept.size} of ${counted(turn.retrieved.length, "passage")}.`);
  }

  #documents(documents) {
    documents.forEach((document, index) => this.#card(document, index + 1));
    if (!documents.length) {
      const why = this.turns.length ? "No passage was kept." : "This method answers without passages.";
      this.kept.append(h("p", { class: "hint" }, why));
    }
    if (!this.turns.length) {
      this.timeline.replaceChildren(h("li", { class: "hint" }, "Nothing was searched for."));
    }
    this.#now(documents.length ? `Reading ${counted(documents.length, "passage")}` : "Writing");
  }

  #card(document, number) {
    const text = quoted("p", { class: "passage-text" }, document.text);
    const more = h("button", { class: "plain more", type: "button", hidden: true, "aria-expanded": "false" }, "Show all");
    const rank = (this.turns[document.turn - 1]?.retrieved.indexOf(document.id) ?? -1) + 1;
    const origin = `Search ${document.turn}${rank ? `, rank ${rank}` : ""}`;
    const title = document.title || document.id;
    const element = h(
      "article",
      { class: "card", tabindex: "-1", "aria-label": `Passage ${number}` },
      h("header", {}, h("span", { class: "number", "aria-hidden": "true" }, String(number)), quoted(`h${this.level + 1}`, {}, title)),
      text,
      more,
      h("footer", {}, `${origin} · `, quoted("span", { class: "id" }, document.id), metadata(document)),
    );
    const cut = () => text.scrollHeight > text.clientHeight + 1;
    const open = (opened = true) => {
      more.hidden &&= !cut();
      text.classList.toggle("open", opened);
      more.setAttribute("aria-expanded", String(opened));
      more.textContent = opened ? "Show less" : "Show all";
    };
    more.addEventListener("click", () => open(!text.classList.contains("open")));
    this.kept.append(element);
    this.cards.set(document.id, { element, number, text, open });
    new ResizeObserver(() => text.classList.contains("open") || (more.hidden = !cut())).observe(text);
  }

  /** Marks the answer in the passages, and opens one whose mark would be cut off. */
  #mark({ documents, answer }) {
    for (const document of documents) {
      const { text, open } = this.cards.get(document.id);
      text.replaceChildren(...withAnswerMarked(document.text, answer));
      const mark = text.querySelector("mark");
      if (mark && mark.getBoundingClientRect().bottom > text.getBoundingClientRect().bottom) open();
    }
  }

  #delta(piece) {
    this.text.append(piece);
    this.#now("Writing");
  }

  #done(answer) {
    const written = this.text.textContent.trim();
    this.text.textContent = answer.answer || "The generator wrote no answer.";
    this.text.classList.toggle("none", !answer.answer);
    this.#mark(answer);
    this.notes.replaceChildren(
      this.#citations(answer),
      ...(written && written !== answer.answer.trim()
        ? [h("details", {}, h("summary", {}, "Reasoning"), quoted("p", { class: "reasoning" }, written))]
        : []),
    );
    this.#measured(answer);
    this.tell(`Answer: ${this.text.textContent}`);
  }

  #citations(answer) {
    if (!answer.documents.length) return h("p", { class: "hint" }, "Answered without passages.");
    if (!answer.citations.length) return h("p", { class: "hint" }, "No passage has this answer word for word.");
    const cited = answer.citations.map((id) => {
      const { number } = this.cards.get(id);
      const title = answer.documents.find((document) => document.id === id).title;
      const label = `Passage ${number}: ${title || id}`;
      return h("button", { class: "citation", type: "button", "aria-label": label, title, onclick: () => this.show(id) }, String(number));
    });
    return h("p", { class: "citations" }, "Word for word in ", cited);
  }

  #measured(answer) {
    const { usage, timings_ms: times } = answer;
    const fact = (name, value, text, title) =>
      h("div", { "data-fact": name, "data-value": value, title }, h("dt", {}, name), h("dd", {}, text));
    const tokens = usage.prompt_tokens + usage.completion_tokens;
    this.facts.replaceChildren(
      fact("Searches", usage.searches, count(usage.searches)),
      fact("Passages", answer.documents.length, count(answer.documents.length)),
      fact("Tokens", tokens, count(tokens), `${count(usage.prompt_tokens)} read, ${count(usage.completion_tokens)} written`),
      fact("Time", times.total, answer.cached ? `${seconds(times.total)}, cached` : seconds(times.total)),
    );
    this.times.replaceChildren(...timeBar(times));
    const about = this.turns.length ? [STOPPED[answer.stop_reason]] : [];
    if (answer.truncated) about.push("A model read less of the passages than requested, because its context was full.");
    const dropped = Object.values(answer.dropped);
    if (dropped.length) about.push(`The guard kept ${count(dropped.length)} passages from the models: ${[...new Set(dropped)].join(", ")}.`);
    const versions = [...answer.indexes, ...answer.models].map((version) => h("li", {}, quoted("span", { class: "id" }, version)));
    this.times.append(h("p", { class: "hint" }, about.filter(Boolean).join(" ")), h("ul", { class: "served", "aria-label": "Indexes and models" }, versions));
  }

  #ended(notice) {
    this.notes.replaceChildren(notice);
  }
}

function metadata(document) {
  const told = Object.entries(document.metadata).map(([key, value]) => `${key}: ${[value].flat().join(", ")}`);
  return told.length ? quoted("span", {}, ` · ${told.join(" · ")}`) : null;
}

/** Returns a bar of the stages' shares of the time, and its legend. */
function timeBar(times) {
  const stages = Object.keys(STAGES).filter((stage) => times[stage] > 0);
  if (!stages.length) return [];
  const whole = Math.max(times.total, stages.reduce((sum, stage) => sum + times[stage], 0));
  let start = 0;
  const parts = stages.map((stage) => {
    const width = (100 * times[stage]) / whole;
    const part = svg("rect", { class: stage, x: start, y: 0, width, height: 1 });
    start += width;
    return part;
  });
  return [
    svg("svg", { class: "bar", viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" }, parts),
    h("ul", { class: "legend" }, stages.map((stage) => h("li", { class: stage }, `${STAGES[stage]} ${seconds(times[stage])}`))),
  ];
}
