"""The services over fakes of all models, in a process of their own: `python -m tests.fuzz.served FOLDER`.

Writes its addresses to FOLDER/addresses.json, and serves until its input ends.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.addresses import free_port
from common.files import write_whole
from contracts.v1 import generator_pb2_grpc, trainer_pb2_grpc
from search_agent.types import Completion, FinishReason
from services.gateway import serving
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import wire
from services.generator.allowed import Allowed
from services.generator.remembered import Remembered
from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from services.retriever.service import RetrieverServicer, assemble
from services.retriever.settings import RetrieverSettings
from services.trainer.admission import Admission
from services.trainer.jobs import Job, JobState
from services.trainer.monitor import Monitor
from services.trainer.service import TrainerService
from services.trainer.settings import TrainerSettings
from tests.integration.conftest import RedisServer
from tests.serving import grpc_service
from tests.trainer_fakes import RIGHT, FakeJobs, Gates
from tests.unit.generator.test_service import FakeEngine
from tests.unit.retriever.helpers import FakeEncoder, build_index

HOST, ADDRESSES = "127.0.0.1", "addresses.json"


@dataclass(frozen=True)
class Stack:
    """The addresses of a stack that serves."""

    gateway: str
    retriever: str
    generator: str
    trainer: str
    pid: int


class EndingJobs(FakeJobs):
    """Runs jobs that fail after the first look at them, so that nobody watches a run for long."""

    async def status(self, job: str) -> Job:
        found = await super().status(job)
        if found.state is JobState.WAITING:
            self.jobs[job] = Job(JobState.FAILED, 1, "it ends")
        return found


@contextmanager
def started(folder: Path) -> Iterator[Stack]:
    """Serves in another process while the context is open; its log is FOLDER/log. Fails if it has ended before."""
    command = [sys.executable, "-m", "tests.fuzz.served", str(folder)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
    assert process.stdin
    try:
        while not (folder / ADDRESSES).exists():
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield Stack(pid=process.pid, **json.loads((folder / ADDRESSES).read_text()))
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
    finally:
        process.stdin.close()
        process.wait(20)


def memory_mb(pid: int) -> float:
    """Returns the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return round(int(status.partition("VmRSS:")[2].split()[0]) / 1024, 1)


async def _serve(folder: Path) -> None:
    answer = (Completion(RIGHT), Completion("", FinishReason.STOP, 9, 9, model="fake@1"))
    build_index(folder / "read-only")
    (folder / "indexes").mkdir()
    retriever = RetrieverSettings(
        indexes=folder / "read-only", writable=folder / "indexes", encoders=("fake",), default_index="small", port=0
    )
    generator = GeneratorService(FakeEngine(answer), 2048, Remembered(), Allowed((folder / "models",)))
    gates = Gates(folder / "runs")
    monitor = Monitor(gates.runs, EndingJobs(), 0.05)
    trainer = TrainerService(gates.runs, monitor, gates.promoter(), Admission(folder, folder / "configs"))
    searching = assemble(retriever, lambda _: FakeEncoder())
    redis = RedisServer(folder)
    async with AsyncExitStack() as stack:
        stack.callback(redis.stop)
        searching.keeper.start()
        stack.push_async_callback(searching.close)
        addresses = {
            "retriever": await stack.enter_async_context(
                grpc_service("retriever", "v1.Retriever", retriever, RetrieverServicer(searching).register)
            ),
            "generator": await stack.enter_async_context(
                grpc_service(
                    "generator",
                    "v1.Generator",
                    GeneratorSettings(port=0),
                    lambda to: generator_pb2_grpc.add_GeneratorServicer_to_server(generator, to),
                )
            ),
            "trainer": await stack.enter_async_context(
                grpc_service(
                    "trainer",
                    "v1.Trainer",
                    TrainerSettings(runs=folder / "runs", port=0),
                    lambda to: trainer_pb2_grpc.add_TrainerServicer_to_server(trainer, to),
                )
            ),
        }
        settings = GatewaySettings(
            port=free_port(),
            retriever=addresses["retriever"],
            searcher=f"{addresses['generator']}/searcher",
            generator=f"{addresses['generator']}/reader",
            trainer=addresses["trainer"],
            redis_url=redis.url,
            first_question_s=0.1,
        )
        gateway = serving.server(wire(settings), HOST, settings.port, 1)
        following, served = asyncio.create_task(monitor.follow()), asyncio.create_task(gateway.serve())
        while not gateway.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        write_whole(folder / ADDRESSES, json.dumps({"gateway": f"http://{HOST}:{settings.port}", **addresses}))
        await asyncio.to_thread(sys.stdin.read)
        following.cancel()
        gateway.should_exit = True
        await served


if __name__ == "__main__":
    from common import logs

    logs.configure("fuzzed", "error")
    asyncio.run(_serve(Path(sys.argv[1])))
