"""The folder of a run, which resumes only under the conditions that it began with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common import stored
from common.files import write_whole
from evaluation.errors import EvaluateProblem

_Json = dict[str, Any]


def settle(path: Path, facts: _Json, what: str, same: Iterable[str], grows: str = "") -> None:
    """Writes `facts` to `path`. Raises EvaluateProblem if the folder contains `what` (such as "rows") from a run with
    other facts.

    The facts named in `same` must equal the earlier ones. The fact `grows` is a mapping that may gain entries; its
    earlier entries are added to `facts`.
    """
    now: _Json = json.loads(json.dumps(facts))
    if path.exists():
        before = stored.read(_Json, path.read_bytes()) or {}
        if not {*same} <= before.keys() or (grows and not isinstance(before.get(grows), dict)):
            raise EvaluateProblem(f"{path} is damaged or from another version; choose another --out")
        for name in same:
            if before[name] != now[name]:
                raise EvaluateProblem(
                    f"{path.parent} has {what} of another {name}: {json.dumps(before[name])}; choose another --out"
                )
        for entry, value in before[grows].items() if grows else ():
            if now[grows].setdefault(entry, value) != value:
                raise EvaluateProblem(f"{path.parent} has {what} of {entry} with other {grows}; choose another --out")
            facts[grows].setdefault(entry, value)
    elif other := next(path.parent.glob("[!.]*"), None):
        raise EvaluateProblem(f"{path.parent} holds {other.name} and no {path.name}; choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
