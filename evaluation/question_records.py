"""Converts records of published data sets to questions, and questions to JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from search_agent.types import QUESTION_CHARS, Question

IDS = ("id", "_id", "qid", "question_id")
GOLDS = ("golden_answers", "answers", "answer")
OPTIONS = ("options", "choices")
CHOICES = ("choice", "answer_idx", "answerKey", "answer", "golden_answers")
GROUPS = ("dataset", "hops", "chain")  # the metadata that reports are divided by


def question_of(record: Mapping[str, Any], place: str) -> Question:
    """Converts a record to a question that every later stage accepts. Raises ValueError with the reason.

    Fields are tried in the order of the tuples above. The id is a text or a whole number, or else `place`. Gold answers
    are a text or number, a list of them, SQuAD's {"text": […]} or TriviaQA's {"value", "aliases"}; MuSiQue's
    "answer_aliases" count too. Options are a list, texts by letter, or ARC's {"text": […], "label": […]}; the right one
    is given by its letter, its number (as labelled, or else counted from 0) or its text.
    """
    options: dict[str, str] = {}
    choice = ""
    if given := _first(record, OPTIONS):
        labels, options = _options(*given)
        choice = _choice(*_first_or_refuse(record, CHOICES, "right option"), labels, options)
        golds = [f"{choice}: {options[choice]}"]
    else:
        name, value = _first_or_refuse(record, GOLDS, "gold answer")
        golds = [text for each in (value, record.get("answer_aliases") or []) for text in _texts(name, each)]
        if not golds:
            raise ValueError(f'"{name}" holds no answer')
    metadata = record.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    article = metadata.get("title")
    return Question(
        id=_id(record, place),
        text=_text("question", record.get("question")),
        golds=tuple(golds),
        gold_passages=_gold_passages(metadata),
        options=options,
        choice=choice,
        article=article if isinstance(article, str) else "",
        groups={name: str(value) for name in GROUPS if (value := metadata.get(name)) not in (None, "")},
    )


def line_of(question: Question) -> str:
    """Returns the question as a JSON line that `question_of` reads."""
    record: dict[str, Any] = {"id": question.id, "question": question.text, "golden_answers": question.golds}
    if question.options:
        record |= {"options": question.options, "choice": question.choice}
    known = {
        "passage_ids": [id for id, *_ in question.gold_passages],
        "same_title_ids": {id: alike for id, *alike in question.gold_passages if alike},
        "title": question.article,
    }
    if metadata := {name: value for name, value in {**known, **question.groups}.items() if value}:
        record["metadata"] = metadata
    return json.dumps(record, ensure_ascii=False)


def _first(record: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any] | None:
    """Returns the first of the fields that is not null or empty, with its value."""
    return next(((name, record[name]) for name in names if record.get(name) not in (None, "", {}, [])), None)


def _first_or_refuse(record: Mapping[str, Any], names: Sequence[str], what: str) -> tuple[str, Any]:
    if not (found := _first(record, names)):
        raise ValueError(f"no {what}: none of {', '.join(names)} is filled")
    return found


def _id(record: Mapping[str, Any], place: str) -> str:
    name, value = _first(record, IDS) or ("id", place)
    if type(value) is int:
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'"{name}" is {json.dumps(value)}, neither a text nor a whole number')
    return value


def _text(name: str, value: object) -> str:
    """Strips a text and checks that the gateway accepts it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'"{name}" is missing or not a text')
    text = value.strip()
    if len(text) > QUESTION_CHARS:
        raise ValueError(f'"{name}" has {len(text):,} characters, more than the {QUESTION_CHARS:,} that are allowed')
    return text


def _texts(name: str, value: Any) -> list[str]:
    """Returns the gold answers that are not blank."""
    if isinstance(value, dict):
        parts = [value["text"]] if "text" in value else [value.get("value", ""), value.get("aliases") or []]
        return [text for part in parts for text in _texts(name, part)]
    texts = [_scalar(name, each) for each in (value if isinstance(value, list) else [value])]
    return [text for text in texts if text.strip()]


def _scalar(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f'"{name}" holds {json.dumps(value)}, neither a text nor a number')
    return str(value)


def _options(name: str, value: Any) -> tuple[list[str], dict[str, str]]:
    """Returns the given labels in upper case, and the options by letter."""
    if isinstance(value, dict) and isinstance(value.get("text"), list) and isinstance(value.get("label"), list):
        labels, texts = [str(label) for label in value["label"]], value["text"]
    elif isinstance(value, dict):
        labels, texts = list(value), list(value.values())
    elif isinstance(value, list):
        labels, texts = list(ascii_uppercase[: len(value)]), value
    else:
        raise ValueError(f'"{name}" is neither a list of options nor texts by letter')
    if len(texts) > len(ascii_uppercase) or len(texts) != len(labels):
        raise ValueError(f'"{name}" has {len(labels)} labels for {len(texts)} options, of which 26 can be asked')
    labels = [label.strip().upper() for label in labels]
    numbered = all(label.isdecimal() for label in labels)
    letters = ascii_uppercase[: len(labels)] if numbered else labels
    if len(set(labels)) < len(labels) or not set(letters) <= set(ascii_uppercase):
        raise ValueError(f'"{name}" is labelled {", ".join(labels)}: not by letters A to Z, nor by numbers')
    stripped = [_text(name, _scalar(name, text)) for text in texts]
    return labels, dict(zip(letters, stripped, strict=True))


def _choice(name: str, value: object, labels: Sequence[str], options: Mapping[str, str]) -> str:
    """Returns the letter of the right option."""
    letters, texts = list(options), list(options.values())
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    said = _scalar(name, value).strip()
    for place in (
        labels.index(said.upper()) if said.upper() in labels else None,
        value if type(value) is int and 0 <= value < len(texts) else None,
        texts.index(said) if texts.count(said) == 1 else None,
    ):
        if place is not None:
            return letters[place]
    raise ValueError(f'"{name}" is {json.dumps(value, ensure_ascii=False)}, which is not one of the options')


def _gold_passages(metadata: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Reads "passage_ids", or else "passage_id", each with the ids that "same_title_ids" lists for it."""
    needed, alike = metadata.get("passage_ids"), metadata.get("same_title_ids") or {}
    if not needed:
        needed = [metadata["passage_id"]] if metadata.get("passage_id") else []
    if not _are_ids(needed):
        raise ValueError('"metadata.passage_ids" is not a list of ids')
    if not isinstance(alike, dict) or not all(map(_are_ids, alike.values())):
        raise ValueError('"metadata.same_title_ids" does not give a list of ids for an id')
    return tuple(tuple(map(str, (id, *alike.get(str(id), ())))) for id in dict.fromkeys(needed))


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(id) is int or (isinstance(id, str) and id.strip()) for id in value)
