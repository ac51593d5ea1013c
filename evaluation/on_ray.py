"""Runs work in the actors of a Ray cluster: one per node, restarted by Ray when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import common
import evaluation
import search_agent
import search_agent_client
from common.error_text import one_line
from evaluation.errors import EvaluateProblem, Failed
from search_agent.errors import Failure

# Ray reads these when it is imported. They turn off usage reports, and the messages about dead actors and nodes that
# log_to_driver alone leaves on the terminal.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise EvaluateProblem("--ray needs Ray: pip install search-agent[ray]") from None

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[T], Awaitable[R]]

ATTEMPTS = 4  # per item; an item that lost so many actors may be what kills them
_LOCAL: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 100 << 20}
_CODE = [str(Path(package.__path__[0])) for package in (search_agent, search_agent_client, common, evaluation)]


class _Actor(Generic[T, R]):
    """Enters `opening` on its first call, and so again after a restart."""

    def __init__(self, opening: Callable[[], AbstractAsyncContextManager[Work[T, R]]]) -> None:
        self._opening, self._stack = opening, AsyncExitStack()
        self._work: asyncio.Future[Work[T, R]] | None = None

    async def open(self) -> Work[T, R]:
        if self._work is None:
            self._work = asyncio.ensure_future(self._stack.enter_async_context(self._opening()))
        return await self._work

    @ray.method(max_task_retries=-1)
    async def start(self) -> None:
        """Returns once the actor runs. Raises what `opening` raises."""
        await self.open()

    async def do(self, item: T) -> R:
        return await (await self.open())(item)


@asynccontextmanager
async def actors(
    address: str, opening: Callable[[], AbstractAsyncContextManager[Work[T, R]]], concurrency: int
) -> AsyncIterator[Work[T, R]]:
    """Yields a function that does an item in a free actor of the cluster, as `opening`'s would do it here.

    `address` is HOST:PORT, ray://HOST:PORT, "auto" for the cluster on this machine, or "local" to start one here.
    `opening` and the items are pickled, and this project's code is sent along. There is one actor per node, and at most
    `concurrency` items are in progress. An item whose actor or node died is done again, once Ray has started the actor
    anew, elsewhere if the node is gone. Raises EvaluateProblem if an actor cannot start; the work raises what it would
    raise here, and Failed for an item that lost ATTEMPTS actors.
    """
    _connect(address)
    try:
        made = _on_each_node(opening, concurrency)
        await asyncio.gather(*map(_started, made))
        slots: asyncio.Queue[Any] = asyncio.Queue()
        for n in range(concurrency):
            slots.put_nowait(made[n % len(made)])

        async def work(item: T) -> R:
            lost = ""
            for _ in range(ATTEMPTS):
                actor = await slots.get()
                try:
                    return await _result(actor.do.remote(item))
                except RayTaskError as error:
                    raise error.cause from error
                except RayError as error:
                    lost = one_line(error)
                    await _started(actor)
                finally:
                    slots.put_nowait(actor)
            raise Failed("ray", Failure.UNAVAILABLE, lost)

        yield work
    finally:
        ray.shutdown()  # ends the actors too


def _connect(address: str) -> None:
    try:
        if address not in ("auto", "local"):
            # Ray would keep trying for minutes
            parts = urlsplit(f"//{address.removeprefix('ray://')}")
            if not (parts.hostname and parts.port):
                raise ValueError("neither HOST:PORT, ray://HOST:PORT, auto nor local")
            socket.create_connection((parts.hostname, parts.port), timeout=5).close()
        ray.init(
            address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"py_modules": _CODE},
            **(_LOCAL if address == "local" else {}),
        )
    except Exception as error:  # Ray raises its own, gRPC's and the system's
        raise EvaluateProblem(f"no Ray cluster at {address}: {one_line(error)}") from error


def _on_each_node(opening: Callable[[], AbstractAsyncContextManager[Work[T, R]]], concurrency: int) -> list[Any]:
    # a head node without CPUs is not meant to work
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")][:concurrency]
    if not nodes:
        raise EvaluateProblem("the Ray cluster has no node with a CPU")
    return [
        ray.remote(_Actor)
        .options(
            num_cpus=0,  # actors mostly wait, and must start even on a busy cluster
            max_concurrency=-(-concurrency // len(nodes)),
            max_restarts=-1,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True),  # elsewhere if the node is gone
        )
        .remote(opening)
        for node in nodes
    ]


async def _started(actor: Any) -> None:
    try:
        await _result(actor.start.remote())
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        raise EvaluateProblem(f"Ray's actors cannot start: {one_line(cause)}") from error


async def _result(reference: Any) -> Any:
    """Returns the result of a remote call. It is never cancelled, since Ray's client would print a traceback."""
    result = asyncio.ensure_future(reference)
    result.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, even if nobody waits
    return await asyncio.shield(result)
