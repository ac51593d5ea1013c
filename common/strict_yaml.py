"""YAML that says what JSON could say, and no more."""

from __future__ import annotations

from typing import Any

import yaml

from common.problems import Problem

_DEEPEST = 20  # levels of a file
_BIGGEST = 2**63  # what verl, numpy and torch take for a number
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")}
_KEYS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int")}


class _Loader(yaml.SafeLoader):
    """Takes what JSON could say, and dates as text. Every other value is a YAMLError with its line.

    It takes no aliases: a few hundred bytes of them unfold to gigabytes.
    """

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not taken", problem_mark=mark)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"more than {_DEEPEST} levels", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            if node.tag not in _TAGS:
                raise ValueError(f"{node.tag} is not taken")
            if isinstance(node, yaml.MappingNode):
                self._check_keys(node)
            value = super().construct_object(node, deep)
            if isinstance(value, int | float) and not -_BIGGEST < value < _BIGGEST:
                raise ValueError("the number is too large")
        except ValueError as error:
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from None
        return value

    def _check_keys(self, node: yaml.MappingNode) -> None:
        found = set()
        for key, _ in node.value:
            if key.tag not in _KEYS:
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
            if key.value in found:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            found.add(key.value)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(text: str, source: str) -> Any:
    """Returns the value that the text holds. Raises Problem, which names `source` and the line."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise Problem(_fault(source, text, error)) from None


def _fault(source: str, text: str, error: yaml.YAMLError) -> str:
    """Returns what is wrong with YAML, with its line."""
    if isinstance(error, yaml.reader.ReaderError):
        line, reason = text.count("\n", 0, error.position), f"{chr(error.character)!r} is not text"
    else:
        assert isinstance(error, yaml.MarkedYAMLError)
        mark = error.problem_mark or error.context_mark
        line, reason = mark.line if mark else 0, error.problem or str(error)
    return f"{source}:{line + 1}: {reason}"
