"""The service over real gRPC in this process, with an engine that writes what the test says."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from common.client import connect
from common.codecs.generator import model_of
from common.errors import FIELD_KEY, GRPC_CODE
from contracts.v1 import generator_pb2 as pb
from contracts.v1 import generator_pb2_grpc
from search_agent import prompts
from search_agent.errors import Failure, GeneratorError
from search_agent.types import UNTAUGHT, Completion, FinishReason, Message, ModelCard, ModelInfo, Sampling
from services.generator.allowed import Allowed
from services.generator.engine import Request
from services.generator.models import Models
from services.generator.remembered import Remembered
from services.generator.service import GeneratorService, parse
from services.generator.settings import GeneratorSettings
from tests.serving import grpc_service
from tests.waiting import LIMIT_S, until_here

PIECES = (
    Completion("The ", None, model="fake@1"),
    Completion("answ", None, model="fake@1"),
    Completion("er", FinishReason.LENGTH, prompt_tokens=7, completion_tokens=3, stop="!", model="fake@1"),
)


MODELS = Models("", {"searcher": "", "reader": ""})


class FakeEngine:
    """Writes `pieces`, then raises `error` if there is one. Where `patience` is set, waits before the second."""

    def __init__(
        self, pieces: tuple[Completion, ...] = PIECES, error: Exception | None = None, patience: float = 0.0
    ) -> None:
        self.pieces = pieces
        self.error = error
        self.patience = patience
        self.loads: list[tuple[str, str, str]] = []
        self.asked: list[str] = []
        self.models = MODELS
        self.silent = False  # asked for its state
        self.started = asyncio.Event()
        self.stopped = asyncio.Event()
        self.loading, self.may_load = asyncio.Event(), asyncio.Event()
        self.may_load.set()

    async def stream(self, request: Request) -> AsyncGenerator[Completion, None]:
        self.started.set()
        self.asked.append(request.model)
        try:
            for number, piece in enumerate(self.pieces):
                if number == 1:
                    await asyncio.sleep(self.patience)
                yield piece
            if self.error:
                raise self.error
        finally:
            self.stopped.set()

    async def info(self, name: str) -> ModelInfo:
        if self.error:
            raise self.error
        if self.silent:
            raise GeneratorError(Failure.UNAVAILABLE, "it does not answer")
        return self.described(name)

    def described(self, name: str) -> ModelInfo:
        path, adapter = self.models.path, self.models.adapter(name)
        return ModelInfo(f"fake@{path}+{adapter}", "llama.cpp", 512, grammar=True, path=path, adapter=adapter)

    async def load(self, name: str, path: str, adapter: str) -> ModelInfo:
        if self.error:
            raise self.error
        self.loading.set()
        await self.may_load.wait()
        self.loads.append((name, path, adapter))
        self.models = replace(
            self.models, path=path or self.models.path, adapters={**self.models.adapters, name: adapter}
        )
        return self.described(name)

    async def close(self) -> None: ...


@asynccontextmanager
async def serving(
    engine: FakeEngine, remembered: Remembered | None = None, folder: Path = Path("/")
) -> AsyncIterator[generator_pb2_grpc.GeneratorStub]:
    service = GeneratorService(engine, 100, remembered or Remembered(), Allowed((folder,)))
    service.changed.beat_s = LIMIT_S  # who watches is told of changes only
    with suppress(GeneratorError):
        await service.begin()
    register = partial(generator_pb2_grpc.add_GeneratorServicer_to_server, service)
    async with (
        grpc_service("generator", "v1.Generator", GeneratorSettings(port=0), register) as address,
        connect(address) as channel,
    ):
        yield generator_pb2_grpc.GeneratorStub(channel)


def request(**sampling: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="Say", sampling=pb.Sampling(**{"max_tokens": 10, **sampling}))


def metric(name: str, /, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"search_agent_generator_{name}", {"name": "searcher"} | labels) or 0.0


def said(*roles: str) -> list[pb.Message]:
    return [pb.Message(role=role, content="x") for role in roles]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (pb.GenerateRequest(sampling=pb.Sampling(max_tokens=1)), "messages"),
        (
            pb.GenerateRequest(messages=said("user"), prompt="x", sampling=pb.Sampling(max_tokens=1)),
            "prompt",
        ),
        (
            pb.GenerateRequest(messages=said("user", "tool"), sampling=pb.Sampling(max_tokens=1)),
            "messages[1].role",
        ),
        (pb.GenerateRequest(prompt="x"), "sampling.max_tokens"),
        (request(max_tokens=0), "sampling.max_tokens"),
        (request(max_tokens=101), "sampling.max_tokens"),
        (request(temperature=-0.1), "sampling.temperature"),
        (request(temperature=2.1), "sampling.temperature"),
        (request(temperature=float("nan")), "sampling.temperature"),
        (request(top_p=0.0), "sampling.top_p"),
        (request(top_p=1.1), "sampling.top_p"),
        (request(top_p=float("nan")), "sampling.top_p"),
        (request(stop=["x"] * 17), "sampling.stop"),
        (request(stop=["x", ""]), "sampling.stop"),
    ],
)
def test_what_is_wrong_is_named(wrong, field):
    with pytest.raises(GeneratorError) as caught:
        parse(wrong, max_tokens=100, models=MODELS)
    assert (caught.value.failure, caught.value.field) == (Failure.INVALID, field)


def test_what_is_not_given_has_a_default():
    assert parse(request(), 100, MODELS) == Request(prompt="Say", sampling=Sampling(max_tokens=10), model="searcher")


def test_all_that_is_given_arrives():
    given = pb.GenerateRequest(
        model="reader",
        messages=said("system", "user", "assistant"),
        sampling=pb.Sampling(max_tokens=100, temperature=0.5, top_p=0.25, seed=0, stop=["a", "b"], grammar="g"),
    )
    assert parse(given, 100, MODELS) == Request(
        model="reader",
        messages=tuple(Message(role, "x") for role in ("system", "user", "assistant")),
        sampling=Sampling(100, temperature=0.5, top_p=0.25, seed=0, stop=("a", "b"), grammar="g"),
    )


@given(
    st.builds(
        pb.Sampling,
        max_tokens=st.integers(0, 2**32 - 1),
        temperature=st.floats(width=32),
        top_p=st.floats(width=32),
        seed=st.integers(0, 2**32 - 1),
        stop=st.lists(st.text(max_size=3), max_size=20),
    )
)
def test_a_request_is_within_the_bounds_or_refused(sampling):
    with suppress(GeneratorError):
        parsed = parse(pb.GenerateRequest(prompt="x", sampling=sampling), 100, MODELS).sampling
        assert 1 <= parsed.max_tokens <= 100
        assert 0 <= parsed.temperature <= 2
        assert 0 < parsed.top_p <= 1
        assert len(parsed.stop) <= 16
        assert all(parsed.stop)


async def test_a_text_comes_whole_or_in_pieces_and_is_counted():
    before = [
        metric("tokens_total", kind="prompt"),
        metric("tokens_total", kind="completion"),
        metric("finished_total", reason="length"),
        metric("first_token_seconds_count"),
    ]
    async with serving(FakeEngine()) as stub:
        whole = await stub.Generate(request())
        pieces = [piece async for piece in stub.GenerateStream(request())]
    usage = pb.Usage(prompt_tokens=7, completion_tokens=3)
    assert whole == pb.GenerateResponse(
        text="The answer", finish_reason=pb.LENGTH, usage=usage, stop="!", model="fake@1"
    )
    assert pieces == [
        pb.GenerateResponse(text="The ", model="fake@1"),
        pb.GenerateResponse(text="answ", model="fake@1"),
        pb.GenerateResponse(text="er", finish_reason=pb.LENGTH, usage=usage, stop="!", model="fake@1"),
    ]
    after = [
        metric("tokens_total", kind="prompt"),
        metric("tokens_total", kind="completion"),
        metric("finished_total", reason="length"),
        metric("first_token_seconds_count"),
    ]
    assert [new - old for new, old in zip(after, before, strict=True)] == [14, 6, 2, 2]


@pytest.mark.parametrize("failure", Failure)
@pytest.mark.parametrize("pieces", [(), PIECES[:2]], ids=["at once", "midway"])
async def test_a_failure_becomes_its_code(failure, pieces):
    error = GeneratorError(failure, "because", "sampling.grammar")
    async with serving(FakeEngine(pieces, error)) as stub:
        stream = stub.GenerateStream(request())
        with suppress(grpc.aio.AioRpcError):
            async for _ in stream:
                pass
        calls = [
            stream,
            stub.Generate(request()),
            stub.ModelInfo(pb.ModelInfoRequest()),
            stub.LoadModel(pb.LoadModelRequest(adapter="a")),
        ]
        for call in calls:
            assert await call.code() == GRPC_CODE[failure]
            assert await call.details() == "because"
            assert dict(await call.trailing_metadata())[FIELD_KEY] == "sampling.grammar"


async def test_an_engine_that_just_ends_is_broken():
    async with serving(FakeEngine(PIECES[:2])) as stub:
        assert await stub.Generate(request()).code() == grpc.StatusCode.INTERNAL


async def test_pieces_come_as_they_are_written():
    async with serving(FakeEngine(patience=30)) as stub:
        call = stub.GenerateStream(request())
        async with asyncio.timeout(LIMIT_S):
            assert (await call.read()).text == "The "
        call.cancel()


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
async def test_cancelling_stops_the_engine_and_is_counted(method):
    before = metric("finished_total", reason="cancelled")
    engine = FakeEngine(patience=30)
    async with serving(engine) as stub:
        call = getattr(stub, method)(request())
        if method == "GenerateStream":
            await call.read()
        await asyncio.wait_for(engine.started.wait(), LIMIT_S)
        call.cancel()
        await asyncio.wait_for(engine.stopped.wait(), LIMIT_S)
        await until_here(lambda: metric("finished_total", reason="cancelled") == before + 1)


async def test_leaving_between_pieces_stops_the_engine():
    engine = FakeEngine(tuple(Completion("x" * 100_000, None, model="fake@1") for _ in range(1000)))
    async with serving(engine) as stub:
        call = stub.GenerateStream(request())
        await call.read()  # the rest fills the pipe, so the service waits in a write
        await asyncio.sleep(0.2)
        assert not engine.stopped.is_set()
        call.cancel()
        async with asyncio.timeout(LIMIT_S):
            await engine.stopped.wait()


async def test_the_deadline_stops_the_engine():
    engine = FakeEngine(patience=30)
    async with serving(engine) as stub:
        timeout_s = 0.5
        while not engine.started.is_set():  # on a busy machine the time may be over before
            assert await stub.Generate(request(), timeout=timeout_s).code() == grpc.StatusCode.DEADLINE_EXCEEDED
            timeout_s *= 2
        async with asyncio.timeout(LIMIT_S):
            await engine.stopped.wait()


async def test_a_request_gets_the_model_that_it_names():
    engine = FakeEngine()
    async with serving(engine) as stub:
        for name in ("reader", "", "base"):
            await stub.Generate(pb.GenerateRequest(prompt="Say", sampling=pb.Sampling(max_tokens=10), model=name))
            told = await stub.ModelInfo(pb.ModelInfoRequest(model=name))
            assert told.model == "fake@+"
        assert engine.asked == ["reader", "searcher", "base"]
        for call in (
            stub.Generate(pb.GenerateRequest(prompt="Say", sampling=pb.Sampling(max_tokens=10), model="judge")),
            stub.ModelInfo(pb.ModelInfoRequest(model="judge")),
            stub.LoadModel(pb.LoadModelRequest(adapter="a", model="judge")),
        ):
            assert await call.code() == grpc.StatusCode.NOT_FOUND
            assert await call.details() == "no model is called 'judge'; there are searcher, reader, base"
            assert dict(await call.trailing_metadata())[FIELD_KEY] == "model"
    assert engine.loads == []


async def test_who_watches_a_model_is_told_what_is_loaded_under_its_name_and_why_nothing_is():
    engine = FakeEngine()
    async with serving(engine) as stub:
        watched = stub.WatchModel(pb.ModelInfoRequest(model="reader"))
        assert (await watched.read()).model == "fake@+"
        loaded = await stub.LoadModel(pb.LoadModelRequest(adapter="a.gguf", model="reader"))
        assert await watched.read() == loaded
        engine.silent = True
        await stub.LoadModel(pb.LoadModelRequest(adapter="b.gguf"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watched.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_loaded_model_is_told_and_shown():
    engine = FakeEngine()
    async with serving(engine) as stub:
        info = await stub.ModelInfo(pb.ModelInfoRequest())
        loaded = await stub.LoadModel(pb.LoadModelRequest(adapter="a.gguf", model="reader"))
        assert await stub.ModelInfo(pb.ModelInfoRequest(model="reader")) == loaded
        assert await stub.ModelInfo(pb.ModelInfoRequest()) == info
    assert info == pb.ModelInfoResponse(
        model="fake@+", engine="llama.cpp", context_tokens=512, grammar=True, shared=True
    )
    assert loaded.model == "fake@+a.gguf"
    assert engine.loads == [("reader", "", "a.gguf")]
    for name, model in (("searcher", "fake@+"), ("reader", "fake@+a.gguf"), ("base", "fake@+")):
        assert metric("model_info", name=name, model=model, engine="llama.cpp") == 1
    assert metric("model_info", name="reader", model="fake@+", engine="llama.cpp") == 0


async def test_a_load_that_succeeded_is_told_so_while_the_engine_does_not_answer(tmp_path: Path) -> None:
    engine, remembered = FakeEngine(), Remembered(tmp_path / "state.json")
    engine.silent = True
    async with serving(engine, remembered) as stub:
        assert (await stub.LoadModel(pb.LoadModelRequest(adapter="a"))).model == "fake@+a"
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.ModelInfo(pb.ModelInfoRequest())
    assert (served := remembered.read())
    assert served.adapter("searcher") == "a"


async def test_what_was_loaded_is_loaded_again_at_the_next_start(tmp_path: Path) -> None:
    def remembered(configured: str = "base.gguf") -> Remembered:
        return Remembered(tmp_path / "state.json", Models(configured, {"searcher": "s", "reader": "r"}))

    async with serving(FakeEngine(), remembered()) as stub:
        await stub.LoadModel(pb.LoadModelRequest(path="m.gguf", adapter="a"))
        await stub.LoadModel(pb.LoadModelRequest(adapter="b"))
    restarted, elsewhere = FakeEngine(), FakeEngine()
    restarted.models = Models("m.gguf", {"searcher": "s", "reader": ""})
    async with serving(restarted, remembered()), serving(elsewhere, remembered("other.gguf")):
        assert restarted.loads == [("searcher", "m.gguf", "b")]  # and not what serves already
        assert elsewhere.loads == []  # what is configured has changed since


async def test_what_was_loaded_is_loaded_again_where_the_base_model_has_moved(tmp_path: Path) -> None:
    def remembered() -> Remembered:
        return Remembered(tmp_path / "state.json", Models("owner/model", {"searcher": "", "reader": ""}))

    first, moved = FakeEngine(), FakeEngine()
    first.models, moved.models = replace(MODELS, path="/snapshots/1"), replace(MODELS, path="/snapshots/2")
    async with serving(first, remembered()) as stub:
        await stub.LoadModel(pb.LoadModelRequest(path="/snapshots/1", adapter="a"))
    async with serving(moved, remembered()):
        assert moved.loads == [("searcher", "", "a")]


async def test_a_load_is_remembered_when_its_caller_goes_away(tmp_path: Path) -> None:
    engine, remembered = FakeEngine(), Remembered(tmp_path / "state.json")
    engine.may_load.clear()
    async with serving(engine, remembered) as stub:
        call = stub.LoadModel(pb.LoadModelRequest(adapter="a"))
        async with asyncio.timeout(LIMIT_S):
            await engine.loading.wait()
            call.cancel()
            await asyncio.sleep(0.05)  # the service notices
            engine.may_load.set()
        await until_here(lambda: (served := remembered.read()) and served.adapter("searcher") == "a")


@pytest.mark.parametrize(
    "damaged", ["{", '{"configured": {"path": "", "adapters": {}}, "served": {"path": "", "adapters": ["a"]}}']
)
async def test_a_state_that_is_gone_or_broken_stops_nothing(tmp_path: Path, damaged: str) -> None:
    state = tmp_path / "state.json"
    state.write_text(damaged)
    engine = FakeEngine()
    async with serving(engine, Remembered(state)) as stub:
        assert engine.loads == []
        await stub.LoadModel(pb.LoadModelRequest(adapter="a"))
    broken = FakeEngine(error=GeneratorError(Failure.NOT_FOUND, "no file a", "adapter"))
    await GeneratorService(broken, 100, Remembered(state)).begin()
    unwritable = Remembered(tmp_path / "missing" / "state.json")
    unwritable.write(MODELS)
    assert unwritable.read() is None


CARD = ModelCard("s3", {"max_turns": 1}, prompts.version("s3"), "0123", ("nq/train 0-1",), {"gen_acc": 0.5})


def weights(folder: Path, card: object = CARD) -> str:
    """A folder of weights with a card."""
    folder.mkdir()
    (folder / "search_agent.json").write_text(json.dumps(asdict(card) if isinstance(card, ModelCard) else card))
    return str(folder)


async def test_a_loaded_searcher_tells_what_it_was_taught(tmp_path: Path) -> None:
    adapter, model = weights(tmp_path / "adapter"), weights(tmp_path / "model", replace(CARD, method="search_r1"))
    (tmp_path / "plain").mkdir()
    async with serving(FakeEngine()) as stub:
        assert model_of(await stub.ModelInfo(pb.ModelInfoRequest())).card == UNTAUGHT
        told = await stub.LoadModel(pb.LoadModelRequest(path=model, adapter=adapter))
        assert model_of(told).card == CARD
        told = await stub.LoadModel(pb.LoadModelRequest(path=model, adapter=str(tmp_path / "plain")))
        assert model_of(told).card.method == "search_r1"  # without an adapter's card, the model's counts
        weights_file = Path(adapter) / "search_agent.json"
        weights_file.write_text("{")
        told = await stub.LoadModel(pb.LoadModelRequest(path=str(tmp_path / "plain"), adapter=adapter))
        assert model_of(told).card == UNTAUGHT


@pytest.mark.parametrize(
    ("card", "problem"),
    [
        (replace(CARD, method="magic"), "method: there is no 'magic'; there are s3"),
        (replace(CARD, parameters={"max_turns": 0}), "parameters.max_turns: must be"),
        (replace(CARD, parameters={"colour": "red"}), "parameters.colour"),
    ],
)
async def test_a_card_that_this_version_cannot_follow_is_refused_before_the_load(
    tmp_path: Path, card: ModelCard, problem: str
) -> None:
    engine = FakeEngine()
    async with serving(engine) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.LoadModel(pb.LoadModelRequest(adapter=weights(tmp_path / "adapter", card)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(caught.value.trailing_metadata() or ())[FIELD_KEY] == "adapter"
    assert problem in (caught.value.details() or "")
    assert engine.loads == []


async def test_what_was_configured_may_come_back_after_a_whole_model(tmp_path: Path) -> None:
    whole = tmp_path / "model.gguf"
    whole.touch()
    engine = FakeEngine()
    engine.models = Models("/elsewhere/base.gguf", {"searcher": "/elsewhere/adapter"})
    async with serving(engine, folder=tmp_path) as stub:
        await stub.LoadModel(pb.LoadModelRequest(path=str(whole)))
        assert (engine.models.path, engine.models.adapters) == (str(whole), {"searcher": ""})
        await stub.LoadModel(pb.LoadModelRequest(path="/elsewhere/base.gguf", adapter="/elsewhere/adapter"))
        assert engine.models == Models("/elsewhere/base.gguf", {"searcher": "/elsewhere/adapter"})
        assert not (await stub.ModelInfo(pb.ModelInfoRequest())).shared
        engine.models = Models("/elsewhere/base.gguf", {"searcher": "", "reader": ""})
        assert (await stub.ModelInfo(pb.ModelInfoRequest())).shared


async def test_nothing_outside_of_the_folders_is_loaded_and_an_empty_message_changes_nothing(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    leaking, nested, carded = inside / "leaking", inside / "nested", inside / "carded"
    for folder in (inside, outside, inside / "adapter", inside / "piped", leaking, nested, nested / "below", carded):
        folder.mkdir()
    (outside / "a.gguf").touch()
    for link in (leaking / "adapter_model.safetensors", nested / "below" / "config.json", carded / "search_agent.json"):
        link.symlink_to(outside / "a.gguf")
    (carded / "a.gguf").touch()
    (inside / "adapter" / "adapter_model.safetensors").symlink_to(inside / "weights")
    (inside / "link").symlink_to(outside)
    (inside / "loop").symlink_to(inside / "loop")
    for pipe in (inside / "pipe", inside / "piped" / "adapter_config.json"):
        os.mkfifo(pipe)
    engine = FakeEngine()
    engine.models = Models("m.gguf", {"searcher": "served.gguf", "reader": ""})
    paths = [
        outside / "a.gguf", inside / "link" / "a.gguf", inside / ".." / "outside" / "a.gguf", inside / "loop",
        inside / "pipe", inside / "piped", inside / ("n" * 300), inside / "a\0b", "/etc/passwd", "owner/model",
        "/dev/zero", leaking, nested, carded / "a.gguf",
    ]  # fmt: skip
    async with serving(engine, folder=inside) as stub:
        refused = [pb.LoadModelRequest()] + [
            pb.LoadModelRequest(**{field: str(path)}) for path in paths for field in ("path", "adapter")
        ]
        for request in refused:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.LoadModel(request, timeout=5)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, request
            assert dict(caught.value.trailing_metadata() or ())[FIELD_KEY] in ("path", "adapter")
        assert engine.loads == []
        await stub.LoadModel(pb.LoadModelRequest(adapter=str(inside / "adapter")))
        await stub.LoadModel(pb.LoadModelRequest(adapter="served.gguf", model="reader"))
        await stub.LoadModel(pb.LoadModelRequest(path="m.gguf"))
    assert [adapter for _, _, adapter in engine.loads] == [str(inside / "adapter"), "served.gguf", ""]
