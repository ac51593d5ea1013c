"""Questions become rows: scored, filtered, and split by article."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from common import run_config
from common.corpus import BadRecord
from common.rag_store import Score
from common.run_config import ConfigProblem, RunConfig
from evaluation.errors import BadQuestion
from learning import data
from learning.data import FACTS, TRAIN, VALIDATION, gold_in, keep, prepare, split
from learning.episodes import example_of
from search_agent.errors import Failure, RetrieverError
from search_agent.types import Passage, Question, Rankings, Retrieval
from search_agent.world import World
from tests.fakes import Generator, Retriever


def question(number: int, article: str = "", passages: tuple[str, ...] = ()) -> Question:
    return Question(f"q{number}", f"Question {number}?", ("echo",), tuple((id,) for id in passages), {}, "", article)


def test_no_article_is_in_both_parts() -> None:
    asked = [question(n, f"article {n % 7}") for n in range(70)]
    training, validation = split(asked, 15, seed=3)
    assert sorted(each.id for each in training + validation) == sorted(each.id for each in asked)
    assert not {each.article for each in training} & {each.article for each in validation}
    assert len(validation) == 20  # whole articles
    assert split(asked, 15, seed=3) == (training, validation)
    assert split(asked, 15, seed=4) != (training, validation)


def test_without_a_title_the_gold_passage_stands_for_the_article() -> None:
    asked = [question(n, passages=(f"p{n % 4}",)) for n in range(20)] + [question(n) for n in range(20, 30)]
    training, validation = split(asked, 12, seed=1)
    known = [frozenset().union(*(each.gold_ids for each in part)) for part in (training, validation)]
    assert not known[0] & known[1]
    assert len(validation) >= 12


def test_questions_that_share_any_gold_passage_stay_together() -> None:
    asked = [question(n, passages=(f"p{n}", f"p{n + 1}" if n % 5 else f"x{n}")) for n in range(40)]
    training, validation = split(asked, 12, seed=1)
    assert validation
    known = [frozenset().union(*(each.gold_ids for each in part)) for part in (training, validation)]
    assert not known[0] & known[1]


def test_what_naive_rag_fails_is_kept_with_a_share_of_the_rest() -> None:
    asked = [question(n) for n in range(40)]
    right = {id(each): place % 2 == 0 for place, each in enumerate(asked)}
    failed = asked[1::2]
    assert keep(asked, right, "naive_rag_fails", 0) == failed
    assert keep(asked, right, "all", 0) == asked
    mixed = keep(asked, right, 0.25, 0)
    assert [each for each in mixed if not right[id(each)]] == failed
    assert len(mixed) == 25
    assert mixed == keep(asked, right, 0.25, 0) != keep(asked, right, 0.25, 1)


async def test_no_gain_is_measured_on_an_index_whose_answers_change(tmp_path: Path) -> None:
    retriever = Retriever()
    retriever.version = ""
    with pytest.raises(ConfigProblem, match="'demo' has no version") as caught:
        await prepare(written(tmp_path), tmp_path / "data", World(retriever, generator=Generator("x")))
    assert caught.value.field == "index"


async def test_coverage_is_no_reward_where_no_gold_passage_is_known(tmp_path: Path) -> None:
    run = written(tmp_path, **{"reward.coverage_weight": 1.0})
    with pytest.raises(ConfigProblem, match=r"reward\.coverage_weight"):
        await prepare(run, tmp_path / "data", World(Retriever(), generator=Generator("x")))


async def test_questions_come_in_the_shares_of_each_stage(tmp_path: Path) -> None:
    stages = {1: {"shares": {1: 3, 2: 1}}, 3: {"shares": {"2": 0.5, "": 0.5}}, 9: {"shares": {"7": 1}}}
    sizes = {"verl.data.train_batch_size": 8, "verl.trainer.total_training_steps": 4}
    run = written(tmp_path, **{"data.mixture": stages, "data.keep": "all"}, **sizes)
    path = tmp_path / "questions.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    with pytest.raises(ConfigProblem, match=r"data\.mixture: no question to train on has hops '1'"):
        await prepare(run, tmp_path / "none", World(Retriever(), generator=Generator("x")))
    for number, line in enumerate(lines):
        line["metadata"] |= ({}, {"hops": 1}, {"hops": 2})[number % 3]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    await prepare(run, tmp_path / "data", World(Retriever(), generator=Generator("x")))
    asked = [
        example_of(json.loads(row["reward_model"]["ground_truth"])).question for row in rows(tmp_path / "data" / TRAIN)
    ]
    steps = [Counter(question.groups.get("hops", "") for question in asked[at : at + 8]) for at in range(0, 32, 8)]
    assert steps == [{"1": 6, "2": 2}] * 2 + [{"2": 4, "": 4}] * 2
    twos = [question.id for question in asked if question.groups.get("hops") == "2"]
    assert len(twos) == len(set(twos)) == 12  # none comes again before all have come


class Sometimes(Generator):
    """Knows the questions of even numbers."""

    def __init__(self) -> None:
        super().__init__("echo")

    async def stream(self, messages: Any, sampling: Any) -> Any:
        number = int(messages[-1].content.split("Question: Question ")[1].split("?")[0])
        async for piece in super().stream(messages, sampling):
            yield piece if number % 2 == 0 or not piece.text else type(piece)("no idea")


def written(folder: Path, **overrides: Any) -> RunConfig:
    lines = [
        {"id": f"q{n}", "question": f"Question {n}?", "golden_answers": ["echo"], "metadata": {"title": f"t{n % 10}"}}
        for n in range(60)
    ]
    path = folder / "questions.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    fields = {"data.questions": str(path), "data.validation": 10, "data.part": (0, 1), "data.keep": "naive_rag_fails"}
    fields["reward.coverage_weight"] = 0.0  # the questions name no gold passages
    return run_config.load("smollm2-demo", fields | overrides)


def rows(path: Path) -> list[dict[str, Any]]:
    return parquet.read_table(path).to_pylist()


async def test_rows_have_the_shape_that_verl_reads(tmp_path: Path) -> None:
    run = written(tmp_path)
    await prepare(run, tmp_path / "data", World(Retriever(), generator=Sometimes()))
    training, validation = (rows(tmp_path / "data" / name) for name in (TRAIN, VALIDATION))
    assert len(training) == 24  # six questions of each of the four articles left that naive RAG fails
    row = training[0]
    assert row["prompt"] == [
        {"role": "user", "content": example_of(json.loads(row["reward_model"]["ground_truth"])).question.text}
    ]
    assert row["agent_name"] == "search_agent"
    assert [each["extra_info"]["index"] for each in training] == list(range(len(training)))
    for each in training:
        example = example_of(json.loads(each["reward_model"]["ground_truth"]))
        assert (example.rag, example.generator) == (0.0, "echo@1")
        assert each["extra_info"]["rag_key"].startswith("rag:demo:v1:")
    assert {row["extra_info"]["rag_gen_acc"] for row in validation} == {0.0, 1.0}  # validation is not filtered
    again = tmp_path / "again"
    await prepare(run, again, World(Retriever(), generator=Sometimes()))
    assert rows(again / TRAIN) == training


async def test_a_run_that_goes_on_keeps_its_rows_and_refuses_other_services(tmp_path: Path) -> None:
    run, folder = written(tmp_path), tmp_path / "data"
    await prepare(run, folder, World(Retriever(), generator=Sometimes()))
    before = (folder / TRAIN).read_bytes()
    generator = Sometimes()
    await prepare(run, folder, World(Retriever(), generator=generator))
    assert (folder / TRAIN).read_bytes() == before
    assert generator.prompts == []
    generator.model = "echo@2"
    with pytest.raises(ConfigProblem, match="echo@2"):
        await prepare(run, folder, World(Retriever(), generator=generator))
    rebuilt = Retriever()
    rebuilt.version = "v2"
    with pytest.raises(ConfigProblem, match="v2"):
        await prepare(run, folder, World(rebuilt, generator=Sometimes()))


async def test_scores_that_were_made_are_not_made_again(tmp_path: Path) -> None:
    run, folder = written(tmp_path), tmp_path / "data"
    await prepare(run, folder, World(Retriever(), generator=Sometimes()))
    (folder / FACTS).unlink()  # killed before the end
    generator = Sometimes()
    await prepare(run, folder, World(Retriever(), generator=generator))
    assert generator.prompts == []
    assert (folder / FACTS).exists()


async def test_scores_of_precompute_are_taken_where_they_are_of_the_same_versions(tmp_path: Path) -> None:
    run, folder = written(tmp_path), tmp_path / "data"
    await prepare(run, folder, World(Retriever(), generator=Sometimes()))
    exported = tmp_path / "rag.parquet"
    scores = [json.loads(line) for line in (folder / "naive_rag.jsonl").read_bytes().splitlines()]

    def score(gen_acc: float, scoring: str) -> str:
        return json.dumps(asdict(Score("q", ("echo",), scoring, None, "a", gen_acc, gen_acc, None, 0.0, 0.0)))

    data.write(exported, [
        {"key": line["key"], "question_id": line["id"], "score": score(line["gen_acc"], "unicode-1")} for line in scores
    ])  # fmt: skip
    run = written(tmp_path, **{"data.scores": str(exported)})
    generator = Sometimes()
    await prepare(run, tmp_path / "second", World(Retriever(), generator=generator))
    assert generator.prompts == []
    assert rows(tmp_path / "second" / TRAIN) == rows(folder / TRAIN)
    unusable = ["damaged", score(1.0, "squad-v1.1")]
    data.write(exported, [
        {"key": line["key"], "question_id": line["id"], "score": unusable[n % 2]} for n, line in enumerate(scores)
    ])  # fmt: skip
    await prepare(run, tmp_path / "anew", World(Retriever(), generator=generator))
    assert len(generator.prompts) == 60
    generator.prompts.clear()
    stale = Retriever()
    stale.version = "v2"  # every digest is another one
    await prepare(run, tmp_path / "third", World(stale, generator=generator))
    assert len(generator.prompts) == 60


class Failing(Retriever):
    """Finds nothing for some questions."""

    def __init__(self, failing: int) -> None:
        super().__init__()
        self._failing = failing

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        if int(queries[0].split()[1].strip("?")) < self._failing:
            raise RetrieverError(Failure.TIMEOUT, "it did not answer in time")
        return await super().search(queries, how)


async def test_a_question_that_could_not_be_scored_is_left_out(tmp_path: Path) -> None:
    run = written(tmp_path, **{"data.keep": "all"})
    await prepare(run, tmp_path / "data", World(Failing(6), generator=Sometimes()))
    found = rows(tmp_path / "data" / TRAIN) + rows(tmp_path / "data" / VALIDATION)
    assert {each["extra_info"]["id"] for each in found} == {f"q{n}" for n in range(6, 60)}
    with pytest.raises(ConfigProblem, match="7 of 60 questions: 7 × retriever: it did not answer in time"):
        await prepare(run, tmp_path / "other", World(Failing(7), generator=Sometimes()))


async def test_naive_rag_is_reranked_where_the_searcher_is(tmp_path: Path) -> None:
    plain, retriever = Retriever(), Retriever()
    await prepare(written(tmp_path, **{"data.keep": "all"}), tmp_path / "plain", World(plain, generator=Sometimes()))
    run = written(tmp_path, **{"data.keep": "all", "agent_parameters.rerank": 20})
    await prepare(run, tmp_path / "reranked", World(retriever, generator=Sometimes()))
    assert [{how.rerank for how in each.asked} for each in (plain, retriever)] == [{0}, {20}]
    facts = [json.loads((tmp_path / each / FACTS).read_text()) for each in ("plain", "reranked")]
    assert [each["reranker"] for each in facts] == ["", "ranker"]


async def test_without_naive_rag_nothing_is_scored(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(f'{{"id": "{n}", "question": "Q {n}", "golden_answers": ["x"]}}\n' for n in range(30)))
    run = run_config.load("search-r1", {"data.questions": str(path), "data.validation": 5, "index": "demo"})
    generator = Generator("x")
    await prepare(run, tmp_path / "data", World(Retriever(), generator=generator))
    assert generator.prompts == []
    assert len(rows(tmp_path / "data" / TRAIN)) == 25


@pytest.mark.parametrize(
    ("overrides", "named"), [({"index": "nowhere"}, "index"), ({"data.validation": 60}, "data"),
                             ({"data.scores": "nowhere.parquet"}, "data.scores")]
)  # fmt: skip
async def test_what_cannot_be_is_named(tmp_path: Path, overrides: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigProblem) as problem:
        await prepare(written(tmp_path, **overrides), tmp_path / "data", World(Retriever(), generator=Sometimes()))
    assert problem.value.field == named


async def test_a_bad_line_is_named_by_file_and_line(tmp_path: Path) -> None:
    run = written(tmp_path)
    with (tmp_path / "questions.jsonl").open("a") as file:
        file.write('{"id": "x"}\n')
    with pytest.raises(BadQuestion, match=r"questions\.jsonl:61"):
        await prepare(run, tmp_path / "data", World(Retriever(), generator=Sometimes()))


async def test_rows_to_train_on_have_the_gold_passages_where_a_teacher_plays(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    teacher = {"corpus": str(corpus), "where": {"hops": [3]}}
    run = written(tmp_path, **{"teacher": teacher, "data.keep": "all"})
    path = tmp_path / "questions.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    for number, line in enumerate(lines):
        line["metadata"] |= {"passage_ids": [f"g{number}", f"unknown{number}"], "hops": 2 + number % 2}
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    gold = ({"id": f"g{number}", "title": "G", "text": "t"} for number in range(len(lines)))
    corpus.write_text("".join(f"{json.dumps(passage)}\n" for passage in gold))
    await prepare(run, tmp_path / "data", World(Retriever(), generator=Generator("x")))
    for name, known in ((TRAIN, {"2": 0, "3": 1}), (VALIDATION, {"2": 0, "3": 0})):
        examples = [
            example_of(json.loads(row["reward_model"]["ground_truth"])) for row in rows(tmp_path / "data" / name)
        ]
        assert {(each.question.groups["hops"], len(each.gold)) for each in examples} == set(known.items())
        assert all(passage.id in each.question.gold_ids for each in examples for passage in each.gold)
    with corpus.open("a") as file:
        file.write("{}\n")
    with pytest.raises(BadRecord, match=rf"corpus\.jsonl:{len(lines) + 1}: "):
        await prepare(run, tmp_path / "again", World(Retriever(), generator=Generator("x")))


def test_gold_passages_are_found_in_a_folder_of_any_shapes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"_id": "g1", "contents": "G\\ntext"}\n{"id": "other", "text": "x"}\n')
    (tmp_path / "b.json").write_text('[{"id": 2, "title": "H", "content": "more"}]')
    asked = [Question("q", "which?", gold_passages=(("g1",), ("2", "nowhere")))]
    assert gold_in(tmp_path, asked) == {"g1": Passage("g1", "G", "text"), "2": Passage("2", "H", "more")}


async def test_a_teacher_that_could_play_nothing_is_refused(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "elsewhere", "title": "E", "text": "t"}\n')
    for where, named in (({}, "teacher.corpus"), ({"hops": ["9"]}, "teacher.where")):
        run = written(tmp_path, **{"teacher": {"corpus": str(corpus), "where": where}, "data.keep": "all"})
        with pytest.raises(ConfigProblem) as caught:
            await prepare(run, tmp_path / "data", World(Retriever(), generator=Generator("x")))
        assert caught.value.field == named
