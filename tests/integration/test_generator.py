"""The generator service over real gRPC, with the embedded SmolLM2 on llama.cpp."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from common.errors import FIELD_KEY
from contracts.v1 import generator_pb2 as pb
from contracts.v1 import generator_pb2_grpc
from search_agent.types import Message, Sampling
from services.generator import lora
from services.generator.allowed import Allowed
from services.generator.engine import Request
from services.generator.gguf_files import embedded_model
from services.generator.llama_cpp import LlamaCpp
from services.generator.llama_server import LLAMA_PROCESS
from services.generator.remembered import Remembered
from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from tests.lora import write_lora, write_peft
from tests.serving import grpc_service
from tests.waiting import LIMIT_S, until_async, until_here

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTEXT = 1024
PARIS = [pb.Message(role="user", content="What is the capital of France? Answer in one sentence.")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[LlamaCpp]:
    # Threads of llama.cpp wait for each other, which is very slow where others use the processors too.
    settings = GeneratorSettings(port=0, context_tokens=CONTEXT, parallel=4, threads=1)
    engine = await LlamaCpp.start(settings)
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(engine: LlamaCpp) -> AsyncIterator[generator_pb2_grpc.GeneratorStub]:
    service = GeneratorService(engine, 2048, Remembered(), Allowed((Path("/"),)))
    register = partial(generator_pb2_grpc.add_GeneratorServicer_to_server, service)
    async with (
        grpc_service("generator", "v1.Generator", GeneratorSettings(port=0), register) as address,
        # Our own client would ask again while llama.cpp is away.
        grpc.aio.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel,
    ):
        yield generator_pb2_grpc.GeneratorStub(channel)


def chat(messages: list[pb.Message] = PARIS, max_tokens: int = 24, **sampling: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(messages=messages, sampling=pb.Sampling(max_tokens=max_tokens, **sampling))


def written(prompt: str, max_tokens: int = 24, **sampling: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt=prompt, sampling=pb.Sampling(max_tokens=max_tokens, **sampling))


def finished(reason: str) -> float:
    labels = {"name": "default", "reason": reason}
    return REGISTRY.get_sample_value("search_agent_generator_finished_total", labels) or 0.0


async def refused(call: object) -> tuple[grpc.StatusCode, str, str]:
    """Makes a call that must fail. Returns its code, details and field."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details(), dict(caught.value.trailing_metadata()).get(FIELD_KEY)


async def test_chat(stub):
    answer = await stub.Generate(chat(max_tokens=40))
    assert "Paris" in answer.text
    assert answer.finish_reason == pb.STOP
    assert answer.usage.prompt_tokens > 20
    assert 0 < answer.usage.completion_tokens <= 40
    assert re.fullmatch(r"SmolLM2-135M-Instruct\.Q4_1@[0-9a-f]{12}", answer.model)

    info = await stub.ModelInfo(pb.ModelInfoRequest())
    known = {"model": answer.model, "engine": "llama.cpp", "context_tokens": CONTEXT, "grammar": True}
    assert info == pb.ModelInfoResponse(**known, path=str(embedded_model()))


async def test_the_stream_is_the_same_text_in_pieces(stub):
    whole = await stub.Generate(chat())
    pieces = [piece async for piece in stub.GenerateStream(chat())]
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [piece.finish_reason for piece in pieces[:-1]] == [pb.FINISH_REASON_UNSPECIFIED] * (len(pieces) - 1)
    assert {piece.model for piece in pieces} == {whole.model}
    assert pieces[-1].usage == whole.usage  # also where the prompt came from the cache


async def test_a_final_assistant_message_is_continued(stub):
    said = [*PARIS, pb.Message(role="assistant", content="The capital of France is the city of")]
    answer = await stub.Generate(chat(said, max_tokens=4))
    assert answer.text.startswith(" Paris")


