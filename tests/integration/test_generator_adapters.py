"""One llama.cpp process that serves the embedded SmolLM2 bare and with two adapters."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from search_agent.types import Completion, Message, Sampling
from services.generator.engine import Request
from services.generator.llama_cpp import LlamaCpp
from services.generator.settings import GeneratorSettings
from tests.lora import write_lora, write_peft
from tests.waiting import until_here

SAID = (Message("user", "What is the capital of France? Answer in one sentence."),)


@asynccontextmanager
async def serving(adapters: Mapping[str, Path]) -> AsyncIterator[LlamaCpp]:
    named = {name: str(path) for name, path in adapters.items()}
    engine = await LlamaCpp.start(GeneratorSettings(context_tokens=512, parallel=3, threads=1, adapters=named))
    yield engine
    await engine.close()


async def asked(engine: LlamaCpp, name: str, tokens: int = 12) -> Completion:
    """Returns the end of the answer, with all of its text."""
    pieces = [piece async for piece in engine.stream(Request(Sampling(tokens), SAID, model=name))]
    return Completion("".join(piece.text for piece in pieces), model=pieces[-1].model)


async def test_each_name_answers_as_if_it_were_alone(tmp_path: Path) -> None:
    write_lora(tmp_path / "one.gguf")
    write_peft(tmp_path / "two")
    alone = {}
    for name, path in (("one", tmp_path / "one.gguf"), ("two", tmp_path / "two")):
        async with serving({name: path}) as engine:
            alone[name] = await asked(engine, name)
            alone["base"] = await asked(engine, "base")
    assert len({answer.text for answer in alone.values()}) == 3

    async with serving({"one": tmp_path / "one.gguf", "two": tmp_path / "two"}) as engine:
        # The prompt is the same each time: what is kept of it under one adapter must not be read under another.
        for name in ("one", "base", "two", "base", "one", "one", "two", "base"):
            assert await asked(engine, name) == alone[name]
        names = ["one", "two", "base"] * 3
        assert await asyncio.gather(*(asked(engine, name) for name in names)) == [alone[name] for name in names]
        assert {name: (await engine.info(name)).model for name in alone} == {
            name: answer.model for name, answer in alone.items()
        }

        # Another adapter under one name, while the others are asked and although their files have gone.
        (tmp_path / "one.gguf").rename(tmp_path / "moved.gguf")
        asking = asyncio.gather(*(asked(engine, name) for name in names))
        await asyncio.sleep(0)
        loaded = await engine.load("two", "", str(tmp_path / "moved.gguf"))
        assert await asking == [alone[name] for name in names]
        for name, expected in (("two", "one"), ("one", "one"), ("base", "base")):
            assert (await asked(engine, name)).text == alone[expected].text
        assert loaded.model == alone["one"].model

        # A process that dies is started again with the adapters that it served.
        died = engine.pid
        os.kill(died, signal.SIGKILL)
        await until_here(lambda: engine.pid != died)
        assert (await asked(engine, "one")).text == alone["one"].text
