"""Candidates that the gate asks: in a process of their own, or in a service that loads them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from contracts.v1.generator_pb2_grpc import add_GeneratorServicer_to_server
from search_agent.errors import Failure, TrainerError
from search_agent.types import Author, Completion, FinishReason, ModelInfo, Sampling, Span
from services.generator.allowed import Allowed
from services.generator.engine import Request
from services.generator.gguf_files import embedded_model
from services.generator.models import Models
from services.generator.remembered import Remembered
from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from services.trainer.candidates import Files, at, own_process
from tests.lora import write_lora
from tests.serving import grpc_service
from tests.waiting import LIMIT_S

SAYS = [Span(Author.ENVIRONMENT, "What is the capital of France?")]


def served(path: str, engine: str = "llama.cpp") -> ModelInfo:
    """Returns what the searcher reports about its model."""
    return ModelInfo("m@1", engine, path=path)


def serves(adapter: Path) -> bool:
    """True if a process that was started with the adapter still runs: the service or its llama.cpp."""
    found = False
    for process in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            found = found or str(adapter).encode() in process.read_bytes()
    return found


async def test_an_adapter_in_a_process_that_is_gone_afterwards(tmp_path: Path) -> None:
    lora = tmp_path / "lora.gguf"
    write_lora(lora)
    async with own_process(LIMIT_S)(Files("", str(lora)), served(str(embedded_model()))) as candidate:
        info = await candidate.info()
        assert (info.path, info.adapter) == (str(embedded_model()), str(lora))
        assert (await candidate.complete(SAYS, Sampling(max_tokens=4))).model == info.model
        assert serves(lora)
    assert not serves(lora)


async def test_a_candidate_that_cannot_be_served_is_told(tmp_path: Path) -> None:
    junk = tmp_path / "adapter.gguf"
    junk.write_bytes(b"GGUF and nothing more")
    with pytest.raises(TrainerError, match="cannot be served") as caught:
        async with own_process(LIMIT_S)(Files("", str(junk)), served(str(embedded_model()))):
            pytest.fail("it is served")
    assert caught.value.failure is Failure.BROKEN


async def test_a_base_model_of_another_machine_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="TRAINER_CANDIDATE") as caught:
        async with own_process(LIMIT_S)(Files("", "/adapter.gguf"), served(str(tmp_path / "elsewhere.gguf"))):
            pytest.fail("it is served")
    assert caught.value.failure is Failure.UNSUPPORTED


async def test_a_searcher_on_vllm_needs_a_service_for_candidates(tmp_path: Path) -> None:
    whole = tmp_path / "model.gguf"  # llama.cpp would start with this one, which is not the searcher's
    whole.touch()
    for files in (Files("", str(tmp_path)), Files(str(whole), "")):
        with pytest.raises(TrainerError, match=r"engine is vllm.*GENERATOR_ENGINE=vllm.*TRAINER_CANDIDATE") as caught:
            async with own_process(LIMIT_S)(files, served(str(tmp_path), "vllm")):
                pytest.fail("it is served")
        assert caught.value.failure is Failure.UNSUPPORTED


class Loads:
    """An engine that records what it has loaded."""

    def __init__(self) -> None:
        self.models = Models("/models/other.gguf", {"searcher": "/a", "candidate": ""})

    @property
    def files(self) -> tuple[str, str]:
        return self.models.path, self.models.adapter("candidate")

    async def stream(self, request: Request) -> AsyncGenerator[Completion, None]:
        yield Completion(" ".join(self.files), FinishReason.STOP, model="m@1")

    async def info(self, name: str) -> ModelInfo:
        return self.described(name)

    def described(self, name: str) -> ModelInfo:
        return ModelInfo("m@1", "fake", 0, True, self.models.path, self.models.adapter(name))

    async def load(self, name: str, path: str, adapter: str) -> ModelInfo:
        self.models = Models(path, {**self.models.adapters, name: adapter})
        return await self.info(name)

    async def close(self) -> None:
        """Does nothing: there is nothing to stop."""


@pytest.fixture
async def spare() -> AsyncIterator[tuple[Loads, str]]:
    """Serves candidates, and gives the address."""
    engine = Loads()
    service = GeneratorService(engine, 64, Remembered(), Allowed((Path("/"),)))
    register = partial(add_GeneratorServicer_to_server, service)
    async with grpc_service("generator", "v1.Generator", GeneratorSettings(port=0), register) as address:
        yield engine, f"{address}/candidate"


async def test_a_service_that_candidates_are_loaded_into(spare: tuple[Loads, str]) -> None:
    async with at(spare[1], LIMIT_S)(Files("", "/runs/a.gguf"), served("/models/base.gguf", "fake")) as candidate:
        said = await candidate.complete(SAYS, Sampling(max_tokens=4))
    assert said.text == "/models/base.gguf /runs/a.gguf"


async def test_a_service_with_another_engine_than_the_searchers_is_told(spare: tuple[Loads, str]) -> None:
    engine, target = spare
    before = engine.files
    with pytest.raises(TrainerError, match="TRAINER_CANDIDATE is fake and the searcher's vllm") as caught:
        async with at(target, LIMIT_S)(Files("", "/runs/a"), served("/models/base", "vllm")):
            pytest.fail("it is served")
    assert caught.value.failure is Failure.UNSUPPORTED
    assert engine.files == before
