"""Reads passages from JSON records, in the shapes in which people publish them."""

from __future__ import annotations

import json
from typing import Any

from common import records
from common.indexes import Edit, Removal
from search_agent.filters import Scalar, problem_of
from search_agent.types import Passage

MAX_KEYS, MAX_KEY_CHARS, MAX_METADATA_BYTES = 32, 100, 8192


class BadPassage(ValueError):
    """A record that is not a passage. `field` is at fault, empty if the record is not a JSON object."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


class NoText(BadPassage):
    """A passage whose text is empty."""


def read_passage(record: bytes) -> Passage:
    """Returns one JSON object as a passage. Raises BadPassage with the reason."""
    return passage_of(_fields(record))


def read_edit(record: bytes) -> Edit:
    """Returns one JSON object as an edit of an index: a passage to add or replace, or {"id", "deleted": true}.

    Raises BadPassage.
    """
    fields = _fields(record)
    deleted = fields.get("deleted", False)
    if not isinstance(deleted, bool):
        raise BadPassage("deleted", '"deleted" is not true or false')
    return Removal(_id(fields)) if deleted else passage_of(fields)


def passage_of(fields: dict[str, object]) -> Passage:
    """Returns an object's fields as a passage. Raises BadPassage with the reason, NoText if the text is empty.

    The id is "id" or BEIR's "_id". The text is "text", MedCorp's "content", or "contents": the title on a line of its
    own, in quotes or not, before the text, or the text alone. The title may be missing, null, NaN or empty. "metadata"
    is a flat object of texts, numbers, truth values and lists of texts.
    """
    id = _id(fields)
    title = "" if fields.get("title") is None else _string(fields, "title")
    title = title if title.strip() else ""
    body = next((body for body in ("text", "content", "contents") if body in fields), "text")
    text = _string(fields, body)
    if not text.strip():
        raise NoText(body, f'"{body}" is empty')
    if body == "contents":
        title, text = _split(title, text)
    return Passage(id, title, text, metadata=read_metadata(fields.get("metadata")))


def read_metadata(held: object) -> dict[str, Any]:
    """Returns metadata that is whole, without keys that hold null or an empty list. Raises BadPassage.

    It is an object of texts, numbers, truth values and lists of texts.
    """
    if held is None:
        return {}
    if not isinstance(held, dict):
        raise BadPassage("metadata", '"metadata" is not an object')
    if len(held) > MAX_KEYS:
        raise BadPassage("metadata", f'"metadata" has {len(held)} keys, at most {MAX_KEYS} are allowed')
    kept = {key: value for key, value in held.items() if value is not None and value != []}
    for key, value in kept.items():
        if problem := _problem_of(key, value):
            raise BadPassage("metadata", f'"metadata" {json.dumps(key[:80])}: {problem}')
    if (size := len(json.dumps(kept, ensure_ascii=False).encode())) > MAX_METADATA_BYTES:
        raise BadPassage("metadata", f'"metadata" has {size} bytes, at most {MAX_METADATA_BYTES} are allowed')
    return kept


def _problem_of(key: str, value: object) -> str:
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        return f"a key has 1 to {MAX_KEY_CHARS} characters"
    if isinstance(value, list):
        if not all(isinstance(item, str) for item in value):
            return "a list holds texts only"
        return next(filter(None, map(problem_of, value)), "")
    if not isinstance(value, Scalar):
        return "is not a text, a number, true, false or a list of texts"
    return problem_of(value)


def _fields(record: bytes) -> dict[str, object]:
    try:
        return records.parse(record, nan_is_null=True)
    except ValueError as error:
        raise BadPassage("", str(error)) from None


def _id(fields: dict[str, object]) -> str:
    return _filled(fields, "_id" if "_id" in fields and "id" not in fields else "id")


def _split(title: str, contents: str) -> tuple[str, str]:
    """Returns (title, text) of "contents", whose first line is the title unless another `title` is given."""
    first, newline, text = contents.partition("\n")
    first = first.rstrip("\r")
    if len(first) >= 2 and first[0] == first[-1] == '"':
        first = first[1:-1]
    first = first if first.strip() else ""
    if not newline or title not in ("", first):
        return title, contents
    if not text.strip():
        raise NoText("contents", '"contents" has a title line and no text')
    return first, text


def _filled(fields: dict[str, object], name: str) -> str:
    value = _string(fields, name)
    if not value.strip():
        raise BadPassage(name, f'"{name}" is empty')
    return value


def _string(fields: dict[str, object], name: str) -> str:
    """Returns a field that holds a string or an integer, as ids often are."""
    if name not in fields:
        raise BadPassage(name, f'no "{name}"')
    value = fields[name]
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        raise BadPassage(name, f'"{name}" is not a string')
    return value
