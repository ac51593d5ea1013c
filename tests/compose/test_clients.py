"""The clients that people have, against a gateway that asks for keys. `pytest -s` prints what each sends and hears."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import httpx2
import openai
import pytest
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client

from search_agent_client import Answer, Client, Found, GatewayProblem, Piece, Turn
from tests.compose.conftest import Stack

URL = f"http://{os.environ['GATEWAY_PUBLISH']}"
QUESTION = "What year was Casimir Pulaski born in Warsaw?"
GOLD_PASSAGE = "sq-fb7bf09d07"
SHORT = {"max_turns": 1}  # the machine may be slow
MakeKey = Callable[..., str]


def say(who: str, what: Any) -> None:
    print(f"{who}: {what if isinstance(what, str) else json.dumps(what, ensure_ascii=False)}")


@pytest.fixture(autouse=True)
def heading(request: pytest.FixtureRequest) -> None:
    print(f"\n\n== {request.node.name.removeprefix('test_').replace('_', ' ')}")


@pytest.fixture(scope="module")
def make_key(stack: Stack) -> Iterator[MakeKey]:
    """Restarts the gateway with keys, and makes them as an operator does, by a command in its container."""

    def make(name: str, *options: str) -> str:
        return stack.compose("exec", "-T", "gateway", "python3", "-m", "cli.keys", "create", name, *options).strip()

    start = ("up", "--detach", "--no-deps", "--wait", "gateway")
    stack.compose(*start, GATEWAY_KEYS="redis")
    yield make
    stack.compose(*start, GATEWAY_KEYS="")


@pytest.fixture(scope="module")
def key(make_key: MakeKey) -> str:
    return make_key("asker", "--scope", "ask")


@pytest.fixture(scope="module")
def assistant(key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{URL}/v1", api_key=key, timeout=300, max_retries=0) as client:
        yield client


def test_openai_streams_a_chat(assistant: openai.OpenAI) -> None:
    say("user", QUESTION)
    stream = assistant.chat.completions.create(
        model="s3",
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"parameters": SHORT},
    )
    *chunks, last = stream
    deltas = [chunk.choices[0].delta for chunk in chunks]
    for delta in deltas:
        say("delta", delta.to_dict())
    say("usage", last.usage.to_dict() if last.usage else None)
    assert "".join(delta.content or "" for delta in deltas).strip()
    cited = [note["url_citation"] for delta in deltas for note in (delta.model_extra or {}).get("annotations", ())]
    assert all(citation["passage_id"] for citation in cited)
    assert last.usage
    assert last.usage.prompt_tokens > 0


def test_openai_streams_a_response(assistant: openai.OpenAI) -> None:
    say("user", QUESTION)
    arguments = {"model": "s3", "input": QUESTION, "include": ["file_search_call.results"]}
    with assistant.responses.stream(**arguments, extra_body={"parameters": SHORT}) as stream:  # type: ignore[call-overload]
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    say("events", " ".join(kinds))
    say("response", final.output_text)
    say("usage", final.usage.to_dict() if final.usage else None)
    assert "response.file_search_call.completed" in kinds
    assert kinds[-1] == "response.completed"
    first, *_ = final.output
    assert first.type == "file_search_call"
    assert first.queries == [QUESTION]
    assert GOLD_PASSAGE in {result.file_id for result in first.results or ()}
    assert final.output_text


async def test_an_assistant_searches_over_mcp(key: str) -> None:
    told: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)
        say("progress", message or "")

    async with _mcp(key) as mcp:
        tools = [tool.name for tool in (await mcp.list_tools()).tools]
        say("tools", tools)
        result = await mcp.call_tool("search", {"question": QUESTION, **SHORT}, progress_callback=hear)
    assert {"search", "answer", "retrieve"} <= set(tools)
    assert not result.is_error
    documents = result.structured_content["documents"]
    for document in documents:
        say("kept", {name: document[name] for name in ("id", "title", "turn", "query", "rank")})
    assert documents
    assert told


def test_curl_reads_the_stream_as_it_comes(key: str) -> None:
    body = json.dumps({"question": QUESTION, "stream": True, **SHORT})
    headers = ("-H", "content-type: application/json", "-H", f"authorization: Bearer {key}")
    command = ("curl", "-sN", f"{URL}/v1/answer", *headers, "-d", body)
    say("$", f"curl -N {URL}/v1/answer -H 'content-type: application/json' -H 'authorization: Bearer …' -d '{body}'")
    heard = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    print(heard)
    events = [line.removeprefix("event: ") for line in heard.splitlines() if line.startswith("event: ")]
    assert events[0] == "turn"
    assert "documents" in events
    assert "answer.delta" in events
    assert events[-1] == "done"


def test_the_python_client_streams(key: str) -> None:
    with Client(URL, key) as client:
        events = list(client.stream_answer(QUESTION, "s3", **SHORT))
    for event in events:
        say(type(event).__name__, str(event))
    assert [kind for kind in (Turn, Found, Piece, Answer) if not any(type(event) is kind for event in events)] == []


def test_open_webui_lists_models_chats_and_asks_for_a_title(key: str) -> None:
    """Its backend sends parameters of its own, and side requests to the same model."""
    parameters = {"temperature": 0.8, "top_p": 0.9, "max_tokens": 512, "frequency_penalty": 0.1, "seed": 7}
    messages = [
        {"role": "system", "content": "User's name is Ada."},
        {"role": "user", "content": "Who was Casimir Pulaski?"},
        {"role": "assistant", "content": "A Polish nobleman and soldier."},
        {"role": "user", "content": QUESTION},
    ]
    with httpx.Client(base_url=f"{URL}/v1", headers={"authorization": f"Bearer {key}"}, timeout=300) as http:
        models = [model["id"] for model in http.get("/models").json()["data"]]
        say("GET /v1/models", models)
        chat = {"model": "naive_rag", "messages": messages, "stream": True, **parameters}
        chat["stream_options"] = {"include_usage": True}
        say("POST /v1/chat/completions", chat)
        response = http.post("/chat/completions", json=chat)
        print(response.text)
        task = "### Task:\nGenerate a concise title.\n### Output:\nJSON\n<chat_history>\nUSER: Who?\n</chat_history>"
        asked = {"model": "direct", "messages": [{"role": "user", "content": task}], "stream": False}
        titled = http.post("/chat/completions", json=asked | {"max_completion_tokens": 1000})
        say("POST /v1/chat/completions", asked)
        print(titled.text)
    assert {"s3", "naive_rag", "direct"} <= set(models)
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"]).strip()
    assert chunks[-1]["usage"]["total_tokens"]
    assert titled.json()["choices"][0]["message"]["content"]


def _mcp(key: str) -> McpClient:
    http = httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=300)
    return McpClient(streamable_http_client(f"{URL}/mcp", http_client=http))


def _refusal(key: str, request: Callable[[Client], Any]) -> GatewayProblem:
    with Client(URL, key) as client, pytest.raises(GatewayProblem) as caught:
        request(client)
    problem = caught.value
    say(str(problem.status), str(problem))
    return problem


def test_without_a_key_a_caller_is_not_known(key: str) -> None:
    assert _refusal("", lambda client: client.methods()).status == 401
    assert _refusal(key[:-1], lambda client: client.methods()).status == 401
    with openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            stranger.models.list()
        say("openai", str(caught.value))


def test_a_key_opens_only_its_scope(key: str) -> None:
    assert _refusal(key, lambda client: client.clear_cache("demo")).status == 403
    assert _refusal(key, lambda client: client.runs()).status == 403
    assert _refusal(key, lambda client: client.create_key("me", ["admin"])).status == 403


def test_a_key_has_a_limit(make_key: MakeKey) -> None:
    limited = make_key("limited", "--scope", "ask", "--requests-per-minute", "1")
    with Client(URL, limited) as client:
        client.methods()
    problem = _refusal(limited, lambda client: client.methods())
    assert problem.status == 429
    assert problem.retry_after_s is not None
    say("Retry-After", str(problem.retry_after_s))
    assert 0 < problem.retry_after_s <= 60


def test_a_revoked_key_opens_nothing(make_key: MakeKey) -> None:
    revoked, admin = make_key("revoked", "--scope", "ask"), make_key("admin", "--scope", "admin")
    with Client(URL, admin) as client:
        listed = client.keys()
        (id,) = (each.id for each in listed if each.name == "revoked")
        client.revoke_key(id)
    assert _refusal(revoked, lambda client: client.methods()).status == 401
