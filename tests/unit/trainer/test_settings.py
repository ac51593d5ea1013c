"""The trainer's settings, checked at start."""

import pytest

from common.settings import load
from services.trainer.settings import TrainerSettings


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "TRAINER_RUNS: Field required"),
        (["--ray-address", "head:8265"], "TRAINER_RAY_ADDRESS"),
        (["--searchers", '{"magic": "host:1"}'], "magic: no such method"),
    ],
)
def test_what_is_wrong_is_named(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        load(TrainerSettings, [*argv, *(["--runs", "/tmp/runs"] if argv else [])])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
