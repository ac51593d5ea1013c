"""Both clients, against the gateway's application and against scripted answers."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.keys import FileKeys, Scope, make
from common.training import GateOutcome, Promotion, Run, RunState, TrainingStep
from search_agent.errors import Failure
from search_agent.types import Piece, StopReason
from search_agent_client import (
    Answer,
    AsyncClient,
    ChangeState,
    Client,
    Document,
    FieldError,
    Found,
    GatewayError,
    GatewayProblem,
    Passage,
    Removal,
    Turn,
    UnexpectedAnswer,
    Unreachable,
)
from services.gateway.door import Rules
from tests.unit.gateway.rest import Rest

ROOT = Path(__file__).parents[3]
RUN = {"id": "r/1", "state": "running", "created_at": "t0", "changed_at": "t1", "reason": "", "config": ""} | {
    "checkpoints": [20, 40]
}
GATE = {"outcome": "not_better", "reason": "so", "asked": 2, "compared": 2, "failed": 0, "margin": 0}
KEPT = {"promoted": False, "searcher": "s", "model": "m@1", "before": "m@1", "at": "t", "gate": GATE}


@pytest.fixture
async def client() -> AsyncIterator[AsyncClient]:
    """A client of the real application over fakes."""
    async with AsyncClient("http://gateway", transport=Rest().transport) as client:
        yield client


async def test_an_answer_is_a_value(client: AsyncClient) -> None:
    answer = await client.answer("Who?", "s3", max_turns=2)
    assert (answer.answer, answer.method, answer.stop_reason) == ("an answer", "s3", StopReason.COMPLETE)
    assert [document.id for document in answer.documents] == ["w2", "w1"]
    assert answer.documents[1] == Document(
        id="w1", title='The "Wall" [1]', text="an answer stands here", score=0.9, turn=2
    )
    assert answer.citations == ("w1",)
    assert answer.turns[1].query == "answer stands"
    assert answer.turns[1].titles["w2"] == "Straße\n東京"
    assert answer.usage.searches == 2
    assert answer.timings_ms.total > 0
    found = await client.search("Who?", "naive_rag", top_k=2)
    assert [each.id for each in found.documents] == ["w1", "w2"]


async def test_a_stream_yields_the_turns_the_documents_the_pieces_and_the_answer(client: AsyncClient) -> None:
    async with aclosing(client.stream_answer("Who?", "naive_rag")) as events:
        found = [event async for event in events]
    assert [type(event) for event in found[:2]] == [Turn, Found]
    assert {type(event) for event in found[2:-1]} == {Piece}
    assert isinstance(found[-1], Answer)
    assert "".join(event.text for event in found if isinstance(event, Piece)).strip() == found[-1].answer


async def test_everything_else_of_the_gateway(client: AsyncClient) -> None:
    ranked = (await client.retrieve(["Who?", "What?"], top_k=2, mode="bm25")).results
    assert [[passage.id for passage in each] for each in ranked] == [["w1", "w2"]] * 2
    methods = {method.name: method for method in await client.methods()}
    assert methods["naive_rag"].defaults["top_k"] == 3
    (index,) = await client.indexes()
    assert (index.name, index.is_default) == ("demo", True)
    readiness = await client.readiness()
    assert readiness.ready
    assert readiness.backends["retriever"] == "ok"


async def test_an_index_changes(client: AsyncClient) -> None:
    made = await client.create_index("mine", encoder="")
    assert (made.name, made.passages, made.writable, made.changes) == ("mine", 0, True, ())
    many = [Passage(str(number), "T", "word " * 50, metadata={"year": number}) for number in range(1000)]
    change = await client.change_passages("mine", many, wait_s=1)
    assert (change.state, change.upserts, change.version) == (ChangeState.DONE, 1000, "v1")
    change = await client.change_passages("mine", [Removal("1"), {"id": "2", "title": "", "text": "two"}])
    assert (change.upserts, change.removals) == (1, 1)
    assert await client.index_change("mine", change.id, wait_s=1) == change
    found = await client.retrieve(["two"], top_k=1, index="mine", filter={"year": {"gte": 999}})
    assert [(each.id, each.metadata) for each in found.results[0]] == [("999", {"year": 999})]
    assert found.index == "mine@v2"
    assert (await client.rollback_index("mine", "v1")).passages == 1000
    assert [version.version for version in (await client.index("mine")).versions] == ["v2", "v1", "v0"]
    with pytest.raises(GatewayProblem, match='line 2: no "text"') as raised:
        await client.change_passages("mine", [Removal("1"), {"id": "2"}])
    assert raised.value.errors == (FieldError("text", 'no "text"'),)
    assert (await client.delete_index("mine")).name == "mine"


async def test_a_problem_is_an_error_with_its_parts(client: AsyncClient) -> None:
    with pytest.raises(GatewayProblem, match=r"parameters\.top_k") as caught:
        await client.answer("Who?", "naive_rag", top_k=0)
    problem = caught.value
    assert (problem.status, problem.backend, problem.retry_after_s) == (422, "gateway", None)
    assert problem.errors == (FieldError("parameters.top_k", "must be between 1 and 100"),)
    assert problem.request_id
    with pytest.raises(GatewayProblem, match="no cache is configured"):
        await client.cache()
    with pytest.raises(GatewayProblem) as refused:
        await anext(client.stream_answer("Who?", "magic"))
    assert refused.value.status == 422


async def test_a_gateway_that_is_not_ready_says_why() -> None:
    stack = Rest()
    stack.retriever.error = _retriever_is_down()
    async with AsyncClient("http://gateway", transport=stack.transport) as client:
        readiness = await client.readiness()
        with pytest.raises(GatewayProblem) as caught:
            await client.retrieve(["Who?"])
    assert not readiness.ready
    assert readiness.backends["retriever"] == "unavailable"
    assert (caught.value.status, caught.value.backend, caught.value.failure) == (503, "retriever", Failure.UNAVAILABLE)
    assert caught.value.retry_after_s == 2


def _retriever_is_down() -> Any:
    from search_agent.errors import RetrieverError

    return RetrieverError(Failure.UNAVAILABLE, "down")


# Each of the following is asked by both clients, which must do the same.
Server = Callable[[httpx.Request], httpx.Response]
Ask = Callable[..., Any]


def _ask(server: Server, name: str, *args: Any, url: str = "http://gateway", api_key: str = "", **fields: Any) -> Any:
    with Client(url, api_key, transport=httpx.MockTransport(server)) as client:
        found = getattr(client, name)(*args, **fields)
        return list(found) if isinstance(found, Iterator) else found


def test_the_gateway_is_told_how_long_an_answer_is_waited_for() -> None:
    told: list[str | None] = []

    def server(request: httpx.Request) -> httpx.Response:
        told.append(request.headers.get("x-request-timeout"))
        return httpx.Response(503, json={"status": 503})

    for timeout_s in (2.5, None, 1e12):
        with (
            Client("http://gateway", "", timeout_s, transport=httpx.MockTransport(server)) as client,
            pytest.raises(GatewayProblem),
        ):
            client.answer("Who?")
    with Client("http://gateway", transport=httpx.MockTransport(server)) as client, pytest.raises(GatewayProblem):
        next(client.stream_answer("Who?"))  # whose time limit is for each event
    assert told == ["2.500", None, None, None]


def _ask_async(
    server: Server, name: str, *args: Any, url: str = "http://gateway", api_key: str = "", **fields: Any
) -> Any:
    async def ask() -> Any:
        async with AsyncClient(url, api_key, transport=httpx.MockTransport(server)) as client:
            found = getattr(client, name)(*args, **fields)
            return [event async for event in found] if isinstance(found, AsyncIterator) else await found

    return asyncio.run(ask())


@pytest.fixture(params=[_ask, _ask_async], ids=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Ask:
    chosen: Ask = request.param
    return chosen


def events(*pairs: tuple[str, Any]) -> httpx.Response:
    text = ": a heartbeat\n\n" + "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in pairs)
    return httpx.Response(200, text=text)


def test_the_key_and_the_path_before_the_routes_are_sent(ask: Ask) -> None:
    seen: list[httpx.Request] = []

    def server(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=RUN)

    ask(server, "run", "r/1", url="https://host.example/search/", api_key="sa-1")
    assert str(seen[0].url) == "https://host.example/search/v1/runs/r%2F1"
    assert seen[0].headers["authorization"] == "Bearer sa-1"
    ask(server, "run", "r")
    assert "authorization" not in seen[1].headers
    transport = httpx.MockTransport(server)
    with Client("http://gateway", "sa-1", transport=transport, headers={"x-team": "ours"}) as client:
        client.run("r")
    assert (seen[2].headers["x-team"], seen[2].headers["authorization"]) == ("ours", "Bearer sa-1")


def test_only_what_was_given_is_sent(ask: Ask) -> None:
    bodies: list[Any] = []

    def server(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json={"results": [], "index": "demo@1"})

    ask(server, "retrieve", ["a"], top_k=3)
    assert bodies == [{"queries": ["a"], "top_k": 3}]


def test_a_key_that_cannot_be_sent_is_not_shown(ask: Ask) -> None:
    for key in ("sécret", "secret\n", "my secret"):
        with pytest.raises(GatewayError) as caught:
            ask(lambda _: httpx.Response(200, json=[]), "methods", api_key=key)
        assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (httpx.ReadTimeout("slow"), Failure.TIMEOUT),
        (httpx.ConnectError("refused"), Failure.UNAVAILABLE),
        (httpx.RemoteProtocolError("gone"), Failure.UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("name", ["answer", "stream_answer"])
def test_a_gateway_that_is_not_reached(ask: Ask, name: str, error: Exception, failure: Failure) -> None:
    def server(request: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(Unreachable, match="http://gateway") as caught:
        ask(server, name, "Who?")
    assert caught.value.failure == failure


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<html>", "the answer is not JSON"),
        ('[{"summary": "x", "parameters": {}}]', r"the answer\[0\] has no 'name'"),
        ("{}", "the answer is not a JSON list"),
        ('[{"name": 1}]', r"the answer\[0\]\.name is not a JSON str"),
    ],
)
def test_another_server(ask: Ask, content: str, said: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=said):
        ask(lambda _: httpx.Response(200, text=content), "methods")


def test_a_server_that_has_moved(ask: Ask) -> None:
    with pytest.raises(UnexpectedAnswer, match="sends us to https://there"):
        ask(lambda _: httpx.Response(307, headers={"location": "https://there"}), "methods")


@pytest.mark.parametrize("name", ["methods", "runs"])
@pytest.mark.parametrize("content", ["<h1>Bad\ngateway</h1>", "[]", '"x"', "", '{"errors": 3}'])
def test_a_problem_of_another_server(ask: Ask, name: str, content: str) -> None:
    with pytest.raises(GatewayProblem) as caught:
        ask(lambda _: httpx.Response(502, text=content), name)
    assert caught.value.status == 502
    assert "\n" not in str(caught.value)


def test_a_failure_within_a_stream(ask: Ask) -> None:
    turn = {"query": "q", "retrieved": [], "selected": [], "titles": {}, "error": ""}
    problem = {"status": 504, "detail": "generator: slow", "backend": "generator", "failure": "timeout"}
    with pytest.raises(GatewayProblem, match="generator: slow") as caught:
        ask(lambda _: events(("turn", turn), ("error", problem)), "stream_answer", "Who?")
    assert (caught.value.status, caught.value.failure) == (504, "timeout")


def test_a_stream_that_breaks_off_is_an_error(ask: Ask) -> None:
    with pytest.raises(UnexpectedAnswer, match="broke off"):
        ask(lambda _: events(("answer.delta", {"text": "half"})), "stream_answer", "Who?")
    with pytest.raises(UnexpectedAnswer, match="broke off"):
        ask(lambda _: events(("run", RUN)), "watch_run", "r")


def test_runs(ask: Ask) -> None:
    step, ended = {"step": 7, "metrics": {"reward/gain": 1}}, RUN | {"state": "finished"}
    found = ask(
        lambda _: events(("run", RUN), ("step", step), ("of a newer version", {}), ("run", ended)), "watch_run", "r"
    )
    assert found[1] == TrainingStep(7, {"reward/gain": 1})
    assert isinstance(found[2], Run)
    assert (found[2].state, found[2].checkpoints) == (RunState.FINISHED, (20, 40))
    (promotion,) = ask(lambda _: events(("done", KEPT)), "promote", "r")
    assert isinstance(promotion, Promotion)
    assert promotion.gate
    assert promotion.gate.outcome is GateOutcome.NOT_BETTER
    assert not promotion.promoted


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("gone", Failure.TIMEOUT),
        UnexpectedAnswer("broke off"),
        GatewayProblem(
            503, {"detail": "full", "backend": "generator", "errors": [{"field": "f", "message": "m"}]}, 2.0
        ),
    ],
)
def test_an_error_crosses_processes(error: GatewayError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_stream_that_is_left_is_closed() -> None:
    closed: list[bool] = []

    class Body(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield events(("answer.delta", {"text": "a"})).content
            raise AssertionError("the stream was read on")

        def close(self) -> None:
            closed.append(True)

    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Body()))
    with Client(transport=transport) as client:
        with closing(client.stream_answer("Who?")) as found:
            assert next(found) == Piece("a")
        assert closed


def test_it_needs_httpx_only() -> None:
    code = """
