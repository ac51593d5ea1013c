"""`python -m services.trainer`: serves v1.Trainer."""

from __future__ import annotations

import asyncio

from common.settings import load
from services.trainer.settings import TrainerSettings


def main() -> None:
    settings = load(TrainerSettings)

    from common import logs
    from services.trainer.wiring import serve

    logs.configure("trainer", settings.log_level)
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
