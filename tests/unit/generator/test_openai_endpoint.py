"""The OpenAI engine against an endpoint that answers what the test says."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from search_agent.errors import Failure, GeneratorError
from search_agent.types import Completion, FinishReason, Message, ModelInfo, Sampling
from services.generator.engine import Request
from services.generator.openai_endpoint import THINKING_TOKENS, OpenAIEndpoint
from services.generator.settings import GeneratorSettings

KEY = "sk-very-secret-0123456789"
CHAT = Request(Sampling(max_tokens=5), messages=(Message("user", "Hi"),))
Answer = Callable[[BaseHTTPRequestHandler], None]


class Endpoint:
    """Gives its `answers` in turn, the last one again and again, and keeps what it was sent."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.bodies: list[dict[str, Any]] = []
        self.hung_up = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                endpoint.paths.append(self.path)
                endpoint.keys.append(self.headers["Authorization"])
                endpoint.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                answers = endpoint.answers
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                try:
                    answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    endpoint.hung_up.set()

            def log_message(self, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.endpoint = self
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    thread = threading.Thread(target=endpoint.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()
    thread.join()


def events(*chunks: object) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        for chunk in chunks:
            data = chunk if isinstance(chunk, str) else json.dumps(chunk)
            handler.wfile.write(f"data: {data}\n\n".encode())
            handler.wfile.flush()

    return answer


def failure(status: int, message: str = f"bad key {KEY}") -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"error": {"message": message}}).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Retry-After-Ms", "1")
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def delta(text: str, finish: str | None = None, **more: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish, **more}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}}
GOOD = events(delta("Hel"), delta("lo"), delta("", "stop"), USAGE, "[DONE]")


@asynccontextmanager
async def engine_for(url: str, **settings: Any) -> AsyncIterator[OpenAIEndpoint]:
    engine = OpenAIEndpoint(
        GeneratorSettings(
            **{"engine": "openai", "openai_base_url": url, "openai_model": "big", "openai_retries": 0} | settings
        )
    )
    yield engine
    await engine.close()


async def collect(endpoint: Endpoint, request: Request = CHAT, **settings: Any) -> list[Completion]:
    async with engine_for(endpoint.url, **settings) as engine:
        return [piece async for piece in engine.stream(request)]


async def refused(endpoint: Endpoint, request: Request = CHAT, **settings: Any) -> GeneratorError:
    with pytest.raises(GeneratorError) as caught:
        await collect(endpoint, request, **settings)
    return caught.value


async def test_chat(endpoint):
    endpoint.answers = [GOOD]
    sampling = Sampling(max_tokens=5, temperature=0.5, top_p=0.75, seed=3, stop=("\n",))
    pieces = await collect(endpoint, Request(sampling, messages=(Message("user", "Hi"),)), openai_api_key=KEY)
    assert pieces == [
        Completion("Hel", None, model="big@remote"),
        Completion("lo", None, model="big@remote"),
        Completion("", FinishReason.STOP, 9, 2, model="big@remote"),
    ]
    assert endpoint.paths == ["/v1/chat/completions"]
    assert endpoint.keys == [f"Bearer {KEY}"]
    assert endpoint.bodies == [
        {
            "model": "big",
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 5,
            "temperature": 0.5,
            "top_p": 0.75,
            "seed": 3,
            "stop": ["\n"],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


async def test_control_tokens_in_a_message_are_broken_and_those_of_a_prompt_are_not(endpoint):
    endpoint.answers = [GOOD]
    await collect(endpoint, Request(CHAT.sampling, messages=(Message("user", "Hi<|im_end|>"),)))
    assert endpoint.bodies[0]["messages"] == [{"role": "user", "content": "Hi<\u200d|im_end|>"}]
    endpoint.answers = [events({"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]}, "[DONE]")]
    await collect(endpoint, Request(CHAT.sampling, prompt="Hi<|im_end|>"))
    assert endpoint.bodies[1]["prompt"] == "Hi<|im_end|>"


async def test_a_prompt_goes_to_completions(endpoint):
    choice = {"index": 0, "text": "Hello", "finish_reason": "length"}
    endpoint.answers = [events({"choices": [choice]}, USAGE, "[DONE]")]
    pieces = await collect(endpoint, Request(Sampling(max_tokens=2), prompt="Say"))
    ended = Completion("", FinishReason.LENGTH, 9, 2, model="big@remote")
    assert pieces == [Completion("Hello", None, model="big@remote"), ended]
    assert endpoint.paths == ["/v1/completions"]
    assert endpoint.bodies[0]["prompt"] == "Say"


@pytest.mark.parametrize(("reason", "stop"), [("</q>", "</q>"), (151643, ""), (None, "")])
async def test_vllm_tells_the_stop_string(endpoint, reason, stop):
    endpoint.answers = [events(delta("x", "stop", stop_reason=reason), USAGE, "[DONE]")]
    assert (await collect(endpoint))[-1].stop == stop


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [("vllm", {"structured_outputs": {"grammar": "root"}}), ("llama.cpp", {"grammar": "root"})],
)
async def test_a_grammar_is_sent_as_the_endpoint_takes_it(endpoint, dialect, fields):
    endpoint.answers = [GOOD]
    request = Request(Sampling(max_tokens=5, grammar="root"), messages=CHAT.messages)
    await collect(endpoint, request, openai_dialect=dialect)
    assert fields.items() <= endpoint.bodies[0].items()


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [("vllm", {"continue_final_message": True, "add_generation_prompt": False}), ("llama.cpp", {})],
)
async def test_an_assistant_message_is_continued(endpoint, dialect, fields):
    endpoint.answers = [GOOD]
    request = Request(Sampling(max_tokens=5), messages=(*CHAT.messages, Message("assistant", "He")))
    await collect(endpoint, request, openai_dialect=dialect)
    assert fields.items() <= endpoint.bodies[0].items()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Request(Sampling(max_tokens=5, grammar="root"), messages=CHAT.messages), "sampling.grammar"),
        (Request(Sampling(max_tokens=5), messages=(*CHAT.messages, Message("assistant", "He"))), "messages"),
    ],
)
async def test_a_plain_endpoint_is_not_asked_for_what_it_cannot(endpoint, request_, field):
    error = await refused(endpoint, request_)
    assert (error.failure, error.field) == (Failure.UNSUPPORTED, field)
    assert not endpoint.bodies


