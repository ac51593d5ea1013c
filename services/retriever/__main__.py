"""`python -m services.retriever` serves the indexes of a folder."""

from __future__ import annotations

import asyncio
import gc
import os
import sys

from common import grpc_threads
from common.settings import TracingSettings, load
from services.retriever.settings import RetrieverSettings


def main() -> None:
    settings, traced = load(RetrieverSettings), load(TracingSettings, [])
    if settings.threads:
        # The encoder reads it, and so does the OpenMP of FAISS and torch when they are loaded, below.
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    # Threads that wait for each other sleep. By default they spin, on cores that other processes need: a lone
    # query then took two to three times its processor time with an encoder of torch (bench/pages/compare-servers.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    grpc_threads.use_fewer()

    from common import logs, server, tracing
    from services.retriever.errors import RetrieverProblem
    from services.retriever.service import FULL_NAME, RetrieverServicer, assemble

    logs.configure("retriever", settings.log_level)
    tracing.configure("retriever", traced)
    try:
        retriever = assemble(settings)
    except RetrieverProblem as problem:
        sys.exit(f"retriever: {problem}")
    servicer = RetrieverServicer(retriever)
    # Full collections pass over all that is there by now. With torch they would take a quarter of a second, in which
    # nobody is answered (bench/pages/retrieval.md).
    gc.collect()
    gc.freeze()

    async def serve() -> None:
        retriever.keeper.start()
        await server.run("retriever", FULL_NAME, settings, servicer.register, retriever.changed.close)
        await retriever.close()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
