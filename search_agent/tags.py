"""The text between a searcher and its environment: how turns are written, and how any text is read.

The first part is shared by all protocols: pairs of tags, queries, answers, documents. The second is the protocol of
s3 (arXiv 2505.14146), whose checkpoints write it: `Move` is the meaning of a turn, `render_move` writes one,
`move_grammar` holds an engine to what `render_move` writes, and `parse_move` reads any text. The prompt's examples come
from `render_move`. The other methods have the same three functions in their own files. Readers never raise, and take
time linear in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from unicodedata import normalize

from search_agent import gbnf
from search_agent.gbnf import literal
from search_agent.types import Completion, FinishReason, Passage

QUERY, SELECT, DONE, INFORMATION, THINK = "query", "important_info", "search_complete", "information", "think"
ANSWER_LINE = "Answer:"  # begins the last line of a generator that reasons first
LEAST_CHARS = 200  # a passage that is cut shorter says too little to be worth its header
MAX_QUERY_CHARS = 200  # longer ones are cut; the grammars allow fewer

_TRUTH = {"true", "yes", "y", "1"}
_FALSITY = {"false", "no", "n", "0"}

_NUMBERS = re.compile(r"[\d\s,;]*", re.ASCII)
_NUMBER = re.compile(r"\d+", re.ASCII)
_SPACE = re.compile(r"\s+")
# What prompts are made of: the tags of every protocol, the numbers of documents, and the words that begin lines.
_PROTOCOL_TAGS = (QUERY, SELECT, DONE, INFORMATION, THINK, "search", "answer", "sentence", "enough")
_OURS = re.compile(
    rf"<(?=/?\s*(?:{'|'.join(_PROTOCOL_TAGS)})\s*>)"
    r"|<(?=\|(?:begin|end)_search_(?:query|result)\|>)"
    r"|Doc(?=\s*\d+\s*(?:\(Title:|\)|$))"
    r"|^[ \t]*(?:Question|Answer|Search)(?=\s*:)",
    re.IGNORECASE | re.MULTILINE,
)
_SIGNS = ("<", "doc", ":")  # each of the above has one in small letters; nine passages of ten have none
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")
_GRAMMARS = 256  # that are kept: one for each number of documents
_JOINER = "\u200d"  # has no width, and breaks what it stands in
_ANSWER_LINE = re.compile(rf"^[ \t*#_>]*{ANSWER_LINE[:-1]}[ \t*_]*:", re.IGNORECASE | re.MULTILINE)


def as_text(text: str) -> str:
    """Returns text of a user or a passage for a prompt: it reads the same, and none of it passes for a tag of ours.

    A text that writes one in full-width letters, or with invisible ones in between, is shown in plain letters first.
    """
    shown = plain(text)
    small = shown.lower()
    if not any(sign in small for sign in _SIGNS):
        return text
    shown, count = _OURS.subn(lambda found: found[0] + _JOINER, shown)
    return shown if count else text


def plain(text: str) -> str:
    """Returns the text in plain letters: none is full-width or otherwise a variant, and none is invisible."""
    return text if text.isascii() else _INVISIBLE.sub("", normalize("NFKC", text))


def opening(tag: str) -> str:
    return f"<{tag}>"


def closing(tag: str) -> str:
    return f"</{tag}>"


@cache
def _edge(edge: str) -> re.Pattern[str]:
    """Returns the pattern of one edge. A pattern of the pair would scan the rest again for every unclosed tag."""
    return re.compile(re.escape(edge), re.IGNORECASE)


def between(text: str, opens: str, closes: str, start: int = 0) -> tuple[int, int, int, int] | None:
    """Returns the positions of the first pair of edges: its start, its content's start and end, its end."""
    opened = _edge(opens).search(text, start)
    closed = _edge(closes).search(text, opened.end()) if opened else None
    if not opened or not closed:
        return None
    return opened.start(), opened.end(), closed.start(), closed.end()


def content(text: str, tag: str) -> str | None:
    """Returns the content of the first pair of a tag, or None without a pair."""
    pair = between(text, opening(tag), closing(tag))
    return text[pair[1] : pair[2]] if pair else None


def first_of(text: str, *names: str) -> tuple[str, str]:
    """Returns the tag of the pair that begins first, and its content; two empty texts without a pair."""
    pairs = [(pair, tag) for tag in names if (pair := between(text, opening(tag), closing(tag)))]
    if not pairs:
        return "", ""
    pair, tag = min(pairs)
    return tag, text[pair[1] : pair[2]]


def without_thoughts(text: str) -> str:
    """Returns the text without its THINK pairs and their content: thinking is not acting."""
    kept, start = [], 0
    while pair := between(text, opening(THINK), closing(THINK), start):
        kept.append(text[start : pair[0]])
        start = pair[3]
    return "".join(kept) + text[start:]