@pytest.mark.parametrize(
    ("status", "expected", "field"),
    [
        (400, Failure.INVALID, "messages"),
        (401, Failure.BROKEN, ""),
        (403, Failure.BROKEN, ""),
        (404, Failure.BROKEN, ""),
        (408, Failure.TIMEOUT, ""),
        (413, Failure.INVALID, "messages"),
        (422, Failure.INVALID, "messages"),
        (429, Failure.OVERLOADED, ""),
        (500, Failure.UNAVAILABLE, ""),
        (503, Failure.UNAVAILABLE, ""),
        (504, Failure.TIMEOUT, ""),
    ],
)
async def test_a_status_becomes_a_failure_without_the_key(endpoint, status, expected, field):
    endpoint.answers = [failure(status)]
    error = await refused(endpoint, openai_api_key=KEY)
    assert (error.failure, error.field) == (expected, field)
    assert KEY not in f"{error!r} {error.message}"
    assert str(status) in error.message
    assert error.__suppress_context__  # a logged traceback would show the endpoint's own words


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4097 tokens. However, your messages resulted in 5000 tokens.",
        "the request exceeds the available context size. try increasing the context size or enable context shift",
    ],
)
async def test_a_prompt_beyond_the_context_is_too_long(endpoint, message):
    endpoint.answers = [failure(400, message)]
    error = await refused(endpoint)
    assert (error.failure, error.field, error.excess) == (Failure.TOO_LONG, "messages", 0)


async def test_passing_trouble_is_tried_again(endpoint):
    endpoint.answers = [failure(503), failure(429), GOOD]
    assert len(await collect(endpoint, openai_retries=2)) == 3
    assert len(endpoint.bodies) == 3


async def test_a_closed_port_is_unavailable(endpoint):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with engine_for(f"http://127.0.0.1:{unused.getsockname()[1]}/v1") as engine:
            with pytest.raises(GeneratorError) as caught:
                await anext(engine.stream(CHAT))
    assert caught.value.failure is Failure.UNAVAILABLE


async def test_silence_is_a_timeout(endpoint):
    endpoint.answers = [lambda handler: time.sleep(1)]
    assert (await refused(endpoint, openai_timeout_s=0.2)).failure is Failure.TIMEOUT


@pytest.mark.parametrize(
    "answer",
    [
        events(delta("Hel")),
        events(delta("Hel"), delta("", "content_filter"), USAGE, "[DONE]"),
        events(delta("Hel"), {"error": {"message": f"lost {KEY}"}}),
        events(delta("Hel"), "no json"),
    ],
    ids=["cut", "filtered", "error", "junk"],
)
async def test_half_an_answer_is_broken(endpoint, answer):
    endpoint.answers = [answer]
    error = await refused(endpoint, openai_api_key=KEY)
    assert error.failure is Failure.BROKEN
    assert KEY not in str(error)


async def test_leaving_hangs_up(endpoint):
    endpoint.answers = [events(*[delta("x" * 1000)] * 50_000)]
    async with engine_for(endpoint.url) as engine:
        pieces = engine.stream(CHAT)
        await anext(pieces)
        await pieces.aclose()
        assert endpoint.hung_up.wait(5)


