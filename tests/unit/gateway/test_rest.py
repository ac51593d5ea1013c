"""The REST contract over fakes: bodies, streams, limits and every error."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from common import metrics
from common.backends import GrpcTrainer
from common.lines import EventStream
from search_agent.agents import AGENTS
from search_agent.errors import BoundaryError, Failure, GeneratorError, RetrieverError, SearcherError
from search_agent.types import Completion, Message, Sampling
from services.gateway.app import create_app
from services.gateway.problems import HTTP_STATUS
from services.gateway.schemas import AnswerRequest
from tests.fakes import Generator, Searcher
from tests.unit.gateway.rest import MOVES, Rest
from tests.waiting import LIMIT_S

JSON = {"content-type": "application/json"}


def events(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_search(rest: Rest) -> None:
    response = await rest.post("/v1/search", question="what stands?", max_turns=2, top_k=3)
    assert response.status_code == 200
    body = response.json()
    assert body["id"] == response.headers["x-request-id"]
    assert body["method"] == "s3"
    assert [(d["id"], d["turn"]) for d in body["documents"]] == [("w2", 1), ("w1", 2)]
    assert body["documents"][1]["title"] == 'The "Wall" [1]'
    assert body["turns"][1]["query"] == "answer stands"
    assert body["turns"][1]["retrieved"] == ["w1", "w2", "w3"]
    assert body["turns"][1]["selected"] == ["w1"]
    assert body["stop_reason"] == "complete"
    assert body["usage"] == {"prompt_tokens": 20, "completion_tokens": 10, "searches": 2, "rewritten": 0}
    assert set(body["timings_ms"]) == {"total", "retrieve", "search", "generate"}
    assert "answer" not in body


async def test_passages_are_cut_to_the_generators_context_and_it_is_told(rest: Rest) -> None:
    asked = {"question": "what stands?", "method": "naive_rag", "top_k": 3}
    whole = (await rest.post("/v1/answer", **asked)).json()
    rest.generator.room = len(rest.generator.prompts[0]) - 10
    cut = (await rest.post("/v1/answer", **asked)).json()
    assert (whole["truncated"], cut["truncated"]) == (False, True)
    assert cut["documents"] == whole["documents"]
    rest.generator.room = 10
    response = await rest.post("/v1/answer", **asked)
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == ["question"]


async def test_answer_cites_the_document_that_holds_it(rest: Rest) -> None:
    body = (await rest.post("/v1/answer", question="what stands?")).json()
    assert body["answer"] == "an answer"
    assert body["citations"] == ["w1"]
    assert body["models"] == ["echo@1"]
    assert body["cached"] is False


async def test_rerank_reaches_the_retriever(rest: Rest) -> None:
    assert (await rest.post("/v1/retrieve", queries=["a"], rerank=10)).status_code == 200
    assert (await rest.post("/v1/search", question="q", method="naive_rag", rerank=20)).status_code == 200
    assert (await rest.post("/v1/search", question="q", method="naive_rag")).status_code == 200
    assert (await rest.post("/v1/search", question="q", method="s3", rerank=30)).status_code == 200
    assert [how.rerank for how in rest.retriever.asked] == [10, 20, 0, 30, 30]  # s3 searches twice


@pytest.mark.parametrize("method", ["naive_rag", "direct"])
async def test_the_other_methods(rest: Rest, method: str) -> None:
    body = (await rest.post("/v1/answer", question="what?", method=method)).json()
    assert body["answer"] == "an answer"
    assert len(body["documents"]) == (3 if method == "naive_rag" else 0)


async def test_the_passage_budget_is_the_same_for_every_method(rest: Rest) -> None:
    body = (await rest.post("/v1/answer", question="what stands?", max_documents=1)).json()
    assert [document["id"] for document in body["documents"]] == ["w2"]
    assert [turn["selected"] for turn in body["turns"]] == [["w2"], ["w1"]]
    assert "an answer stands here" not in rest.generator.prompts[-1]
    body = (await rest.post("/v1/search", question="q", method="naive_rag", max_documents=2)).json()
    assert len(body["documents"]) == 2


async def test_options_are_for_the_generator_and_not_for_the_search(rest: Rest) -> None:
    options = {"A": "yes", "B": "$no"}
    body = (await rest.post("/v1/answer", question="does it?", method="naive_rag", options=options)).json()
    assert body["question"] == "does it?"
    assert rest.retriever.queries == ["does it?"]
    assert "does it?\n" in rest.generator.prompts[0]
    assert "A: yes\nB: $no" in rest.generator.prompts[0]
    await rest.post("/v1/answer", question="does it?", method="direct", options=options)
    assert "A: yes\nB: $no" in rest.generator.prompts[1]


async def test_instructions_are_the_generators_system_message(rest: Rest) -> None:
    heard: list[Message] = []
    stream = rest.generator.stream

    def hearing(messages: Any, sampling: Sampling) -> AsyncIterator[Completion]:
        heard.extend(messages)
        return stream(messages, sampling)

    rest.generator.stream = hearing  # type: ignore[assignment, method-assign]
    body = (await rest.post("/v1/answer", question="q", method="naive_rag", instructions="Be brief.")).json()
    assert (body["question"], body["finish_reason"]) == ("q", "stop")
    assert heard[0] == Message("system", "Be brief.")


async def test_without_a_cache_there_is_none_to_count(rest: Rest) -> None:
    for response in (await rest.http.get("/v1/cache"), await rest.http.delete("/v1/cache", params={"index": "demo"})):
        assert response.status_code == 404
        assert "GATEWAY_REDIS_URL" in response.json()["detail"]


TEXTS = {
    "cot": [],
    "ircot": [
        "<sentence>an answer stands</sentence>\n<enough>False</enough>",
        "<sentence>It is so.</sentence>\n<enough>True</enough>",
    ],
    "search_o1": ["So\n<|begin_search_query|>what stands<|end_search_query|>", "An answer stands.", "Thus."],
    "search_r1": ["<think>a</think>\n<search>what stands</search>", "<think>b</think>\n<answer>own</answer>"],
    "deep_retrieval": ['<think>a</think>\n<answer>{"query": "stands OR here"}</answer>'],
}


@pytest.mark.parametrize("method", TEXTS)
async def test_the_baselines(method: str) -> None:
    rest = Rest(searchers={method: Searcher(TEXTS[method])})
    fields = {"cot": {}, "deep_retrieval": {"top_k": 2, "mode": "dense", "index": "demo"}}.get(
        method, {"top_k": 2, "mode": "hybrid", "index": "demo", "max_turns": 3}
    )
    response = await rest.post("/v1/answer", question="what stands?", method=method, **fields)
    assert response.status_code == 200, response.text
    body = response.json()
    assert (body["method"], body["answer"], body["stop_reason"]) == (method, "an answer", "complete")
    searches = {"cot": 0, "ircot": 2}.get(method, 1)
    assert body["usage"]["searches"] == len(body["turns"]) == searches
    assert all(len(turn["retrieved"]) == 2 and not turn["error"] for turn in body["turns"])
    assert not rest.searcher.calls
    kept = {"cot": [], "search_o1": ["digest-1"]}.get(method, ["w1", "w2"])
    assert [document["id"] for document in body["documents"]] == kept
    for turn in body["turns"]:
        assert set(turn["titles"]) == {*turn["retrieved"], *turn["selected"]}


async def test_the_stream_of_reasoning_ends_in_the_answer_alone() -> None:
    rest = Rest(Generator("It stands.\nAnswer: w one"))
    response = await rest.post("/v1/answer", question="what stands?", method="cot", stream=True)
    told = events(response.text)
    assert "".join(data["text"] for name, data in told if name == "answer.delta").strip() == "It stands.\nAnswer: w one"
    assert told[-1][1]["answer"] == "w one"


async def test_a_searcher_that_answers_itself() -> None:
    rest = Rest(searchers={"search_r1": Searcher(TEXTS["search_r1"])})
    asked = {"question": "what stands?", "method": "search_r1", "answerer": "searcher"}
    response = await rest.post("/v1/answer", **asked, stream=True)
    told = events(response.text)
    assert [name for name, _ in told] == ["turn", "documents", "answer.delta", "done"]
    assert told[-1][1]["answer"] == "own"
    assert not rest.generator.prompts


async def test_the_stream_tells_each_step(rest: Rest) -> None:
    response = await rest.post("/v1/answer", question="what stands?", stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    names = [name for name, _ in events(response.text)]
    assert names == ["turn", "turn", "documents", "answer.delta", "answer.delta", "done"]
    told = dict(events(response.text))
    assert told["done"]["answer"] == "an answer"
    assert [d["id"] for d in told["documents"]["documents"]] == ["w2", "w1"]


class Whole(Generator):
    """Counts the texts that were asked for as a whole."""

    count = 0

    async def write(self, messages: Any, sampling: Sampling) -> Completion:
        self.count += 1
        return await super().write(messages, sampling)


async def test_an_answer_is_written_in_pieces_for_those_who_read_along_only() -> None:
    generator = Whole("an answer")
    rest = Rest(generator)
    for stream in (False, True):
        await rest.post("/v1/answer", question=f"what stands? {stream}", method="direct", stream=stream)
        assert generator.count == 1


async def test_the_stream_keeps_every_line_break_of_a_text(rest: Rest) -> None:
    question = "what\u2028stands\u0085here,\rand\r\nthere?"
    response = await rest.post("/v1/answer", question=question, method="direct", stream=True)
    name, data = [*EventStream().feed(response.content)][-1]
    assert (name, json.loads(data)["question"]) == ("done", question)


async def test_retrieve(rest: Rest) -> None:
    body = (await rest.post("/v1/retrieve", queries=["a", "b"], top_k=2, mode="bm25")).json()
    assert [len(passages) for passages in body["results"]] == [2, 2]
    assert body["results"][0][1]["title"] == "Straße\n東京"


async def test_the_compatible_retrieve_with_and_without_scores(rest: Rest) -> None:
    scored = (await rest.post("/retrieve", queries=["a"], topk=1, return_scores=True)).json()
    contents = '"The "Wall" [1]"\nan answer stands here'
    document = {"id": "w1", "contents": contents}
    assert scored == {"result": [[{"document": document, "score": pytest.approx(0.9)}]]}
    plain = (await rest.post("/retrieve", queries=["a"], topk=1, return_scores=False)).json()
    assert plain == {"result": [[document]]}
    assert len((await rest.post("/retrieve", queries=["a"])).json()["result"][0]) == 3
    assert (await rest.post("/retrieve", queries=[])).json() == {"result": []}


@pytest.mark.parametrize(("path", "results"), [("/retrieve", "result"), ("/v1/retrieve", "results")])
async def test_a_bad_query_costs_no_other_of_its_batch(rest: Rest, path: str, results: str) -> None:
    queries = ["a", "", " ", "who " * 1500, "half \ud800", "nul \0", *["b"] * 2560]
    headers = {"content-type": "application/json"}
    response = await rest.http.post(path, content=json.dumps({"queries": queries}), headers=headers)
    assert response.status_code == 200
    assert len(response.json()[results]) == len(queries)
    asked = rest.retriever.queries
    assert asked[:3] == ["a", "", " "]
    assert len(asked[3]) == 4000
    assert asked[4:6] == ["half ?", "nul \0"]


async def test_about(rest: Rest) -> None:
    methods = (await rest.http.get("/v1/methods")).json()
    assert [method["name"] for method in methods] == list(AGENTS)
    parameters = {method["name"]: method["parameters"]["properties"] for method in methods}
    assert parameters["s3"]["max_turns"]["default"] == 3
    assert parameters["ircot"]["max_turns"]["default"] == 4
    assert parameters["search_r1"]["answerer"]["enum"] == ["generator", "searcher"]
    assert parameters["deep_retrieval"]["mode"]["default"] == "bm25"
    assert set(parameters["cot"]) == {"reasoning_tokens"}
    (index,) = (await rest.http.get("/v1/indexes")).json()
    assert (index["name"], index["modes"], index["default"]) == ("demo", ["dense", "bm25"], True)
    assert (await rest.http.get("/healthz")).json() == {"status": "ok"}
    assert "/v1/answer" in (await rest.http.get("/openapi.json")).json()["paths"]
    assert "search_agent_http_seconds" in (await rest.http.get("/metrics")).text


async def test_readiness_names_what_is_missing(rest: Rest) -> None:
    assert (await rest.http.get("/readyz")).json()["status"] == "ready"
    rest.searcher.error = SearcherError(Failure.UNAVAILABLE, "connection refused")
    response = await rest.http.get("/readyz")
    assert response.status_code == 503
    assert response.json()["backends"] == {
        "retriever": "ok",
        "searcher": "unavailable",
        "generator": "ok",
        "cache": "not configured; naive RAG runs uncached",
    }


async def test_a_method_may_have_a_generator_of_its_own() -> None:
    rest = Rest(generators={"direct": Generator("another")})
    for method, answer in (("direct", "another"), ("naive_rag", "an answer")):
        response = await rest.post("/v1/answer", question="what stands?", method=method)
        assert response.json()["answer"] == answer


async def test_readiness_checks_each_model_once() -> None:
    shared, broken = Searcher([]), Searcher([])
    rest = Rest(
        searchers={"search_r1": shared, "ircot": broken, "search_o1": shared}, generators={"cot": Generator("x")}
    )
    assert (await rest.http.get("/readyz")).json()["status"] == "ready"
    broken.error = SearcherError(Failure.UNAVAILABLE, "connection refused")
    response = await rest.http.get("/readyz")
    assert response.status_code == 503
    states = response.json()["backends"]
    assert {name: state for name, state in states.items() if name.startswith(("searcher", "generator"))} == {
        "generator": "ok",
        "generator:cot": "ok",
        "searcher": "ok",
        "searcher:search_r1,search_o1": "ok",
        "searcher:ircot": "unavailable",
    }


async def test_of_several_services_one_that_works_is_enough() -> None:
    first, second = Searcher([]), Searcher([])
    rest = Rest()
    app = create_app(replace(rest.backends, replicas={rest.backends.searcher: [first, second]}), rest.asker)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
        first.error = SearcherError(Failure.UNAVAILABLE, "connection refused")
        response = await http.get("/readyz")
        states = response.json()["backends"]
        assert response.status_code == 200
        assert (states["searcher"], states["searcher#1"], states["searcher#2"]) == ("ok", "unavailable", "ok")
        second.error = SearcherError(Failure.TIMEOUT, "too slow")
        response = await http.get("/readyz")
        states = response.json()["backends"]
        assert response.status_code == 503
        assert (states["searcher"], states["searcher#2"]) == ("unavailable", "timeout")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/search", {}, "question"),
        ("/v1/search", {"question": "  "}, "question"),
        ("/v1/search", {"question": "q", "method": "magic"}, "method"),
        ("/v1/search", {"question": "q", "max_turns": 0}, "max_turns"),
        ("/v1/search", {"question": "q", "method": "naive_rag", "max_turns": 2}, "max_turns"),
        ("/v1/search", {"question": "q", "method": "cot", "top_k": 2}, "top_k"),
        ("/v1/search", {"question": "q", "method": "deep_retrieval", "max_turns": 2}, "max_turns"),
        ("/v1/search", {"question": "q", "method": "search_r1", "max_selected": 2}, "max_selected"),
        ("/v1/search", {"question": "q", "mode": "sparse"}, "mode"),
        ("/v1/search", {"question": "q", "colour": 1}, "colour"),
        ("/v1/search", {"question": "q", "parameters": {"turn_tokens": 1}}, "parameters.turn_tokens"),
        ("/v1/search", {"question": "q", "parameters": {"temperature": float("nan")}}, "parameters.temperature"),
        ("/v1/search", {"question": "q", "parameters": {"index": "\ud800"}}, "parameters.index"),
        ("/v1/search", {"question": "q", "parameters": {"\ud800": 1}}, "parameters.?"),
        ("/v1/search", {"question": "q", "parameters": {"top_k": None}}, "parameters.top_k"),
        ("/v1/search", {"question": "q", "parameters": {"top_k": 3}, "top_k": 3}, "top_k"),
        ("/v1/search", {"question": "q", "parameters": ["top_k"]}, "parameters"),
        ("/v1/answer", {"question": 5}, "question"),
        ("/v1/answer", {"question": "q", "options": {"A": ""}}, "options.A"),
        ("/v1/search", {"question": "q", "max_documents": 0}, "max_documents"),
        ("/v1/retrieve", {"queries": []}, "queries"),
        ("/v1/retrieve", {"queries": ["a", 1]}, "queries[1]"),
        ("/v1/retrieve", {"queries": ["a"], "index": "\ud800"}, "index"),
        ("/v1/runs", {"config": "universe", "overrides": {"\ud800": 1}}, "overrides.\ufffd\ufffd\ufffd"),
        ("/v1/runs/x/promote", {"searcher": "\ud800"}, "searcher"),
        ("/v1/rollback", {"searcher": "\ud800"}, "searcher"),
        ("/retrieve", {"queries": "a"}, "queries"),
    ],
)
async def test_bad_input_names_its_field(rest: Rest, path: str, body: dict[str, Any], field: str) -> None:
    response = await rest.http.post(path, content=json.dumps(body), headers=JSON)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["errors"][0]["field"] == field
    assert problem["status"] == 422
    assert problem["request_id"] == response.headers["x-request-id"]


ADVERTISED = [
    (name, parameter, entry)
    for name, agent in AGENTS.items()
    for parameter, entry in agent.schema()["properties"].items()
]


@pytest.mark.parametrize(("method", "parameter", "entry"), ADVERTISED)
async def test_every_advertised_value_is_taken_and_no_other(method: str, parameter: str, entry: dict[str, Any]) -> None:
    assert entry["description"]
    allowed, refused = [entry["default"], *entry.get("enum", ())], ["no such value", None, [1]]
    if entry.get("type") in ("integer", "number"):
        allowed += [entry["minimum"], entry["maximum"], float(entry["maximum"])]
        refused += [entry["minimum"] - 1, entry["maximum"] + 1, True]
    elif entry.get("type") == "string":
        allowed, refused = [entry["default"], "demo"], [None, 1]
    searchers = {method: Searcher([])}
    rest = Rest(searchers=searchers)
    for values, statuses in ((allowed, {200}), (refused, {422})):
        for value in values:
            for beside in (False, True):
                if beside and value is None:
                    continue  # left out
                searchers[method] = Searcher([*TEXTS.get(method, MOVES), *MOVES] * 20)
                given = {parameter: value} if beside else {"parameters": {parameter: value}}
                response = await rest.http.post(
                    "/v1/answer",
                    content=json.dumps({"question": "what stands?", "method": method, **given}),
                    headers=JSON,
                )
                assert response.status_code in statuses, (value, response.text)
                if statuses == {422}:
                    place = parameter if beside else f"parameters.{parameter}"
                    assert response.json()["errors"][0]["field"] == place


def test_no_parameter_has_the_name_of_a_field_of_the_request() -> None:
    assert not {parameter for _, parameter, _ in ADVERTISED} & set(AnswerRequest.model_fields)


async def test_a_backend_that_blames_a_parameter_names_it_as_the_request_does(rest: Rest) -> None:
    rest.retriever.error = RetrieverError(Failure.UNSUPPORTED, "it has bm25", "mode")
    for given, place in (({"mode": "dense"}, "mode"), ({"parameters": {"mode": "dense"}}, "parameters.mode")):
        response = await rest.post("/v1/search", question="q", **given)
        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, place)


@pytest.mark.parametrize(
    ("part", "kind", "field", "place"),
    [
        ("searcher", SearcherError, "sampling.max_tokens", "parameters.turn_tokens"),
        ("searcher", SearcherError, "sampling.temperature", "temperature"),
        ("searcher", SearcherError, "sampling.grammar", "constrained"),
        ("searcher", SearcherError, "messages", "question"),
        ("generator", GeneratorError, "messages", "question"),
        ("generator", GeneratorError, "sampling.max_tokens", "sampling.max_tokens"),  # a setting of the gateway's
    ],
)
async def test_a_model_that_refuses_names_what_the_request_calls_it(
    rest: Rest, part: str, kind: type[BoundaryError], field: str, place: str
) -> None:
    getattr(rest, part).error = kind(Failure.INVALID, "too much", field)
    response = await rest.post("/v1/answer", question="q", parameters={"turn_tokens": 30_000})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, place)


async def test_what_is_not_there(rest: Rest) -> None:
    for response, status in (
        (await rest.http.get("/v2"), 404),
        (await rest.http.get("/v1/search"), 405),
    ):
        assert response.status_code == response.json()["status"] == status
        assert response.headers["content-type"] == "application/problem+json"


async def test_a_wrong_verb_is_told_all_that_the_path_takes(rest: Rest) -> None:
    for path, verbs in (("/v1/indexes/mine", "DELETE, GET"), ("/v1/runs", "GET, POST"), ("/v1/answer", "POST")):
        response = await rest.http.put(path, content=b"x")
        assert (response.status_code, response.headers["allow"]) == (405, verbs)


async def test_a_value_of_another_type_is_not_taken_for_the_right_one(rest: Rest) -> None:
    for path, body, field in (
        ("/v1/answer", {"question": "q", "stream": 0}, "stream"),
        ("/v1/retrieve", {"queries": ["q"], "top_k": True}, "top_k"),
        ("/v1/retrieve", {"queries": ["q"], "rerank": "1"}, "rerank"),
    ):
        response = await rest.post(path, **body)
        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, field)


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "application/jsonlines"])
async def test_a_body_of_another_type_is_named_by_its_header(rest: Rest, kind: str) -> None:
    response = await rest.http.post("/v1/search", content=b'{"question": "q"}', headers={"content-type": kind})
    assert response.status_code == 415
    assert response.json()["errors"][0]["field"] == "content-type"


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.me+json"])
async def test_a_body_of_a_json_type_is_read(rest: Rest, kind: str) -> None:
    good, bad, broken = b'{"question": "q"}', b"[]", b'{"question": "q",}'
    answers = [
        await rest.http.post("/v1/search", content=body, headers={"content-type": kind}) for body in (good, bad, broken)
    ]
    assert [answer.status_code for answer in answers] == [200, 422, 422]
    assert [answer.json()["errors"][0]["field"] for answer in answers[1:]] == ["body", "body"]
    assert "is not JSON" in answers[2].json()["detail"]


async def test_head_is_answered_as_get(rest: Rest) -> None:
    rest.retriever.error = RetrieverError(Failure.UNAVAILABLE, "down")
    statuses = [(await rest.http.head(path)).status_code for path in ("/healthz", "/readyz", "/v1/methods", "/v2")]
    assert statuses == [200, 503, 200, 404]


DOWN = GeneratorError(Failure.UNAVAILABLE, "down")


@pytest.mark.parametrize(
    ("part", "path", "body", "status"),
    [
        ("generator", "/v1/answer", {"question": "q"}, 503),
        ("generator", "/v1/answer", {"question": "q", "stream": True}, 200),  # the turns have been told by then
        ("retriever", "/v1/answer", {"question": "q", "stream": True}, 503),
        ("retriever", "/v1/search", {"question": "q"}, 503),
        ("retriever", "/v1/retrieve", {"queries": ["q"]}, 503),
        ("retriever", "/retrieve", {"queries": ["q"]}, 503),
        ("retriever", "/v1/indexes", None, 503),
        ("trainer", "/v1/runs", None, 503),
        ("trainer", "/v1/rollback", {}, 503),
        ("trainer", "/v1/runs/r/events", None, 503),
        ("trainer", "/v1/runs/r/promote", {}, 503),
        ("trainer", "/v1/runs/r/promote", {"stream": True}, 503),
    ],
)
async def test_a_failure_is_counted_once(part: str, path: str, body: dict[str, Any] | None, status: int) -> None:
    trainer = GrpcTrainer("127.0.0.1:9", 5)
    rest = Rest(trainer=trainer)
    rest.generator.error = DOWN if part == "generator" else None
    rest.retriever.error = RetrieverError(Failure.UNAVAILABLE, "down") if part == "retriever" else None
    before = failures()
    response = await (rest.http.get(path) if body is None else rest.http.post(path, json=body))
    assert response.status_code == status
    assert {key: count for key, count in failures().items() if count != before.get(key)} == {
        (part, "unavailable"): before.get((part, "unavailable"), 0) + 1
    }
    if status == 200:
        name, problem = events(response.text)[-1]
        assert (name, problem["backend"], problem["status"]) == ("error", part, 503)
    await trainer.close()


def failures() -> dict[tuple[str, str], float]:
    """The counter of failures by boundary and failure."""
    return {
        (sample.labels["boundary"], sample.labels["failure"]): sample.value
        for family in metrics.AGENT_FAILURES.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


@pytest.mark.parametrize("failure", [each for each in Failure if each is not Failure.TOO_LONG])
@pytest.mark.parametrize(("part", "kind"), [("retriever", RetrieverError), ("searcher", SearcherError),
                                            ("generator", GeneratorError)])  # fmt: skip
async def test_a_failed_backend_is_named(rest: Rest, part: str, kind: type[BoundaryError], failure: Failure) -> None:
    getattr(rest, part).error = kind(failure, "it is so", "field")
    response = await rest.post("/v1/answer", question="what stands?")
    assert response.status_code == HTTP_STATUS[failure]
    problem = response.json()
    assert (problem["backend"], problem["failure"]) == (part, failure)
    assert problem["errors"] == [{"field": "field", "message": "it is so"}]
    assert ("retry-after" in response.headers) == (response.status_code == 503)


async def test_a_failure_in_a_stream_is_an_event(rest: Rest) -> None:
    rest.generator.error = GeneratorError(Failure.TIMEOUT, "too slow")
    response = await rest.post("/v1/answer", question="what stands?", stream=True)
    *_, (name, problem) = events(response.text)
    assert name == "error"
    assert (problem["status"], problem["backend"]) == (504, "generator")


async def test_a_crash_is_a_problem_and_keeps_its_secrets(rest: Rest) -> None:
    rest.retriever.error = RuntimeError("secret detail")  # type: ignore[assignment]
    response = await rest.post("/v1/search", question="q")
    assert response.status_code == 500
    assert "secret" not in response.text


class Slow(Generator):
    """Waits until it is released or cancelled."""

    def __init__(self) -> None:
        super().__init__("late")
        self.started, self.release, self.cancelled = asyncio.Event(), asyncio.Event(), False

    async def stream(self, messages: Any, sampling: Sampling) -> AsyncIterator[Completion]:
        self.started.set()
        try:
            await self.release.wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled = True
            raise
        async for piece in super().stream([Message("user", "q")], sampling):
            yield piece


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_gateway_says_so_and_recovers(stream: bool) -> None:
    slow = Slow()
    rest = Rest(slow, max_in_flight=1)
    first = asyncio.create_task(rest.post("/v1/answer", question="q", method="direct", stream=stream))
    await slow.started.wait()
    refused = await rest.post("/v1/answer", question="another", method="direct")
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    slow.release.set()
    assert (await first).status_code == 200
    assert (await rest.post("/v1/answer", question="q", method="direct")).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_question_under_way_is_answered_once(stream: bool) -> None:
    slow = Slow()
    rest = Rest(slow, max_in_flight=1)

    def ask(**more: Any) -> asyncio.Task[Any]:
        asked = {"question": "q", "method": "direct", "stream": stream} | more
        return asyncio.create_task(rest.post("/v1/answer", **asked))

    first = ask()
    await slow.started.wait()
    others = [ask() for _ in range(3)]
    other = await ask(question="another")
    others[0].cancel()  # one who leaves takes the answer from nobody
    await asyncio.sleep(0)
    slow.release.set()
    answers = await asyncio.gather(first, *others[1:])
    assert other.status_code == 503
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert all("late" in answer.text for answer in answers)
    assert len(slow.prompts) == 1


class Restarting(Generator):
    """Dies once while it answers, after `pieces` pieces."""

    def __init__(self, pieces: int) -> None:
        super().__init__("an answer")
        self._left, self.times = pieces, 0

    async def stream(self, messages: Any, sampling: Sampling) -> AsyncIterator[Completion]:
        self.times += 1
        async for piece in super().stream(messages, sampling):
            if self.times == 1 and not self._left:
                await asyncio.sleep(1.6)
                raise GeneratorError(Failure.UNAVAILABLE, "it cannot be reached")
            self._left -= 1
            yield piece


async def test_a_question_whose_backend_was_lost_is_asked_again_if_nothing_was_sent() -> None:
    whole, seen = Restarting(1), Restarting(1)
    asked = {"question": "q", "method": "direct"}
    answers = await asyncio.gather(
        Rest(whole).post("/v1/answer", **asked),
        Rest(seen).post("/v1/answer", **asked, stream=True),
    )
    assert answers[0].json()["answer"] == "an answer"
    assert [generator.times for generator in (whole, seen)] == [2, 1]
    last = [line for line in answers[1].text.splitlines() if line.startswith("event: ")][-1]
    assert last == "event: error"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_work_stops_when_the_caller_leaves(stream: bool) -> None:
    slow = Slow()
    rest = Rest(slow, max_in_flight=1)
    app = rest.http._transport.app  # type: ignore[attr-defined]
    body = json.dumps({"question": "q", "method": "direct", "stream": stream}).encode()
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    inbox.put_nowait({"type": "http.request", "body": body, "more_body": False})
    scope = {
        "type": "http", "method": "POST", "path": "/v1/answer", "raw_path": b"/v1/answer", "query_string": b"",
        "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
        "server": ("gateway", 80), "client": ("caller", 1), "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip

    async def send(_: Any) -> None: ...

    call = asyncio.create_task(app(scope, inbox.get, send))
    await slow.started.wait()
    inbox.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(asyncio.gather(call, return_exceptions=True), LIMIT_S)
    assert slow.cancelled
    slow.release.set()
    assert (await rest.post("/v1/answer", question="q", method="direct")).status_code == 200


async def test_ids_are_adopted_or_made(rest: Rest) -> None:
    given = await rest.http.get("/healthz", headers={"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    bad = await rest.http.get("/healthz", headers={"x-request-id": "a b\tc"})
    assert bad.headers["x-request-id"] not in ("", "a b\tc")


async def test_openapi_tells_the_errors_of_every_route_in_its_own_shape(rest: Rest) -> None:
    paths = (await rest.http.get("/openapi.json")).json()["paths"]
    problem, own = "application/problem+json", "application/json"
    shapes = {"openai": [own], "mcp": [problem, own]}  # MCP's own errors, and those that all routes have
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation["responses"].keys() >= {"4XX", "5XX"}, path
            [tag] = operation["tags"]
            assert [*operation["responses"]["4XX"]["content"]] == shapes.get(tag, [problem]), path
