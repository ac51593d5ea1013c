"""Question sets: loading FlashRAG's by name, files and MIRAGE's benchmark; taking samples and parts of a set."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import records
from evaluation.errors import BadQuestion, EvaluateProblem
from evaluation.question_records import question_of
from search_agent.types import Question

HUB = "RUC-NLPIR/FlashRAG_datasets"
# The split of each set that results are reported on; training uses NAME/train.
SETS = {
    "nq": "test",
    "triviaqa": "test",
    "popqa": "test",
    "hotpotqa": "dev",
    "2wikimultihopqa": "dev",
    "musique": "dev",
    "bamboogle": "test",
}
Download = Callable[[str, str], str]  # (repository, file) -> path


def load(spec: str, download: Download | None = None) -> list[Question]:
    """Loads the questions that `spec` names, in order. Raises EvaluateProblem, which is BadQuestion for a bad record.

    `spec` is a name of SETS or NAME/SPLIT; or a file of JSON lines or a JSON array, plain or gzipped, of records that
    `question_of` reads; or MIRAGE's benchmark.json, or benchmark.json#NAME for one of its sets.
    """
    name, _, part = spec.partition("/")
    file, _, chosen = spec.partition("#")
    try:
        if Path(spec).exists():
            found = list(_from_file(Path(spec)))
        elif Path(file).exists():
            found = list(_from_file(Path(file), chosen))
        elif name in SETS:
            found = list(_from_file(_from_hub(f"{name}/{part or SETS[name]}.jsonl", download or hub_download)))
        else:
            raise EvaluateProblem(f"{file}: no such file, and no set of that name; there are {', '.join(SETS)}")
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise EvaluateProblem(f"{spec}: {getattr(error, 'strerror', None) or error}") from None
    if not found:
        raise EvaluateProblem(f"{spec}: has no questions")
    return found


def name_of(spec: str, questions: Sequence[Question]) -> str:
    """Returns the set's name with its size and a short hash of its questions."""
    everything = json.dumps([asdict(question) for question in questions], sort_keys=True)
    sha = hashlib.sha256(everything.encode()).hexdigest()[:12]
    return f"{spec if spec.partition('/')[0] in SETS else Path(spec).name} ({len(questions):,} questions, {sha})"


def pick(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """Samples `limit` questions by `seed`. A larger limit takes the same ones and more."""
    if limit is None or limit >= len(questions):
        return list(questions)
    order = list(questions)
    random.Random(seed).shuffle(order)
    return order[:limit]


def hub_download(repository: str, file: str) -> str:
    """Downloads a file of a hub data set unless it is in the local hub cache, and returns its path."""
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


def _from_file(path: Path, chosen: str = "") -> Iterator[Question]:
    """Yields the questions of a file; of a MIRAGE benchmark, those of the set `chosen` if one is given."""
    if benchmark := _benchmark(path):
        yield from _mirage(path, benchmark, chosen)
        return
    if chosen:
        raise EvaluateProblem(f"{path}: not a MIRAGE benchmark, and so without a set {chosen!r}")
    seen = set[str]()
    try:
        for number, (line, record) in enumerate(records.read(path), 1):
            try:
                question = question_of(records.parse(record), str(number))
                if question.id in seen:
                    raise ValueError(f"duplicate id {question.id!r}")
            except ValueError as error:
                raise BadQuestion(path, line, str(error)) from None
            seen.add(question.id)
            yield question
    except records.BrokenFile as error:
        raise BadQuestion(path, error.line, str(error)) from None


def _benchmark(path: Path) -> Mapping[str, Mapping[str, Any]] | None:
    """Reads {"medqa": {"0000": {"question", "options": {"A": …}, "answer": "A"}}}. Returns None for other files."""
    if not path.name.endswith((".json", ".json.gz")):
        return None
    try:
        with records.open_file(path) as file:
            sets = records.parse(file.read())
    except (ValueError, EOFError, zlib.error):
        return None
    items = [item for each in sets.values() for item in (each.values() if isinstance(each, dict) else (each,))]
    return sets if all(isinstance(item, dict) for item in items) else None  # type: ignore[return-value]


def _mirage(path: Path, benchmark: Mapping[str, Mapping[str, Any]], chosen: str) -> Iterator[Question]:
    if chosen and chosen not in benchmark:
        raise EvaluateProblem(f"{path}: has no set {chosen!r}; there are {', '.join(benchmark)}")
    for name, items in benchmark.items():
        for number, item in items.items() if chosen in ("", name) else ():
            id = f"{name}/{number}"
            try:
                yield question_of({**item, "id": id}, id)
            except ValueError as error:
                raise EvaluateProblem(f"{path}: {id}: {error}") from None


def part(asked: Sequence[Question], low: float, high: float) -> list[Question]:
    """Returns the questions whose sources lie from `low` to `high`; a hash spreads sources evenly over 0 to 1.

    Parts that do not overlap share no source, so that models can be trained on separate ones. Raises EvaluateProblem if
    the part is empty.
    """
    if low >= high:
        raise EvaluateProblem(f"the part from {low:g} to {high:g} is empty; its start comes first")

    def place(source: str) -> float:
        digits = str(int(hashlib.sha256(source.encode()).hexdigest(), 16))[::-1]  # the last digits are spread evenly
        return float(f"0.{digits[:9]}")

    named = zip(asked, sources(asked), strict=True)
    return [question for question, source in named if low <= place(source) < high]


def sources(asked: Sequence[Question]) -> list[str]:
    """Names the source of each question: questions that share an article or a gold passage share a source.

    Sharing is transitive: with a question on passages a and b, and one on b and c, all three passages are one source. A
    source is named after an article's title, or else a passage's id; a question with neither is its own source.
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
