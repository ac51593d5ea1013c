"""The services' messages do not pass through the threads of gRPC's event engine."""

import subprocess
import sys

_CALLING = """
import asyncio, pathlib
from common import grpc_threads

grpc_threads.use_fewer()
import grpc
from contracts.v1.generator_pb2 import ModelInfoRequest
from contracts.v1.generator_pb2_grpc import GeneratorStub, add_GeneratorServicer_to_server
from bench.stubs import Model

def switches():
    threads = [each for each in pathlib.Path("/proc/self/task").iterdir()
               if (each / "comm").read_text().startswith("event_engine")]
    lines = [line for each in threads for line in (each / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

async def main():
    server = grpc.aio.server()
    add_GeneratorServicer_to_server(Model(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stub = GeneratorStub(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
    await stub.ModelInfo(ModelInfoRequest())
    before = switches()
    for _ in range(50):
        await stub.ModelInfo(ModelInfoRequest())
    print(switches() - before)

asyncio.run(main())
"""


def test_messages_are_read_by_the_thread_that_waits_for_them() -> None:
    done = subprocess.run([sys.executable, "-c", _CALLING], check=True, capture_output=True)
    assert int(done.stdout) < 50, "context switches of the event engine's threads; there were eight a call with it"
