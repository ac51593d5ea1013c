"""Checkpoints through the gate into a searcher, and back."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common import model_card
from common.backends import GrpcPolicy
from common.codecs import generator as codec
from common.run_config import load
from common.settings import ServiceSettings
from common.training import GateOutcome, GateProgress, Promotion
from contracts.v1 import generator_pb2 as pb
from contracts.v1.generator_pb2_grpc import GeneratorServicer, add_GeneratorServicer_to_server
from search_agent.agents import AGENTS
from search_agent.errors import Failure, RetrieverError, SearcherError, TrainerError
from search_agent.types import Author, FinishReason, ModelCard, Span
from services.trainer.promotion import GateLimits, Promoter
from tests.fine_tuned import CARD, write_before, write_trained
from tests.full_disk import full_disk
from tests.serving import grpc_service
from tests.trainer_fakes import FakeSearcher, Gates
from tests.waiting import LIMIT_S


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    return Gates(tmp_path / "runs")


@pytest.fixture
def run(gates: Gates, tmp_path: Path) -> str:
    questions = tmp_path / "held-out.jsonl"
    lines = [{"id": f"q{n}", "question": f"question {n}?", "golden_answers": ["answer"]} for n in range(8)]
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return gates.runs.create(
        load("smollm2-demo", {"gate.questions": str(questions), "gate.part": (0, 1), "gate.limit": None})
    ).id


async def promoted(promoter: Promoter, run: str, checkpoint: int = 0) -> tuple[list[GateProgress], Promotion]:
    *progress, last = [event async for event in promoter.promote(run, checkpoint, "")]
    assert isinstance(last, Promotion)
    return [event for event in progress if isinstance(event, GateProgress)], last


async def test_a_better_checkpoint_takes_the_searchers_place_and_is_rolled_back(gates: Gates, run: str) -> None:
    adapter = gates.save(run, 20)
    progress, done = await promoted(gates.promoter(), run)
    assert progress[-1] == GateProgress(16, 0, 16)
    assert (done.model, done.before, done.checkpoint, done.searcher) == ("good", "base", 20, "searcher")
    assert done.gate
    assert done.gate.outcome is GateOutcome.PASSED
    assert (gates.searcher.path, gates.searcher.adapter) == ("/models/base.gguf", str(adapter))
    assert gates.served[0].path == "/models/base.gguf"  # the adapter was judged on the base that is served

    back = await gates.promoter().rollback("")
    assert (back.model, back.before, back.gate) == ("base", "good", None)
    assert (gates.searcher.path, gates.searcher.adapter) == ("/models/base.gguf", "")
    with pytest.raises(TrainerError, match="searcher has no promotion to roll back") as caught:
        await gates.promoter().rollback("")
    assert caught.value.failure is Failure.UNSUPPORTED


async def test_each_side_is_asked_as_it_was_taught_and_a_promotion_brings_its_parameters(
    gates: Gates, run: str, tmp_path: Path
) -> None:
    current, adapter = tmp_path / "current", gates.save(run, 20)
    current.mkdir()
    (current / "name").write_text("current")
    gates.searcher.adapter = str(current)
    before, after = ModelCard("s3", {"turn_tokens": 17}), ModelCard("s3", {"turn_tokens": 23, "max_turns": 2})
    model_card.write(current, before)
    model_card.write(adapter, after)
    await promoted(gates.promoter(), run)
    assert (gates.searcher.turn_tokens, gates.served[0].turn_tokens) == ({17}, {23})
    assert (await gates.searcher.info()).card == after
    await gates.promoter().rollback("")
    assert (await gates.searcher.info()).card == before


@pytest.mark.parametrize("damaged", [None, "{"])
async def test_a_checkpoint_without_a_card_gets_that_of_its_run(gates: Gates, run: str, damaged: str | None) -> None:
    adapter = gates.save(run, 20)
    if damaged:
        (adapter / model_card.FILE).write_text(damaged)
    await promoted(gates.promoter(), run)
    taught = gates.runs.config(run)
    assert (await gates.searcher.info()).card == replace(taught.card(), figures={"step": 20})
    assert gates.served[0].turn_tokens == {taught.method.params.turn_tokens}
    assert gates.searcher.turn_tokens == {AGENTS["s3"].params.turn_tokens}  # nothing is known of what it was taught


async def test_a_checkpoint_that_was_taught_another_method_is_not_judged(gates: Gates, run: str) -> None:
    model_card.write(gates.save(run, 20), ModelCard("search_r1"))
    with pytest.raises(TrainerError, match="was taught search_r1, and its run trains s3") as caught:
        await promoted(gates.promoter(), run)
    assert (caught.value.failure, caught.value.field) == (Failure.UNSUPPORTED, "checkpoint")


async def test_what_the_gate_did_not_judge_is_not_served(gates: Gates, run: str) -> None:
    adapter = gates.save(run, 20)

    async def promoted_while_the_card_changes() -> None:
        async for event in gates.promoter().promote(run, 0, ""):
            if isinstance(event, GateProgress) and event.done == event.total:
                model_card.write(adapter, ModelCard("s3", {"turn_tokens": 99}))

    with pytest.raises(TrainerError, match="not what the gate judged"):
        await promoted_while_the_card_changes()
    assert (gates.searcher.path, gates.searcher.adapter) == ("/models/base.gguf", "")


async def test_what_is_not_better_is_recorded_and_not_loaded(gates: Gates, run: str, tmp_path: Path) -> None:
    gates.save(run, 20, "worse")
    _, done = await promoted(gates.promoter(), run)
    assert done.gate
    assert done.gate.outcome is GateOutcome.NOT_BETTER
    assert done.model == done.before == "base"
    assert gates.searcher.loads == []
    (record,) = map(json.loads, (tmp_path / "runs" / "promotions.jsonl").read_bytes().splitlines())
    assert (record["kind"], record["run"], record["gate"]["asked"]) == ("refused", run, 8)
    with pytest.raises(TrainerError, match="no promotion to roll back"):
        await gates.promoter().rollback("")


async def test_a_promotion_that_cannot_be_recorded_is_undone(gates: Gates, run: str) -> None:
    gates.save(run, 20)
    await promoted(gates.promoter(), run)
    await gates.searcher.load("/models/base.gguf", "")
    records = gates.runs.path("") / "promotions.jsonl"
    before = records.read_bytes()
    with full_disk(len(before) + 10), pytest.raises(TrainerError, match="cannot be recorded") as caught:
        await promoted(gates.promoter(), run)
    assert caught.value.failure is Failure.UNAVAILABLE
    assert (gates.searcher.adapter, records.read_bytes()) == ("", before)


async def test_too_many_failures_promote_nothing(gates: Gates, run: str) -> None:
    gates.save(run, 20)
    gates.failing = ["question 1"]
    _, done = await promoted(gates.promoter(), run)
    assert done.gate
    assert (done.gate.outcome, done.gate.failed) == (GateOutcome.INCONCLUSIVE, 1)
    assert gates.searcher.loads == []


async def test_rollbacks_go_back_one_promotion_each(gates: Gates, run: str) -> None:
    promoter = gates.promoter()
    gates.save(run, 20)
    await promoted(promoter, run)
    gates.searcher.adapter = ""  # somebody put the base back by hand, so that a second promotion can pass
    gates.searcher.path = "/models/second.gguf"
    await promoted(promoter, run)
    assert (await promoter.rollback("")).model == "second"
    assert (await promoter.rollback("")).model == "base"
    with pytest.raises(TrainerError, match="no promotion"):
        await promoter.rollback("")


async def test_the_newest_checkpoint_is_taken_and_may_be_a_model(gates: Gates, run: str) -> None:
    gates.save(run, 20)
    newest = gates.runs.path(run) / "checkpoints/global_step_100"
    newest.mkdir()
    (newest / "model.gguf").touch()
    _, done = await promoted(gates.promoter(), run)
    assert (gates.served[0].path, gates.served[0].adapter) == (str(newest / "model.gguf"), "")
    assert done.checkpoint == 100


async def test_a_whole_model_is_in_the_form_that_the_searchers_engine_loads(gates: Gates, run: str) -> None:
    checkpoint = gates.runs.path(run) / "checkpoints/global_step_100"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.gguf").touch()
    gates.searcher.engine = "vllm"
    with pytest.raises(TrainerError, match="neither lora_adapter nor model, which vllm loads") as caught:
        await promoted(gates.promoter(), run)
    assert (caught.value.failure, caught.value.field) == (Failure.UNSUPPORTED, "checkpoint")
    assert gates.served == []
    (checkpoint / "model").mkdir()
    await promoted(gates.promoter(), run)
    assert (gates.served[0].path, gates.served[0].adapter) == (str(checkpoint / "model"), "")


async def test_a_whole_model_is_converted_for_a_searcher_on_a_cpu(gates: Gates, run: str, tmp_path: Path) -> None:
    model = gates.runs.path(run) / "checkpoints/global_step_100/model"
    model.parent.mkdir(parents=True)
    write_trained(model)
    with pytest.raises(TrainerError, match=r"has no file /models/base\.gguf") as caught:
        await promoted(gates.promoter(), run)
    assert (caught.value.failure, caught.value.field) == (Failure.UNSUPPORTED, "checkpoint")
    gates.searcher.path = str(write_before(tmp_path / "base.gguf", output=(9, 32)))
    write_trained(model, tied=False)
    with pytest.raises(TrainerError, match=r"no weights for output\.weight"):
        await promoted(gates.promoter(), run)
    assert gates.served == []
    write_trained(model)
    gates.searcher.path, gates.searcher.shared = str(write_before(tmp_path / "base.gguf")), True
    with pytest.raises(TrainerError, match="needs a service of its own"):
        await promoted(gates.promoter(), run)
    assert gates.served == []
    assert not model.with_suffix(".gguf").exists()  # nothing was converted in vain
    gates.searcher.shared = False
    await promoted(gates.promoter(), run)
    assert (gates.served[0].path, gates.served[0].adapter) == (str(model.with_suffix(".gguf")), "")
    assert (await gates.served[0].info()).card == CARD


class Served(GeneratorServicer):
    """A searcher as a generator service. It fails to load anything with `error` if that is set."""

    def __init__(self) -> None:
        self.searcher, self.error = FakeSearcher("/models/base.gguf"), ""

    async def Generate(self, request: Any, context: Any) -> pb.GenerateResponse:
        spans = [Span(Author.ENVIRONMENT, request.messages[0].content)]
        completion = await self.searcher.complete(spans, codec.sampling_of(request))
        return codec.generate_response(replace(completion, finish_reason=FinishReason.STOP))

    async def ModelInfo(self, request: Any, context: Any) -> pb.ModelInfoResponse:
        return codec.model_response(await self.searcher.info())

    async def LoadModel(self, request: Any, context: Any) -> pb.ModelInfoResponse:
        if self.error:
            raise SearcherError(Failure.UNAVAILABLE, self.error)
        return codec.model_response(await self.searcher.load(request.path, request.adapter))


@asynccontextmanager
async def two_services(gates: Gates) -> AsyncIterator[tuple[Served, Served]]:
    """Serves the searcher from two services while the context is open."""
    served = Served(), Served()
    async with AsyncExitStack() as stack:
        addresses = [
            await stack.enter_async_context(
                grpc_service(
                    "generator",
                    "v1.Generator",
                    ServiceSettings(port=0, metrics_port=0),
                    partial(add_GeneratorServicer_to_server, each),
                )
            )
            for each in served
        ]
        gates.searcher = GrpcPolicy(",".join(addresses), LIMIT_S)  # type: ignore[assignment]
        stack.push_async_callback(gates.searcher.close)  # type: ignore[attr-defined]
        yield served


async def test_a_promotion_and_a_rollback_reach_every_service_of_a_searcher(gates: Gates, run: str) -> None:
    adapter = gates.save(run, 20)
    async with two_services(gates) as served:
        _, done = await promoted(gates.promoter(), run)
        assert (done.model, done.before) == ("good", "base")
        assert [each.searcher.adapter for each in served] == [str(adapter)] * 2
        assert all(each.searcher.asked for each in served)  # the gate asks both
        back = await gates.promoter().rollback("")
        assert (back.model, back.before) == ("base", "good")
        assert [each.searcher.adapter for each in served] == ["", ""]


async def test_what_one_service_cannot_load_is_taken_out_of_the_others(gates: Gates, run: str) -> None:
    adapter = gates.save(run, 20)
    async with two_services(gates) as (first, second):
        second.error = "no room"
        with pytest.raises(SearcherError, match="no room; 1 of 2 services has loaded it; it was taken out again"):
            await promoted(gates.promoter(), run)
        assert first.searcher.loads == [("", str(adapter)), ("/models/base.gguf", "")]
        second.error = ""
        _, done = await promoted(gates.promoter(), run)  # as if nothing had happened
        assert (done.model, second.searcher.adapter) == ("good", str(adapter))


async def test_services_with_different_models_get_the_first_ones(gates: Gates, run: str) -> None:
    gates.save(run, 20)
    async with two_services(gates) as (first, second):
        second.searcher.path = "/models/other.gguf"  # as after a restart without its state
        _, done = await promoted(gates.promoter(), run)
        assert (done.model, done.before) == ("good", "base")
        assert second.searcher.loads[0] == ("/models/base.gguf", "")
        second.searcher.adapter = ""
        assert (await gates.promoter().rollback("")).model == "base"
        assert first.searcher.adapter == second.searcher.adapter == ""


@pytest.mark.parametrize(
    ("checkpoint", "searcher", "field", "message"),
    [
        (7, "", "checkpoint", "has no checkpoint 7; there are 20"),
        (0, "other", "searcher", "no searcher is called 'other'; there are searcher"),
    ],
)
async def test_what_there_is_not_is_named(
    gates: Gates, run: str, checkpoint: int, searcher: str, field: str, message: str
) -> None:
    gates.save(run, 20)
    with pytest.raises(TrainerError, match=message) as caught:
        [event async for event in gates.promoter().promote(run, checkpoint, searcher)]
    assert (caught.value.failure, caught.value.field) == (Failure.UNSUPPORTED, field)


async def test_a_run_without_checkpoints_says_so(gates: Gates, run: str) -> None:
    with pytest.raises(TrainerError, match="has no checkpoint yet"):
        await promoted(gates.promoter(), run)
    (gates.runs.path(run) / "checkpoints/global_step_5").mkdir(parents=True)
    with pytest.raises(TrainerError, match=r"neither lora_adapter nor model\.gguf"):
        await promoted(gates.promoter(), run)
    with pytest.raises(TrainerError, match="no run is called"):
        await promoted(gates.promoter(), "missing")


async def test_what_is_served_already_is_not_promoted_again(gates: Gates, run: str) -> None:
    gates.save(run, 20)
    await promoted(gates.promoter(), run)
    with pytest.raises(TrainerError, match="good is served already"):
        await promoted(gates.promoter(), run)


async def test_an_engine_that_loads_nothing_is_told_before_the_gate(gates: Gates, run: str) -> None:
    gates.save(run, 20)
    gates.searcher.path = ""
    with pytest.raises(TrainerError, match="the engine of searcher loads no models"):
        await promoted(gates.promoter(), run)
    assert gates.served == []


async def test_a_missing_question_file_and_a_missing_retriever_are_told(gates: Gates, run: str, tmp_path: Path) -> None:
    gates.save(run, 20)
    gates.retriever.error = RetrieverError(Failure.UNAVAILABLE, "down")
    with pytest.raises(RetrieverError):
        await promoted(gates.promoter(), run)
    (tmp_path / "held-out.jsonl").unlink()
    with pytest.raises(TrainerError, match=r"held-out\.jsonl: no such file"):
        await promoted(gates.promoter(), run)


class Slow(FakeSearcher):
    """Answers a question in a while."""

    async def complete(self, spans, sampling):  # type: ignore[no-untyped-def]
        await asyncio.sleep(0.02)
        return await super().complete(spans, sampling)


async def test_leaving_stops_the_gate_and_coming_back_goes_on(gates: Gates, run: str) -> None:
    gates.save(run, 20)
    gates.searcher = Slow("/models/base.gguf")
    promoter = gates.promoter(limits=GateLimits(1, 30))
    leaving = promoter.promote(run, 0, "")
    async for event in leaving:
        if isinstance(event, GateProgress) and event.done == 6:
            break
    with pytest.raises(TrainerError) as caught:
        await promoter.rollback("")
    assert caught.value.failure is Failure.OVERLOADED
    await leaving.aclose()
    asked = gates.searcher.asked
    await asyncio.sleep(0.1)
    assert gates.searcher.asked == asked < 8
    progress, done = await promoted(promoter, run)
    assert progress[0].done >= 6
    assert done.model == "good"
