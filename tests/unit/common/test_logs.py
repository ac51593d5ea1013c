"""Logs quote nothing that they were not asked for."""

import json
import logging

import pytest
import structlog

from common import logs

SECRET = "Who designed the Warsaw Pact? 10.1.2.3 sa_1_key"


@pytest.mark.parametrize(("level", "is_told"), [("info", False), ("debug", True)])
def test_an_exception_quotes_what_it_failed_on_only_if_asked(
    level: str, is_told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = root.handlers, root.level
    logs.configure("gateway", level)
    try:
        try:
            try:
                raise ValueError(SECRET)
            except ValueError as error:
                raise RuntimeError(f"not {SECRET}") from error
        except RuntimeError:
            structlog.get_logger().exception("request crashed")
            logging.getLogger("uvicorn.error").exception("crashed too")
    finally:
        root.handlers, root.level = before
        structlog.reset_defaults()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["request crashed", "crashed too"]
    for line in lines:
        for part in ("RuntimeError", "ValueError", "test_logs.py"):
            assert part in line["exception"]
        assert (SECRET in json.dumps(line)) == is_told
