"""`search-agent ask` in a pipe, in a terminal and for programs."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli import live
from cli.main import main
from cli.terminal import one_line
from search_agent_client import Found, Piece, Turn
from tests.answers import answer, document
from tests.unit.cli.scripted import Gateway

ROOT = Path(__file__).parents[3]
EVIL = "Two\nlines\r\u2028and \x1b[31mred\x07\u202eback"
ID = "p\n1"
TURN = {"query": EVIL, "retrieved": [ID, "p2"], "selected": [ID], "titles": {ID: EVIL, "p2": "Other"}, "error": EVIL}
DOCUMENT = {"id": ID, "title": EVIL, "text": "It was an \nanswer.", "score": 1, "metadata": {}, "turn": 1}
ANSWER = {"id": "1", "method": "s3", "question": "q", "documents": [DOCUMENT], "turns": [TURN]} | {
    "stop_reason": "complete",
    "usage": {"prompt_tokens": 1234, "completion_tokens": 5, "searches": 1, "rewritten": 0},
    "timings_ms": {"total": 3210, "retrieve": 1, "search": 1, "generate": 1}, "models": ["m@1"], "truncated": False,
    "indexes": ["demo@v1"], "dropped": {},
    "answer": "an\nanswer", "citations": [ID], "cached": False, "cache_key": "",
    "finish_reason": "stop",
}  # fmt: skip
EVENTS = [
    ("turn", TURN),
    ("documents", {"documents": [DOCUMENT], "cached": False}),
    ("answer.delta", {"text": "an"}),
    ("answer.delta", {"text": "\nanswer"}),
    ("done", ANSWER),
]


def ask(gateway: Gateway, *arguments: str, events: Any = EVENTS) -> int:
    gateway.says["POST /v1/answer"] = events
    return main(["ask", "Who?", "--url", gateway.url, *arguments])


def in_a_terminal(gateway: Gateway, **environment: str) -> tuple[int, str]:
    """Asks under a pseudo-terminal. Returns the status and everything that was written to it."""
    command = [sys.executable, "-m", "cli", "ask", "Who?", "--url", gateway.url]
    master, slave = pty.openpty()
    settings = {**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1", "COLUMNS": "80"} | environment
    with subprocess.Popen(command, cwd=ROOT, env=settings, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        written = b""
        try:
            while chunk := os.read(master, 65536):
                written += chunk
        except OSError:  # Linux says so when the other side has closed
            pass
    os.close(master)
    return process.returncode, written.decode()


def test_nothing_in_a_passage_reaches_the_terminal_as_a_command(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(gateway) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.isprintable()] == []
    turn, kept, other, malformed, said, source, end = lines
    assert turn.startswith("  turn 1  query: Two lines")
    assert kept.startswith("    keep 1. Two lines")
    assert kept.endswith("[p 1]")
    assert other == "         2. Other  [p2]"
    assert malformed.startswith("    malformed: Two lines")
    assert said == "  answer: an answer"
    assert source.startswith("  found in: Two lines")
    assert end == "  complete; 1 kept, 1 search, 1,234 + 5 tokens, 3.2 s"


def test_what_a_question_sends(gateway: Gateway) -> None:
    assert ask(gateway, "--method", "naive_rag", "--index", "mine") == 0
    sent = {"question": "Who?", "method": "naive_rag", "parameters": {"index": "mine"}, "stream": True}
    assert gateway.asked == [("POST /v1/answer", sent)]


def test_programs_read_a_line_an_event(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(gateway, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.split("\n")[:-1]]
    assert [line.pop("event") for line in lines] == [name for name, _ in EVENTS]
    assert lines == [data for _, data in EVENTS]


def test_a_failure_within_a_search_ends_it(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(gateway, events=[EVENTS[0], ("error", {"status": 504, "detail": "generator: slow"})]) == 1
    assert capsys.readouterr().err == "search-agent: generator: slow\n"


def test_a_terminal_shows_the_search_and_gets_its_cursor_back(gateway: Gateway) -> None:
    gateway.says["POST /v1/answer"] = EVENTS
    status, written = in_a_terminal(gateway)
    assert status == 0
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written)
    assert "  1  Two lines" in plain
    assert "  ●  Two lines" in plain
    assert "  ○  Other" in plain
    assert "1,234 + 5 tokens" in plain
    gateway.says["POST /v1/answer"] = [EVENTS[0], ("error", {"status": 504, "detail": "generator: slow"})]
    status, written = in_a_terminal(gateway)
    assert status == 1
    assert written.endswith("search-agent: generator: slow\r\n")
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_a_terminal_without_colours_gets_none(gateway: Gateway) -> None:
    gateway.says["POST /v1/answer"] = EVENTS
    coloured = re.compile(r"\x1b\[[\d;]*3[0-7]")
    assert coloured.search(in_a_terminal(gateway)[1])
    assert not coloured.search(in_a_terminal(gateway, NO_COLOR="1")[1])
    assert "\x1b" not in in_a_terminal(gateway, TERM="dumb")[1]


def drawn(width: int, *events: Any) -> str:
    out = io.StringIO()
    live.show(events, Console(file=out, width=width, force_terminal=False))
    return out.getvalue()


@pytest.mark.parametrize("width", [24, 80, 200])
def test_a_drawing_fits_its_terminal_and_marks_where_the_answer_stands(width: int) -> None:
    text = "word " * 200 + "then the long answer came, " + "word " * 200
    kept = document("p1", text)
    done = answer("the long answer", [kept], citations=("p1",))
    turn = Turn("q " * 60, ("p1", "p2"), ("p1",), {"p1": "Title " * 30, "p2": EVIL}, "")
    lines = drawn(width, turn, Found((kept,), False), Piece("the long answer"), done).splitlines()
    assert max(map(len, lines)) <= width
    assert [line for line in lines if not line.isprintable()] == []
    excerpt = " ".join(" ".join(lines[-6:]).split())
    assert "the long answer" in excerpt
    assert "…" in excerpt


def test_reasoning_stands_above_the_answer() -> None:
    shown = drawn(80, Found((), False), Piece("Because.\nSo: 5\n"), Piece("5"), answer("5"))
    lines = [line.strip() for line in shown.splitlines()]
    assert lines.index("So: 5") < len(lines) - 1 - lines[::-1].index("5")


@pytest.mark.parametrize("character", ["\x00", "\t", "\x9b", "\x7f", "\u2029", "\u2066", "\u202d"])
def test_a_line_has_no_character_that_a_terminal_obeys(character: str) -> None:
    assert one_line(f"a{character}é東") == "a é東"
