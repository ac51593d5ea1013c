"""The protocol between searcher and environment: what a turn looks like, written once.

`Move` is the meaning of a turn. `render_move` writes one, `move_grammar` holds an engine to what
`render_move` writes, `parse_move` reads any text, and the prompt shows examples made by `render_move`.
Only this module knows the tags, and only it holds regular expressions. The tags are those of s3
(arXiv 2505.14146), so that its checkpoints are understood.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from search_agent.types import Completion, FinishReason, Passage

QUERY, SELECT, DONE, INFORMATION, THINK = "query", "important_info", "search_complete", "information", "think"
MAX_QUERY_CHARS = 200  # what the grammar lets a model write; longer queries of free models are cut

_TRUTH = {"true", "yes", "y", "1"}
_FALSITY = {"false", "no", "n", "0"}


def _open(tag: str) -> str:
    return f"<{tag}>"


def _close(tag: str) -> str:
    return f"</{tag}>"


_ANY_TAG = re.compile(rf"<(/?)({QUERY}|{SELECT}|{DONE}|{THINK})>", re.IGNORECASE)
_NUMBERS = re.compile(r"[\d\s,;]*", re.ASCII)
_NUMBER = re.compile(r"\d+", re.ASCII)
_SPACE = re.compile(r"\s+")

# One pattern a tag, and not one a pair: a pair's would read the rest anew for every unclosed tag.
_EDGE = {
    edge: re.compile(re.escape(edge), re.IGNORECASE)
    for tag in (QUERY, SELECT, DONE, THINK)
    for edge in (_open(tag), _close(tag))
}

# Generation pauses after these: the environment has something to do, or the move is over.
STOPS = (_close(QUERY), _close(DONE))


@dataclass(frozen=True, slots=True)
class Move:
    """What the searcher decided on one information block.

    `selected` are document numbers (from 1) in the order named, None where it named none at all;
    `query` is its next search; `complete` ends the episode. `error` says what was malformed.
    A move with neither query nor completion is invalid.
    """

    selected: tuple[int, ...] | None = None
    query: str = ""
    complete: bool = False
    error: str = ""

    @property
    def valid(self) -> bool:
        return self.complete or bool(self.query)


def _pair(text: str, tag: str) -> tuple[int, int, int, int] | None:
    """Where the first pair of a tag begins, its content begins and ends, and it ends."""
    opening = _EDGE[_open(tag)].search(text)
    closing = _EDGE[_close(tag)].search(text, opening.end()) if opening else None
    if not opening or not closing:
        return None
    return opening.start(), opening.end(), closing.start(), closing.end()


def _content(text: str, tag: str) -> str | None:
    """What stands in the first pair of a tag, None without a pair."""
    pair = _pair(text, tag)
    return text[pair[1] : pair[2]] if pair else None


def _without_thoughts(text: str) -> str:
    kept = []
    while pair := _pair(text, THINK):
        kept.append(text[: pair[0]])
        text = text[pair[3] :]
    return "".join(kept) + text


def render_move(move: Move) -> str:
    """The canonical text of a valid move."""
    chosen = "" if move.selected is None else f"{_open(SELECT)}{list(move.selected)}{_close(SELECT)}\n"
    text = f"{chosen}{_open(DONE)}{move.complete}{_close(DONE)}"
    if not move.complete:
        text += f"\n{_open(QUERY)}{json.dumps({'query': move.query}, ensure_ascii=False)}{_close(QUERY)}"
    return text


def move_grammar(documents: int, max_selected: int, may_search: bool) -> str:
    """GBNF for `render_move`'s texts over a block of `documents`, with a query only if `may_search`."""
    numbers = " | ".join(f'"{n}"' for n in range(1, documents + 1))
    more = f' (", " doc){{0,{max_selected - 1}}}' if max_selected > 1 else ""
    chosen = f"(doc{more})?" if documents and max_selected else '""'
    done = f'"{_open(DONE)}True{_close(DONE)}"'
    search = f'"{_open(DONE)}False{_close(DONE)}\\n{_open(QUERY)}{{\\"query\\": \\"" query "\\"}}{_close(QUERY)}"'
    after = "(done | search)" if may_search else "done"
    rules = [
        f'root ::= "{_open(SELECT)}[" {chosen} "]{_close(SELECT)}\\n" {after}',
        f"done ::= {done}",
    ]
    if documents and max_selected:
        rules.append(f"doc ::= {numbers}")
    if may_search:
        # starts with a letter or digit of any script, so that no query is blank
        first = r"[^\x00-\x2F\x3A-\x40\x5B-\x60\x7B-\xBF]"
        rules += [
            f"search ::= {search}",
            f"query ::= first char{{0,{MAX_QUERY_CHARS - 1}}}",
            f"first ::= {first}",
            r'char ::= [^"\\<>\x00-\x1F\x7F] | "\\" ["\\]',
        ]
    return "\n".join(rules)


