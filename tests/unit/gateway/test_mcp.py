"""The tools of /mcp, asked by the protocol's own client in this process, and the route as HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError

from common.keys import FileKeys, Scope, make
from search_agent.agents import AGENTS
from search_agent.errors import Failure, GeneratorError, RetrieverError
from services.gateway.door import Rules
from services.gateway.methods import Configuration
from services.gateway.routes.mcp import server_of
from services.gateway.routes.mcp.tools import Tools
from tests.fakes import Generator
from tests.unit.gateway.rest import Rest

HEADERS = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}


@pytest.fixture
def stack() -> Rest:
    return Rest()


def client(stack: Rest, mode: Any = "legacy") -> Client:
    return Client(server_of(Tools(stack.asker, stack.backends)), mode=mode)


async def use(stack: Rest, tool: str, arguments: dict[str, Any]) -> Any:
    async with client(stack) as mcp:
        return await mcp.call_tool(tool, arguments)


def text(result: Any) -> str:
    (content,) = result.content
    return str(content.text)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_tools_take_what_the_methods_take(stack: Rest, mode: str) -> None:
    async with client(stack, mode) as mcp:
        tools = {tool.name: tool for tool in (await mcp.list_tools()).tools}
    assert set(tools) == {"search", "answer", "retrieve"}
    taken = tools["search"].input_schema["properties"]
    assert taken["method"]["enum"] == list(AGENTS)
    every = {name for agent in AGENTS.values() for name in agent.schema()["properties"]}  # type: ignore[attr-defined]
    assert taken.keys() == every | {"question", "method", "max_documents"}
    assert tools["answer"].input_schema["properties"].keys() == taken.keys() | {"options", "instructions"}
    assert (taken["rerank"]["default"], taken["rerank"]["maximum"]) == (0, 100)
    assert "default" not in taken["top_k"]  # s3's is another than the others'
    assert "(search_r1)" in taken["answerer"]["description"]
    assert tools["retrieve"].input_schema["properties"]["mode"]["enum"] == ["auto", "dense", "bm25", "hybrid"]
    assert tools["search"].annotations
    assert tools["search"].annotations.read_only_hint


async def test_defaults_are_those_in_force() -> None:
    quick = Configuration("s3", {"max_turns": 1})
    stack = Rest(methods={"s3": {"max_selected": 2}}, configurations={"quick": quick})
    async with client(stack) as mcp:
        taken = (await mcp.list_tools()).tools[0].input_schema["properties"]
    assert taken["max_selected"]["default"] == 2
    assert taken["method"]["enum"] == [*AGENTS, "quick"]


async def test_search_tells_which_passages_were_kept_and_why(stack: Rest) -> None:
    told: list[tuple[float, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    async with client(stack) as mcp:
        result = await mcp.call_tool("search", {"question": "Who?", "max_turns": 2}, progress_callback=hear)
    why = [(each["id"], each["turn"], each["query"], each["rank"]) for each in result.structured_content["documents"]]
    assert why == [("w2", 1, "Who?", 2), ("w1", 2, "answer stands", 1)]
    assert "answer" not in result.structured_content
    assert text(result).startswith(
        "2 passages kept in 2 searches.\n\n[1] Straße 東京 (w2; kept in turn 1, rank 2 for 'Who?')"
    )
    assert told == [
        (1, "searched for 'Who?': kept 1 of 3 passages"),
        (2, "searched for 'answer stands': kept 1 of 3 passages"),
        (3, "2 passages kept"),
    ]


async def test_answer_cites_its_passages(stack: Rest) -> None:
    result = await use(stack, "answer", {"question": "Who?", "method": "naive_rag", "top_k": 2})
    assert result.structured_content["answer"] == "an answer"
    assert result.structured_content["citations"] == ["w1"]
    assert text(result).startswith("an answer\n\nThe answer appears in [1].\n\n[1] ")


async def test_a_choice_reads_its_options(stack: Rest) -> None:
    await use(stack, "answer", {"question": "Which?", "method": "direct", "options": {"A": "zinc", "B": "iron"}})
    assert "zinc" in stack.generator.prompts[-1]


async def test_retrieve_ranks_passages_for_each_query(stack: Rest) -> None:
    result = await use(stack, "retrieve", {"queries": ["one", "two"], "top_k": 1})
    assert [[each["id"] for each in ranked] for ranked in result.structured_content["results"]] == [["w1"], ["w1"]]
    assert text(result).count("an answer stands here") == 2


@pytest.mark.parametrize(
    ("tool", "arguments", "field"),
    [
        ("search", {"question": " "}, "question"),
        ("search", {}, "question"),
        ("search", {"question": "Who?", "method": "magic"}, "method"),
        ("answer", {"question": "Who?", "method": "naive_rag", "top_k": 0}, "top_k"),
        ("answer", {"question": "Who?", "method": "direct", "max_turns": 2}, "max_turns"),
        ("retrieve", {"queries": []}, "queries"),
        ("retrieve", {"queries": ["a"], "depth": 3}, "depth"),
    ],
)
async def test_a_model_reads_which_argument_is_wrong(
    stack: Rest, tool: str, arguments: dict[str, Any], field: str
) -> None:
    result = await use(stack, tool, arguments)
    assert result.is_error
    assert result.structured_content["status"] == 422
    assert [each["field"] for each in result.structured_content["errors"]] == [field]
    assert text(result).startswith(f"{field}: ")


async def test_a_failure_is_told_as_rest_tells_it(stack: Rest) -> None:
    stack.retriever.error = RetrieverError(Failure.UNAVAILABLE, "down")
    for tool, arguments in (("search", {"question": "Who?"}), ("retrieve", {"queries": ["a"]})):
        result = await use(stack, tool, arguments)
        told = result.structured_content
        assert result.is_error
        assert (told["status"], told["backend"], told["failure"]) == (503, "retriever", "unavailable")


async def test_a_crash_keeps_its_details_to_the_log() -> None:
    class Broken(Generator):
        async def info(self) -> Any:
            raise RuntimeError("secret")

        stream: Any = info

    stack = Rest(generator=Broken(""))
    result = await use(stack, "answer", {"question": "Who?", "method": "direct"})
    assert result.is_error
    assert (result.structured_content["status"], "secret" in text(result)) == (500, False)


async def test_there_are_no_other_tools(stack: Rest) -> None:
    async with client(stack) as mcp:
        with pytest.raises(MCPError, match="no tool is called 'shell'"):
            await mcp.call_tool("shell", {})


async def test_a_full_gateway_is_told() -> None:
    stack = Rest(max_in_flight=1)
    stack.generator.error = GeneratorError(Failure.OVERLOADED, "full")
    result = await use(stack, "answer", {"question": "Who?", "method": "direct"})
    assert result.structured_content["status"] == 503


def call(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


async def test_no_session_is_needed_so_that_any_replica_can_answer(stack: Rest) -> None:
    response = await stack.http.post("/mcp", json=call("tools/list"), headers=HEADERS)
    assert response.status_code == 200
    assert "mcp-session-id" not in response.headers
    (line,) = [line for line in response.text.splitlines() if line.startswith("data: {")]
    assert len(json.loads(line.removeprefix("data: "))["result"]["tools"]) == 3
    assert response.headers["x-request-id"]


async def test_a_request_without_a_body_is_a_problem(stack: Rest) -> None:
    for headers in (HEADERS, {}):
        response = await stack.http.post("/mcp", headers=headers)
        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "body")


async def test_there_is_no_stream_to_open_and_no_session_to_end(stack: Rest) -> None:
    for response in (await stack.http.get("/mcp", headers=HEADERS), await stack.http.delete("/mcp", headers=HEADERS)):
        assert response.status_code == 405


async def test_a_key_opens_its_indexes_and_no_others(tmp_path: Path) -> None:
    store = FileKeys(tmp_path / "keys.json")
    made, secret = make("test", [Scope.ASK], indexes=["mine"])
    await store.add(made)
    stack = Rest(rules=Rules(store))
    asked = call("tools/call", name="retrieve", arguments={"queries": ["a"], "index": "demo"})
    assert (await stack.http.post("/mcp", json=asked, headers=HEADERS)).status_code == 401
    response = await stack.http.post("/mcp", json=asked, headers=HEADERS | {"authorization": f"Bearer {secret}"})
    assert '"isError":true' in response.text
    assert "missing_index" in response.text


async def test_a_page_of_another_site_is_refused(stack: Rest) -> None:
    for sent, status in (({"host": "evil.example"}, 421), ({"origin": "https://evil.example"}, 403)):
        assert (await stack.http.post("/mcp", json=call("tools/list"), headers=HEADERS | sent)).status_code == status


async def test_what_is_not_the_protocol_is_refused(stack: Rest) -> None:
    response = await stack.http.post(
        "/mcp", content=b"not json", headers=HEADERS | {"content-type": "application/json"}
    )
    assert response.status_code == 400
