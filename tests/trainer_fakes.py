"""Fakes of what the trainer's service works with, without Ray or models."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from common.run_config import RunConfig
from search_agent.errors import Failure, SearcherError, TrainerError
from search_agent.types import Completion, ModelInfo, Sampling, Span
from search_agent.world import World
from services.generator.taught import card_of
from services.trainer.candidates import Files
from services.trainer.jobs import Job, JobState
from services.trainer.promotion import GateLimits, Promoter
from services.trainer.runs import Runs
from tests.fakes import Generator, Retriever

LIMITS = GateLimits(concurrency=2, seconds=30)
RIGHT = "<important_info>[1]</important_info>\n<search_complete>True</search_complete>"
WRONG = "<important_info>[2]</important_info>\n<search_complete>True</search_complete>"


def clock() -> Callable[[], str]:
    """Returns a clock that advances by a second at each look."""
    seconds = itertools.count()
    return lambda: f"2026-01-01T00:00:{next(seconds):02}Z"


class FakeJobs:
    """Runs jobs that do what a test says; with `down`, the cluster does not answer."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.folders: dict[str, Path] = {}
        self.down = False

    async def submit(self, job: str, folder: Path) -> None:
        self._answer()
        assert job not in self.jobs
        self.jobs[job], self.folders[job] = Job(JobState.WAITING), folder

    async def status(self, job: str) -> Job:
        self._answer()
        return self.jobs.get(job, Job(JobState.UNKNOWN))

    async def stop(self, job: str) -> None:
        self._answer()
        self.jobs[job] = Job(JobState.STOPPED)

    async def log(self, job: str) -> str:
        self._answer()
        return f"what {job} wrote\n"

    def _answer(self) -> None:
        if self.down:
            raise TrainerError(Failure.UNAVAILABLE, "the cluster is down")


class FakeSearcher:
    """A searcher whose adapter folders hold the model's name; "good" keeps the right passage.

    It fails questions that contain a word of `failing`.
    """

    def __init__(self, path: str, adapter: str = "", failing: Sequence[str] = ()) -> None:
        self.path, self.adapter, self.failing, self.engine = path, adapter, failing, "llama.cpp"
        self.shared = False
        self.asked = 0
        self.turn_tokens: set[int] = set()
        self.loads: list[tuple[str, str]] = []

    @property
    def model(self) -> str:
        return (Path(self.adapter) / "name").read_text() if self.adapter else Path(self.path).stem

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        self.asked += 1
        self.turn_tokens.add(sampling.max_tokens)
        if any(word in spans[0].text for word in self.failing):
            raise SearcherError(Failure.TIMEOUT, "too slow")
        return Completion(RIGHT if self.model == "good" else WRONG, model=self.model)

    async def info(self) -> ModelInfo:
        card = card_of(self.path, self.adapter)
        return ModelInfo(self.model, self.engine, 0, True, self.path, self.adapter, card, self.shared)

    async def load(self, path: str, adapter: str) -> ModelInfo:
        self.loads.append((path, adapter))
        self.path, self.adapter = path or self.path, adapter
        return await self.info()

    async def agree(self) -> bool:
        return True


class Reader(Generator):
    """Answers with the text of its passage, so that only the choice of passages matters."""

    def __init__(self) -> None:
        super().__init__("")

    async def stream(self, messages, sampling) -> AsyncIterator[Completion]:  # type: ignore[no-untyped-def]
        if self.error:
            raise self.error
        found = "answer" if "an answer stands here" in messages[-1].content else "nothing"
        yield Completion(found, prompt_tokens=1, completion_tokens=1, model=self.model)


class Gates:
    """Makes promoters over a folder, and records what they were wired with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, Runs(folder, clock())
        self.searcher = FakeSearcher("/models/base.gguf")
        self.served: list[FakeSearcher] = []
        self.failing: Sequence[str] = ()
        self.retriever, self.reader = Retriever(), Reader()

    def promoter(self, limits: GateLimits = LIMITS) -> Promoter:
        @asynccontextmanager
        async def candidates(files: Files, current: ModelInfo) -> AsyncIterator[FakeSearcher]:
            self.served.append(FakeSearcher(files.path or current.path, files.adapter, self.failing))
            yield self.served[-1]

        @asynccontextmanager
        async def world(settings: RunConfig) -> AsyncIterator[World]:
            yield World(self.retriever, generator=self.reader)

        searchers = {"searcher": self.searcher}
        return Promoter(self.runs, self.folder, searchers, candidates, world, limits, clock())

    def save(self, run: str, step: int, adapter: str = "good") -> Path:
        """Writes a checkpoint's adapter."""
        folder = self.runs.path(run) / "checkpoints" / f"global_step_{step}" / "lora_adapter"
        folder.mkdir(parents=True)
        (folder / "name").write_text(adapter)
        return folder
