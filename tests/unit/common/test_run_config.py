"""Run configurations: what is accepted, and the field that an error names."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from common import model_card
from common.by_steps import at
from common.run_config import FOLDER, ConfigProblem, TeacherConfig, dump, load, parse
from search_agent.grading.reward import Penalties
from search_agent.types import ModelCard

NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_each_configuration_is_read_and_comes_back_the_same(name: str, tmp_path: Path) -> None:
    run = load(name)
    assert run.name == name
    path = tmp_path / "config.yaml"
    path.write_text(dump(run), encoding="utf-8")
    assert load(str(path)) == run
    assert not run.method.params.constrained


def test_the_papers_setting() -> None:
    run = load("s3-8-3-3")
    params = run.method.params
    assert (params.top_k, params.max_selected, params.max_turns) == (8, 3, 3)
    assert run.verl["data.train_batch_size"] == 120
    assert run.verl["algorithm.adv_estimator"] == "gae"
    assert run.seed == 42


def test_a_configuration_may_say_only_where_it_differs_from_its_base(tmp_path: Path) -> None:
    whole, base = load("multihop-full"), load("multihop")
    differs = {"actor_rollout_ref.model.lora_rank": 0, "actor_rollout_ref.actor.optim.lr": 1e-5}
    assert whole == base.model_copy(update={"name": "multihop-full", "verl": base.verl | differs})
    assert (base.trains_adapter, whole.trains_adapter) == (True, False)

    (tmp_path / "mine.yaml").write_text("""
