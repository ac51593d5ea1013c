"""A search as plain lines, for pipes, files and simple terminals, and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cli.terminal import one_line

if TYPE_CHECKING:
    from search_agent_client import Answer, Found, Piece, Turn


def show(events: Iterable[Turn | Found | Piece | Answer]) -> Answer:
    """Prints each turn (its query and passages, kept ones marked) and the answer as it is written. Returns the end."""
    from search_agent_client import Answer, Found, Piece, Turn

    turns = 0
    for event in events:
        match event:
            case Turn():
                turns += 1
                print("\n".join(turn_lines(turns, event)), flush=True)
            case Found():
                print("  answer: ", end="", flush=True)
            case Piece():
                print(one_line(event.text), end="", flush=True)
            case Answer():
                print("".join(f"\n  {line}" for line in (*_sources(event), summary(event))), flush=True)
                done = event
    return done


def show_json(events: Iterable[Turn | Found | Piece | Answer]) -> Answer:
    """Prints each event as a JSON object in a line: its fields, and its name in REST as "event". Returns the end."""
    from dataclasses import asdict

    from search_agent_client import Answer
    from search_agent_client.operations import ANSWER_EVENTS

    names = {kind: name for name, kind in ANSWER_EVENTS.items()}
    for event in events:
        print(json.dumps({"event": names[type(event)], **asdict(event)}, ensure_ascii=False), flush=True)
        if isinstance(event, Answer):
            done = event
    return done


def turn_lines(number: int, turn: Turn) -> list[str]:
    """Returns the lines of a turn: its query, what was retrieved, and what was kept without being retrieved."""
    lines = [f"  turn {number}  query: {one_line(turn.query) or '(none)'}"]
    for rank, passage in enumerate(turn.retrieved, 1):
        kept = "keep" if passage in turn.selected else "    "
        lines.append(f"    {kept} {rank}. {_named(turn, passage)}")
    lines += [f"    keep {_named(turn, passage)}" for passage in turn.selected if passage not in turn.retrieved]
    if turn.error:
        lines.append(f"    malformed: {one_line(turn.error)}")
    return lines


def _sources(answer: Answer) -> list[str]:
    """Returns a line for each document that contains the answer."""
    cited = (document for document in answer.documents if document.id in answer.citations)
    return [f"found in: {one_line(document.title)}  [{one_line(document.id)}]" for document in cited]


def _named(turn: Turn, passage: str) -> str:
    return f"{one_line(turn.titles.get(passage, ''))}  [{one_line(passage)}]"


def summary(answer: Answer) -> str:
    """Returns what the answer cost, in one line."""
    usage, took = answer.usage, answer.timings_ms.total / 1000
    searches = "1 search" if usage.searches == 1 else f"{usage.searches} searches"
    notes = ", cached" * answer.cached + ", passages were cut to fit the model" * answer.truncated
    if answer.dropped:
        notes += f", {len(answer.dropped)} dropped by the guard"
    return (
        f"{answer.stop_reason}; {len(answer.documents)} kept, {searches}, "
        f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens, {took:.1f} s{notes}"
    )