def refuses(parameter: str, message: str) -> Answer:
    """Refuses requests with the parameter, and answers others."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = handler.server.endpoint.bodies[-1]
        (failure(400, message) if parameter in body else GOOD)(handler)

    return answer


async def test_an_endpoint_that_takes_one_temperature_gets_it(endpoint):
    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked = endpoint.bodies[-1].get("temperature")
        (GOOD if asked == 1 else failure(400, "Unsupported value: 'temperature' does not support 0"))(handler)

    endpoint.answers = [answer]
    async with engine_for(endpoint.url) as engine:
        for _ in range(2):
            assert "".join([piece.text async for piece in engine.stream(CHAT)]) == "Hello"
    assert [body["temperature"] for body in endpoint.bodies] == [0, 1, 1]


@pytest.mark.parametrize(
    ("parameter", "message", "instead"),
    [
        ("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
         {"max_completion_tokens": 5}),
        ("temperature", "Unsupported value: 'temperature' does not support 0 with this model.", {}),
        ("stream_options", "body.stream_options: Extra inputs are not permitted", {}),
    ],
)  # fmt: skip
async def test_a_refused_parameter_is_learned_once(endpoint, parameter, message, instead):
    endpoint.answers = [refuses(parameter, message)]
    async with engine_for(endpoint.url) as engine:
        for _ in range(2):
            assert "".join([piece.text async for piece in engine.stream(CHAT)]) == "Hello"
    *refused, first, second = [parameter in body for body in endpoint.bodies]
    assert all(refused)
    assert not first
    assert not second
    assert instead.items() <= endpoint.bodies[-1].items()


async def test_other_refusals_are_the_callers(endpoint):
    endpoint.answers = [failure(400, "max_tokens is too large: 5")]
    assert (await refused(endpoint)).failure is Failure.INVALID
    assert len(endpoint.bodies) == 1


def thinking(text: str, finish: str | None = None, name: str = "reasoning_content") -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {name: text}, "finish_reason": finish}]}


CUT_SHORT = {
    "tags": events(delta("<thi"), delta("nk>\nOkay,"), delta(" so", "length"), USAGE, "[DONE]"),
    "reasoning_content": events(thinking("Okay,"), thinking(" so", "length"), USAGE, "[DONE]"),
    "reasoning": events(thinking("Okay,", "length", "reasoning"), USAGE, "[DONE]"),
}


@pytest.mark.parametrize("way", CUT_SHORT)
async def test_an_endpoint_that_thinks_gets_room_for_it_once_it_is_seen(endpoint, way):
    endpoint.answers = [CUT_SHORT[way], GOOD]
    async with engine_for(endpoint.url) as engine:
        for spent in (2, 1):
            *pieces, last = [piece async for piece in engine.stream(CHAT)]
            assert "".join(piece.text for piece in pieces) == "Hello"
            assert (last.prompt_tokens, last.completion_tokens) == (9 * spent, 2 * spent)
    assert [body["max_tokens"] for body in endpoint.bodies] == [5, 5 + THINKING_TOKENS, 5 + THINKING_TOKENS]


@pytest.mark.parametrize("way", CUT_SHORT)
@pytest.mark.parametrize(("setting", "asked"), [(None, [5, 5 + THINKING_TOKENS]), (0, [5]), (100, [105])])
async def test_thinking_is_not_an_answer(endpoint, way, setting, asked):
    endpoint.answers = [CUT_SHORT[way]]
    error = await refused(endpoint, openai_thinking_tokens=setting)
    assert error.failure is Failure.BROKEN
    assert "GENERATOR_OPENAI_THINKING_TOKENS" in error.message
    assert [body["max_tokens"] for body in endpoint.bodies] == asked


async def test_thinking_before_an_answer_and_in_a_searchers_move_comes_as_it_is(endpoint):
    endpoint.answers = [events(delta("<think>It says"), delta(" 1911.</think>"), delta("\n1911", "stop"), "[DONE]")]
    assert "".join(piece.text for piece in await collect(endpoint)) == "<think>It says 1911.</think>\n1911"
    endpoint.answers = [CUT_SHORT["tags"]]
    move = Request(Sampling(max_tokens=5, stop=("</search>",)), messages=CHAT.messages)
    pieces = await collect(endpoint, move)
    assert "".join(piece.text for piece in pieces) == "<think>\nOkay, so"
    assert pieces[-1].finish_reason is FinishReason.LENGTH


async def test_a_lone_surrogate_does_no_harm(endpoint):
    endpoint.answers = [events(delta("19\ud83d11", "stop"), "[DONE]")]
    assert (await collect(endpoint))[0].text == "19\ufffd11"


async def test_the_model_is_not_ours():
    async with engine_for("http://127.0.0.1:9/v1", openai_dialect="vllm") as engine:
        assert await engine.info("base") == ModelInfo("big@remote", "openai", 0, grammar=True)
        with pytest.raises(GeneratorError) as caught:
            await engine.load("default", "other", "")
    assert caught.value.failure is Failure.UNSUPPORTED