base: multihop-full
name: mine
reward: {coverage_weight: {1: 1.0, 31: 0}}
agent_parameters: {top_k: 4}
verl: {actor_rollout_ref: {rollout: {n: 8}}}
""")
    (tmp_path / "other.yaml").write_text("base: mine.yaml\nseed: 7\n")
    other = load(str(tmp_path / "other.yaml"), {"reward.kind": "gain_plus_accuracy"})
    changes: dict[str, Any] = {"name": "mine", "seed": 7, "reward.coverage_weight": {1: 1.0, 31: 0},
                               "reward.kind": "gain_plus_accuracy", "agent_parameters.top_k": 4,
                               "verl.actor_rollout_ref.rollout.n": 8}  # fmt: skip
    assert other == load("multihop-full", changes)


@pytest.mark.parametrize(
    ("base", "problem"),
    [
        ("missing", "base: no configuration missing; there are multihop, "),
        ("missing.yaml", r"base: no configuration .*missing\.yaml"),
        ("own.yaml", r"base: .*own\.yaml would be its own base"),
        ("round.yaml", r"base: .*own\.yaml would be its own base"),
        ("../{folder}/own.yaml", r"base: .*own\.yaml would be its own base"),
        ("3", "base: must be the name"),
        ('"\\0.yaml"', "base: .*null byte"),
    ],
)
def test_a_base_must_be_another_configuration(tmp_path: Path, base: str, problem: str) -> None:
    base = base.format(folder=tmp_path.name)
    (tmp_path / "own.yaml").write_text(f"base: {base}\nname: own\n")
    (tmp_path / "round.yaml").write_text("base: own.yaml\n")
    with pytest.raises(ConfigProblem, match=problem):
        load(str(tmp_path / "own.yaml"))
    with pytest.raises(ConfigProblem, match="base: "):
        load("multihop", {"base": "smollm2-demo"})  # a request cannot choose one


def test_fields_are_replaced_by_their_dotted_names() -> None:
    run = load("smollm2-demo", {"seed": 7, "reward.kind": "gain_plus_accuracy", "agent_parameters.top_k": 4,
                                "verl.trainer.total_training_steps": 2, "data.keep": 0.25})  # fmt: skip
    assert (run.seed, run.reward.kind, run.method.params.top_k) == (7, "gain_plus_accuracy", 4)
    assert run.verl["trainer.total_training_steps"] == 2
    assert run.data.keep == 0.25


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("seed", None, "seed"),
        ("agent", "naive_rag", "agent"),
        ("agent_parameters.top_k", 0, "agent_parameters.top_k"),
        ("agent_parameters.top_q", 3, "agent_parameters.top_q"),
        ("agent_parameters.temperature", 0.5, "agent_parameters.temperature"),
        ("agent_parameters.constrained", True, "agent_parameters.constrained"),
        ("agent_parameters.context_tokens", 9000, "agent_parameters.context_tokens"),
        ("verl.actor_rollout_ref.model.lora_rank", -1, "verl.actor_rollout_ref.model.lora_rank"),
        ("verl.actor_rollout_ref.model.lora_rank", "16", "verl.actor_rollout_ref.model.lora_rank"),
        ("verl.data.train_batch_size", 0, "verl.data.train_batch_size"),
        ("verl.data.max_prompt_length", "2k", "verl.data.max_prompt_length"),
        ("verl.actor_rollout_ref.rollout.n", None, "verl.actor_rollout_ref.rollout.n"),
        ("verl.trainer.total_epochs", True, "verl.trainer.total_epochs"),
        ("verl.trainer.total_training_steps", 1.5, "verl.trainer.total_training_steps"),
        ("data.keep", 1.5, "data.keep"),
        ("data.keep", True, "data.keep"),
        ("data.questions", [], "data.questions"),
        ("data.part", [0.9, 0.1], "data.part"),
        ("data.part", [0.5, 0.5], "data.part"),
        ("data.part", [0.0, 1.5], "data.part"),
        ("data.part", [-0.1, float("nan")], "data.part.1"),
        ("gate.part", [0.9, 0.1], "gate.part"),
        ("data.mixture", {1: {"shares": {"1": 0}}}, "data.mixture.1.shares.1"),
        ("data.mixture", {1: {"shares": {}}}, "data.mixture.1.shares"),
        ("data.mixture", {2: {"shares": {"1": 1}}}, "data.mixture"),
        ("data.mixture", [{"shares": {"1": 1}}], "data.mixture"),
        ("reward.kept_penalty", -1, "reward.kept_penalty.1"),
        ("reward.kept_penalty", {1: 0.1, 21: -1}, "reward.kept_penalty.21"),
        ("reward.kept_penalty", {0: 0.1}, "reward.kept_penalty.0"),
        ("reward.kept_penalty", {2: 0.1}, "reward.kept_penalty"),
        ("reward.kept_penalty", {}, "reward.kept_penalty"),
        ("reward.kept_penalty", [0.1, 0.2], "reward.kept_penalty.1"),
        ("reward.kind", "f1", "reward.kind"),
        ("reward.kind", "exact_match", "reward.kind"),
        ("reward.max_failed_share", 1.0, "reward.max_failed_share"),
        ("reward.judge.url", "http://x", "reward.judge.model"),
        ("reward.bonus", 1, "reward.bonus"),
        ("gate.margin", -1, "gate.margin"),
        ("verl.algorithm.filter_groups.enable", True, "drop_even_groups"),
        ("verl.trainer.logger", ["wandb"], "verl.trainer.logger"),
        ("verl.+trainer.v1.sampler.custom_sampler.path", "x", "verl.+trainer.v1.sampler.custom_sampler.path"),
        ("verl.++trainer.logger", ["wandb"], "verl.++trainer.logger"),
        ("verl.~trainer.logger", None, "verl.~trainer.logger"),
        ("verl.trainer[logger]", "x", "verl.trainer[logger]"),
        ("verl.trainer", {"logger": ["wandb"]}, "verl.trainer.logger"),
        ("verl.trainer", None, "verl.trainer"),
        ("verl.+trainer.v1", {}, "verl.+trainer.v1"),
        (
            "verl.actor_rollout_ref.rollout.agent",
            {"default_agent_loop": "x"},
            "verl.actor_rollout_ref.rollout.agent.default_agent_loop",
        ),
        ("verl.trainer", {"total_training_steps": 3}, "verl.trainer.total_training_steps"),
        ("stop.choice_entropy", float("inf"), "stop.choice_entropy"),
        ("verl.algorithm.gamma", float("inf"), "verl.algorithm.gamma"),
        ("name.first", "x", "name.first"),
        ("colour", "red", "colour"),
    ],
)
def test_what_is_wrong_is_named(field: str, value: object, named: str) -> None:
    with pytest.raises(ConfigProblem) as problem:
        load("smollm2-demo", {field: value})
    assert problem.value.field == named


def test_a_value_holds_from_its_step_to_the_next() -> None:
    weights = {"reward.coverage_weight": 0.5, "reward.kept_penalty": {"31": 0.1, "1": 0.02}}
    run = load("smollm2-demo", weights)
    reward = parse(yaml.safe_load(dump(run))).reward
    assert [reward.penalties_at(step).kept for step in (1, 30, 31, 1000)] == [0.02, 0.02, 0.1, 0.1]
    assert {at(step, reward.coverage_weight) for step in (1, 30, 31)} == {0.5}
    assert reward.penalties_at(1) == Penalties(malformed=0.2, repeated=0.1, kept=0.02)


def test_a_mixture_needs_to_know_the_questions_of_each_step() -> None:
    for option, value, named in (
        ("trainer.total_training_steps", None, "verl.trainer.total_training_steps"),
        ("algorithm.filter_groups.enable", True, "data.mixture"),
    ):
        with pytest.raises(ConfigProblem) as problem:
            load(
                "multihop",
                {"data.mixture": {1: {"shares": {2: 1}}}, "drop_even_groups": False, f"verl.{option}": value},
            )
        assert problem.value.field == named


@pytest.mark.parametrize(
    ("name", "fields", "named"),
    [
        ("multihop", {"teacher.samples": 15}, "teacher.samples"),
        ("multihop", {"verl.actor_rollout_ref.rollout.temperature": 1.2}, "teacher"),
        ("multihop", {"teacher.samples": {1: 2, 9: 15}}, "teacher.samples"),
        ("multihop", {"teacher.samples": {9: 2}}, "teacher.samples"),
        ("s3-8-3-3", {}, "teacher"),
    ],
)
def test_a_teacher_needs_groups_that_it_can_play_in(name: str, fields: dict[str, Any], named: str) -> None:
    teacher = {"teacher": {"corpus": "passages.jsonl"}}
    assert load("multihop", teacher).teacher == TeacherConfig(corpus="passages.jsonl", samples={1: 2, 51: 0})
    with pytest.raises(ConfigProblem) as caught:
        load(name, teacher | fields)
    assert caught.value.field == named


def test_the_searchers_own_answer_is_not_compared_with_naive_rag() -> None:
    with pytest.raises(ConfigProblem) as problem:
        load("search-r1", {"reward.kind": "gain"})
    assert problem.value.field == "reward.kind"
    with pytest.raises(ConfigProblem) as problem:
        load("search-r1", {"data.keep": "naive_rag_fails"})
    assert problem.value.field == "data.keep"


def test_a_searchers_card_gives_the_parameters(tmp_path: Path) -> None:
    file, searcher = tmp_path / "mine.yaml", tmp_path / "searcher"
    file.write_text(dump(load("smollm2-demo", {"agent_parameters": {}})).replace(": {}", f": {searcher}", 1))
    searcher.mkdir()
    for card, refused in ((None, True), (ModelCard("search_r1"), True), (ModelCard("s3", {"max_turns": 2}), False)):
        if card:
            model_card.write(searcher, card)
        if refused:
            with pytest.raises(ConfigProblem, match=str(searcher)) as problem:
                load(str(file))
            assert problem.value.field == "agent_parameters"
    assert load(str(file), {"agent_parameters.top_k": 5}).agent_parameters == {"max_turns": 2, "top_k": 5}


def test_an_unknown_configuration_is_told_which_there_are() -> None:
    with pytest.raises(ConfigProblem, match=r"no configuration nope; there are .*smollm2-demo"):
        load("nope")


@pytest.mark.parametrize("text", ["- a list", "name: [", "\x00"])
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigProblem, match=r"broken\.yaml"):
        load(str(path))


@pytest.mark.parametrize(
    "line",
    [
        "seed: !!binary aGk=", "seed: !!timestamp 2001-99-99", "seed: !!set {a}", "seed: !!int x", "seed: .inf",
        "seed: " + "9" * 5000, "seed: 1.0e+400", "seed: 0b_", "seed: !!python/object:os.system {}", "1.5: x", "null: x",
        "true: x", "? [a]\n: x", "seed: *here", "name: again", "seed: " + "[" * 50_000, "seed: @",
        "seed: \x01", "seed: {a: [}",
    ],
)  # fmt: skip
def test_a_line_that_no_configuration_has_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(f"name: demo\n{line}\n")
    with pytest.raises(ConfigProblem, match=rf"^{path}:[23]: [^\n]+$"):
        load(str(path))


def test_a_name_may_look_like_a_date(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump(load("smollm2-demo")).replace("name: smollm2-demo", "name: 2026-11-26"))
    assert load(str(path)).name == "2026-11-26"


def test_the_configuration_of_an_old_run_is_read() -> None:
    today = load("universe", {"teacher.corpus": "passages.jsonl"})
    old = yaml.safe_load(dump(today))
    old["reward"] |= {"coverage_weight": 0.5, "coverage_until": 20}
    old["teacher"] |= {"samples": 2, "until": 50}
    old["data"]["mixture"] = [
        {"from_step": start, **stage}
        for start, stage in sorted(old["data"]["mixture"].items(), key=lambda it: int(it[0]))
    ]
    read = parse(old)
    assert read.reward.coverage_weight == {1: 0.5, 21: 0}
    assert read.teacher
    assert read.teacher.samples == {1: 2, 51: 0}
    assert read.data == today.data
    old["reward"]["coverage_until"], old["data"]["mixture"] = None, []
    read = parse(old)
    assert (read.reward.coverage_weight, read.data.mixture) == ({1: 0.5}, {})


def test_options_of_verl_may_be_nested() -> None:
    values = yaml.safe_load(dump(load("smollm2-demo")))
    lengths = {"max_prompt_length": 4000, "max_response_length": 2000}
    values["verl"] = {
        "algorithm": {"adv_estimator": "grpo"},
        "actor_rollout_ref.model": {"lora_rank": 8},
        "data": lengths,
    }
    run = parse(values)
    assert run.trains_adapter
    assert run.verl == {
        "algorithm.adv_estimator": "grpo", "actor_rollout_ref.model.lora_rank": 8,
        **{f"data.{name}": length for name, length in lengths.items()},
    }  # fmt: skip


def test_an_empty_mapping_names_its_first_field() -> None:
    with pytest.raises(ConfigProblem) as problem:
        parse(yaml.safe_load("{}"))
    assert problem.value.field == "name"
