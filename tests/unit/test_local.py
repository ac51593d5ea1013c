"""The stack as local processes: what each service is told, without starting one."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from common.settings import load
from deploy.local import LOGS, Stack
from services.gateway.settings import GatewaySettings
from services.generator.settings import GeneratorSettings

S = TypeVar("S", GeneratorSettings, GatewaySettings)
LAYOUTS = sorted((Path(__file__).parents[2] / "deploy").glob("gpu-*.env"))


def stack(environment: Mapping[str, str], logs: Path = LOGS) -> Stack:
    return Stack(1, logs, environment=environment)


def test_the_demo_has_one_service_for_searcher_and_generator() -> None:
    demo = stack({})
    assert "searcher" not in demo.services
    gateway = demo.environment("gateway")
    port = demo.ports["generator"]
    assert gateway["GATEWAY_SEARCHER"] == f"127.0.0.1:{port}/searcher"
    assert gateway["GATEWAY_GENERATOR"] == f"127.0.0.1:{port}/reader"
    assert demo.environment("generator")["GENERATOR_ENGINE"] == "openvino"
    assert "GENERATOR_ENGINE" not in stack({"GENERATOR_MODEL": "m"}).environment("generator")


def test_a_searcher_with_a_model_of_its_own_has_a_service_and_its_settings() -> None:
    ours = stack({"SEARCHER_MODEL": "m", "SEARCHER_PARALLEL": "3", "GENERATOR_PARALLEL": "7", "SEARCHER_DEVICES": "1"})
    searcher, generator = ours.environment("searcher"), ours.environment("generator")
    assert (searcher["GENERATOR_MODEL"], searcher["GENERATOR_PARALLEL"]) == ("m", "3")
    assert searcher["CUDA_VISIBLE_DEVICES"] == "1"
    assert generator["GENERATOR_PARALLEL"] == "7"
    assert not {"GENERATOR_MODEL", "CUDA_VISIBLE_DEVICES"} & set(generator)
    assert searcher["GENERATOR_STATE"] != generator["GENERATOR_STATE"]
    ports = {int(each["GENERATOR_PORT"]) for each in (searcher, generator)}
    assert ports == {ours.ports["searcher"], ours.ports["generator"]}
    assert "GENERATOR_ADAPTERS" not in searcher  # the demo's fit the demo's model
    asked = ours.environment("gateway")
    assert asked["GATEWAY_SEARCHER"] == f"127.0.0.1:{ours.ports['searcher']}"
    assert json.loads(asked["GATEWAY_SEARCHERS"])["ircot"] == f"127.0.0.1:{ours.ports['generator']}/base"
    assert ours.environment("trainer")["TRAINER_SEARCHER"] == asked["GATEWAY_SEARCHER"]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda each: each.stem)
def test_a_layout_for_containers_lays_out_processes(
    layout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = f"set -a; . {layout}; env"
    shell = subprocess.run(["bash", "-c", script], env={}, capture_output=True, text=True, check=True)
    ours = stack(dict(line.split("=", 1) for line in shell.stdout.splitlines()), tmp_path)
    gpus = []
    for name in ("retriever", "searcher", "generator"):
        chosen = ours.environment(name)
        gpus.append(chosen["CUDA_VISIBLE_DEVICES"])
        if name != "retriever":
            settings = _settings(GeneratorSettings, chosen, monkeypatch)
            assert settings.engine == "vllm"
            assert settings.tensor_parallel == len(chosen["CUDA_VISIBLE_DEVICES"].split(","))
    assert len(set(gpus)) == min(3, int(layout.stem.split("-")[1]))
    asked = _settings(GatewaySettings, ours.environment("gateway"), monkeypatch)
    assert asked.searcher != asked.generator


def _settings(kind: type[S], environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> S:
    with monkeypatch.context() as context:
        for name in set(os.environ) - set(environment):
            context.delenv(name)
        for name, value in environment.items():
            context.setenv(name, value)
        return load(kind, [])