def after_thoughts(text: str) -> str:
    """Returns what follows the last closing THINK; the opening tag may be in the chat template and not in the text."""
    ends = [found.end() for found in _edge(closing(THINK)).finditer(text)]
    return text[ends[-1] :] if ends else text


class Thoughts:
    """Removes the thinking at the beginning of a text, piece by piece as it is written."""

    def __init__(self) -> None:
        self._held = ""  # the end of what came, which may be a part of a tag
        self._begun = self._ended = False

    @property
    def going_on(self) -> bool:
        """Whether nothing but thinking has arrived so far."""
        return self._begun and not self._ended

    def feed(self, piece: str) -> str:
        """Returns what of the text so far is not thinking and has not been returned yet."""
        if self._ended:
            return piece
        self._held += piece
        if not self._begun:
            tag, text = opening(THINK), self._held.lstrip().lower()
            if len(text) < len(tag) and tag.startswith(text):
                return ""
            if not text.startswith(tag):
                return self._answer()
            self._begun = True
        if ended := _edge(closing(THINK)).search(self._held):
            self._held = self._held[ended.end() :].lstrip()
            return self._answer()
        self._held = self._held[-len(closing(THINK)) :]
        return ""

    def rest(self) -> str:
        """Returns what was held back, once the text has ended."""
        return "" if self.going_on else self._answer()

    def _answer(self) -> str:
        self._ended = True
        answer, self._held = self._held, ""
        return answer


def truth(text: str) -> bool | None:
    """Returns whether the text says yes or no, or None if it says neither."""
    word = text.strip().lower()
    return True if word in _TRUTH else False if word in _FALSITY else None


def one_line(text: str, chars: int | None = None) -> str:
    """Returns the text with single spaces for all white space, cut to at most `chars` characters."""
    # a lone surrogate is a valid JSON escape, and not valid text
    clean = text.encode("utf-8", "ignore").decode("utf-8")
    return _SPACE.sub(" ", clean).strip()[:chars].rstrip()


def render_query(query: str) -> str:
    """Returns the query as JSON."""
    return json.dumps({"query": query}, ensure_ascii=False)


def parse_query(payload: str) -> str:
    """Returns the query in JSON {"query": …}, a list's first element, or the text itself; "" if that is not text."""
    value: object = payload
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):  # not JSON, or thousands of nested brackets
        value = payload
    if isinstance(value, dict):
        value = value.get("query", "")
    if isinstance(value, list):
        value = value[0] if value else ""
    if isinstance(value, dict | list) or value is None or isinstance(value, bool):
        return ""
    return one_line(str(value), MAX_QUERY_CHARS)


def answer_line(text: str) -> str:
    """Returns the answer in a text that reasons first: that of its last answer line, else the whole text."""
    for line in reversed(list(_ANSWER_LINE.finditer(text))):
        if answer := text[line.end() :].strip(" \t\r\n*_").split("\n")[0].strip(" \t\r*_"):
            return answer
    return text.strip()


def render_documents(passages: Sequence[Passage], chars: int | None = None, numbered_twice: bool = False) -> str:
    """Returns the numbered passages. With `chars`, their texts together have at most that many characters.

    All are cut at the same length, the greatest that fits, so that longer texts use the room that shorter ones leave.
    `numbered_twice` repeats a passage's number behind it.
    """
    titles = [as_text(one_line(passage.title)) for passage in passages]
    texts = [as_text(passage.text) for passage in passages]
    share = _share([len(text) for text in texts], chars) if chars is not None else None
    return "\n\n".join(
        f"Doc {number}"
        + (f" (Title: {title})" if title else "")
        + f"\n{_clip(text, share)}"
        + (f"\n(Doc {number})" if numbered_twice else "")
        for number, (title, text) in enumerate(zip(titles, texts, strict=True), 1)
    )


def render_information(passages: Sequence[Passage], chars: int, numbered_twice: bool = False) -> str:
    """Returns the block of search results that the environment shows."""
    body = render_documents(passages, chars, numbered_twice) if passages else "No documents found."
    return f"{opening(INFORMATION)}\n{body}\n{closing(INFORMATION)}"


def _share(lengths: Sequence[int], chars: int) -> int:
    """Returns the greatest length at which the texts, all cut there, have at most `chars` characters together."""
    left = chars
    for shorter, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - shorter)
        if length > share:
            return share
        left -= length
    return max(lengths, default=0)


def shortened(passages: Sequence[Passage], chars: int) -> tuple[Passage, ...]:
    """Returns the passages with `chars` characters of text together, cut as `render_documents` cuts them.

    If each would keep fewer than LEAST_CHARS, the last passages are left out.
    """
    kept = list(passages)
    while True:
        lengths = [len(passage.text) for passage in kept]
        share = _share(lengths, chars)
        if len(kept) <= 1 or share >= min(LEAST_CHARS, max(lengths)):
            return tuple(replace(passage, text=_clip(passage.text, share)) for passage in kept)
        kept.pop()


