"""Errors of other libraries in one line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def one_line(error: BaseException) -> str:
    """Joins the message's lines: pydantic, with which vLLM checks its arguments, gives the reason after the first."""
    return " ".join(str(error).split()) or type(error).__name__
