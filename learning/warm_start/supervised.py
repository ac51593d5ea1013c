"""Training of a LoRA adapter from examples, for a warm start or the reading adapter.

Examples are JSON lines {"spans": [["environment", text], ["policy", text], …]}: the model learns what the policy wrote
and reads what the environment wrote. A line {"card": {…}} says what the examples teach; it goes into the adapter's
search_agent.json.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from common import model_card, stored
from common.control_tokens import ChatTokenizer
from common.files import draft_of, share
from learning.adapters import adapted
from learning.warm_start.settings import Settings
from search_agent.types import UNTAUGHT, Author, Message, ModelCard, Span


class Example(NamedTuple):
    """Token ids, and for each of them 1 if it is learned."""

    ids: list[int]
    mask: list[int]


def read_spans(file: Path) -> list[list[Span]]:
    """Returns the examples of a file. Raises ValueError naming file and line."""
    examples = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                found = json.loads(line)
                if "card" not in found:
                    examples.append([Span(Author(author), str(text)) for author, text in found["spans"]])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file}:{number}: not an example: {error!r}") from error
    return examples


@dataclass(frozen=True, slots=True)
class _CardLine:
    card: ModelCard


def read_card(file: Path) -> ModelCard:
    """Returns what the examples of a file teach; parameters on which its cards differ are left out.

    Raises ValueError for cards of different methods, naming file and line.
    """
    whole = None
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.startswith(b'{"card":'):
                continue
            if (found := stored.read(_CardLine, line)) is None:
                raise ValueError(f"{file}:{number}: not a card")
            card = found.card
            if whole and (card.method, card.prompt_version) != (whole.method, whole.prompt_version):
                raise ValueError(
                    f"{file}:{number}: teaches another method or prompt: {card.method!r} after {whole.method!r}"
                )
            whole = _both(whole, card) if whole else card
    return whole or UNTAUGHT


def _both(one: ModelCard, other: ModelCard) -> ModelCard:
    same = {name: value for name, value in one.parameters.items() if other.parameters.get(name) == value}
    return replace(one, parameters=same, data=tuple(dict.fromkeys((*one.data, *other.data))))


def encode(tokenizer: Any, spans: Sequence[Span]) -> Example:
    """The first span is the user's message, the rest the assistant's, which ends after the last one."""
    first, *rest = spans
    chat = ChatTokenizer(tokenizer)
    ids = chat.chat([Message("user", first.text)])
    mask = [0] * len(ids)
    for span in rest:
        more = chat.text(span.text)
        ids += more
        mask += [int(span.author is Author.POLICY)] * len(more)
    return Example([*ids, tokenizer.eos_token_id], [*mask, 1])


def batches(lengths: Sequence[int], settings: Settings) -> Iterator[list[int]]:
    """Yields the rows of each step, shuffled anew every epoch."""
    order = random.Random(settings.seed)
    for _ in range(settings.epochs):
        step: list[int] = []
        left = settings.batch_tokens
        for row in order.sample(range(len(lengths)), len(lengths)):
            if step and lengths[row] > left:
                yield step
                step, left = [], settings.batch_tokens
            step.append(row)
            left -= lengths[row]
        if step:
            yield step


def train(
    model_folder: Path,
    examples: Sequence[Sequence[Span]],
    out: Path,
    settings: Settings,
    start: Path | None = None,
    stops: Collection[int] = (),
    taught: ModelCard = UNTAUGHT,
) -> None:
    """Writes a PEFT adapter of all linear layers to OUT, with search_agent.json, settings.json and losses.jsonl.

    `start` is an adapter to begin with, which brings its own rank. The adapter as it is after each of the steps `stops`
    goes to OUT/step-STEP: a warm start for reinforcement is one that is not sure of itself yet. Goes on from
    OUT/checkpoint.pt if the run before was killed. Runs on a GPU, in bfloat16, where there is one.
    """
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from tqdm import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from learning.attention import CAUSAL

    torch.manual_seed(settings.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    base = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.bfloat16 if device == "cuda" else None, attn_implementation=CAUSAL
    )
    lora = LoraConfig(r=settings.rank, lora_alpha=2 * settings.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    begun = adapted(base, start, trainable=True) if start else get_peft_model(base, lora)
    model = begun.to(device).train()
    learned = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=settings.learning_rate, weight_decay=0.0)

    everything = [encode(tokenizer, spans) for spans in examples]
    encoded = [each for each in everything if len(each.ids) <= settings.max_tokens]
    if left_out := len(examples) - len(encoded):
        print(f"{left_out} of {len(examples)} examples are longer than {settings.max_tokens} tokens", file=sys.stderr)
    if not encoded:
        raise ValueError("there is no example to learn from")
    steps = list(batches([len(each.ids) for each in encoded], settings))
    warm = max(1, len(steps) // 20)

    def write(folder: Path, step: int) -> None:
        half = {name: weight.half() for name, weight in get_peft_model_state_dict(model).items()}
        model.save_pretrained(folder, state_dict=half)  # float16 is exact enough for an adapter, and half the size
        figures = {"examples": len(encoded), "steps": step}
        model_card.write(folder, model_card.trained(taught, model_folder, start, figures))
        share(folder)

    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(json.dumps(asdict(settings) | {"examples": len(encoded)}, indent=1) + "\n")
    checkpoint, done = out / "checkpoint.pt", 0
    if checkpoint.exists():
        kept = torch.load(checkpoint, map_location=device)
        set_peft_model_state_dict(model, kept["adapter"])
        optimizer.load_state_dict(kept["optimizer"])
        done = kept["step"]
    with (
        (out / "losses.jsonl").open("a" if done else "w", encoding="utf-8") as losses,
        tqdm(total=len(steps), initial=done, unit="step") as bar,
    ):
        for step, rows in enumerate(steps[done:], start=done):
            started = time.perf_counter()
            for group in optimizer.param_groups:
                rise, fall = (step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / len(steps)))
                group["lr"] = settings.learning_rate * min(rise, fall)
            # One row holds the step's examples, one after the other, each with positions from 0; and only learned
            # tokens get logits: 49,152 floats each for every token would fill the GPU.
            chosen = [encoded[row] for row in rows]
            ids = torch.tensor([token for each in chosen for token in each.ids], device=device)
            places = torch.cat([torch.arange(len(each.ids)) for each in chosen]).to(device)
            # the first token of an example has none before it that could foretell it
            learn = torch.tensor([bit for each in chosen for bit in (0, *each.mask[1:])], dtype=torch.bool)
            learn = learn.to(device)
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                hidden = model.get_base_model().model(
                    input_ids=ids[None], position_ids=places[None], use_cache=False
                ).last_hidden_state[0]  # fmt: skip
                logits = model.get_base_model().lm_head(hidden[:-1][learn[1:]])
            loss = torch.nn.functional.cross_entropy(logits.float(), ids[1:][learn[1:]])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            line = {"step": step, "loss": loss.item(), "tokens": ids.numel(), "seconds": time.perf_counter() - started}
            losses.write(json.dumps(line) + "\n")
            bar.set_postfix(loss=f"{line['loss']:.3f}", refresh=False)
            bar.update()
            if step + 1 in stops:
                write(out / f"step-{step + 1}", step + 1)
            if (step + 1) % settings.save_steps == 0:
                adapter = get_peft_model_state_dict(model)
                with draft_of(checkpoint) as draft:
                    torch.save({"step": step + 1, "adapter": adapter, "optimizer": optimizer.state_dict()}, draft)
                    losses.flush()
    write(out, len(steps))
    checkpoint.unlink(missing_ok=True)
