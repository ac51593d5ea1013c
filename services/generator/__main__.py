"""`python -m services.generator` serves a language model and its adapters over gRPC."""

from __future__ import annotations

import asyncio
import os
import sys

from common import grpc_threads
from common.settings import TracingSettings, load
from services.generator.settings import GeneratorSettings


async def serve(settings: GeneratorSettings) -> None:
    """The wiring: settings, engine, service, server."""
    # Merging an adapter multiplies many small matrices, which a thread does faster than several that wait for others.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    grpc_threads.use_fewer()
    # Imported here because they are slow, and --help and a wrong setting should answer at once.
    from common.server import run
    from contracts.v1 import generator_pb2_grpc
    from services.generator.allowed import Allowed
    from services.generator.engine import Engine
    from services.generator.models import Models
    from services.generator.remembered import Remembered
    from services.generator.service import GeneratorService

    engine: Engine
    if settings.engine == "openai":
        from services.generator.openai_endpoint import OpenAIEndpoint

        engine = OpenAIEndpoint(settings)
    elif settings.engine == "vllm":
        from services.generator.library_engine import LibraryEngine
        from services.generator.vllm_model import Vllm

        engine = await LibraryEngine.start(settings, Vllm(settings))
    elif settings.engine == "openvino":
        from services.generator.library_engine import LibraryEngine
        from services.generator.openvino_model import OpenVino

        engine = await LibraryEngine.start(settings, OpenVino(settings))
    else:
        from services.generator.llama_cpp import LlamaCpp

        engine = await LlamaCpp.start(settings)
    try:
        allowed = Allowed(settings.folders)
        configured = Models(settings.model, settings.adapters)
        service = GeneratorService(engine, settings.max_tokens, Remembered(settings.state, configured), allowed)
        await service.begin()
        await run(
            "generator",
            "v1.Generator",
            settings,
            lambda server: generator_pb2_grpc.add_GeneratorServicer_to_server(service, server),
            service.changed.close,
        )
    finally:
        await engine.close()


def main() -> None:
    settings, traced = load(GeneratorSettings), load(TracingSettings, [])
    from common import logs, tracing
    from search_agent.errors import GeneratorError

    logs.configure("generator", settings.log_level)
    tracing.configure("generator", traced)
    try:
        asyncio.run(serve(settings))
    except GeneratorError as error:
        variables = {"path": "GENERATOR_MODEL", "adapter": "GENERATOR_ADAPTERS"}
        sys.exit(f"{variables.get(error.field, 'generator')}: {error.message}")


if __name__ == "__main__":
    main()
