"""The engine of a library, over a model that writes what the test says; vLLM itself needs a GPU."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from common.control_tokens import ChatTokenizer
from search_agent.errors import Failure, GeneratorError
from search_agent.types import Completion, FinishReason, Message, Sampling
from services.generator.engine import Request
from services.generator.kept_prompts import KeptPrompts
from services.generator.library_engine import Dead, Delta, LibraryEngine
from services.generator.settings import GeneratorSettings
from services.generator.vllm_model import Vllm, tokens
from tests.waiting import LIMIT_S, until_here

ASK = Request(Sampling(max_tokens=8), messages=(Message("user", "Hi"),), model="default")


class FakeModel:
    """Writes "one ", "two ", "end", waiting for `go` before the second; its prompt is a token a character."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.adapters: set[int] = set()
        self.used: list[int] = []
        self.go = asyncio.Event()
        self.go.set()
        self.fails: Exception | None = None
        self.finish = "stop"
        self.is_dead = self.is_worn = self.closed = self.left_early = self.silent = False
        self.waits = asyncio.Event()

    def tokens(self, request: Request) -> list[int]:
        if request.messages and request.messages[0].content == "no template":
            raise ValueError("this model has no chat template\nand more")
        if request.prompt == "no tokens":
            raise RuntimeError("the tokenizer failed")
        return [ord(each) for each in request.prompt or request.messages[-1].content]

    async def generate(self, prompt: list[int], sampling: Sampling, adapter: int) -> AsyncGenerator[Delta, None]:
        self.used.append(adapter)
        self.asked = sampling
        done = False
        try:
            yield Delta("one ", 1)
            await self.go.wait()
            if self.fails:
                raise self.fails
            yield Delta("two ", 2)
            done = True
            yield Delta("end", 1, self.finish, "." if self.finish == "stop" else "")
        finally:
            self.left_early = not done

    async def add(self, adapter: int, path: str) -> None:
        if "bad" in path:
            raise ValueError("rank 128 is above 64")
        if "huge" in path:
            raise RuntimeError("no memory for a copy")
        if self.silent:
            self.waits.set()
            await asyncio.Event().wait()
        self.adapters.add(adapter)

    async def remove(self, adapter: int) -> None:
        self.adapters.remove(adapter)

    def dead(self) -> bool:
        return self.is_dead

    def worn(self) -> bool:
        return self.is_worn

    def close(self) -> None:
        self.closed = True


class Launcher(Vllm):
    def __init__(self) -> None:
        self.models: list[FakeModel] = []
        self.refuses: str | Exception = ""
        self.asked = 0
        self.beside: list[FakeModel] = []  # models that were not closed when the last one was started

    def launch(self, path: str) -> FakeModel:
        self.asked += 1
        if self.refuses:
            raise self.refuses if isinstance(self.refuses, Exception) else ValueError(self.refuses)
        self.beside = [model for model in self.models if not model.closed]
        self.models.append(FakeModel(path))
        return self.models[-1]


