"""The trace of a question as an OTLP endpoint receives it, from a gateway over real gRPC services with fake models."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from bench.otlp import Received, Receiver, receiving
from common import tracing
from common.codecs import retriever as codec
from common.settings import ServiceSettings, TracingSettings
from contracts.v1.generator_pb2_grpc import add_GeneratorServicer_to_server
from contracts.v1.retriever_pb2_grpc import RetrieverServicer, add_RetrieverServicer_to_server
from search_agent.errors import Failure, RetrieverError
from search_agent.types import Completion, FinishReason, ModelInfo, Sampling
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import wire
from services.generator.engine import Request
from services.generator.llama_cpp import LlamaCpp
from services.generator.remembered import Remembered
from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from tests.fakes import Retriever
from tests.integration.conftest import RedisServer
from tests.serving import grpc_service
from tests.unit.gateway.rest import MOVES
from tests.unit.generator.test_service import FakeEngine

QUESTION = "Who stood at the secret wall?"
CALLER = f"00-{'ab' * 16}-{'cd' * 8}-01"
SETTINGS = ServiceSettings(port=0, metrics_port=0)


class Found(RetrieverServicer):
    def __init__(self) -> None:
        self.retriever = Retriever()
        self.error: RetrieverError | None = None

    async def Search(self, request: Any, context: Any) -> Any:
        if self.error:
            raise self.error
        return codec.search_response(await self.retriever.search(request.queries, codec.retrieval_of(request)))

    async def ListIndexes(self, request: Any, context: Any) -> Any:
        return codec.indexes_response(await self.retriever.indexes())


class Scripted(FakeEngine):
    """Writes the searcher's moves and the reader's answer, once `may_write` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.moves = iter(MOVES)
        self.may_write = asyncio.Event()
        self.may_write.set()

    def described(self, name: str) -> ModelInfo:
        return replace(super().described(name), model=f"fake@{name}")

    async def stream(self, request: Request) -> AsyncGenerator[Completion, None]:
        await self.may_write.wait()
        text = next(self.moves) if request.model == "searcher" else "the secret answer"
        yield Completion(text, FinishReason.STOP, 7, 3, model=f"fake@{request.model}")
        tracing.current().stages(queue=0.001, prompt=0.002, decode=0.003)


class Stack:
    """A gateway over HTTP, and what its endpoint of traces received."""

    def __init__(self, http: httpx.AsyncClient, receiver: Receiver, found: Found, engine: Scripted) -> None:
        self.http, self.found, self.engine, self._receiver = http, found, engine, receiver

    async def ask(self, **body: Any) -> httpx.Response:
        body = {"question": QUESTION, **body}
        return await self.http.post("/v1/answer", json=body, headers={"traceparent": CALLER})

    def spans(self) -> dict[str, list[Received]]:
        """Ends tracing, and returns the spans by the names from the root to each."""
        tracing.configure("test", TracingSettings())
        found: dict[str, list[Received]] = {}
        for span in sorted(self._receiver.spans, key=lambda span: span.began):
            found.setdefault(self._receiver.path(span), []).append(span)
        return found


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, str]]:
    with receiving() as both:
        yield both
    tracing.configure("test", TracingSettings())


@asynccontextmanager
async def stack(
    receiver: tuple[Receiver, str], gateway: dict[str, Any] | None = None, **traced: Any
) -> AsyncIterator[Stack]:
    tracing.configure("test", TracingSettings(exporter_otlp_endpoint=receiver[1], **traced))
    found, engine = Found(), Scripted()
    service = GeneratorService(engine, 1000, Remembered())
    async with (
        grpc_service(
            "retriever", "v1.Retriever", SETTINGS, partial(add_RetrieverServicer_to_server, found)
        ) as retriever,
        grpc_service(
            "generator", "v1.Generator", SETTINGS, partial(add_GeneratorServicer_to_server, service)
        ) as generator,
    ):
        settings = GatewaySettings(
            retriever=retriever, searcher=f"{generator}/searcher", generator=f"{generator}/reader", **gateway or {}
        )
        app = wire(settings)
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
        async with app.router.lifespan_context(app), http:
            yield Stack(http, receiver[0], found, engine)


