"""Python client of the gateway. It needs httpx only: `pip install ".[client]"` in the repository.

    from search_agent_client import Client, Piece, Turn

    with Client("http://127.0.0.1:8080") as client:
        print(client.answer("Who wrote Faust?", method="naive_rag", top_k=3).answer)
        for event in client.stream_answer("Who wrote Faust?"):
            match event:
                case Turn():
                    print("searched for", event.query)
                case Piece():
                    print(event.text, end="")

`AsyncClient` has the same methods, to be awaited.
"""

from common.indexes import Change, ChangeState, Removal
from common.training import GateProgress, Promotion, Run, RunState, TrainingStep
from search_agent.types import FinishReason, Mode, Passage, Piece, StopReason, Timings, Usage
from search_agent_client.client import AsyncClient, Client
from search_agent_client.errors import FieldError, GatewayError, GatewayProblem, UnexpectedAnswer, Unreachable
from search_agent_client.values import (
    Answer,
    Cache,
    CachedIndex,
    Cleared,
    Deleted,
    Document,
    Found,
    Index,
    Key,
    KeyLimits,
    Method,
    NewKey,
    Readiness,
    Retrieved,
    Revoked,
    SearchResult,
    Turn,
)

__all__ = [
    "Answer",
    "AsyncClient",
    "Cache",
    "CachedIndex",
    "Change",
    "ChangeState",
    "Cleared",
    "Client",
    "Deleted",
    "Document",
    "FieldError",
    "FinishReason",
    "Found",
    "GateProgress",
    "GatewayError",
    "GatewayProblem",
    "Index",
    "Key",
    "KeyLimits",
    "Method",
    "Mode",
    "NewKey",
    "Passage",
    "Piece",
    "Promotion",
    "Readiness",
    "Removal",
    "Retrieved",
    "Revoked",
    "Run",
    "RunState",
    "SearchResult",
    "StopReason",
    "Timings",
    "TrainingStep",
    "Turn",
    "UnexpectedAnswer",
    "Unreachable",
    "Usage",
]
