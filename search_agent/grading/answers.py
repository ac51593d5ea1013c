"""Answer metrics of open-domain question answering: SQuAD v1.1's, extended to every script."""

from __future__ import annotations

import re
import string
import unicodedata
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum

from search_agent.types import Question


class Scoring(StrEnum):
    """The rules by which two texts are the same answer. The name is recorded with every score.

    Both give ASCII texts the same scores, except for gold answers that are only articles and punctuation, such as the
    blood type "A": these match nothing under SQuAD's rules, and under UNICODE an answer that says exactly that.
    """

    UNICODE = "unicode-1"
    SQUAD = "squad-v1.1"


_ARTICLES = ("a", "an", "the")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Apostrophes, primes, minus, fraction slash and trade marks, which Unicode counts as letters or symbols
_SIGNS = str.maketrans("", "", "\u00b4\u02b9\u02bb\u02bc\u02bd\u02c8\u2032\u2033\u2044\u2212\u2120\u2122\u00a9\u00ae")
# First and last code points of the scripts written without spaces, and of Hangul, which joins particles to nouns
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1100, 0x11FF),  # Hangul jamo
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration mark, closing mark and zero
    (0x3040, 0x31FF),  # Hiragana, Katakana, Bopomofo, Hangul jamo
    (0x3400, 0x9FFF),  # Han
    (0xAC00, 0xD7FF),  # Hangul
    (0xF900, 0xFAFF),  # Han
    (0x20000, 0x3FFFF),  # Han
)
# Marks that writers leave out as they please: the dot that case folding leaves of a capital with one, Hebrew and Arabic
# vowels, the stretching of Arabic letters, and the choice between a symbol and its picture
_OPTIONAL = frozenset(
    map(chr, (0x307, *range(0x591, 0x5C8), 0x640, *range(0x64B, 0x660), 0x670, *range(0xFE00, 0xFE10)))
)
_BEGINNINGS = [first for first, _ in _UNSPACED]
_CHOSEN = re.compile(
    r"\W*(?:(?:option|answer)\W+|(?:答案|正解|选择?|選擇?)[是为為は]?\W*)?([A-Za-z])\s*(?:[).:\]。]|$)", re.IGNORECASE
)


def normalise(text: str, scoring: Scoring = Scoring.UNICODE) -> str:
    """Returns the text in lower case, without punctuation and English articles, as tokens joined by single spaces.

    UNICODE also folds case and compatibility forms (NFKC), reads any script's digits as 0 to 9, and makes each
    character of a script without spaces a token.
    """
    if scoring is Scoring.SQUAD:
        return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())
    return " ".join(token for token in _tokens(text) if token not in _ARTICLES)


def exact_match(answer: str, golds: Iterable[str], scoring: Scoring = Scoring.UNICODE) -> float:
    """Returns 1.0 if the whole answer equals a gold answer after normalising, else 0.0."""
    return _best(answer, golds, scoring, lambda ours, gold: float(ours == gold))


def span_match(answer: str, golds: Iterable[str], scoring: Scoring = Scoring.UNICODE) -> float:
    """Returns 1.0 if a gold answer appears in the answer as a run of whole tokens, else 0.0: GenAcc without a judge."""
    return _best(answer, golds, scoring, lambda ours, gold: float(f" {gold} " in f" {ours} "))


def f1(answer: str, golds: Iterable[str], scoring: Scoring = Scoring.UNICODE) -> float:
    """Returns the best token-overlap F1 against any gold answer, 0.0 to 1.0."""
    return _best(answer, golds, scoring, _token_f1)


def matches(question: Question, answer: str, scoring: Scoring = Scoring.UNICODE) -> float:
    """GenAcc without a judge: 1.0 if the answer contains a gold answer or chooses the right option."""
    if question.options:
        return float(chosen(answer, question.options, scoring) == question.choice)
    return span_match(answer, question.golds, scoring)


def chosen(answer: str, options: Mapping[str, str], scoring: Scoring = Scoring.UNICODE) -> str:
    """Returns the letter of the option that an answer names, by letter or by text; "" if it names none or several."""
    said = answer if scoring is Scoring.SQUAD else unicodedata.normalize("NFKC", answer)
    if (found := _CHOSEN.match(said)) and found[1].upper() in options:
        return found[1].upper()
    named = [letter for letter, text in options.items() if span_match(answer, [text], scoring)]
    # of "atrial flutter" and "flutter" the longer one is meant
    inside = {a for a in named for b in named if a != b and span_match(options[b], [options[a]], scoring)}
    meant = [letter for letter in named if letter not in inside]
    return meant[0] if len(meant) == 1 else ""


def _best(answer: str, golds: Iterable[str], scoring: Scoring, score: Callable[[str, str], float]) -> float:
    ours = normalise(answer, scoring)
    return max(
        (
            score(ours, gold) if (gold := normalise(raw, scoring)) else float(_same(answer, raw, scoring))
            for raw in golds
        ),
        default=0.0,
    )


def _same(answer: str, gold: str, scoring: Scoring) -> bool:
    """Returns whether an answer equals a gold answer that normalising makes empty."""
    if scoring is Scoring.SQUAD or not gold.strip():
        return False
    if tokens := _tokens(gold):  # articles
        return _tokens(answer) == tokens
    return _folded(answer).split() == _folded(gold).split()


def _token_f1(ours: str, gold: str) -> float:
    ours_tokens, gold_tokens = ours.split(), gold.split()
    common = sum((Counter(ours_tokens) & Counter(gold_tokens)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours_tokens), common / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


def _folded(text: str) -> str:
    """Returns the text without differences of case and of compatible forms, such as full-width letters and composed
    accents.
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _tokens(text: str) -> list[str]:
    """Returns the words of a text without punctuation, including articles."""
    if text.isascii():
        return text.lower().translate(_PUNCTUATION).split()
    pieces: list[str] = []
    apart = False  # whether the last character is a token of its own
    for char in _folded(text.translate(_SIGNS)).translate(_SIGNS | _PUNCTUATION):
        category = unicodedata.category(char)
        if category[0] == "P" or category == "Cf" or char in _OPTIONAL:
            continue
        if category[0] == "M":  # accents and vowel signs belong to the character before
            pieces.append(char)
            continue
        if category == "Nd":
            char = str(unicodedata.decimal(char))
        alone = _is_unspaced(ord(char))
        pieces.append(f" {char}" if alone or apart else char)
        apart = alone
    return unicodedata.normalize("NFC", "".join(pieces)).split()


def _is_unspaced(code: int) -> bool:
    place = bisect(_BEGINNINGS, code) - 1
    return place >= 0 and code <= _UNSPACED[place][1]