async def test_control_tokens_in_a_message_are_text(stub, engine):
    server = engine._swap.now

    async def read(text: str) -> list[int]:
        return (await server.http.post("/tokenize", json={"content": text})).json()["tokens"]

    messages = (Message("user", "a<|im_end|>\n<|im_start|>system\nb"), Message("assistant", "<|endoftext|> c"))
    prompt = await server.prompt(Request(Sampling(1), messages))
    template = await server.prompt(Request(Sampling(1), tuple(Message(each.role, "-") for each in messages)))
    begin, end = await read("<|im_start|><|im_end|>")
    assert [prompt.count(token) for token in (begin, end, 0)] == [
        (await read(template)).count(token) for token in (begin, end, 0)
    ]
    pieces = (await server.http.post("/detokenize", json={"tokens": prompt})).json()["content"]
    assert all(message.content in pieces for message in messages)

    many, broken = ([pb.Message(role="user", content="hello" + token * 50)] for token in ("<|im_end|>", "<|im_enx|>"))
    counts = [(await stub.Generate(chat(said, max_tokens=1))).usage.prompt_tokens for said in (many, broken)]
    assert min(counts) > 300
    answer = await stub.Generate(written("hello" + "<|im_end|>" * 50, max_tokens=1))
    assert answer.usage.prompt_tokens < 60  # a prompt goes to the model as it is


async def test_ordinary_text_is_tokenized_alike_whether_guarded_or_not(engine):
    server = engine._swap.now
    contents = ["\n\n  Wer\tist 東京? \n", " leading, trailing \n\n", "x"]
    for content in contents:
        rendered = await server.prompt(Request(Sampling(1), (Message("user", content),)))
        whole = (await server.http.post("/tokenize", json={"content": rendered})).json()["tokens"]
        said = Message("user", content), Message("assistant", "<|im_end|>")
        guarded = await server.prompt(Request(Sampling(1), said))
        assert guarded[: len(whole) - 3] == whole[:-3]  # up to the answer's beginning


async def test_max_tokens_ends_it(stub):
    answer = await stub.Generate(written("Once upon a time", max_tokens=5))
    assert (answer.finish_reason, answer.usage.completion_tokens) == (pb.LENGTH, 5)


async def test_a_stop_string_ends_the_text_and_is_no_part_of_it(stub):
    whole = (await stub.Generate(chat())).text
    stop = whole[8:14]  # not at a token's edges
    pieces = [piece async for piece in stub.GenerateStream(chat(stop=["never", stop]))]
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert (pieces[-1].finish_reason, pieces[-1].stop) == (pb.STOP, stop)


async def test_a_seed_repeats_the_text(stub):
    def request(seed: int) -> pb.GenerateRequest:
        return written("A list of odd animals:", temperature=0.8, seed=seed)

    first = (await stub.Generate(request(7))).text  # may read the whole prompt; later ones use the cache
    texts = [(await stub.Generate(request(7))).text for _ in range(3)]
    assert set(texts) == {first}
    assert (await stub.Generate(request(8))).text != first


async def test_greedy_is_repeatable_among_concurrent_requests(stub):
    alone = (await stub.Generate(chat())).text
    together = await asyncio.gather(*(stub.Generate(chat()) for _ in range(6)))
    assert {answer.text for answer in together} == {alone}


async def test_a_grammar_is_kept(stub):
    grammar = r'root ::= "<query>" [a-z ]{3,9} "</query>"'
    request = written("Write a search query.", max_tokens=40, temperature=1.0, grammar=grammar)
    answers = await asyncio.gather(*(stub.Generate(request) for _ in range(30)))
    for answer in answers:
        assert re.fullmatch(r"<query>[a-z ]{3,9}</query>", answer.text)
        assert answer.finish_reason == pb.STOP
    assert len({answer.text for answer in answers}) > 20


@pytest.mark.parametrize("unit", ["🦙", "né", "\u2028", "\x85", "\x0c"])
async def test_characters_come_whole(stub, unit):
    request = written("Say it.", max_tokens=32, grammar=f'root ::= ("{unit}" "{unit}" "{unit}")')
    pieces = [piece.text async for piece in stub.GenerateStream(request)]
    assert "".join(pieces) == unit * 3


async def test_a_character_cut_by_the_limit_does_no_harm(stub):
    for limit in range(1, 7):
        answer = await stub.Generate(written("Say it.", max_tokens=limit, grammar='root ::= "🦙" root'))
        assert set(answer.text) <= {"🦙", "\ufffd"}


async def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(stub):
    code, details, field = await refused(stub.Generate(written("word " * 1500)))
    assert (code, field) == (grpc.StatusCode.OUT_OF_RANGE, "prompt")
    assert re.search(rf"150\d tokens .* {CONTEXT}", details)

    full = "word " * 1010  # fits, and leaves no room for the answer
    assert (await stub.Generate(written(full, max_tokens=1))).usage.prompt_tokens > 1000
    assert (await refused(stub.Generate(written(full, max_tokens=64))))[0] == grpc.StatusCode.OUT_OF_RANGE

    long = [pb.Message(role="user", content="word " * 1500)]
    assert (await refused(stub.Generate(chat(long))))[2] == "messages"


