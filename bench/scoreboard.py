"""The scoreboard, which compares goals.json with the recorded results, and the README's headline table.

An entry of goals.json names its result file and points to the figure with a JSON Pointer (RFC 6901): `now`, divided by
`over` where the goal is a ratio. The goal is one of `at_least`, `at_most`, `above` and `below`; an entry without one
only reports. A goal has not been measured if its result file is not there, or the part of it that `now` points into is
null. `run` points to a part of the file that has a device, a date or a command of its own; the entry may name them too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
GOALS = Path(__file__).with_name("goals.json")
HEADLINE = Path(__file__).with_name("headline.json")
_TESTS = {
    "at_least": ("≥ ", lambda now, goal: now >= goal),
    "at_most": ("≤ ", lambda now, goal: now <= goal),
    "above": ("> ", lambda now, goal: now > goal),
    "below": ("< ", lambda now, goal: now < goal),
}
HEAD = ("what", "goal", "now", "", "device", "date", "command")


def rows() -> list[tuple[str, ...]]:
    """Returns one row per goal, in HEAD's columns."""
    return [row(goal, recorded(goal["result"])) for goal in _read(GOALS)]


def headline() -> list[tuple[str, ...]]:
    """Returns a row per entry of headline.json: questions, method, passages read, accuracy, gain over naive RAG.

    Naive RAG reads as many passages, question by question. `right` and `gain` point to a mean with its interval, in per
    cent and points. `passages` is a number or points to one.
    """
    shown: list[tuple[str, ...]] = []
    for entry in _read(HEADLINE):
        result, passages = recorded(entry["result"]), entry["passages"]
        shown.append(
            (
                str(entry["questions"]),
                str(entry["what"]),
                f"{passages if isinstance(passages, int) else value(result, passages):.1f}",
                _interval(value(result, entry["right"])),
                _interval(value(result, entry["gain"]), "+") if "gain" in entry else "",
            )
        )
    return shown


def recorded(name: str) -> Any:
    """Returns a file of results, None if it has not been measured."""
    file = RESULTS / name
    return _read(file) if file.exists() else None


def _interval(estimate: Sequence[float], sign: str = "") -> str:
    mean, low, high = (f"{each:{sign}.1f}" for each in estimate)
    return f"{mean} [{low}, {high}]"


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def row(goal: Mapping[str, Any], result: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Returns one goal beside its figure in `result`, which may be None. Raises LookupError for a wrong pointer."""
    what = f"[{goal['what']}](pages/{goal['page']}.md)"
    tests = [(sign, holds, goal[name]) for name, (sign, holds) in _TESTS.items() if name in goal]
    target = "".join(sign + _shown(goal, aim) for sign, _, aim in tests)
    now = value(result, goal["now"])
    if result is None or now is None:
        return what, target, "", "not measured", "", "", ""
    now /= value(result, goal["over"]) if "over" in goal else 1
    about = {**result, **(value(result, goal["run"]) if "run" in goal else {}), **goal}
    verdict = "".join("met" if holds(now, aim) else "**missed**" for _, holds, aim in tests)
    return what, target, _shown(goal, now), verdict, about["device"], about["date"][:10], f"`{about['command']}`"


def _shown(goal: Mapping[str, Any], figure: float) -> str:
    return str(goal["format"]).format(figure * goal.get("scale", 1))


def value(document: Any, pointer: str) -> Any:
    """Returns the value that a JSON Pointer names, or None below null. Raises LookupError if there is none."""
    for part in pointer.split("/")[1:]:
        if document is None:
            return None
        part = part.replace("~1", "/").replace("~0", "~")
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document
