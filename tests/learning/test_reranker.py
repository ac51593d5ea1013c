"""The benchmark's cross-encoder on a tiny model: the retriever scores with what it learned."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.reranker import Ranked, Settings, begin, groups, measure, pair_tokenizer, scores, train
from evaluation.errors import EvaluateProblem
from learning.warm_start import supervised
from search_agent.types import Author, Passage, Question, Span
from services.retriever.passages import embedded_text
from services.retriever.rerankers import load_reranker
from tests.learning.model import write_model

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

PASSAGES = [Passage(f"p{n}", f"Door {n}", f"Its code is {n * 7}.") for n in range(10)]
QUESTIONS = [Question(f"q{n}", f"Code of door {n}?", (f"{n * 7}",), ((f"p{n}",),)) for n in range(10)]
RANKED = [Ranked(question, [*PASSAGES[n - 4 :], *PASSAGES[: n - 4]]) for n, question in enumerate(QUESTIONS)]
QUICK = Settings(learning_rate=1e-3, epochs=1, negatives=3, batch_tokens=4096)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = write_model(tmp_path_factory.mktemp("model"))
    config = AutoConfig.from_pretrained(folder)
    config.pad_token_id = AutoTokenizer.from_pretrained(folder).pad_token_id
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def learned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learned") / "reranker"
    train(model, None, RANKED, out, QUICK)
    return out


def test_the_retriever_s_scores_are_those_learned(model: Path, learned: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    texts = ["", "short", "of middling length, " * 9, "cut, " * 900]
    pairs = [(question.text, text) for question, _ in RANKED[:3] for text in texts]
    ids = pair_tokenizer(model)(pairs, truncation="longest_first")["input_ids"]
    assert len({len(each) for each in ids}) == 4
    with torch.inference_mode():
        ours = scores(AutoModelForSequenceClassification.from_pretrained(learned), ids).numpy()
    served = load_reranker(str(learned)).scores(pairs)
    assert ours.std() > 0.01
    assert ours.min() < 0 or ours.max() > 1  # no sigmoid
    np.testing.assert_allclose(served, ours, atol=1e-5)


def test_a_pair_is_the_reader_s_prompt(model: Path) -> None:
    tokenizer = pair_tokenizer(model)
    (ids,) = tokenizer([("Who?", "Door 3\nIts code is 21.")])["input_ids"]
    assert tokenizer.decode(ids) == (
        "<|im_start|>user\nAnswer the question from the documents. Reply with the answer only, in as few words as "
        "possible.\n\nQuestion: Who?\n\nDoor 3\nIts code is 21.\n\nQuestion: Who?\nAnswer:<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert tokenizer.chat_template is None


def test_the_adapter_is_where_it_begins(model: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    settings = supervised.Settings(rank=4, learning_rate=1e-2, epochs=2, batch_tokens=256)
    examples = [[Span(Author.ENVIRONMENT, f"door {n}?"), Span(Author.POLICY, f"code {n * 7}")] for n in range(12)]
    supervised.train(model, examples, tmp_path, settings)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        plain = base.model(ids).last_hidden_state
        theirs = PeftModel.from_pretrained(base, tmp_path).base_model.model.model(ids).last_hidden_state
        ours = begin(model, tmp_path).base_model(ids).last_hidden_state
    assert (ours - plain).abs().max() > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_right_passages_come_first_and_negatives_change() -> None:
    first, second = (groups(RANKED, epoch, QUICK) for epoch in (0, 1))
    assert first == groups(RANKED, 0, QUICK) != second
    for ranked, group in zip(RANKED, first, strict=True):
        number = int(ranked.question.id[1:])
        assert group[0] == (ranked.question.text, embedded_text(PASSAGES[number]))
        assert len(set(group)) == 4
    few, lost = RANKED[0]._replace(found=PASSAGES[:3]), RANKED[9]._replace(found=PASSAGES[1:6])
    assert groups([few, lost, RANKED[1]], 0, QUICK) == first[1:2]


def test_it_learns_which_passage_is_right(model: Path, tmp_path: Path) -> None:
    windows = [Passage(f"w{n}", f"Window {n}", "It is closed.") for n in range(3)]  # told apart by a letter
    ranked = [Ranked(question, [*windows, PASSAGES[n]]) for n, (question, _) in enumerate(RANKED)]
    train(model, None, ranked, tmp_path / "out", replace(QUICK, epochs=30))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out" / "losses.jsonl").read_bytes().splitlines()]
    assert losses[0] == pytest.approx(np.log(4), abs=0.3)
    assert losses[-1] < 0.2
    found = measure(ranked, load_reranker(str(tmp_path / "out")))
    assert found["questions"] == 10
    assert found["dense: gold first"] == 0
    assert found["dense: gold among 8"] == found["dense: gold among 20"] == 100
    assert found["gold first of 8, reranked"] == found["gold first of 20, reranked"] == 100


def test_time_ends_it_and_a_killed_run_s_draft_gives_way(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out.draft" / "old").mkdir(parents=True)
    train(model, None, RANKED, tmp_path / "out", replace(QUICK, epochs=10**3, seconds=0.5))
    facts = json.loads((tmp_path / "out" / "training.json").read_text())
    assert 0 < facts["steps"] < facts["steps_planned"]
    assert {each.name for each in tmp_path.iterdir()} == {"out"}
    assert not (tmp_path / "out" / "old").exists()


def test_nothing_to_learn_from(model: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluateProblem, match="found for no question"):
        train(model, None, [], tmp_path / "out", QUICK)
