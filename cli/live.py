"""A search in a terminal, as it happens: turn by turn, then the answer and the passages that support it."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cli.plain import summary
from cli.terminal import one_line
from search_agent_client import Answer, Document, Found, Piece, Turn

_GUTTER, _GAP = 3, 2  # columns of a number or mark, and behind it


def show(events: Iterable[Turn | Found | Piece | Answer], console: Console | None = None) -> Answer:
    """Prints each turn and the answer as it is written, then the passages and where they contain the answer.

    Returns the end.
    """
    console = console or Console(highlight=False)
    turns, written = 0, ""
    with Live(_waiting("searching"), console=console, transient=True, refresh_per_second=10) as live:
        for event in events:
            match event:
                case Turn():
                    turns += 1
                    live.console.print(_turn(turns, event))
                case Found():
                    live.update(_waiting("answering"))
                case Piece():
                    written += event.text
                    live.update(_beside("", _prose(written, "bold")))
                case Answer():
                    done = event
    console.print(_end(done, written, console.width))
    return done


def _waiting(what: str) -> RenderableType:
    return _beside(Spinner("dots", style="cyan"), Text(what, "dim"))


def _turn(number: int, turn: Turn) -> RenderableType:
    passages = Table.grid(padding=(0, _GAP, 0, 0), expand=True)
    passages.add_column(width=_GUTTER, justify="right")
    passages.add_column(no_wrap=True, overflow="ellipsis", ratio=2)
    passages.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for passage in dict.fromkeys((*turn.retrieved, *turn.selected)):
        mark, style = (Text("●", "green"), "") if passage in turn.selected else (Text("○", "dim"), "dim")
        title = one_line(turn.titles.get(passage, ""))
        passages.add_row(mark, Text(title, style), Text(one_line(passage), "dim"))
    parts: list[RenderableType] = [
        _beside(Text(str(number), "cyan"), Text(one_line(turn.query) or "(no query)", "bold")),
        passages,
    ]
    if turn.error:
        parts.append(_beside("", Text(f"malformed: {one_line(turn.error)}", "yellow")))
    return Group(*parts, "")


def _end(answer: Answer, written: str, width: int) -> RenderableType:
    """Returns the answer, below the reasoning that led to it if there was some, and its sources."""
    said = answer.answer.strip()
    parts: list[RenderableType] = []
    if written.strip() != said:
        parts += [_beside("", _prose(written, "dim")), ""]
    parts += [_beside("", _prose(said or "(no answer)", "bold")), ""]
    for number, document in enumerate(answer.documents, 1):
        parts += _source(number, document, said if document.id in answer.citations else "", width)
    return Group(*parts, *([""] if answer.documents else []), _beside("", Text(summary(answer), "dim")))


def _source(number: int, document: Document, quoted: str, width: int) -> list[RenderableType]:
    """Returns a document's line and, if it contains the answer, the place."""
    title = Text.assemble(one_line(document.title), "  ", (one_line(document.id), "dim"), style="" if quoted else "dim")
    parts: list[RenderableType] = [_beside(Text(str(number), "green" if quoted else "dim"), title)]
    if quoted:
        parts.append(_beside("", _excerpt(document.text, quoted, 2 * max(width - _GUTTER - 2 * _GAP, 20) - 12)))
    return parts


def _excerpt(text: str, quoted: str, room: int) -> Text:
    """Returns whole words of a text around what is quoted, which is marked; at most `room` characters."""
    text = " ".join(one_line(text).split())
    at = max(text.lower().find(quoted.lower()), 0)
    start, end = max(0, at - room // 3), min(len(text), max(0, at - room // 3) + room)
    if start:
        start = text.find(" ", start) + 1
    if end < len(text):
        end = max(text.rfind(" ", 0, end), start)
    excerpt = Text("…" * (start > 0) + text[start:end] + "…" * (end < len(text)), "dim")
    excerpt.highlight_words([quoted], "not dim bold green", case_sensitive=False)
    return excerpt


def _prose(text: str, style: str) -> Text:
    return Text("\n".join(one_line(line) for line in text.strip().split("\n")), style)


def _beside(mark: RenderableType, what: RenderableType) -> Table:
    """Returns something with a mark in the gutter before it."""
    row = Table.grid(padding=(0, _GAP, 0, 0))
    row.add_column(width=_GUTTER, justify="right")
    row.add_column(overflow="fold")
    row.add_row(mark, what)
    return row
