"""A run's weights: the model that it starts from, and what searchers load of each checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from common import lines, model_card, stored
from common.files import write_whole
from common.run_config import ConfigProblem, RunConfig
from learning.adapters import adapted

_ATTENTION = "learning.attention"


def start_of(run: RunConfig, folder: Path) -> str:
    """Returns the model that the run in `folder` trains: its base model, or the folder for `merge_start`."""
    return str(folder / "start") if run.adapter and not run.trains_adapter else run.base_model


def merge_start(run: RunConfig, folder: Path) -> None:
    """Writes the start of a run that trains all weights from an adapter: the base model with the adapter merged in.

    Raises ConfigProblem if the two do not fit together.
    """
    start = Path(start_of(run, folder))
    if str(start) == run.base_model or start.exists():
        return
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    draft = start.with_suffix(".draft")
    base = AutoModelForCausalLM.from_pretrained(run.base_model, dtype=torch.float32)
    try:
        adapted(base, run.adapter).merge_and_unload().save_pretrained(draft)
    except ValueError as error:
        raise ConfigProblem("adapter", f"cannot be merged into {run.base_model}: {error}") from error
    AutoTokenizer.from_pretrained(run.base_model).save_pretrained(draft)
    draft.rename(start)


def write_weights(run: RunConfig, folder: Path) -> None:
    """Writes what searchers load of each checkpoint, with its card: CHECKPOINT/lora_adapter or, of a run that trains
    all weights, CHECKPOINT/model."""
    name = "lora_adapter" if run.trains_adapter else "model"
    for checkpoint in (folder / "checkpoints").glob("global_step_*"):
        if (checkpoint / name).exists():
            continue
        merged = checkpoint / "merged.draft"
        where = ["--local_dir", str(checkpoint / "actor"), "--target_dir", str(merged)]
        merge = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp", *where]
        subprocess.run(merge, check=True, env=os.environ | {"VERL_USE_EXTERNAL_MODULES": _ATTENTION})
        start, figures = Path(run.adapter) if run.adapter else None, _figures(folder / "metrics.jsonl", checkpoint.name)
        card = model_card.trained(run.card(), Path(run.base_model), start, figures)
        if run.trains_adapter:
            model_card.write(merged / name, card)
            (merged / name).rename(checkpoint / name)
            shutil.rmtree(merged)  # the base model, which comes along
        else:
            _forget_attention(merged / "config.json")
            model_card.write(merged, replace(card, base_model=""))  # it is a base model itself
            merged.rename(checkpoint / name)


def _forget_attention(config: Path) -> None:
    """Takes the attention that trained the model out of its configuration: only this project knows it."""
    values = json.loads(config.read_bytes())
    values = {name: value for name, value in values.items() if name.strip("_") != "attn_implementation"}
    write_whole(config, json.dumps(values, indent=2) + "\n")


def _figures(log: Path, checkpoint: str) -> dict[str, float]:
    """Returns the step of a checkpoint, and the run's own metrics of that step."""
    step = int(checkpoint.rpartition("_")[2])
    figures: dict[str, float] = {"step": step}
    for line in lines.whole(log.read_bytes())[0] if log.exists() else ():
        record = stored.read(_Logged, line)
        if record and record.step == step:
            figures |= {name: value for name, value in record.data.items() if name.startswith(("search/", "val-"))}
    return figures


@dataclass(frozen=True, slots=True)
class _Logged:
    """A line of metrics.jsonl."""

    step: int
    data: dict[str, float]