ROOT = "POST /v1/answer"
AGENT = f"{ROOT} > invoke_agent s3"
SEARCH = "retrieval > v1.Retriever/Search > v1.Retriever/Search"
MOVE = "chat searcher > v1.Generator/Generate > v1.Generator/Generate > engine searcher"
ANSWER = "chat generator > v1.Generator/Generate > v1.Generator/Generate > engine reader"


def steps(path: str, above: str) -> Iterator[str]:
    for name in path.split(" > "):
        above = f"{above} > {name}"
        yield above


async def test_the_whole_way_of_a_question_of_two_searches(receiver: tuple[Receiver, str]) -> None:
    async with stack(receiver, {"guard": "rules"}) as served:
        response = await served.ask()
        assert response.json()["answer"] == "the secret answer"
        spans = served.spans()
    expected = Counter([ROOT, AGENT])
    for turn in (1, 2):
        expected[f"{AGENT} > turn {turn}"] += 1
        expected[f"{AGENT} > turn {turn} > guard"] += 1
        for path in (SEARCH, MOVE):
            expected.update(steps(path, f"{AGENT} > turn {turn}"))
        expected.update(f"{AGENT} > turn {turn} > {MOVE} > {stage}" for stage in ("queue", "prompt", "decode"))
    expected.update(steps(ANSWER, AGENT))
    expected.update(f"{AGENT} > {ANSWER} > {stage}" for stage in ("queue", "prompt", "decode"))
    seen = Counter({path: len(each) for path, each in spans.items() if "ModelInfo" not in path and "List" not in path})
    assert seen == expected

    every = [span for each in spans.values() for span in each]
    assert {span.trace for span in every} == {response.headers["x-trace-id"]} == {"ab" * 16}
    assert spans[ROOT][0].parent == "cd" * 8
    assert not any(span.failed for span in every)
    (agent,) = spans[AGENT]
    assert agent.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert agent.attributes["gen_ai.agent.name"] == "s3"
    assert agent.attributes["gen_ai.usage.input_tokens"] == 21
    assert agent.attributes["search_agent.stop_reason"] == "complete"
    (search,) = spans[f"{AGENT} > turn 2 > retrieval"]
    assert search.attributes["gen_ai.data_source.id"] == "demo@v1"
    (engine,) = spans[f"{AGENT} > {ANSWER}"]
    assert engine.attributes["gen_ai.request.model"] == "reader"
    assert engine.attributes["gen_ai.response.model"] == "fake@reader"
    assert engine.attributes["gen_ai.usage.output_tokens"] == 3
    # neither the question nor a query, a passage or the answer is there
    assert not re.search("secret|answer stands|nothing of use", str(every))


async def test_a_setting_adds_the_texts(receiver: tuple[Receiver, str]) -> None:
    async with stack(receiver, instrumentation_genai_capture_message_content=True) as served:
        await served.ask()
        spans = served.spans()
    assert QUESTION in spans[AGENT][0].attributes["gen_ai.input.messages"]
    assert "the secret answer" in spans[AGENT][0].attributes["gen_ai.output.messages"]
    assert spans[f"{AGENT} > turn 2 > retrieval"][0].attributes["gen_ai.retrieval.query.text"] == "answer stands"


async def test_a_cache_hit_and_its_miss(receiver: tuple[Receiver, str], redis_server: RedisServer) -> None:
    async with stack(receiver, {"redis_url": SecretStr(redis_server.url)}) as served:
        for _ in range(2):
            await served.ask(method="naive_rag")
        spans = served.spans()
    look_ups = spans[f"{ROOT} > invoke_agent naive_rag > cache get"]
    assert [each.attributes["search_agent.cache.result"] for each in look_ups] == ["miss", "hit"]
    assert len(spans[f"{ROOT} > invoke_agent naive_rag > turn 1"]) == 1