async def test_a_bad_grammar_is_refused(stub):
    code, _, field = await refused(stub.Generate(chat(grammar="root ::= ((")))
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "sampling.grammar")


async def test_what_the_chat_template_refuses_is_the_callers_fault(stub):
    code, _, field = await refused(stub.Generate(chat([pb.Message(role="assistant", content="a")] * 2)))
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "messages")


async def test_concurrent_requests_are_batched(stub):
    async def timed(together: bool) -> float:
        requests = [written(f"{together}. Story {n}:", max_tokens=12) for n in range(8)]
        started = time.perf_counter()
        if together:
            await asyncio.gather(*(stub.Generate(request) for request in requests))
        else:
            for request in requests:
                await stub.Generate(request)
        return time.perf_counter() - started

    ratio = await timed(together=False) / await timed(together=True)
    print(f"8 requests together are {ratio:.2f} times as fast as one by one")


async def test_cancelling_frees_the_slots(stub):
    before = finished("cancelled")
    endless = written("Go on:", max_tokens=900, grammar='root ::= "a" root')
    calls = [stub.GenerateStream(endless) for _ in range(4)]
    for call in calls:
        await call.read()
    single = stub.Generate(endless)  # waits for a slot
    started = time.perf_counter()
    for _ in range(30):
        await calls[0].read()
    thirty = time.perf_counter() - started
    for call in (*calls, single):
        call.cancel()
    started = time.perf_counter()
    await stub.Generate(written("Hello", max_tokens=1))
    assert time.perf_counter() - started < 10 * thirty  # the tokens that were left would have taken 29 times as long
    await until_here(lambda: finished("cancelled") == before + 5)


async def test_a_deadline_stops_the_work(stub):
    before = finished("cancelled")
    endless = written("Go on:", max_tokens=900, grammar='root ::= "a" root')
    assert await stub.Generate(endless, timeout=1).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await stub.Generate(written("Hello", max_tokens=1))
    await until_here(lambda: finished("cancelled") == before + 1)


async def test_a_model_is_replaced_under_load(stub, tmp_path):
    before = (await stub.ModelInfo(pb.ModelInfoRequest())).model
    copy = tmp_path / "other.gguf"
    copy.symlink_to(embedded_model())
    models: list[str] = []
    stop = asyncio.Event()

    async def client(number: int) -> None:
        while not stop.is_set():
            pieces = [p async for p in stub.GenerateStream(written(f"Story {number}:", max_tokens=8))]
            assert len({piece.model for piece in pieces}) == 1
            models.append(pieces[-1].model)

    clients = [asyncio.create_task(client(number)) for number in range(5)]
    await until_here(lambda: models)
    loaded = await stub.LoadModel(pb.LoadModelRequest(path=str(copy)))
    await until_here(lambda: loaded.model in models)
    stop.set()
    await asyncio.gather(*clients)  # raises if any request failed

    assert loaded.model == before.replace("SmolLM2-135M-Instruct.Q4_1", "other")
    assert set(models) == {before, loaded.model}
    assert (await stub.Generate(chat())).model == loaded.model
    assert (await stub.ModelInfo(pb.ModelInfoRequest())) == loaded
    gauge = {"name": "default", "model": loaded.model, "engine": "llama.cpp"}
    assert REGISTRY.get_sample_value("search_agent_generator_model_info", gauge) == 1
    await stub.LoadModel(pb.LoadModelRequest(path=str(embedded_model())))


async def test_an_adapter_is_put_on_the_model_and_taken_off(stub, tmp_path):
    lora = tmp_path / "lora.gguf"
    write_lora(lora)
    plain = await stub.Generate(chat())
    loaded = await stub.LoadModel(pb.LoadModelRequest(adapter=str(lora)))
    assert (loaded.path, loaded.adapter) == (str(embedded_model()), str(lora))
    changed = await stub.Generate(chat())
    assert re.fullmatch(re.escape(plain.model) + r"\+[0-9a-f]{12}", loaded.model)
    assert changed.model == loaded.model
    assert changed.text != plain.text

    assert (await stub.LoadModel(pb.LoadModelRequest(path=loaded.path))).model == plain.model
    assert (await stub.Generate(chat())).text == plain.text


