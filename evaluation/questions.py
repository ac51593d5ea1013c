"""Question sets: FlashRAG's by name, files in its shape, and MIRAGE's benchmark.json."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.errors import BadQuestion, EvaluateProblem
from search_agent.types import Question

HUB = "RUC-NLPIR/FlashRAG_datasets"
# Each set's part that results are reported on; NAME/train is what training uses.
SETS = {
    "nq": "test",
    "triviaqa": "test",
    "popqa": "test",
    "hotpotqa": "dev",
    "2wikimultihopqa": "dev",
    "musique": "dev",
    "bamboogle": "test",
}
GROUPS = ("dataset", "hops")  # the metadata that reports are divided by
Download = Callable[[str, str], str]  # (repository, file) -> path


def load(spec: str, download: Download | None = None) -> list[Question]:
    """The questions that `spec` names, in order. Raises EvaluateProblem, for a bad line BadQuestion.

    A name of SETS, or NAME/PART; a file of JSON lines, plain or .gz, {"id", "question", "golden_answers"},
    with "options" (text by letter) and "choice" in place of the gold answers for multiple choice; or MIRAGE's
    benchmark.json, or benchmark.json#NAME for one of its sets.
    """
    name, _, part = spec.partition("/")
    if name in SETS and not Path(spec).exists():
        return list(_lines(_from_hub(f"{name}/{part or SETS[name]}.jsonl", download or hub_download)))
    file, _, chosen = spec.partition("#")
    if not Path(file).is_file():
        raise EvaluateProblem(f"{file}: no such file, and no set of that name; there are {', '.join(SETS)}")
    if file.endswith(".json"):
        return list(_mirage(Path(file), chosen))
    return list(_lines(Path(file)))


def name_of(spec: str, questions: Sequence[Question]) -> str:
    """The set's name, its size and a short hash of what is in it."""
    everything = json.dumps([asdict(question) for question in questions], sort_keys=True)
    sha = hashlib.sha256(everything.encode()).hexdigest()[:12]
    return f"{spec if spec.partition('/')[0] in SETS else Path(spec).name} ({len(questions):,} questions, {sha})"


