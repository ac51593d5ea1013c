"""A command shows what it waits for: in one line that is renewed on a terminal, and in few lines elsewhere."""

from __future__ import annotations

import io

from common.waiting import Lines, Renewed, display_on


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_a_line_at_the_start_one_every_half_minute_and_one_at_the_end() -> None:
    now_s, said = 0.0, list[str]()
    lines = Lines(said.append, lambda: now_s)
    for second in range(100):
        now_s = float(second)
        lines.wait("the retriever at here:50051", "it cannot be\nreached", 300 - now_s)
    lines.end("the retriever at here:50051")
    assert len(said) == 5  # at 0, 30, 60 and 90 s, and the end
    assert said[0].startswith("waiting for the retriever at here:50051 until ")
    assert said[0].endswith(": it cannot be reached")


def test_a_pipe_gets_few_lines_of_a_service_that_answers_now_and_then() -> None:
    now_s, said = 0.0, list[str]()
    lines = Lines(said.append, lambda: now_s)
    for second in range(0, 60, 3):
        now_s = float(second)
        lines.wait("the gateway", "busy", 300)
        lines.end("the gateway")
    assert said[1::2] == ["no longer waiting for the gateway"] * 2
    assert len(said) == 4


def test_a_pipe_gets_nothing_of_a_service_that_was_not_waited_for() -> None:
    out = io.StringIO()
    display_on(out).end("the retriever at here:50051")
    assert out.getvalue() == ""


def test_each_service_has_lines_of_its_own() -> None:
    out = io.StringIO()
    lines = display_on(out)
    for service in ("the retriever", "the generator", "the retriever"):
        lines.wait(service, "away", 10)
    assert [line.split(" until")[0] for line in out.getvalue().splitlines()] == [
        "waiting for the retriever",
        "waiting for the generator",
    ]


def test_a_terminal_has_one_line_that_is_renewed_and_cleared() -> None:
    out = Terminal()
    display = display_on(out)
    assert isinstance(display, Renewed)
    for _ in range(100):
        display.wait("the retriever", "away", 10)
    display.end("the retriever")
    assert "waiting for the retriever until " in out.getvalue()
    assert "\n" not in out.getvalue()
    assert out.getvalue().split("\r")[-2].strip() == ""  # the last thing written is blank
