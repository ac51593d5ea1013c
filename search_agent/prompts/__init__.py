"""Prompts are files in this folder; `$name` marks a placeholder."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from string import Template


@cache
def _source(name: str) -> str:
    return (files(__name__) / f"{name}.txt").read_text(encoding="utf-8").strip()


def render(name: str, **values: object) -> str:
    """Returns the prompt with every placeholder filled. Raises KeyError for one without a value."""
    return Template(_source(name)).substitute(values)


@cache
def version(name: str) -> str:
    """Returns a short hash of the prompt's text, for cache keys and records."""
    return hashlib.sha256(_source(name).encode()).hexdigest()[:12]
