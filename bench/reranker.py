"""Trains a cross-encoder for RETRIEVER_RERANKER: `python -m bench.reranker --model DIR --adapter DIR --out DIR`.

It is the baseline for a searcher that chooses passages: the same base model, also started from the reading adapter,
trained on the same questions and negatives. Held-out figures come from the folder as the retriever loads it. Training
takes minutes, so a killed run starts again; a folder that exists is only measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cli.arguments import add_settings, settings_of
from common.backends import GrpcRetriever
from common.pool import each
from evaluation import questions as question_sets
from evaluation.errors import EvaluateProblem
from learning.warm_start import settings as warm_start
from learning.warm_start import supervised
from learning.warm_start.teacher import right_passages
from search_agent import prompts
from search_agent.errors import RetrieverError
from search_agent.tags import ANSWER_LINE
from search_agent.types import Passage, Question, Retrieval
from search_agent.world import Retriever
from services.retriever.passages import embedded_text
from services.retriever.rerankers import Reranker, load_reranker

DEPTH = 20  # ranks of the dense ranking that passages are drawn from, as for the searcher's warm start
LEARNED, HELD_OUT = (0.0, 0.8), (0.8, 1.0)  # parts of the articles
_MAX_TOKENS = 1024  # per pair; longer passages are cut
_AT_ONCE = 64


@dataclass(frozen=True)
class Settings:
    """Training settings. One step reads about `batch_tokens` tokens, padding included."""

    learning_rate: float = field(default=5e-5, metadata={"help": "at its peak; it rises for 5 %% of the steps"})
    epochs: int = field(default=2, metadata={"help": "times that every question is read, with other negatives"})
    negatives: int = field(default=7, metadata={"help": "passages beside the right one"})
    batch_tokens: int = field(default=16384, metadata={"help": "tokens of a step"})
    seconds: float = field(default=3600.0, metadata={"help": "of learning at most; the rate falls in that time"})
    seed: int = field(default=0, metadata={"help": "of the head's start, the negatives and the order"})


class Ranked(NamedTuple):
    question: Question
    found: Sequence[Passage]


async def rankings(asked: Sequence[Question], retriever: Retriever) -> list[Ranked]:
    """Returns the first DEPTH passages of the dense ranking for each question, in order. Raises RetrieverError."""
    from tqdm import tqdm

    found: dict[str, Sequence[Passage]] = {}
    with tqdm(total=len(asked), unit="question", desc="rankings") as bar:

        async def work(question: Question) -> None:
            (found[question.id],) = await retriever.search([question.text], Retrieval(DEPTH))
            bar.update()

        await each(asked, work, _AT_ONCE)
    return [Ranked(question, found[question.id]) for question in asked]


def groups(ranked: Sequence[Ranked], epoch: int, settings: Settings) -> list[list[tuple[str, str]]]:
    """Returns each question's pairs (question, passage): the right passage, then negatives drawn for this epoch.

    Leaves out questions whose right passage was not found, or that have too few other passages.
    """
    drawn = []
    for question, found in ranked:
        right = next(iter(right_passages(question, found)), None)
        others = [passage for passage in found if passage is not right]
        if right and len(others) >= settings.negatives:
            order = random.Random(f"{settings.seed} {epoch} {question.id}")
            passages = [right, *order.sample(others, settings.negatives)]
            drawn.append([(question.text, embedded_text(passage)) for passage in passages])
    return drawn


def pair_tokenizer(folder: Path) -> Any:
    """Returns the model's tokenizer, which turns a pair (question, passage) into the reader's prompt.

    The question also stands before the passage, so that the passage's tokens attend to it. The form lives in the
    tokenizer's post-processor, which every library applies to a pair. The chat template is removed, because
    sentence-transformers would use it instead. Padding is on the right; the score is read at the last real token.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = prompts.render("answer", question="$A", documents="Question: $A\n\n$B", answer_line=ANSWER_LINE)
    message = [{"role": "user", "content": asked}]
    form, fixed = [], []
    for piece in re.split(
        r"(\$[AB])", tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    ):
        if piece not in ("$A", "$B"):
            ids = tokenizer.encode(piece, add_special_tokens=False)
            piece = f"text{len(fixed)}"
            fixed.append({"id": piece, "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)})
        form.append(f"{piece}:0")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{fixed[0]['id']}:0 $A:0", pair=" ".join(form), special_tokens=fixed
    )
    tokenizer.chat_template = None
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = _MAX_TOKENS
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def begin(folder: Path, adapter: Path | None) -> Any:
    """Returns the base model with the adapter merged in and a new head with one output, in float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    from learning.adapters import merged

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter:
        base = merged(base, adapter)
    config = AutoConfig.from_pretrained(folder, num_labels=1, dtype="float32", use_cache=False)
    # without this scores go through a sigmoid, where the high ones are all alike
    config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
    model = AutoModelForSequenceClassification.from_config(config)
    model.base_model.load_state_dict(base.base_model.state_dict())
    return model


def scores(model: Any, pairs: Sequence[Sequence[int]]) -> Any:
    """Returns a float32 tensor (pairs,) for pairs of token ids. On a GPU the body runs in bfloat16."""
    import torch

    ids = torch.full((len(pairs), max(map(len, pairs))), model.config.pad_token_id)
    for row, pair in enumerate(pairs):
        ids[row, : len(pair)] = torch.tensor(pair)
    last = torch.tensor([len(pair) - 1 for pair in pairs])
    device = model.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        # padding is on the right, which causal attention never sees, so no mask is needed
        hidden = model.base_model(input_ids=ids.to(device), use_cache=False).last_hidden_state
    return model.score(hidden[torch.arange(len(pairs), device=device), last.to(device)].float()).squeeze(-1)


def train(folder: Path, adapter: Path | None, ranked: Sequence[Ranked], out: Path, settings: Settings) -> None:
    """Writes OUT, a model folder with training.json and losses.jsonl, atomically.

    The loss is the cross-entropy of the right passage among its question's. Raises EvaluateProblem if no question is
    usable.
    """
    import torch
    from tqdm import tqdm

    torch.manual_seed(settings.seed)
    tokenizer, model = pair_tokenizer(folder), begin(folder, adapter)
    model.to("cuda" if torch.cuda.is_available() else "cpu").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)

    steps: list[list[list[list[int]]]] = []  # of questions, of pairs, of token ids
    for epoch in tqdm(range(settings.epochs), unit="epoch", desc="tokens"):
        drawn = groups(ranked, epoch, settings)
        if not drawn:
            raise EvaluateProblem("the right passage is found for no question")
        pairs = [pair for group in drawn for pair in group]
        encoded = tokenizer(pairs, truncation="longest_first", return_attention_mask=False)["input_ids"]
        size = 1 + settings.negatives
        questions = [encoded[first : first + size] for first in range(0, len(encoded), size)]
        lengths = [size * max(map(len, question)) for question in questions]
        order = warm_start.Settings(epochs=1, batch_tokens=settings.batch_tokens, seed=settings.seed + epoch)
        steps += [[questions[row] for row in rows] for rows in supervised.batches(lengths, order)]

    draft = out.with_name(f"{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    warm, started, done = max(1, len(steps) // 20), time.perf_counter(), 0
    with (draft / "losses.jsonl").open("w") as losses, tqdm(total=len(steps), unit="step") as bar:
        for step, questions in enumerate(steps):
            progress = max(step / len(steps), (time.perf_counter() - started) / settings.seconds)
            if progress >= 1:
                break
            for each_group in optimizer.param_groups:
                rise, fall = (step + 1) / warm, 0.5 * (1 + math.cos(math.pi * progress))
                each_group["lr"] = settings.learning_rate * min(rise, fall)
            found = scores(model, [pair for question in questions for pair in question]).view(len(questions), -1)
            right = torch.zeros(len(questions), dtype=torch.long, device=found.device)
            loss = torch.nn.functional.cross_entropy(found, right)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            line = {"step": step, "loss": loss.item(), "seconds": round(time.perf_counter() - started, 3)}
            losses.write(json.dumps(line) + "\n")
            bar.set_postfix(loss=f"{line['loss']:.3f}", refresh=False)
            bar.update()
    facts = {
        "settings": asdict(settings),
        "questions": len(ranked),
        "learned_from": len(drawn),
        "steps": done,
        "steps_planned": len(steps),
        "tokens": sum(len(pair) for questions in steps[:done] for question in questions for pair in question),
        "seconds": round(time.perf_counter() - started, 1),
    }
    (draft / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    model.eval().save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    draft.rename(out)


def measure(ranked: Sequence[Ranked], reranker: Reranker) -> dict[str, float]:
    """Returns the percentage of questions whose gold passage is found, and is first, before and after reranking."""
    from tqdm import tqdm

    counts: dict[str, int] = {}
    for start in tqdm(range(0, len(ranked), 16), unit="16 questions", desc="held out"):
        some = ranked[start : start + 16]
        found = iter(
            reranker.scores([(question.text, embedded_text(each)) for question, found in some for each in found])
        )
        for question, passages in some:
            scored = [(next(found), passage.id in question.gold_ids) for passage in passages]
            here = {"dense: gold first": scored[0][1]}
            for depth in (8, DEPTH):
                here[f"dense: gold among {depth}"] = any(gold for _, gold in scored[:depth])
                best = max(scored[:depth], key=lambda each: each[0])
                here[f"gold first of {depth}, reranked"] = best[1]
            for name, right in here.items():
                counts[name] = counts.get(name, 0) + right
    return {"questions": len(ranked)} | {name: round(100 * n / len(ranked), 1) for name, n in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.reranker", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="Hugging Face folder")
    parser.add_argument(
        "--adapter", type=Path, metavar="DIR", help="adapter to merge into the model first (default: none)"
    )
    parser.add_argument("--questions", default="data/demo/qa_train.jsonl.gz", metavar="SET")
    parser.add_argument("--limit", type=int, help="questions to learn from (default: all of their part)")
    parser.add_argument("--held-out", type=int, default=400, help="questions of other articles (default: %(default)s)")
    parser.add_argument("--retriever", default="127.0.0.1:50051", metavar="HOST:PORT")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the cross-encoder")
    add_settings(parser, Settings)
    args = parser.parse_args()
    settings = settings_of(args, Settings)

    async def retrieve(asked: Sequence[Question]) -> list[Ranked]:
        retriever = GrpcRetriever(args.retriever, timeout_s=60)
        try:
            return await rankings(asked, retriever)
        finally:
            await retriever.close()

    try:
        everything = question_sets.load(args.questions)
        if not args.out.exists():
            asked = question_sets.pick(question_sets.part(everything, *LEARNED), args.limit, settings.seed)
            train(args.model, args.adapter, asyncio.run(retrieve(asked)), args.out, settings)
        asked = question_sets.pick(question_sets.part(everything, *HELD_OUT), args.held_out, settings.seed)
        figures = measure(asyncio.run(retrieve(asked)), load_reranker(str(args.out)))
    except (EvaluateProblem, RetrieverError, OSError, ValueError) as error:
        raise SystemExit(f"bench.reranker: {error}") from error
    (args.out / "held-out.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
