"""The scoreboard: every goal of goals.json beside the figure that the recorded results hold.

An entry names its result file and points to the figure with a JSON Pointer (RFC 6901): `now`, divided by `over` where
the goal is a ratio. The goal is one of `at_least`, `at_most`, `above` and `below`; an entry without one only reports.
`run` points to a part of the file that has a device, a date or a command of its own; the entry may name them too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
GOALS = Path(__file__).with_name("goals.json")
_TESTS = {
    "at_least": ("≥ ", lambda now, goal: now >= goal),
    "at_most": ("≤ ", lambda now, goal: now <= goal),
    "above": ("> ", lambda now, goal: now > goal),
    "below": ("< ", lambda now, goal: now < goal),
}
HEAD = ("what", "goal", "now", "", "device", "date", "command")


def rows() -> list[tuple[str, ...]]:
    """One row per goal, in HEAD's columns."""
    goals = json.loads(GOALS.read_text(encoding="utf-8"))
    return [row(goal, json.loads((RESULTS / goal["result"]).read_text(encoding="utf-8"))) for goal in goals]


def row(goal: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[str, ...]:
    """One goal beside its figure in `result`. Raises LookupError if a pointer names nothing."""
    now = value(result, goal["now"]) / (value(result, goal["over"]) if "over" in goal else 1)
    about = {**result, **(value(result, goal["run"]) if "run" in goal else {}), **goal}
    target, verdict = "", ""
    for name, (sign, holds) in _TESTS.items():
        if name in goal:
            target, verdict = sign + _shown(goal, goal[name]), "met" if holds(now, goal[name]) else "**missed**"
    what = f"[{goal['what']}](pages/{goal['page']}.md)"
    return what, target, _shown(goal, now), verdict, about["device"], about["date"][:10], f"`{about['command']}`"


def _shown(goal: Mapping[str, Any], figure: float) -> str:
    return str(goal["format"]).format(figure * goal.get("scale", 1))


def value(document: Any, pointer: str) -> Any:
    """The value that a JSON Pointer names. Raises LookupError where there is none."""
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document
