"""Secrets in variables and files, for every setting that holds one."""

from pathlib import Path

import pytest

from common.problems import Problem
from common.secret import secret
from common.settings import judge_key, load
from services.gateway.settings import GatewaySettings, KeySettings
from services.generator.settings import GeneratorSettings
from services.trainer.settings import TrainerSettings

NEEDED = ["--retriever", "h:1", "--searcher", "h:1", "--generator", "h:1"]
SETTINGS = [
    ("GATEWAY_REDIS_URL", GatewaySettings, NEEDED, "redis_url"),
    ("GATEWAY_REDIS_URL", KeySettings, [], "redis_url"),
    ("GENERATOR_OPENAI_API_KEY", GeneratorSettings, [], "openai_api_key"),
    ("TRAINER_RAY_TOKEN", TrainerSettings, ["--runs", "/tmp/runs"], "ray_token"),
]


@pytest.mark.parametrize(("variable", "kind", "argv", "field"), SETTINGS)
def test_every_secret_may_stand_in_a_file(
    variable: str, kind: type, argv: list[str], field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "secret"
    file.write_text("redis://:hush@h:1/0\n")
    monkeypatch.setenv(f"{variable}_FILE", str(file))
    found = load(kind, argv)
    assert getattr(found, field).get_secret_value() == "redis://:hush@h:1/0"
    assert "hush" not in repr(found)
    monkeypatch.setenv(variable, "another")
    with pytest.raises(SystemExit) as stopped:
        load(kind, argv)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"{variable} and {variable}_FILE are both set; set one\n"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content:
        (tmp_path / "key").write_bytes(content)
    monkeypatch.setenv("JUDGE_API_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(Problem, match=r"JUDGE_API_KEY_FILE: .*key"):
        judge_key()


def test_without_either_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret("NOTHING_OF_THIS_NAME") == ""
    monkeypatch.setenv("SOME_SECRET", "told")
    assert secret("SOME_SECRET") == "told"
