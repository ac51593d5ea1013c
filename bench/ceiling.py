"""Measures vLLM's own ceiling of recorded calls: `python -m bench.ceiling --calls FILE --model FOLDER --out FILE`.

The calls are those of `bench.agents --calls`. vLLM's offline engine gets the same prompts as token ids, all at once,
and writes as many tokens for each as were written then: no service, no search and no grammar, and nothing waits for an
earlier turn. As in play, a question's later calls come soon after its earlier ones, so that the prefix cache serves
both alike.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from bench.agents import Call
from common.control_tokens import ChatTokenizer
from search_agent.types import Message
from services.generator.vllm_model import graphs


def load(file: Path) -> list[list[Call]]:
    """Reads the calls of each question."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [[Call(**call) for call in json.loads(line)] for line in lines]


def in_turns(played: Sequence[Sequence[Call]], at_once: int) -> Iterator[Call]:
    """Yields the first calls of `at_once` questions, then their second calls, and so on, then those of the next."""
    for start in range(0, len(played), at_once):
        for turn in zip_longest(*played[start : start + at_once]):
            yield from (call for call in turn if call)


class Offline:
    """vLLM's offline engine, with an adapter for each model of the calls that has one."""

    def __init__(self, model: str, adapters: Mapping[str, str], arguments: Mapping[str, Any]) -> None:
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        more = {"enable_lora": True, "max_loras": len(adapters)} if adapters else {}
        self._llm: Any = LLM(model=model, enable_prefix_caching=True, **more, **arguments)
        self._chat = ChatTokenizer(self._llm.get_tokenizer())
        self._adapters = {
            name: LoRARequest(name, number, path) for number, (name, path) in enumerate(adapters.items(), 1)
        }

    def seconds(self, calls: Sequence[Call]) -> float:
        """Returns the seconds that the engine takes for all calls, without tokenizing them."""
        prompts = [self._chat.chat([Message(*said) for said in call.messages]) for call in calls]
        models = [call.model for call in calls]
        lengths = [call.wrote for call in calls]
        self._write([ids[::-1] for ids in prompts[:64]], models, lengths)  # warms up; nothing of it is in the cache
        started = time.perf_counter()
        self._write(prompts, models, lengths)
        return time.perf_counter() - started

    def _write(self, prompts: Sequence[list[int]], models: Sequence[str], lengths: Sequence[int]) -> None:
        from vllm import SamplingParams, TokensPrompt

        self._llm.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in prompts],
            [SamplingParams(max_tokens=max(1, n), ignore_eos=True, temperature=0.0) for n in lengths[: len(prompts)]],
            lora_request=[self._adapters.get(name) for name in models[: len(prompts)]],
            use_tqdm=False,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.ceiling", description=__doc__)
    parser.add_argument("--calls", type=Path, required=True, metavar="FILE")
    parser.add_argument("--played", type=Path, metavar="FILE", help="bench.agents' result, to print its share")
    parser.add_argument("--at-once", type=int, default=256, help="as in bench.agents (default: %(default)s)")
    parser.add_argument("--model", required=True, metavar="FOLDER")
    parser.add_argument(
        "--adapters", default="{}", help="folders by the models' names, searcher and generator, as JSON"
    )
    parser.add_argument("--arguments", default="{}", help="vLLM's engine arguments as JSON")
    parser.add_argument("--graph-tokens", type=int, default=0, help="as GENERATOR_GRAPH_TOKENS (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    arguments = graphs(args.graph_tokens) | json.loads(args.arguments)
    engine = Offline(args.model, json.loads(args.adapters), arguments)
    played = load(args.calls)
    calls = list(in_turns(played, args.at_once))
    seconds = engine.seconds(calls)
    result: dict[str, Any] = {
        "questions": len(played),
        "questions_per_s": len(played) / seconds,
        "tokens_read_per_s": sum(call.read for call in calls) / seconds,
        "tokens_written_per_s": sum(call.wrote for call in calls) / seconds,
    }
    if args.played:
        result["share"] = json.loads(args.played.read_text())["questions_per_s"] / result["questions_per_s"]
    print({name: round(value, 3) for name, value in result.items()})
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
