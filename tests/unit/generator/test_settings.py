"""A wrong setting is named at start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from common.settings import load
from services.generator.__main__ import main
from services.generator.settings import GeneratorSettings


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        load(GeneratorSettings, list(argv))
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_the_openai_engine_needs_an_address_and_a_model(capsys):
    errors = refused(capsys, "--engine", "openai")
    assert "GENERATOR_OPENAI_BASE_URL" in errors
    assert "GENERATOR_OPENAI_MODEL" in errors
    assert "GENERATOR_OPENAI_BASE_URL" not in refused(
        capsys, "--engine", "openai", "--openai-base-url", "http://localhost/v1"
    )


def test_a_missing_file_names_its_variable(capsys, tmp_path):
    assert "GENERATOR_MODEL" in refused(capsys, "--model", str(tmp_path / "no.gguf"))


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--adapters", "reader=/no/such"], "GENERATOR_ADAPTERS: reader: there is no such file or folder"),
        (["--adapters", "base=/tmp"], "GENERATOR_ADAPTERS: base is the name of the model itself; choose another"),
        (["--state", "/no/such/state.json"], "GENERATOR_STATE: there is no folder /no/such"),
        (["--vllm-arguments", "{"], "GENERATOR_VLLM_ARGUMENTS: not valid JSON"),
        (["--engine", "openai", "--openai-model", "m", "--openai-base-url", "localhost:8000/v1"],
         "GENERATOR_OPENAI_BASE_URL: must begin with http:// or https://"),
        (["--engine", "vllm", "--model", "owner/name", "--graph-tokens", "64", "--parallel", "128"],
         "GENERATOR_GRAPH_TOKENS: must be at least GENERATOR_PARALLEL, 128: each request may get a token in a step"),
        (["--parallel", "-1"], "GENERATOR_PARALLEL: Input should be greater than or equal to 0"),
    ],
)  # fmt: skip
def test_an_everyday_mistake_is_one_line_that_names_the_variable(capsys, argv, line):
    assert refused(capsys, *argv) == f"{line}\n"


def test_a_model_that_cannot_be_loaded_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_text("no model")
    monkeypatch.setattr("sys.argv", ["generator", "--model", str(tmp_path / "model.gguf")])
    with pytest.raises(SystemExit, match=r"GENERATOR_MODEL: .*model\.gguf is not a GGUF file"):
        main()


def test_the_vllm_engine_needs_a_model_that_is_a_folder_or_an_id(capsys, tmp_path):
    assert "required when GENERATOR_ENGINE is vllm" in refused(capsys, "--engine", "vllm")
    assert "there is no such folder" in refused(capsys, "--engine", "vllm", "--model", str(tmp_path / "no"))
    settings = load(GeneratorSettings, ["--engine", "vllm", "--model", "Qwen/Qwen2.5-7B-Instruct"])
    assert settings.parallel == 256
    assert load(GeneratorSettings, []).parallel == 4


def test_variables_set_it(monkeypatch):
    monkeypatch.setenv("GENERATOR_PARALLEL", "8")
    settings = load(GeneratorSettings, [])
    assert (settings.parallel, settings.port, settings.metrics_port) == (8, 50053, 9103)
    assert settings.threads >= 1


def test_models_are_named(monkeypatch, capsys):
    assert load(GeneratorSettings, []).adapters == {"default": ""}
    monkeypatch.setenv("GENERATOR_ADAPTERS", '{"searcher": "/tmp", "reader": ""}')
    assert list(load(GeneratorSettings, []).adapters) == ["searcher", "reader"]
    for wrong in ('{"a/b": ""}', "{}", "/tmp"):
        monkeypatch.setenv("GENERATOR_ADAPTERS", wrong)
        assert refused(capsys).startswith("GENERATOR_ADAPTERS")


def test_help_needs_no_engine():
    code = (
        "import sys\n"
        "sys.argv = ['generator', '--help']\n"
        "from services.generator.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "loaded = {'grpc', 'openai', 'httpx', 'xllamacpp', 'prometheus_client'} & set(sys.modules)\n"
        "sys.exit(f'imported {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--openai-base-url" in done.stdout