import sys
sys.modules.update(dict.fromkeys(["click", "rich", "pygments"]))  # which httpx's own command line would import
before = set(sys.modules)
import search_agent_client
found = {name.partition(".")[0] for name in set(sys.modules) - before if "site-packages" in str(sys.modules[name])}
print(*found - {"httpx", "httpcore", "anyio", "certifi", "h11", "idna", "sniffio", "typing_extensions"})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


async def test_keys_are_made_used_and_revoked(tmp_path: Path) -> None:
    store = FileKeys(tmp_path / "keys.json")
    stack = Rest(rules=Rules(store))
    admin, secret = make("admin", [Scope.ADMIN])
    await store.add(admin)
    transport = httpx.ASGITransport(stack.app)
    async with AsyncClient("http://gateway", secret, transport=transport) as client:
        made = await client.create_key("web", ["ask"], limits={"tokens_per_day": 9})
        assert (made.name, made.scopes, made.limits.tokens_per_day) == ("web", ("ask",), 9)
        assert made.key not in repr(made)
        assert {key.id for key in await client.keys()} == {admin.id, made.id}
        async with AsyncClient("http://gateway", made.key, transport=transport) as theirs:
            assert await theirs.methods()
            with pytest.raises(GatewayProblem) as refused:
                await theirs.keys()
            assert refused.value.status == 403
            assert (await client.revoke_key(made.id)).id == made.id
            with pytest.raises(GatewayProblem) as refused:
                await theirs.methods()
            assert refused.value.status == 401