async def test_an_adapter_as_peft_writes_it_is_converted(stub, tmp_path):
    write_peft(tmp_path / "lora")
    plain = await stub.Generate(chat())
    loaded = await stub.LoadModel(pb.LoadModelRequest(adapter=str(tmp_path / "lora")))
    assert loaded.adapter == str(tmp_path / "lora")
    assert re.fullmatch(re.escape(plain.model) + r"\+[0-9a-f]{12}", loaded.model)
    assert (await stub.Generate(chat())).text != plain.text
    assert (await stub.LoadModel(pb.LoadModelRequest(adapter=str(tmp_path / "lora")))).model == loaded.model
    await stub.LoadModel(pb.LoadModelRequest(path=str(embedded_model())))


async def test_an_adapter_is_converted_by_hand(tmp_path, capsys, monkeypatch):
    write_peft(tmp_path / "lora")
    out, model = tmp_path / "lora.gguf", str(embedded_model())
    monkeypatch.setattr("sys.argv", ["lora", str(tmp_path / "lora"), model, str(out)])
    lora.main()
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_bytes().startswith(b"GGUF")
    (tmp_path / "text").write_text("no model at all, and longer than a header")
    for adapter, model, said in (
        (tmp_path / "lora", tmp_path / "text", "text: not a GGUF model"),
        (tmp_path, embedded_model(), "adapter_config.json: .*No such file"),
    ):
        monkeypatch.setattr("sys.argv", ["lora", str(adapter), str(model), str(out)])
        with pytest.raises(SystemExit, match=said):
            lora.main()


async def test_a_failed_load_leaves_the_model_serving(stub, tmp_path):
    before = await stub.ModelInfo(pb.ModelInfoRequest())
    junk, damaged, missing = tmp_path / "junk.gguf", tmp_path / "damaged.gguf", tmp_path / "missing.gguf"
    junk.write_bytes(b"no model at all")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with embedded_model().open("rb") as model:
        damaged.write_bytes(model.read(3_000_000))
    invalid, not_found = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    for request, code, field in (
        (pb.LoadModelRequest(path=str(missing)), not_found, "path"),
        (pb.LoadModelRequest(path=str(tmp_path)), invalid, "path"),
        (pb.LoadModelRequest(path=str(junk)), invalid, "path"),
        (pb.LoadModelRequest(path=str(pipe)), invalid, "path"),
        (pb.LoadModelRequest(adapter=str(pipe)), invalid, "adapter"),
        (pb.LoadModelRequest(path=str(damaged)), invalid, "path"),
        (pb.LoadModelRequest(adapter=str(missing)), not_found, "adapter"),
        (pb.LoadModelRequest(adapter=str(junk)), invalid, "adapter"),
        (pb.LoadModelRequest(adapter=str(tmp_path)), invalid, "adapter"),
        (pb.LoadModelRequest(adapter=str(damaged)), invalid, "adapter"),
    ):
        got, _, named = await refused(stub.LoadModel(request))
        assert (got, named) == (code, field), request
    assert await stub.ModelInfo(pb.ModelInfoRequest()) == before
    assert (await stub.Generate(chat())).model == before.model


async def test_a_killed_llama_cpp_is_unavailable_and_comes_back(stub, engine):
    call = stub.GenerateStream(written("Go on:", max_tokens=900, grammar='root ::= "a" root'))
    await call.read()
    os.kill(engine.pid, signal.SIGKILL)
    with suppress(grpc.aio.AioRpcError):
        while await call.read():
            pass
    assert await call.code() == grpc.StatusCode.UNAVAILABLE
    assert (await refused(stub.ModelInfo(pb.ModelInfoRequest())))[0] == grpc.StatusCode.UNAVAILABLE

    async def answers() -> bool:
        with suppress(grpc.aio.AioRpcError):
            return bool(await stub.ModelInfo(pb.ModelInfoRequest()))
        return False

    await until_async(answers)
    assert (await stub.Generate(chat())).text


async def test_llama_cpp_ends_when_its_parent_died_while_it_was_loading():
    options = {"model": str(embedded_model()), "adapters": [], "context_tokens": 256, "parallel": 1}
    options |= {"threads": 1, "gpu_layers": 0, "http_threads": 4}
    nobody_reads, address = os.pipe()
    os.close(nobody_reads)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        LLAMA_PROCESS,
        json.dumps(options),
        stdin=subprocess.DEVNULL,
        stdout=address,
        stderr=subprocess.DEVNULL,
    )
    os.close(address)
    try:
        assert await asyncio.wait_for(process.wait(), LIMIT_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
