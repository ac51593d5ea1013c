"""bench/on_gpu.sh with programs that stand for Python, vLLM and NVIDIA's tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.addresses import free_port

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/bash
case "$2" in
services.*)
    port=${RETRIEVER_PORT:-$GENERATOR_PORT}
    [[ -z ${FAILS-} || $port != *"$FAILS" ]] || { echo broken; exit 1; }
    exec "$REAL" -c "import socket, time; s = socket.create_server(('127.0.0.1', $port)); time.sleep(60)" ;;
cli) [[ $3 = base-model || -z ${FAILS_TO_MERGE-} ]] || { echo "ADAPTER: broken"; exit 1; } ;;
bench.agents | bench.ceiling)
    until [[ $1 = --out ]]; do shift; done
    [[ -z ${FAILS_TO_PLAY-} || $2 != *"$FAILS_TO_PLAY"* ]] || { echo "all questions failed"; exit 1; }
    echo '{"questions_per_s": 1}' >"$2" ;;
bench.dummy_model) ;;
*) exec "$REAL" "$@" ;;
esac
"""
NVIDIA_SMI = """#!/bin/bash
[[ $* = *memory* ]] && echo 81559 || echo 'GPU 0: Fake (x)'
"""
MPS = """#!/bin/bash
control=$CUDA_MPS_PIPE_DIRECTORY/control
if [[ ${1-} = -d ]]; then [[ ! -e $control ]] && touch "$control"; else rm "$control"; fi
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """Writes the programs; returns an environment that finds them."""
    programs = {"python": PYTHON, "nvidia-cuda-mps-control": MPS, "nvidia-smi": NVIDIA_SMI}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    found = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": str(tmp_path / "python"), "REAL": sys.executable}
    return os.environ | found | {"PORTS": str(free_port() - 50_100)}


def on_gpu(work: Path, phase: list[str], environment: dict[str, str], **fails: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "bench/on_gpu.sh"), str(work), *phase]
    return subprocess.run(command, env=environment | fails, capture_output=True, text=True, timeout=60)


def agents(work: Path, environment: dict[str, str], **fails: str) -> subprocess.CompletedProcess[str]:
    return on_gpu(work, ["agents"], environment, **fails)


def test_agents_are_measured_again_after_a_run_that_failed(tmp_path: Path, bare: dict[str, str]) -> None:
    work = tmp_path / "work folder"
    failed = agents(work, bare, FAILS_TO_MERGE="yes")
    assert failed.returncode == 1
    assert "not merged: ADAPTER: broken" in failed.stdout

    fails = str(50100 + int(bare["PORTS"]) + 86)  # the last engine, when the multi-process service runs
    failed = agents(work, bare, FAILS=fails)
    assert failed.returncode == 1
    assert "reader-1 does not answer" in failed.stdout
    assert not (work / "mps/control").exists()

    (work / "mps/control").touch()  # as after a kill
    (work / "logs/agents-merged.json").write_text('{"questions_per_s": 9}')
    assert agents(work, bare, FAILS_TO_PLAY="agents-merged").returncode == 0
    found = json.loads((work / "agents.json").read_text())
    assert found["adapters"] == found["seven"] == {"questions_per_s": 1}
    assert found["merged"] is None
    assert not (work / "mps/control").exists()


def test_parts_that_were_not_measured_are_named_and_the_others_recorded(tmp_path: Path, bare: dict[str, str]) -> None:
    done = on_gpu(tmp_path / "work", ["gpus", "tensor-parallel"], bare, FAILS_TO_PLAY="tensor-parallel-alone")
    assert done.returncode == 1
    assert "tensor-parallel-alone on 1 was not measured" in done.stdout
    found = json.loads((tmp_path / "work/gpus.json").read_text())
    assert found["tensor-parallel"]["1"]["questions_per_s"] == 1
    assert found["tensor-parallel-alone"] is None

    done = on_gpu(tmp_path / "work", ["gpus", "paper"], bare)
    assert done.returncode == 1
    assert "paper, which needs three GPUs or two of 120 GiB, was not measured" in done.stdout
    assert on_gpu(tmp_path / "work", ["gpus", "engines"], bare).returncode == 0
