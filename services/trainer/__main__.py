"""`python -m services.trainer`: serves v1.Trainer."""

from __future__ import annotations

import asyncio

from common.settings import TracingSettings, load
from services.trainer.settings import TrainerSettings


def main() -> None:
    settings, traced = load(TrainerSettings), load(TracingSettings, [])

    from common import logs, tracing
    from services.trainer.wiring import serve

    logs.configure("trainer", settings.log_level)
    tracing.configure("trainer", traced)
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