def _joined() -> float:
    return REGISTRY.get_sample_value("search_agent_admissions_total", {"work": "s3", "outcome": "shared"}) or 0.0


async def test_one_who_joins_a_question_under_way_refers_to_it(receiver: tuple[Receiver, str]) -> None:
    async with stack(receiver) as served:
        served.engine.may_write.clear()
        joined = _joined()
        asking = [asyncio.create_task(served.ask()) for _ in range(2)]
        while _joined() == joined:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        served.engine.may_write.set()
        await asyncio.gather(*asking)
        spans = served.spans()
    first, second = spans[ROOT]
    assert len(spans[AGENT]) == 1
    assert {first.links, second.links} == {(), (spans[AGENT][0].parent,)}


async def test_a_failure_is_told_by_its_kind(receiver: tuple[Receiver, str]) -> None:
    async with stack(receiver) as served:
        served.found.error = RetrieverError(Failure.BROKEN, "a secret in the message")
        problem = (await served.ask()).json()
        spans = served.spans()
    assert problem["trace_id"] == "ab" * 16
    every = [span for each in spans.values() for span in each]
    assert "secret" not in str(every)
    (turn,) = [each for path, each in spans.items() if path.endswith("turn 1 > retrieval")]
    assert turn[0].failed
    assert turn[0].attributes["error.type"] == "retriever.broken"
    assert spans[ROOT][0].failed


async def test_a_request_that_is_not_sampled_leaves_no_span_in_any_service(receiver: tuple[Receiver, str]) -> None:
    async with stack(receiver, traces_sampler="parentbased_always_off") as served:
        response = await served.http.post("/v1/answer", json={"question": QUESTION})
        assert len(response.headers["x-trace-id"]) == 32
        assert served.spans() == {}


async def test_health_checks_leave_no_spans(receiver: tuple[Receiver, str]) -> None:
    async with stack(receiver) as served:
        assert (await served.http.get("/readyz")).status_code == 200
        assert served.spans() == {}


async def test_histograms_lead_to_traces(receiver: tuple[Receiver, str]) -> None:
    async with stack(receiver) as served:
        trace = (await served.ask()).headers["x-trace-id"]
        told = await served.http.get("/metrics", headers={"accept": "application/openmetrics-text"})
        plain = await served.http.get("/metrics")
    assert told.headers["content-type"].startswith("application/openmetrics-text")
    for name in ("http", "stage", "rpc", "generator_first_token"):
        assert re.search(rf'search_agent_{name}_seconds_bucket{{.*# {{trace_id="{trace}"}}', told.text)
    assert trace not in plain.text


async def test_the_embedded_model_tells_its_stages(receiver: tuple[Receiver, str]) -> None:
    engine = await LlamaCpp.start(GeneratorSettings(port=0, parallel=1))
    tracing.configure("test", TracingSettings(exporter_otlp_endpoint=receiver[1]))
    request = Request(Sampling(max_tokens=4), prompt="Once upon a time")
    with tracing.serve("call", "", {}):
        async for _ in engine.stream(request):
            pass
    tracing.configure("test", TracingSettings())
    await engine.close()
    by_name = {span.name: span for span in receiver[0].spans}
    call, *stages = (by_name[name] for name in ("call", "queue", "prompt", "decode"))
    assert [stage.parent for stage in stages] == [call.id] * 3
    assert call.began <= stages[0].began
    assert [stage.ended for stage in stages[:2]] == [stage.began for stage in stages[1:]]
    assert stages[-1].ended - stages[-1].began > 0
    assert by_name["call"].attributes["gen_ai.usage.cache_read.input_tokens"] >= 0
