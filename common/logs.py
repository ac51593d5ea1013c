"""One JSON object a line on standard output.

No line holds a question, a passage, a key or another host's address, except at level debug: messages of exceptions
quote what they failed on.
"""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType
from typing import Any

import structlog


def _places(exc_info: tuple[type[BaseException], BaseException, TracebackType | None]) -> str:
    """Returns where an exception and those behind it came from, and their types, without their messages."""
    told: list[str] = []
    error: BaseException | None = exc_info[1]
    while error:
        told.append("".join(traceback.format_tb(error.__traceback__)) + type(error).__name__)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(reversed(told))


_BARE = structlog.processors.ExceptionRenderer(_places)


def configure(service: str, level: str) -> None:
    """Sends structlog's and the standard library's records, warnings too, through one JSON renderer."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _logger, _name, event: {**event, "service": service},
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),  # what the level hides costs nothing
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info if level == "debug" else _BARE,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for chatty in ("httpx", "mcp"):
        logging.getLogger(chatty).setLevel("WARNING")
