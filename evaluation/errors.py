"""Errors of evaluation: those that the user can correct, and questions that failed."""

from __future__ import annotations

from pathlib import Path

from common.problems import Problem
from search_agent.errors import Failure


class EvaluateProblem(Problem):
    """A run cannot start or continue."""


class BadQuestion(EvaluateProblem):
    """A record of a question file is not a question."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}")


class Failed(Exception):
    """A question was not answered. `boundary` is the backend that failed, "gateway", or "ray" if actors died."""

    def __init__(self, boundary: str, failure: Failure | str, detail: str) -> None:
        super().__init__(boundary, failure, detail)  # pickle restores it from these
        self.boundary, self.failure, self.detail = boundary, str(failure), detail

    def __str__(self) -> str:
        return self.detail
