"""A variable that is spelt almost like a setting is noticed."""

import pytest

from common.settings import load
from services.generator.settings import GeneratorSettings


def test_a_misspelt_variable_gets_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path_factory.mktemp("secret") / "key"
    key.write_text("k")
    # The third and fourth are what Kubernetes sets for a service of that name; the last is empty.
    for name, value in {
        "GENERATOR_TREADS": "2",
        "GENERATOR_OPENAI_API_KEY_FILE": str(key),
        "GENERATOR_SERVICE_HOST": "10.0.0.1",
        "GENERATOR_PORT_50053_TCP_ADDR": "10.0.0.1",
        "GENERATOR_THREADS": "3",
        "GENERATOR_ADAPTER": "",
    }.items():
        monkeypatch.setenv(name, value)
    assert load(GeneratorSettings, []).threads == 3
    assert capsys.readouterr().err == "warning: GENERATOR_TREADS is not a setting; did you mean GENERATOR_THREADS?\n"