def weights(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    return {
        "model": str(weights(tmp_path / "model", "model.safetensors", b"one")),
        "other": str(weights(tmp_path / "other", "model.safetensors", b"two")),
        "a": str(weights(tmp_path / "a", "adapter_model.safetensors", b"three")),
        "b": str(weights(tmp_path / "b", "adapter_model.safetensors", b"four")),
        "bad": str(weights(tmp_path / "bad", "adapter_model.safetensors", b"five")),
        "huge": str(weights(tmp_path / "huge", "adapter_model.safetensors", b"six")),
        "empty": str(weights(tmp_path / "empty", "README", b"")),
        "torn": str(weights(tmp_path / "torn", "README", b"")),
    }


@pytest.fixture
async def engine(folders):
    launcher = Launcher()
    settings = GeneratorSettings(
        engine="vllm", model=folders["model"], adapters={"default": folders["a"]}, context_tokens=64
    )
    engine = await LibraryEngine.start(settings, launcher)
    engine.launcher = launcher
    yield engine
    await engine.close()


async def pieces(engine: LibraryEngine, request: Request = ASK) -> list[Completion]:
    return [piece async for piece in engine.stream(request)]


async def begun(engine: LibraryEngine) -> tuple[FakeModel, AsyncGenerator[Completion, None], str]:
    """A request that waits for its model's `go`: the only model, the rest of the text, and the name it answers by."""
    (model,) = engine.launcher.models
    model.go.clear()
    stream = engine.stream(ASK)
    return model, stream, (await anext(stream)).model


async def failure(engine: LibraryEngine, request: Request) -> GeneratorError:
    with pytest.raises(GeneratorError) as caught:
        await pieces(engine, request)
    return caught.value


async def settled(engine: LibraryEngine) -> None:
    while tasks := engine._swap._tasks:
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_text_comes_in_pieces_with_counts_at_the_end(engine):
    first, second, last = await pieces(engine)
    assert (first.text, second.text, last.text) == ("one ", "two ", "end")
    assert (last.finish_reason, last.prompt_tokens, last.completion_tokens, last.stop) == (FinishReason.STOP, 2, 4, ".")
    name, version = last.model.split("@")
    assert name == "model"
    assert len(version) == 12 + 1 + 12
    assert first.finish_reason is None


async def test_requests_that_do_not_fit_or_are_refused(engine, folders):
    long = await failure(engine, replace(ASK, sampling=Sampling(max_tokens=16), messages=(), prompt="1" * 60))
    assert (long.failure, long.field, long.excess) == (Failure.TOO_LONG, "prompt", 60 / 48)
    assert "60 tokens do not fit the 48 that a context of 64 has for them" in long.message
    assert (await failure(engine, replace(ASK, messages=(), prompt="no tokens"))).failure is Failure.BROKEN
    template = await failure(engine, replace(ASK, messages=(Message("user", "no template"),)))
    assert (template.field, template.message) == ("messages", "this model has no chat template")
    (model,) = engine.launcher.models
    model.fails = ValueError("Failed to compile the grammar: line 1")
    grammar = await failure(engine, ASK)
    assert (grammar.failure, grammar.field) == (Failure.INVALID, "sampling.grammar")
    model.fails = RuntimeError("out of memory")
    assert (await failure(engine, ASK)).failure is Failure.BROKEN
    model.fails, model.finish = None, "abort"
    assert "abort" in (await failure(engine, ASK)).message


async def test_a_request_for_more_than_fits_gets_what_is_left(engine):
    (model,) = engine.launcher.models
    await pieces(engine, replace(ASK, sampling=Sampling(max_tokens=1000), messages=(), prompt="1" * 30))
    assert model.asked.max_tokens == 34


async def test_leaving_early_ends_the_work(engine):
    (model,) = engine.launcher.models
    stream = engine.stream(ASK)
    await anext(stream)
    await stream.aclose()
    assert model.left_early


async def test_another_adapter_while_a_request_is_under_way(engine, folders):
    model, stream, before = await begun(engine)
    info = await engine.load("default", "", folders["b"])
    assert (info.path, info.adapter) == (folders["model"], folders["b"])
    assert info.model != before
    assert model.adapters == {1, 2}  # the old one stays for as long as it is used
    model.go.set()
    assert {piece.model async for piece in stream} == {before}
    await settled(engine)
    assert model.adapters == {2}
    assert {piece.model for piece in await pieces(engine)} == {info.model}
    assert model.used == [1, 2]
    assert (await engine.load("default", "", "")).adapter == ""
    assert len(engine.launcher.models) == 1


async def test_another_model_while_a_request_is_under_way(engine, folders):
    old, stream, before = await begun(engine)
    info = await engine.load("default", folders["other"], "")
    assert info.model.startswith("other@")
    assert not old.closed
    assert {piece.model for piece in await pieces(engine)} == {info.model}
    old.go.set()
    assert {piece.model async for piece in stream} == {before}
    await settled(engine)
    assert old.closed


async def test_a_model_stays_for_requests_on_an_adapter_that_it_had_before(engine, folders):
    old, stream, _ = await begun(engine)
    await engine.load("default", "", folders["b"])
    await engine.load("default", folders["other"], "")
    await asyncio.sleep(0.05)
    assert not old.closed
    old.go.set()
    assert [piece.text async for piece in stream] == ["two ", "end"]
    await settled(engine)
    assert old.closed


async def test_closing_ends_the_model_that_requests_are_still_under_way_on(engine, folders):
    _, stream, _ = await begun(engine)
    await engine.load("default", folders["other"], "")
    await engine.close()
    assert [model.closed for model in engine.launcher.models] == [True, True]
    await stream.aclose()


@pytest.fixture
async def two(folders):
    """An engine with two adapters beside the bare model."""
    launcher = Launcher()
    adapters = {"searcher": folders["a"], "reader": folders["b"]}
    engine = await LibraryEngine.start(
        GeneratorSettings(engine="vllm", model=folders["model"], adapters=adapters), launcher
    )
    engine.launcher = launcher
    yield engine
    await engine.close()


async def test_adapters_and_the_bare_model_serve_side_by_side(two, folders):
    answers = [await pieces(two, replace(ASK, model=name)) for name in ("searcher", "reader", "base")]
    (model,) = two.launcher.models
    assert model.used == [1, 2, 0]
    told = [answer[-1].model for answer in answers]
    assert told == [(await two.info(name)).model for name in ("searcher", "reader", "base")]
    assert [len(each.partition("@")[2]) for each in told] == [25, 25, 12]
    assert len(set(told)) == 3


async def test_a_load_changes_one_name_whatever_has_become_of_the_others_files(two, folders, tmp_path):
    reader, base = await two.info("reader"), await two.info("base")
    new = str(weights(tmp_path / "new", "adapter_model.safetensors", b"six"))
    (Path(folders["b"]) / "adapter_model.safetensors").unlink()
    weights(Path(folders["model"]), "model.safetensors", b"written anew")
    (model,) = two.launcher.models
    assert (await two.load("searcher", folders["model"], new)).adapter == new
    await settled(two)
    assert model.adapters == {2, 3}
    assert (await two.info("reader"), await two.info("base")) == (reader, base)
    with pytest.raises(GeneratorError) as caught:
        await two.load("searcher", folders["other"], "")
    assert (caught.value.failure, caught.value.field) == (Failure.UNSUPPORTED, "path")


async def test_a_version_is_that_of_the_weights_in_memory(engine, folders):
    before = (await engine.info("default")).model
    weights(Path(folders["model"]), "model.safetensors", b"written anew")
    assert (await engine.load("default", "", folders["a"])).model == before
    assert len(engine.launcher.models) == 1
    assert (await engine.load("default", folders["model"], folders["a"])).model != before
    assert len(engine.launcher.models) == 2


async def test_what_cannot_be_loaded_leaves_all_as_it_was(engine, folders):
    before = await engine.info("default")
    engine.launcher.refuses = "no room\non the GPU"
    (Path(folders["torn"]) / "model.safetensors").mkdir()
    for path, adapter, field, words in [
        ("", folders["bad"], "adapter", "rank 128 is above 64"),
        ("", folders["huge"], "adapter", "no memory for a copy"),
        ("", folders["empty"], "adapter", "no adapter_model.safetensors"),
        ("/no/such", "", "path", "no folder /no/such"),
        (folders["empty"], "", "path", "no *.safetensors"),
        (folders["torn"], "", "path", "cannot read"),
        (folders["other"], "", "path", "no room"),
    ]:
        with pytest.raises(GeneratorError) as caught:
            await engine.load("default", path, adapter)
        assert (caught.value.field, words in caught.value.message) == (field, True), caught.value
        assert await engine.info("default") == before
    assert len(await pieces(engine)) == 3


async def test_a_model_that_dies_is_started_again_with_its_adapter(engine):
    (old,) = engine.launcher.models
    before = await engine.info("default")
    old.fails, old.is_dead = Dead(), True
    for error in await asyncio.gather(*(failure(engine, ASK) for _ in range(3))):
        assert error.failure is Failure.UNAVAILABLE
    with pytest.raises(GeneratorError):
        await engine.info("default")
    await settled(engine)
    assert await engine.info("default") == before
    assert [model.adapters for model in engine.launcher.models[1:]] == [{2}]  # once, whoever saw it die
    assert old.closed
    assert {piece.model for piece in await pieces(engine)} == {before.model}


async def test_a_worn_model_serves_until_another_has_taken_its_place(engine):
    old, stream, before = await begun(engine)
    old.is_worn = True
    assert [(await anext(engine.stream(ASK))).model for _ in range(2)] == [before] * 2
    await until_here(lambda: engine._swap.now.running.model is not old)
    assert (len(engine.launcher.models), old.closed) == (2, False)
    assert {piece.model for piece in await pieces(engine)} == {before}
    old.go.set()
    assert [piece.text async for piece in stream] == ["two ", "end"]
    await settled(engine)
    assert old.closed


async def test_a_dead_model_is_closed_before_its_successor_starts(engine):
    (old,) = engine.launcher.models
    old.fails, old.is_dead = Dead(), True
    await failure(engine, ASK)
    await settled(engine)
    assert len(engine.launcher.models) == 2
    assert engine.launcher.beside == []


async def test_a_restart_that_fails_is_tried_again_once_for_all_who_see_it(engine):
    (old,) = engine.launcher.models
    old.fails, old.is_dead, engine.launcher.refuses = Dead(), True, "no room"
    for tries in (2, 3):
        await asyncio.gather(*(failure(engine, ASK) for _ in range(3)))
        await settled(engine)
        assert engine.launcher.asked == tries
    engine.launcher.refuses = ""
    await failure(engine, ASK)
    await settled(engine)
    assert len(await pieces(engine)) == 3


async def test_a_model_that_dies_while_it_loads_an_adapter_is_started_again(engine, folders):
    (old,) = engine.launcher.models
    old.silent = True
    loading = asyncio.create_task(engine.load("default", "", folders["b"]))
    await old.waits.wait()
    old.is_dead = True
    with pytest.raises(GeneratorError, match="vLLM died when it was to take") as caught:
        await asyncio.wait_for(loading, LIMIT_S)
    assert caught.value.failure is Failure.UNAVAILABLE
    with pytest.raises(GeneratorError, match="started again"):
        await engine.info("default")
    await settled(engine)
    assert (await engine.info("default")).adapter == folders["a"]


@dataclass
class Added:
    """An added token, as transformers keeps them."""

    content: str
    special: bool = True

    def __str__(self) -> str:
        return self.content


class Template:
    """A tokenizer of characters whose chat template writes each content between <1> and <2>, or raises."""

    added_tokens_decoder: ClassVar = {1: Added("<1>"), 2: Added("<2>"), 3: Added("<tool>", special=False)}

    def __init__(self, raises: Exception | None = None) -> None:
        self.raises = raises
        self.how: list[tuple[bool, bool]] = []

    def encode(self, text: str, add_special_tokens: bool = True, split_special_tokens: bool = False) -> list[int]:
        assert add_special_tokens != split_special_tokens
        return [*([0] if add_special_tokens else []), *map(ord, text)]

    def apply_chat_template(
        self,
        messages: list[dict[str, str]],
        add_generation_prompt: bool,
        continue_final_message: bool,
        tokenize: bool,
        return_dict: bool = True,
    ) -> object:
        if self.raises:
            raise self.raises
        self.how.append((add_generation_prompt, continue_final_message))
        text = "".join(f"<1>{message['content']}<2>" for message in messages)
        return [len(messages)] if tokenize and not return_dict else text


def ids(template: Template, request: Request) -> list[int]:
    return tokens(template, KeptPrompts(ChatTokenizer(template), most=8, longest=1000), request)


def test_a_prompt_of_messages_and_of_text():
    template = Template()
    assert ids(template, Request(ASK.sampling, prompt="a<2>")) == [0, *map(ord, "a<2>")]
    template.how.clear()
    assert ids(template, ASK) == [1]
    assert template.how[-1] == (True, False)
    assert ids(template, Request(ASK.sampling, (*ASK.messages, Message("assistant", "b")))) == [2]
    assert template.how[-1] == (False, True)


def test_control_tokens_in_a_message_are_text():
    said = Request(ASK.sampling, (Message("user", "a<2>"), Message("assistant", "<tool><1>")))
    assert ids(Template(), said) == [1, *map(ord, "a<2>"), 2, 1, *map(ord, "<tool><1>"), 2]


@pytest.mark.parametrize("kind", [type("TemplateError", (Exception,), {}), TypeError, KeyError])
def test_what_a_template_refuses_is_the_callers_error(kind: type[Exception]):
    with pytest.raises(ValueError, match="roles must alternate"):
        ids(Template(kind("roles must alternate")), ASK)


async def test_a_start_that_fails_names_what_is_wrong(folders):
    launcher = Launcher()
    for problem, words in [
        (TypeError("unexpected keyword argument 'fast'"), "argument 'fast'"),
        (ImportError("No module named 'vllm'"), "No module named 'vllm'"),
        (ValueError("1 validation error for LoRAConfig\nmax_lora_rank\n  Input should be 1, 8"), "should be 1, 8"),
    ]:
        launcher.refuses = problem
        with pytest.raises(GeneratorError, match=words):
            await LibraryEngine.start(GeneratorSettings(engine="vllm", model=folders["model"]), launcher)
    launcher.refuses = "no GPU"
    with pytest.raises(GeneratorError, match="vLLM does not start: no GPU"):
        await LibraryEngine.start(GeneratorSettings(engine="vllm", model=folders["model"]), launcher)
    bad, good = (
        GeneratorSettings(engine="vllm", model=folders["model"], adapters={"default": folders["bad"]}),
        Launcher(),
    )
    with pytest.raises(GeneratorError, match="rank 128"):
        await LibraryEngine.start(bad, good)
    assert good.models[0].closed


async def test_a_model_of_the_hub_goes_by_its_name(tmp_path):
    folder = tmp_path / "models--Qwen--Qwen2.5-7B-Instruct" / "snapshots" / "a09a35458c702b33eeacc393d103063234e8bc28"
    folder.mkdir(parents=True)
    weights(folder, "model.safetensors", b"one")
    engine = await LibraryEngine.start(GeneratorSettings(engine="vllm", model=str(folder)), Launcher())
    assert (await engine.info("default")).model.startswith("Qwen2.5-7B-Instruct@")
    await engine.close()
