"""Times the trainer's update on several ranks: `python -m bench.updates --out FILE`.

A rank is a process with a GPU or, on a machine without one, with one thread. Each takes its share of a mini-batch of
GRPO with LoRA, as a run would; the lengths are drawn, the tokens are random. `times` is the time of one rank over the
ranks' time, for the same mini-batches. `--by-length` divides the samples by their length alone, as verl does.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import distributed, multiprocessing
from verl.plugin.platform import get_platform, set_platform
from verl.plugin.platform.platform_cuda import PlatformCUDA
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions
from verl.workers.config import ActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.utils.losses import ppo_loss

from bench import recorded
from learning.attention import CAUSAL
from learning.engine import Actor
from learning.packing import over_ranks

COMMAND = "python -m bench.updates --out FILE"
_SHAPE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4}
_VOCABULARY = 512


class Cpu(PlatformCUDA):
    device_name = "cpu"
    device_module = torch.cpu

    def is_available(self) -> bool:
        return True

    def current_device(self) -> str:
        return "cpu"


@contextmanager
def process_group(backend: str, store: Path, rank: int, ranks: int) -> Iterator[None]:
    """Connects this process with the other ranks, which name the same file."""
    file = distributed.FileStore(str(store), ranks)
    distributed.init_process_group(backend, store=file, rank=rank, world_size=ranks)
    yield
    distributed.destroy_process_group()


@contextmanager
def on_cpu(store: Path, rank: int = 0, ranks: int = 1) -> Iterator[None]:
    """Lets verl's engines run in this process, without a GPU."""
    before = get_platform()
    set_platform(Cpu())
    with process_group("gloo", store, rank, ranks):
        yield
    set_platform(before)


def lengths(args: argparse.Namespace, round: int) -> list[tuple[int, int, int]]:
    """Draws a mini-batch: each sample's question, and its tokens of the prompt and of the response."""
    dice = random.Random(round)
    drawn = []
    for question in range(args.questions):
        prompt, response = dice.gauss(args.prompt, args.prompt / 16), dice.gauss(args.response, args.response / 4)
        for _ in range(args.samples):
            own = dice.gauss(response, args.response / 3)
            drawn.append((question, max(8, int(prompt)), max(8, int(own))))
    return drawn


def batch(drawn: list[tuple[int, int, int]], places: list[int], args: argparse.Namespace, round: int) -> Any:
    """Returns these samples as verl hands them to an engine."""
    dice = torch.Generator().manual_seed(round)
    prompts: dict[int, torch.Tensor] = {}
    columns: dict[str, list[torch.Tensor]] = {}
    for question, prompt, own in (drawn[place] for place in places):
        if question not in prompts:
            prompts[question] = torch.randint(0, _VOCABULARY, (prompt,), generator=dice)
        response = torch.randint(0, _VOCABULARY, (own,), generator=dice)
        ids = torch.cat([prompts[question], response])
        numbers = {name: torch.randn(own, generator=dice) for name in ("old_log_probs", "advantages")}
        marks = dict.fromkeys(("response_mask", "loss_mask"), torch.ones(own, dtype=torch.long))
        sample = {"prompts": prompts[question], "responses": response, "input_ids": ids, **numbers, **marks}
        for name, value in (sample | {"position_ids": torch.arange(len(ids))}).items():
            columns.setdefault(name, []).append(value)
    nested = {name: torch.nested.as_nested_tensor(column, layout=torch.jagged) for name, column in columns.items()}
    terms = {"use_dynamic_bsz": True, "max_token_len_per_gpu": args.limit, "temperature": 1.0}
    found = TensorDict(nested, batch_size=len(places)).to("cuda" if torch.cuda.is_available() else "cpu")
    return tu.assign_non_tensor(found, global_batch_size=len(drawn), calculate_entropy=True, **terms)