def completed_text(completion: Completion) -> str:
    """The completion's text with the stop string that ended it.

    Engines cut the stop string off and not all say which it was; then it closes the tag left open.
    A text cut by its length stays as it is, so that half a query is never taken for a whole one.
    """
    if completion.stop:
        return completion.text + completion.stop
    if completion.finish_reason is FinishReason.STOP:
        tags = list(_ANY_TAG.finditer(completion.text))
        if tags and not tags[-1][1] and _close(tags[-1][2].lower()) in STOPS:
            return completion.text + _close(tags[-1][2].lower())
    return completion.text


def wants_more(text: str) -> bool:
    """True after `<search_complete>False</search_complete>` with no query yet: the move is half written."""
    text = _without_thoughts(text)
    done = _content(text, DONE)
    return done is not None and done.strip().lower() not in _TRUTH and _pair(text, QUERY) is None


def parse_move(text: str, documents: int, max_selected: int) -> Move:
    """Reads any text. Never raises: what cannot be read is left out and named in `error`.

    The first of a repeated tag counts. Numbers outside 1..`documents` and beyond `max_selected` are
    dropped; a completion beats a query.
    """
    text = _without_thoughts(text)
    errors = []
    selected: tuple[int, ...] | None = None
    if (chosen := _content(text, SELECT)) is not None:
        if _NUMBERS.fullmatch(chosen.strip().strip("[]()")):
            # a number of more digits than any block has documents is no document's
            named = dict.fromkeys(int(number[:9]) for number in _NUMBER.findall(chosen))
            inside = [number for number in named if 1 <= number <= documents]
            if len(inside) < len(named):
                errors.append(f"{SELECT} names a document that is not in the block")
            selected = tuple(inside[:max_selected])
        else:
            errors.append(f"{SELECT} is not a list of numbers")
    complete = False
    if (done := _content(text, DONE)) is not None:
        word = done.strip().lower()
        complete = word in _TRUTH
        if not complete and word not in _FALSITY:
            errors.append(f"{DONE} is neither True nor False")
    query = ""
    if not complete:
        if (payload := _content(text, QUERY)) is not None:
            query = _query(payload)
            if not query:
                errors.append(f"{QUERY} is empty")
        if not query:
            errors.append("neither a query nor a completion")
    return Move(selected, query, complete, "; ".join(errors))


def _query(payload: str) -> str:
    """JSON {"query": …}, a list's first element, or the text itself."""
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
    # lone surrogates are valid JSON escapes and no valid text
    text = str(value).encode("utf-8", "ignore").decode("utf-8")
    return _SPACE.sub(" ", text).strip()[:MAX_QUERY_CHARS].rstrip()


def render_documents(passages: Sequence[Passage], chars: int | None = None) -> str:
    """Numbered passages; with `chars`, each text is cut to its share of that many characters."""
    share = chars // max(1, len(passages)) if chars is not None else None
    return "\n\n".join(
        f"Doc {number} (Title: {passage.title})\n{_clip(passage.text, share)}"
        for number, passage in enumerate(passages, 1)
    )


def render_information(passages: Sequence[Passage], chars: int) -> str:
    """The environment's block of search results."""
    body = render_documents(passages, chars) if passages else "No documents found."
    return f"{_open(INFORMATION)}\n{body}\n{_close(INFORMATION)}"


def _clip(text: str, chars: int | None) -> str:
    if chars is None or len(text) <= chars:
        return text
    return text[:chars].rsplit(" ", 1)[0] + " …"
