"""Queries that a reader of the passages kept so far could write, to find passages that are still missing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from search_agent.grading.answers import span_match
from search_agent.types import Passage

_MOST = 14  # queries
_NAMES = 6  # for a passage
_FUNCTION_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "been", "by", "did", "do", "does", "for", "from", "had", "has", "have"}
    | {"he", "her", "his", "how", "in", "is", "it", "its", "many", "not", "of", "on", "or", "she", "than", "that"}
    | {"the", "their", "they", "this", "to", "was", "were", "what", "when", "where", "which", "who", "whom", "whose"}
    | {"why", "with"}
)


def queries(question: str, read: Sequence[str], missing: Sequence[Passage]) -> list[str]:
    """Returns queries for the missing passages, the most likely first, made of words in `read` or the question.

    They are the titles that were read; the names in both the passage and `read`, latest first, alone and with the words
    that the passage shares with the question; and those words alone.
    """
    everything = "\n".join([question, *read])
    found = [passage.title for passage in missing if span_match(everything, [passage.title.split(" (")[0]])]
    for passage in missing:
        whole = f"{passage.title}\n{passage.text}"
        shared = [word for word in _words(question) if span_match(whole, [word])]
        named = dict.fromkeys(name for text in (*reversed(read), question) for name in names(text))
        for name in [name for name in named if span_match(whole, [name])][:_NAMES]:
            found += [name, " ".join([name, *[word for word in shared if not span_match(name, [word])][:3]])]
        found.append(" ".join(shared[:5]))
    return [query for query in dict.fromkeys(found) if query][:_MOST]


def names(text: str) -> list[str]:
    """Returns the runs of capitalised words in the sentences of a text."""
    runs = (run for sentence in text.split(". ") for run in groupby(sentence.split(), key=_is_capitalised))
    found = (_bare(" ".join(words)) for capital, words in runs if capital)
    return [name for name in found if name.lower() not in _FUNCTION_WORDS]


def _is_capitalised(word: str) -> bool:
    return word.lstrip("\"'(")[:1].isupper()


def _bare(words: str) -> str:
    return words.strip(".,;:?!\"'()").removesuffix("'s")


def _words(question: str) -> list[str]:
    words = map(_bare, question.split())
    return [word for word in dict.fromkeys(words) if word and word.lower() not in _FUNCTION_WORDS]