def shares(drawn: list[tuple[int, int, int]], ranks: int, by_length: bool) -> list[list[int]]:
    """Returns the places of the samples of each rank."""
    if by_length:
        whole = torch.tensor([prompt + own for _, prompt, own in drawn])
        return get_seqlen_balanced_partitions(calculate_workload(whole), ranks, equal_size=True)
    questions, prompts, own = (list(column) for column in zip(*drawn, strict=True))
    return over_ranks(questions, prompts, own, len(drawn), ranks)


def work(rank: int, ranks: int, folder: Path, args: argparse.Namespace) -> None:
    """Times the updates of one rank, which is a process of its own."""
    store = folder / f"store-{ranks}"
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
        with process_group("nccl", store, rank, ranks):
            update(rank, ranks, folder, args, None)
    else:
        torch.set_num_threads(1)
        with on_cpu(store, rank, ranks):
            precision = dict.fromkeys(("param_dtype", "reduce_dtype", "buffer_dtype"), "fp32")
            update(rank, ranks, folder, args, precision)


def update(rank: int, ranks: int, folder: Path, args: argparse.Namespace, precision: dict[str, str] | None) -> None:
    """Computes the rank's share of every round; the first rank writes how long all took."""
    model = HFModelConfig(
        path=str(args.model or folder / "model"),
        override_config={"attn_implementation": CAUSAL},
        use_remove_padding=True,
        enable_gradient_checkpointing=args.checkpointing,
        lora_rank=16,
        lora_alpha=32,
    )
    model.model_type = "language_model"
    actor: Any = Actor(
        model,
        FSDPEngineConfig(strategy="fsdp2", use_torch_compile=False, mixed_precision=precision),
        FSDPOptimizerConfig(lr=1e-5, total_training_steps=args.rounds + 1),
        CheckpointConfig(),
    )
    actor.initialize()
    config = ActorConfig(strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True, ppo_micro_batch_size_per_gpu=1)
    seconds = []
    for round in range(args.rounds + 1):  # the first one warms up
        drawn = lengths(args, round)
        mine = batch(drawn, shares(drawn, ranks, args.by_length)[rank], args, round)
        distributed.barrier()
        began = time.perf_counter()
        with actor.train_mode():
            actor.train_batch(mine, partial(ppo_loss, config=config))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        distributed.barrier()
        seconds.append(time.perf_counter() - began)
    if rank == 0:
        torch.save(seconds[1:], folder / f"seconds-{ranks}")


def write_model(folder: Path) -> None:
    """Writes a small model with random weights, and a tokenizer, which nobody asks."""
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<end>": 0}, unk_token="<end>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    config = LlamaConfig(vocab_size=_VOCABULARY, num_key_value_heads=2, max_position_embeddings=8192, **_SHAPE)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.updates", description=__doc__)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="its weights are read (default: a tiny model)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8, help="of a question (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=130, help="its tokens, on average (default: %(default)s)")
    parser.add_argument("--response", type=int, default=105, help="the same of a response (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=4096, help="tokens of a micro-batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--checkpointing", action="store_true", help="computes layers again instead of keeping them")
    parser.add_argument("--by-length", action="store_true")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    parts: dict[str, Any] = {"by_length": args.by_length}
    one: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(folder / "model")
        for ranks in args.ranks:
            multiprocessing.spawn(work, (ranks, folder, args), nprocs=ranks)
            seconds = torch.load(folder / f"seconds-{ranks}")
            one = one or seconds
            times = [alone / shared for alone, shared in zip(one, seconds, strict=True)]
            parts[str(ranks)] = {"seconds": seconds, "times": statistics.median(times), "of_each": times}
            print(
                f"{ranks} ranks: {statistics.median(seconds):.2f} s, {statistics.median(times):.2f} times", flush=True
            )
    recorded.write(
        args.out, recorded.device() if torch.cuda.is_available() else f"{os.cpu_count()} cores", COMMAND, parts
    )


if __name__ == "__main__":
    main()