def _clip(text: str, chars: int | None) -> str:
    if chars is None or len(text) <= chars:
        return text
    return text[:chars].rsplit(" ", 1)[0] + " …"


# Generation pauses after these: the environment acts, or the move is over.
STOPS = (closing(QUERY), closing(DONE))
# The ends of what `render_move` writes. A model that is known to write it need not be interrupted before its query.
ENDS = (closing(QUERY), f"{True}{closing(DONE)}")


@dataclass(frozen=True, slots=True)
class Move:
    """The searcher's decision on one block.

    `selected` are document numbers (from 1) in the order given, None if the move has no selection. `query` is the next
    search; `complete` ends the episode. `error` says what was malformed. A move with neither query nor completion is
    invalid.
    """

    selected: tuple[int, ...] | None = None
    query: str = ""
    complete: bool = False
    error: str = ""

    @property
    def valid(self) -> bool:
        return self.complete or bool(self.query)


def render_move(move: Move) -> str:
    """Returns the canonical text of a valid move."""
    chosen = "" if move.selected is None else f"{opening(SELECT)}{list(move.selected)}{closing(SELECT)}\n"
    text = f"{chosen}{opening(DONE)}{move.complete}{closing(DONE)}"
    if not move.complete:
        text += f"\n{opening(QUERY)}{render_query(move.query)}{closing(QUERY)}"
    return text


@lru_cache(_GRAMMARS)
def move_grammar(documents: int, max_selected: int, may_search: bool) -> str:
    """Returns GBNF for `render_move`'s texts over a block of `documents`, with a query only if `may_search`."""
    numbers = " | ".join(f'"{n}"' for n in range(1, documents + 1))
    more = f' (", " doc){{0,{max_selected - 1}}}' if max_selected > 1 else ""
    chosen = f"(doc{more})?" if documents and max_selected else '""'
    before, after = literal(f"{opening(SELECT)}["), literal(f"]{closing(SELECT)}\n")
    rules = ["done ::= " + literal(f"{opening(DONE)}True{closing(DONE)}")]
    if documents and max_selected:
        rules.append(f"doc ::= {numbers}")
    if may_search:
        goes_on = literal(f"{opening(DONE)}False{closing(DONE)}\n{opening(QUERY)}")
        rules += [
            f"search ::= {goes_on} query {literal(closing(QUERY))}",
            gbnf.query(),
        ]
    return gbnf.grammar(f"{before} {chosen} {after} {'(done | search)' if may_search else 'done'}", *rules)


def completed_text(completion: Completion, stops: Sequence[str] = STOPS) -> str:
    """Returns the completion's text with the stop string that ended it.

    Engines cut the stop string off, and some do not report which it was; then the open tag tells. A text that reached
    its length limit stays as it is, so that half a query is never taken for a whole one.
    """
    if completion.stop:
        return completion.text + completion.stop
    last, owed = -1, ""
    if completion.finish_reason is FinishReason.STOP:
        for stop in stops:
            opens = stop.replace("</", "<").replace("<|end_", "<|begin_")
            for edge, debt in ((opens, stop), (stop, "")):
                for found in _edge(edge).finditer(completion.text):
                    if found.start() > last:
                        last, owed = found.start(), debt
    return completion.text + owed


def wants_more(text: str) -> bool:
    """Returns whether the move is half written: `<search_complete>False</search_complete>` and no query yet."""
    text = without_thoughts(text)
    done = content(text, DONE)
    return done is not None and not truth(done) and content(text, QUERY) is None


def parse_move(text: str, documents: int, max_selected: int) -> Move:
    """Reads any text. Never raises: unreadable parts are left out and named in `error`.

    The first of a repeated tag counts. Numbers outside 1 to `documents` and beyond `max_selected` are dropped. A
    completion beats a query.
    """
    text = without_thoughts(text)
    errors = []
    selected: tuple[int, ...] | None = None
    if (chosen := content(text, SELECT)) is not None:
        if _NUMBERS.fullmatch(chosen.strip().strip("[]()")):
            # nine digits exceed any block, and the rest would cost time
            named = dict.fromkeys(int(number[:9]) for number in _NUMBER.findall(chosen))
            inside = [number for number in named if 1 <= number <= documents]
            if len(inside) < len(named):
                errors.append(f"{SELECT} names a document that is not in the block")
            selected = tuple(inside[:max_selected])
        else:
            errors.append(f"{SELECT} is not a list of numbers")
    complete = False
    if (done := content(text, DONE)) is not None:
        complete = bool(said := truth(done))
        if said is None:
            errors.append(f"{DONE} is neither True nor False")
    query = ""
    if not complete:
        if (payload := content(text, QUERY)) is not None:
            query = parse_query(payload)
            if not query:
                errors.append(f"{QUERY} is empty")
        if not query:
            errors.append("neither a query nor a completion")
    return Move(selected, query, complete, "; ".join(errors))