def pick(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """`limit` of the questions, chosen by `seed`: a larger limit takes the same ones and more."""
    if limit is None or limit >= len(questions):
        return list(questions)
    order = list(questions)
    random.Random(seed).shuffle(order)
    return order[:limit]


def hub_download(repository: str, file: str) -> str:
    """A file of a hub data set, from the local hub cache if it is there."""
    from huggingface_hub import hf_hub_download

    return str(hf_hub_download(repository, file, repo_type="dataset"))


def _from_hub(file: str, download: Download) -> Path:
    try:
        return Path(download(HUB, file))
    except ImportError:
        raise EvaluateProblem(
            "question sets by name need huggingface-hub: pip install search-agent[evaluate]"
        ) from None
    except Exception as error:  # the hub's library raises its own, requests' and the system's
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EvaluateProblem(f"{HUB}/{file} cannot be fetched from the hub: {reason}") from error


def _lines(path: Path) -> Iterator[Question]:
    number, seen = 0, set[str]()
    try:
        with path.open("rb") as probe:
            zipped = probe.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    question = _question(json.loads(line.decode("utf-8-sig")))
                    if question.id in seen:
                        raise ValueError(f"duplicate id {question.id!r}")
                except (ValueError, RecursionError) as error:
                    raise BadQuestion(path, number, str(error)) from None
                seen.add(question.id)
                yield question
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadQuestion(path, number + 1, f"broken gzip stream: {error}") from None
    except OSError as error:
        raise EvaluateProblem(f"{path}: {error.strerror or error}") from None


def _question(record: Any) -> Question:
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    options, choice = record.get("options") or {}, record.get("choice", "")
    golds = _golds(options, choice) if options else record.get("golden_answers")
    if not isinstance(golds, list) or not golds or not all(isinstance(gold, str) and gold.strip() for gold in golds):
        raise ValueError('"golden_answers" is not a list of texts')
    metadata = record.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    article = metadata.get("title")
    return Question(
        id=_text(record, "id"),
        text=_text(record, "question"),
        golds=tuple(golds),
        gold_passages=_gold_passages(metadata),
        options=options,
        choice=choice,
        article=article if isinstance(article, str) else "",
        groups={name: str(value) for name in GROUPS if (value := metadata.get(name)) not in (None, "")},
    )


def _gold_passages(metadata: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """All of "passage_ids", or the one "passage_id"; those that "same_title_ids" lists for one count as it."""
    needed, alike = metadata.get("passage_ids"), metadata.get("same_title_ids") or {}
    if not needed:
        needed = [metadata["passage_id"]] if metadata.get("passage_id") else []
    if not _are_ids(needed):
        raise ValueError('"metadata.passage_ids" is not a list of ids')
    if not isinstance(alike, dict) or not all(map(_are_ids, alike.values())):
        raise ValueError('"metadata.same_title_ids" does not give a list of ids for an id')
    return tuple(tuple(map(str, (id, *alike.get(str(id), ())))) for id in dict.fromkeys(needed))


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(_is_text(id) or (isinstance(id, int) and id is not True) for id in value)


def line_of(question: Question) -> str:
    """The question as a line that `load` reads."""
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


def _golds(options: Any, choice: Any) -> list[str]:
    """The gold answer of a multiple-choice question, "A: text"."""
    if not isinstance(options, dict) or not all(map(_is_text, options.values())) or choice not in options:
        raise ValueError("the right letter is not one of the options, text by letter")
    return [f"{choice}: {options[choice]}"]


def _mirage(path: Path, chosen: str) -> Iterator[Question]:
    """{"medqa": {"0000": {"question", "options": {"A": …}, "answer": "A"}}}; gold is "A: text"."""
    try:
        benchmark = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise EvaluateProblem(f"{path}: {error}") from None
    if not isinstance(benchmark, dict) or not all(isinstance(items, dict) for items in benchmark.values()):
        raise EvaluateProblem(f"{path}: not a MIRAGE benchmark; question files are JSON lines and end in .jsonl")
    if chosen and chosen not in benchmark:
        raise EvaluateProblem(f"{path}: has no set {chosen!r}; there are {', '.join(benchmark)}")
    for name, items in benchmark.items():
        for number, item in items.items() if chosen in ("", name) else ():
            try:
                options, letter = item["options"], item["answer"]
                golds = tuple(_golds(options, letter))
                yield Question(f"{name}/{number}", _text(item, "question"), golds, options=options, choice=letter)
            except (KeyError, TypeError, ValueError) as error:
                reason = f"no {error}" if isinstance(error, KeyError) else error
                raise EvaluateProblem(f"{path}: {name}/{number}: {reason}") from None


def _text(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    if isinstance(value, int) and name == "id":
        return str(value)
    if not _is_text(value):
        raise ValueError(f'"{name}" is missing or not a text')
    return str(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def part(asked: Sequence[Question], low: float, high: float) -> list[Question]:
    """The questions of those articles that lie between `low` and `high`, 0.0 to 1.0, where a hash puts them evenly.

    What two models learn from separate parts, the one has not seen of the other.
    """

    def place(source: str) -> float:
        digits = str(int(hashlib.sha256(source.encode()).hexdigest(), 16))[::-1]  # of which the last ones are even
        return float(f"0.{digits[:9]}")

    named = zip(asked, sources(asked), strict=True)
    return [question for question, source in named if low <= place(source) < high]


def sources(asked: Sequence[Question]) -> list[str]:
    """Names the source of each question: questions that share an article or a gold passage share a source.

    Sharing carries over: with a question on passages a and b, and one on b and c, all three passages are one source.
    It is called by an article's title, or else by a passage's id; a question with neither is a source of its own.
    """
    above: dict[tuple[int, str], tuple[int, str]] = {}  # towards the name of the source, which sorts first

    def top(key: tuple[int, str]) -> tuple[int, str]:
        while above.setdefault(key, key) != key:
            above[key] = above[above[key]]
            key = above[key]
        return key

    firsts = []
    for place, question in enumerate(asked):
        keys = [(0, question.article)] if question.article else []
        keys += [(1, id) for passage in question.gold_passages for id in passage]
        first, *others = keys or [(2, f"\n{place}")]
        firsts.append(first)
        for other in others:
            low, high = sorted((top(first), top(other)))
            above[high] = low
    return [top(first)[1] for first in firsts]
