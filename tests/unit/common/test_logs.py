"""Logs quote nothing that they were not asked for."""

import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from common import logs

SECRET = "Who designed the Warsaw Pact? 10.1.2.3 sa_1_key"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers, root.level
    logging.captureWarnings(False)  # another test may have left it on
    yield
    root.handlers, root.level = before
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.mark.parametrize(("level", "is_told"), [("info", False), ("debug", True)])
def test_an_exception_quotes_what_it_failed_on_only_if_asked(
    level: str, is_told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("gateway", level)
    try:
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise RuntimeError(f"not {SECRET}") from error
    except RuntimeError:
        structlog.get_logger().exception("request crashed")
        logging.getLogger("uvicorn.error").exception("crashed too")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["request crashed", "crashed too"]
    for line in lines:
        for part in ("RuntimeError", "ValueError", "test_logs.py"):
            assert part in line["exception"]
        assert (SECRET in json.dumps(line)) == is_told


def test_a_librarys_warning_is_a_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("gateway", "info")
    warnings.warn("this will change", FutureWarning, stacklevel=1)
    told = capsys.readouterr()
    line = json.loads(told.out)
    assert line["level"] == "warning"
    assert "this will change" in line["event"]
    assert told.err == ""
