"""Answer metrics of open-domain question answering (definitions of the SQuAD v1.1 evaluation)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from search_agent.types import Question

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CHOSEN = re.compile(r"\W*(?:(?:option|answer)\W+)?([A-Za-z])\s*(?:[).:\]]|$)", re.IGNORECASE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, golds: Iterable[str]) -> float:
    """1.0 if the whole answer equals a gold answer after normalising."""
    return _best(answer, golds, lambda ours, gold: float(ours == gold))


def span_match(answer: str, golds: Iterable[str]) -> float:
    """1.0 if a gold answer appears in the answer as a run of whole tokens: GenAcc without a judge."""
    return _best(answer, golds, lambda ours, gold: float(f" {gold} " in f" {ours} "))


def f1(answer: str, golds: Iterable[str]) -> float:
    """The best token-overlap F1 against any gold answer, 0.0 to 1.0."""
    return _best(answer, golds, _token_f1)


def matches(question: Question, answer: str) -> float:
    """GenAcc without a judge: 1.0 if a gold answer stands in the answer, or the right option is chosen."""
    if question.options:
        return float(chosen(answer, question.options) == question.choice)
    return span_match(answer, question.golds)


def chosen(answer: str, options: Mapping[str, str]) -> str:
    """The letter of the option that an answer names, by letter or by text; empty if by none or several."""
    if (found := _CHOSEN.match(answer)) and found[1].upper() in options:
        return found[1].upper()
    named = [letter for letter, text in options.items() if span_match(answer, [text])]
    # of "atrial flutter" and "flutter" the longer one is meant
    inside = {a for a in named for b in named if a != b and span_match(options[b], [options[a]])}
    meant = [letter for letter in named if letter not in inside]
    return meant[0] if len(meant) == 1 else ""


def _best(answer: str, golds: Iterable[str], score: Callable[[str, str], float]) -> float:
    """A gold answer that is nothing but articles and punctuation matches nothing."""
    ours = normalise(answer)
    return max((score(ours, gold) for raw in golds if (gold := normalise(raw))), default=0.0)


def _token_f1(ours: str, gold: str) -> float:
    ours_tokens, gold_tokens = ours.split(), gold.split()
    common = sum((Counter(ours_tokens) & Counter(gold_tokens)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours_tokens), common / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)
