"""How bm25s sees a text: English words, and n-grams of scripts that are written without spaces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

ENGLISH, ENGLISH_AND_NGRAMS = "english", "english+ngrams"

_WORD = re.compile(r"\b\w\w+\b")
# Thai and Lao, Myanmar, Hangul jamo, Khmer; kana, bopomofo and jamo, ideographs, Hangul syllables, ideographs of the
# compatibility block and of planes 2 and 3. Punctuation and the katakana middle dot are left out.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u1049\u1050-\u109f\u1100-\u11ff\u1780-\u17d3\u17e0-\u17e9\u3005-\u3007\u3031-\u3035\u3041-\u3096"
    "\u3099-\u309f\u30a1-\u30fa\u30fc-\u318f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7ff\uf900-\ufaff"
    "\U00020000-\U0003ffff]+"
)


@dataclass(frozen=True)
class Splitter:
    """Splits texts into lower-case tokens, before stop words are left out and English words stemmed.

    With `ngrams`, texts are normalised to NFKC, and a run of letters of a script without spaces gives its bigrams. A
    passage gives each letter too, so that a query of one letter finds it (as Lucene's CJKBigramFilter with
    outputUnigrams).
    """

    ngrams: bool

    def passage(self, text: str) -> list[str]:
        return list(self._tokens(text, unigrams=True))

    def query(self, text: str) -> list[str]:
        return list(self._tokens(text, unigrams=False))

    def _tokens(self, text: str, unigrams: bool) -> Iterator[str]:
        if self.ngrams:
            text = unicodedata.normalize("NFKC", text)
        text = text.lower()
        at = 0
        for run in _UNSPACED.finditer(text) if self.ngrams else ():
            yield from _WORD.findall(text[at : run.start()])
            letters = run.group()
            if unigrams or len(letters) == 1:
                yield from letters
            yield from (letters[start : start + 2] for start in range(len(letters) - 1))
            at = run.end()
        yield from _WORD.findall(text[at:])


SPLITTERS = {ENGLISH: Splitter(ngrams=False), ENGLISH_AND_NGRAMS: Splitter(ngrams=True)}
