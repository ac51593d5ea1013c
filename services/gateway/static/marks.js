/** Finds an answer in a passage. */

import { h } from "./dom.js";

const LETTER = "[\\p{L}\\p{N}]";

/** Returns a pattern of the answer as whole words in any case, or null for an answer without letters. */
function patternOf(answer) {
  const words = answer.replace(/^[\s\p{P}]+|[\s\p{P}]+$/gu, "").split(/\s+/u).filter(Boolean);
  if (!words.length) return null;
  const escaped = words.map((word) => word.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
  return new RegExp(`(?<!${LETTER})${escaped.join("\\s+")}(?!${LETTER})`, "giu");
}

function sentencesOf(text) {
  if (!Intl.Segmenter) return [text];
  return Array.from(new Intl.Segmenter(undefined, { granularity: "sentence" }).segment(text), (part) => part.segment);
}

/** Returns the text as nodes, with every sentence marked that holds the answer word for word. */
export function withAnswerMarked(text, answer) {
  const pattern = answer ? patternOf(answer) : null;
  if (!pattern) return [text];
  return sentencesOf(text).flatMap((sentence) => {
    const nodes = [];
    let end = 0;
    for (const found of sentence.matchAll(pattern)) {
      nodes.push(sentence.slice(end, found.index), h("strong", {}, found[0]));
      end = found.index + found[0].length;
    }
    if (!nodes.length) return [sentence];
    return [h("mark", {}, ...nodes, sentence.slice(end).trimEnd()), sentence.slice(sentence.trimEnd().length)];
  });
}
