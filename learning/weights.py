"""Whole models from adapters, and a run's weights: what it starts from, and what searchers load of a checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from common import lines, model_card, stored
from common.error_text import one_line
from common.files import draft_folder, share, write_whole
from common.run_config import ConfigProblem, RunConfig
from learning.adapters import merged

_ATTENTION = "learning.attention"


def start_of(run: RunConfig, folder: Path) -> str:
    """Returns the model that the run in `folder` trains: its base model, or the folder for `merge_start`."""
    return str(folder / "start") if run.adapter and not run.trains_adapter else run.base_model


def merge_start(run: RunConfig, folder: Path) -> None:
    """Writes the start of a run that trains all weights from an adapter: the base model with the adapter merged in.

    Raises ConfigProblem as `merge` does.
    """
    start = Path(start_of(run, folder))
    if str(start) == run.base_model or start.exists():
        return
    merge(run.base_model, run.adapter, start, "float32")  # training keeps its weights in float32


def merge(base_model: str, adapter: str, out: Path, dtype: str = "auto") -> None:
    """Writes the model folder `out`, whole or not at all: a base model with a LoRA adapter merged in.

    `base_model` is a folder or a hub id, whose tokenizer and, with "auto", dtype the new model has; `adapter` is a PEFT
    folder. Raises OSError, and ConfigProblem for `base_model` or `adapter` if it cannot be read or they do not fit.
    """
    for field, place, needed in (
        ("base_model", base_model, "config.json"),
        ("adapter", adapter, "adapter_config.json"),
        ("adapter", adapter, "adapter_model.*"),
    ):
        check_folder(field, place)
        if Path(place).is_dir() and not any(Path(place).glob(needed)):  # as when one is given for the other
            raise ConfigProblem(field, f"{place} has no {needed}")
    import peft  # noqa: F401 - it should be missed before a large model is read, not after
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with draft_folder(out) as draft:  # what cannot be written is told before a large model is read
        try:
            tokenizer = AutoTokenizer.from_pretrained(base_model)
            base = AutoModelForCausalLM.from_pretrained(base_model, dtype=dtype)
        except Exception as error:  # a wrong value of a configuration fails anywhere
            raise ConfigProblem("base_model", f"{base_model} cannot be read: {one_line(error)[:300]}") from error
        try:
            model = merged(base, adapter)
        except (ValueError, RuntimeError) as error:
            raise ConfigProblem("adapter", f"cannot be merged into {base_model}: {one_line(error)}") from error
        try:
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
        except ValueError as error:  # such as of generation_config.json, which is read without a check
            raise ConfigProblem(
                "base_model", f"{base_model} cannot be written again: {one_line(error)[:300]}"
            ) from error
        except SafetensorError as error:
            raise OSError(f"{draft}: {one_line(error)}") from error
        model_card.write(draft, model_card.merged(Path(base_model), Path(adapter)))


def check_folder(field: str, place: str) -> None:
    """Raises ConfigProblem for a path of this machine, and not a hub id, where there is no folder."""
    if place.startswith((".", "/")) and not Path(place).is_dir():
        raise ConfigProblem(
            field, f"there is no folder {Path(place).absolute()}; docs/training.md tells how to make one"
        )


def write_weights(run: RunConfig, folder: Path) -> None:
    """Writes what searchers load of each checkpoint, with its card: CHECKPOINT/lora_adapter or, of a run that trains
    all weights, CHECKPOINT/model."""
    name = "lora_adapter" if run.trains_adapter else "model"
    for checkpoint in (folder / "checkpoints").glob("global_step_*"):
        if (checkpoint / name).exists():
            continue
        draft = checkpoint / "merged.draft"
        where = ["--local_dir", str(checkpoint / "actor"), "--target_dir", str(draft)]
        command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp", *where]
        subprocess.run(command, check=True, env=os.environ | {"VERL_USE_EXTERNAL_MODULES": _ATTENTION})
        start, figures = Path(run.adapter) if run.adapter else None, _figures(folder / "metrics.jsonl", checkpoint.name)
        card = model_card.trained(run.card(), Path(run.base_model), start, figures)
        if run.trains_adapter:
            model_card.write(draft / name, card)
            share(draft / name)
            (draft / name).rename(checkpoint / name)
            shutil.rmtree(draft)  # the base model, which comes along
        else:
            _forget_attention(draft / "config.json")
            model_card.write(draft, replace(card, base_model=""))  # it is a base model itself
            share(draft)
            draft.rename(checkpoint / name)


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
