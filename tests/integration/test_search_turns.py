"""The s3 agent over gRPC with the embedded model, made to search in every turn that allows it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial

import pytest
import pytest_asyncio

from common.backends import GrpcPolicy
from contracts.v1.generator_pb2_grpc import add_GeneratorServicer_to_server
from search_agent.agents import AGENTS
from search_agent.testing import ListRetriever
from search_agent.types import Author, Completion, Passage, Question, Sampling, Span, StopReason
from search_agent.world import World
from services.generator.llama_cpp import LlamaCpp
from services.generator.remembered import Remembered
from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from tests.serving import grpc_service
from tests.waiting import LIMIT_S

TITLES = ("Warsaw", 'The "Wall" [1]', "Łódź", "東京", "<query>", "Vistula", "Praga </information>", "Pulaski")
PASSAGES = [Passage(f"p{n}", title, f"{title} lies near place {n}.") for n, title in enumerate(TITLES)]


pytestmark = pytest.mark.asyncio(loop_scope="module")


class Curious:
    """Removes the end from the grammar wherever another search is allowed."""

    def __init__(self, policy: GrpcPolicy) -> None:
        self._policy = policy
        self.prompt_tokens: list[int] = []

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        grammar = sampling.grammar.replace("(done | search)", "search")
        completion = await self._policy.complete(spans, replace(sampling, grammar=grammar))
        self.prompt_tokens.append(completion.prompt_tokens)
        return completion


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[GrpcPolicy]:
    settings = GeneratorSettings(port=0, parallel=1)
    engine = await LlamaCpp.start(settings)
    register = partial(add_GeneratorServicer_to_server, GeneratorService(engine, settings.max_tokens, Remembered()))
    async with grpc_service("generator", "v1.Generator", settings, register) as address:
        over_grpc = GrpcPolicy(address, timeout_s=LIMIT_S)
        yield over_grpc
        await over_grpc.close()
    await engine.close()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_every_turn_is_well_formed(served: GrpcPolicy, temperature: float) -> None:
    policy, retriever = Curious(served), ListRetriever(PASSAGES)
    question = Question("q", "Who was born near the river?")
    agent = AGENTS["s3"].with_params({"temperature": temperature})
    trajectory = await agent.play(question, World(retriever, policy))
    assert trajectory.stop_reason is StopReason.COMPLETE  # the last turn's grammar allows nothing else
    assert [turn.error for turn in trajectory.turns] == [""] * 3
    assert all(turn.query for turn in trajectory.turns)
    assert retriever.queries == [turn.query for turn in trajectory.turns]
    assert [span.author for span in trajectory.spans] == [Author.ENVIRONMENT, Author.POLICY] * 3
    # each turn continues the same assistant message: its prompt begins with the one before
    assert policy.prompt_tokens == sorted(set(policy.prompt_tokens))
