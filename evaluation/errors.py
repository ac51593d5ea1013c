"""What whoever evaluates must put right, one line each, and a question that failed."""

from __future__ import annotations

from pathlib import Path

from common.problems import Problem
from search_agent.errors import Failure


class EvaluateProblem(Problem):
    """The run cannot start or go on; the command line prints it and exits with status 1."""


class BadQuestion(EvaluateProblem):
    """A line of a question file is no question."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}")


class Failed(Exception):
    """A question has no answer. `boundary` is the backend that failed, "gateway", or "ray" for lost actors."""

    def __init__(self, boundary: str, failure: Failure | str, detail: str) -> None:
        super().__init__(boundary, failure, detail)  # of which pickle makes it anew
        self.boundary, self.failure, self.detail = boundary, str(failure), detail

    def __str__(self) -> str:
        return self.detail
