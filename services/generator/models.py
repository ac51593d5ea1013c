"""The models that a generator service offers by name: one base model, bare or with one of several adapters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from search_agent.errors import Failure, GeneratorError

BASE = "base"  # the name of the base model without an adapter, in every service


@dataclass(frozen=True, slots=True)
class Models:
    """A base model, and its adapters by name. An empty adapter is none; the first name is the default.

    `path` is the base model's file or folder. Where models replace others, an empty path means the same base model.
    """

    path: str
    adapters: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.adapters, BASE)

    def name(self, asked: str) -> str:
        """Returns the name that a request means. Raises GeneratorError if there is no such model."""
        name = asked or self.names[0]
        if name not in self.names:
            message = f"no model is called {name!r}; there are {', '.join(self.names)}"
            raise GeneratorError(Failure.NOT_FOUND, message, "model")
        return name

    def adapter(self, name: str) -> str:
        """Returns the adapter of a name, empty for none."""
        return self.adapters.get(name, "")

    def others(self, name: str) -> list[str]:
        """Returns the names that share the base model with `name`, without `base`."""
        return [each for each in self.adapters if each != name]

    def changed(self, name: str, path: str, adapter: str) -> Models:
        """Returns the models with another adapter under `name` and, if `path` is given, on that base model.

        Raises GeneratorError for `base`, and for another base model while other names share this one.
        """
        others = self.others(name)
        if name == BASE:
            raise GeneratorError(Failure.UNSUPPORTED, f"{BASE} is the base model, which takes no adapter", "model")
        if others and path not in ("", self.path):
            message = f"{', '.join(others)} would change too; another base model needs a service of its own"
            raise GeneratorError(Failure.UNSUPPORTED, message, "path")
        # Where there are others, the base model is not even read again: its files may have been rewritten.
        return replace(self, path="" if others else path, adapters={**self.adapters, name: absolute(adapter)})


def absolute(path: str) -> str:
    """Returns the path from the root, or "" for none."""
    return path and os.path.abspath(path)
