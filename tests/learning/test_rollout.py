"""verl's own agent-loop worker and TransferQueue around our episodes, on a CPU, with a scripted model."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("verl")

import numpy as np
import ray
import transfer_queue as tq
import yaml
from omegaconf import OmegaConf
from ray.exceptions import RayTaskError
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ
from verl.utils import tensordict_utils as tu
from verl.workers.rollout.replica import TokenOutput

from common import run_config
from contracts.v1 import generator_pb2 as gpb
from contracts.v1 import retriever_pb2 as rpb
from contracts.v1.generator_pb2_grpc import GeneratorServicer, add_GeneratorServicer_to_server
from contracts.v1.retriever_pb2_grpc import RetrieverServicer, add_RetrieverServicer_to_server
from learning import train
from learning.episodes import Example, row_of
from learning.ppo import Sampler
from learning.rollout import NAME, registry
from learning.samples import DROPPED, RunStopped, settle
from search_agent.types import Passage, Question
from tests.learning.model import write_model

ANSWER = "Warsaw lies on the Vistula"
GOOD = (  # a search, then a choice
    "<search_complete>False</search_complete>",
    '\n<query>{"query": "a river"}</query>',
    "<important_info>[2]</important_info>\n<search_complete>True</search_complete>",
)
IDLE = "<important_info>[]</important_info>\n<search_complete>True</search_complete>"


class Services(RetrieverServicer, GeneratorServicer):
    """Serves retriever and generator: three passages for every query, and an answer if the right one is read.

    A question that contains "broken" finds no retriever.
    """

    async def Search(self, request: Any, context: Any) -> Any:
        if "broken" in request.queries[0]:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no index")
        passages = [rpb.Passage(id=f"p{n}", title=f"T{n}", text=f"text {n}", score=1.0) for n in (1, 2, 3)]
        return rpb.SearchResponse(results=[rpb.RankedPassages(passages=passages)])

    async def Generate(self, request: Any, context: Any) -> Any:
        text = ANSWER if "text 2" in request.messages[-1].content else "no idea"
        return gpb.GenerateResponse(text=text, finish_reason=gpb.STOP, model="frozen@1")


class ScriptedServer:
    """Takes the place of verl's engine client.

    The first sample of a prompt searches well, the others keep nothing. For a question that contains "hopeless" none
    searches. Each token of a prompt is worth its place in it.
    """

    def __init__(self, tokenizer: Any, temperature: float) -> None:
        self._tokenizer, self._temperature = tokenizer, temperature
        self._first: dict[str, str] = {}  # the first episode of a prompt
        self._turns: Counter[str] = Counter()

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        assert sampling_params["temperature"] == self._temperature  # verl's, not the agent's
        extra: dict[str, Any] = {"global_steps": 3, "min_global_steps": 3, "max_global_steps": 3}
        if sampling_params.get("prompt_logprobs") == 0:  # one for each token but the first, and one that fills
            extra["prompt_logprobs"] = [[float(place)] for place in range(1, len(prompt_ids))] + [[0.0]]
            return TokenOutput(token_ids=[0], log_probs=[0.0], stop_reason="completed", extra_fields=extra)
        assert sampling_params["stop"] == ["</query>", "</search_complete>"]
        question = self._tokenizer.decode(prompt_ids).partition("Question: ")[2].partition("\n")[0]
        searches = self._first.setdefault(question, request_id) == request_id and "hopeless" not in question
        text = GOOD[self._turns[request_id]] if searches else IDLE
        self._turns[request_id] += 1
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        return TokenOutput(token_ids=ids, log_probs=[-0.1] * len(ids), stop_reason="completed", extra_fields=extra)


@pytest.fixture(scope="module")
def queue() -> Iterator[None]:
    # "local": never a cluster that happens to run on this machine
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    backend = {"storage_backend": "SimpleStorage", "SimpleStorage": {"num_data_storage_units": 1}}
    tq.init(OmegaConf.create({"enable": True, "backend": backend}))
    yield
    tq.close()
    ray.shutdown()


@pytest.fixture
async def services() -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_RetrieverServicer_to_server(Services(), server)
    add_GeneratorServicer_to_server(Services(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


def batch_of(questions: list[str], step: int, first: int = 0) -> Any:
    """Returns a batch as verl hands it to the agent loops; prompts are numbered from `first`."""
    rows = []
    for place, text in enumerate(questions):
        question = Question(f"q{place}", text, ("Vistula",), (("p2",),))
        example = Example(question, 0.0, "frozen@1", (Passage("p2", "T2", "text 2"),))
        rows.append({"style": "rule", "ground_truth": json.dumps(row_of(example))})

    def column(values: list[Any]) -> Any:
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array

    batch = tu.get_tensordict(
        {
            "uid": column([f"u{first + place}" for place in range(len(rows))]),
            "raw_prompt": column([[{"role": "user", "content": text}] for text in questions]),
            "agent_name": column([NAME] * len(rows)),
            "reward_model": column(rows),
            "data_source": column(["search"] * len(rows)),
            "index": column(list(range(len(rows)))),
        }
    )
    tu.assign_non_tensor_data(batch, "global_steps", step)
    return batch


async def rolled_out(
    run: Path,
    target: str,
    questions: list[str],
    max_failed_share: float,
    spare: Sequence[str] = (),
    drop_even: bool = False,
    teacher: Mapping[str, Any] | None = None,
) -> tuple[Any, Any, Any]:
    """The step's batch and metrics as verl's trainer gets them, and the tokenizer.

    With `spare` questions groups are filtered, and these take the places of those that go.
    """
    temperature = 1.0 if teacher else 1.3
    settings = run_config.load(
        "smollm2-demo",
        {
            "base_model": str(write_model(run / "model")), "retriever": target, "generator": target,
            "patience_s": 0,  # what fails has failed
            "reward": {"kind": "gain", "rag_documents": 1, "max_failed_share": max_failed_share},
            "agent_parameters.max_turns": 2, "agent_parameters.turn_tokens": 200,
            "agent_parameters.context_tokens": 8000,
            "verl.data.max_prompt_length": 4000, "verl.data.max_response_length": 4000,
            "verl.actor_rollout_ref.rollout.n": 3, "verl.actor_rollout_ref.rollout.temperature": temperature,
            "verl.actor_rollout_ref.model.lora_rank": 0,
            "verl.data.train_batch_size": 2, "verl.actor_rollout_ref.actor.ppo_mini_batch_size": 2,
            "verl.algorithm.filter_groups.enable": bool(spare), "drop_even_groups": drop_even, "teacher": teacher,
        },
    )  # fmt: skip
    (run / "config.yaml").write_text(run_config.dump(settings))
    (run / "agent_loop.yaml").write_text(yaml.safe_dump(registry(run)))
    whole = train.compose(train.options(settings, run))
    OmegaConf.resolve(whole)
    worker_class = AgentLoopWorkerTQ.__ray_metadata__.modified_class
    worker = worker_class(whole, llm_client=None, reward_loop_worker_handles=[])
    worker.llm_client = ScriptedServer(worker.tokenizer, temperature)
    submitted = 0

    async def submit(some: Sequence[str]) -> None:
        nonlocal submitted
        batch, first = batch_of([*some], 1, submitted), submitted
        submitted += len(some)
        tags = [{"is_prompt": True, "status": "pending", "global_steps": 1} for _ in some]
        prompts = [f"u{first + n}" for n in range(len(some))]
        await asyncio.to_thread(tq.kv_batch_put, keys=prompts, partition_id="train", tags=tags)
        await worker.generate_sequences(batch)
        await asyncio.gather(*worker.background_tasks)

    loop, left = asyncio.get_running_loop(), iter(spare)

    def refill(count: int) -> None:
        asyncio.run_coroutine_threadsafe(submit([*islice(left, count)]), loop).result()

    await submit(questions)
    sampler = Sampler(
        refill_fn=refill,
        trainer_mode="sync",
        trainer_config=OmegaConf.create({}),
        max_off_policy_threshold=8,
        max_off_policy_strategy="drop",
        sampler_kwargs=whole.trainer.v1.sampler.sampler_kwargs,
    )
    batch, metrics = await asyncio.to_thread(sampler.sample, 1, "train", len(questions))
    fields = ["prompts", "responses", "response_mask", "rm_scores", "rollout_log_probs", "uid"]
    data = await asyncio.to_thread(tq.kv_batch_get, keys=batch.keys, partition_id="train", select_fields=fields)
    await asyncio.to_thread(tq.kv_clear, keys=batch.keys, partition_id="train")
    return data, metrics, worker.tokenizer


async def test_an_episode_becomes_a_sample(queue: None, services: str, tmp_path: Path) -> None:
    data, metrics, tokenizer = await rolled_out(tmp_path, services, ["Which river?", "What town?"], 0.1)
    assert len(data) == 6
    for responses, mask, scores in zip(data["responses"], data["response_mask"], data["rm_scores"], strict=True):
        said = tokenizer.decode(responses[mask.bool()])
        assert said in ("".join(GOOD), IDLE)
        told = tokenizer.decode(responses[~mask.bool()])
        assert (told == "") if said == IDLE else told.startswith("\n\n<information>\nDoc 1 (Title: T1)")
        assert scores[-1] == (0.0 if said == IDLE else 1.0)
        assert scores[:-1].sum() == 0
    assert tokenizer.decode(data["prompts"][0]).startswith("<|im_start|>user\nYou choose the documents")
    assert metrics["search/reward"] == metrics["search/accuracy"] == metrics["search/gain"] == pytest.approx(1 / 3)
    assert metrics["search/idle"] == pytest.approx(2 / 3)
    assert metrics["search/searches"] == pytest.approx(4 / 3)
    assert metrics["search/dropped"] == 0


async def test_a_teacher_plays_the_first_samples_of_each_question(queue: None, services: str, tmp_path: Path) -> None:
    teacher = {"corpus": "passages.jsonl", "samples": {1: 1, 2: 0}}
    data, metrics, tokenizer = await rolled_out(tmp_path, services, ["A hopeless one?"], 0.1, teacher=teacher)
    assert sorted(float(scores[-1]) for scores in data["rm_scores"]) == [0.0, 0.0, 1.0]
    (taught,) = (place for place, scores in enumerate(data["rm_scores"]) if scores[-1] == 1.0)
    mask = data["response_mask"][taught].bool()
    assert tokenizer.decode(data["responses"][taught][mask]) == GOOD[-1]
    places = range(len(data["prompts"][taught]), len(data["prompts"][taught]) + len(mask))
    said = [float(place) for place, own in zip(places, mask, strict=True) if own]
    assert data["rollout_log_probs"][taught][mask].tolist() == said  # what the searcher gives the teacher's tokens
    assert metrics["search/reward"] == metrics["search/mixed_groups"] == 0  # of the searcher's own samples


async def test_what_failed_is_not_in_the_batch(queue: None, services: str, tmp_path: Path) -> None:
    data, metrics, _ = await rolled_out(tmp_path, services, ["Which river?", "Is it broken?"], 0.6)
    assert sorted(str(uid) for uid in data["uid"]) == ["u0"] * 3
    assert metrics["search/dropped"] == metrics["search/dropped_by/retriever"] == 3
    assert metrics["search/reward"] == pytest.approx(1 / 3)  # failed samples do not count


async def test_questions_that_teach_nothing_are_replaced(queue: None, services: str, tmp_path: Path) -> None:
    asked, spare = ["Which river?", "A hopeless one?"], ["Another hopeless one?", "What town?", "Which town?"]
    data, metrics, _ = await rolled_out(tmp_path, services, asked, 0.1, spare)
    assert sorted(str(uid) for uid in data["uid"]) == ["u0"] * 3 + ["u3"] * 3
    assert metrics["training/filter_groups/evicted_samples"] == 2
    assert metrics["search/reward"] == pytest.approx(1 / 3)


async def test_questions_that_teach_nothing_are_left_out(queue: None, services: str, tmp_path: Path) -> None:
    asked = ["Which river?", "A hopeless one?"]
    data, metrics, _ = await rolled_out(tmp_path, services, asked, 0.1, drop_even=True)
    assert sorted(str(uid) for uid in data["uid"]) == ["u0"] * 3
    assert metrics["search/mixed_groups"] == 0.5
    assert metrics["search/choice_entropy"] > 0
    assert metrics["search/reward"] == pytest.approx(1 / 6)  # of all samples


async def test_what_failed_is_not_replaced_as_if_it_taught_nothing(queue: None, services: str, tmp_path: Path) -> None:
    with pytest.raises(RunStopped, match=r"3 of 6 samples failed.*retriever: unavailable"):
        await rolled_out(tmp_path, services, ["Which river?", "Is it broken?"], 0.1, ["What town?"])


def test_a_run_that_stops_in_rays_process_says_so_here(queue: None) -> None:
    with pytest.raises(RayTaskError) as ended:
        ray.get(ray.remote(num_cpus=0)(settle).remote(["a"], [{DROPPED: "judge: timeout"}], 1, 1, 0.5, 4))
    assert isinstance(ended.value.cause, RunStopped)  # learning/train.py recognises crashes by it
    assert "step 4" in str(ended.value.cause)


async def test_too_many_failures_stop_the_run(queue: None, services: str, tmp_path: Path) -> None:
    with pytest.raises(RunStopped, match=r"3 of 6 samples failed.*retriever: unavailable"):
        await rolled_out(tmp_path, services, ["Which river?", "Is it broken?"], 0.1)
