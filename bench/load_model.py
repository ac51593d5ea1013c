"""Changes a generator service's model under load: `python -m bench.load_model --to ADAPTER… --out FILE`.

`--callers` ask without a pause; every few seconds LoadModel puts the next entry of `--to` in place. An entry is an
adapter, or "MODEL:ADAPTER" for another model; "" is the model without an adapter. Counts failures and the answers of
each model, and finds the slowest answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import client
from contracts.v1 import generator_pb2 as pb
from contracts.v1 import generator_pb2_grpc
from search_agent.errors import GeneratorError

DEADLINE_S = 600.0
QUESTION = "Who wrote Faust, and when was it first performed?"


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    channel = client.connect(args.generator)
    stub = generator_pb2_grpc.GeneratorStub(channel)
    request = pb.GenerateRequest(
        messages=[pb.Message(role="user", content=QUESTION)], sampling=pb.Sampling(max_tokens=args.max_tokens)
    )
    models: Counter[str] = Counter()
    failures: list[str] = []
    took: list[float] = []
    over = asyncio.Event()

    async def ask() -> None:
        while not over.is_set():
            started = time.perf_counter()
            try:
                answer = await client.call(stub.Generate, request, DEADLINE_S, GeneratorError)
            except GeneratorError as error:
                failures.append(str(error))
            else:
                models[answer.model] += 1
                took.append(time.perf_counter() - started)

    callers = [asyncio.create_task(ask()) for _ in range(args.callers)]
    loads = []
    for entry in args.to:
        await asyncio.sleep(args.every)
        path, _, adapter = entry.rpartition(":")
        started = time.perf_counter()
        load = pb.LoadModelRequest(path=path, adapter=adapter)
        loaded = await client.call(stub.LoadModel, load, DEADLINE_S, GeneratorError)
        loads.append({"to": loaded.model, "seconds": round(time.perf_counter() - started, 3)})
        print(loads[-1], flush=True)
    await asyncio.sleep(args.every)
    over.set()
    await asyncio.gather(*callers)
    engine = (await client.call(stub.ModelInfo, pb.ModelInfoRequest(), DEADLINE_S, GeneratorError)).engine
    await channel.close()
    return {
        "engine": engine,
        "callers": args.callers,
        "loads": loads,
        "answers": dict(models),
        "failed": len(failures),
        "failures": failures[:5],
        "p50_s": round(statistics.median(took), 3),
        "max_s": round(max(took), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.load_model", description=__doc__)
    parser.add_argument("--generator", default="127.0.0.1:50053", metavar="HOST:PORT")
    parser.add_argument(
        "--to", nargs="+", required=True, metavar="ADAPTER", help="adapters or models to load, one after another"
    )
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    found = asyncio.run(measure(args))
    print(json.dumps(found, indent=1))
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    raise SystemExit(1 if found["failed"] else 0)


if __name__ == "__main__":
    main()
