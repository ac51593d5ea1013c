"""A request starts a configuration, and nothing that reaches a file, a host or a module of its choice."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.run_config import FOLDER, ConfigProblem, read
from services.trainer.admission import _VERL, Admission

ADMISSION = Admission(Path("/work"), None, (Path("/models"),), ("127.0.0.1:50051", "generator:50053"))

ADMITTED: list[tuple[str, Any]] = [
    ("seed", 3),
    ("name", "mine"),
    ("data.keep", 0.5),
    ("data.part", [0, 0.5]),
    ("reward.kept_penalty", {1: 0.02, 31: 0.1}),
    ("teacher.corpus", "passages.jsonl.gz"),
    ("teacher.samples", 1),
    ("teacher.where", {"hops": ["3"]}),
    ("stop.window", 3),
    ("agent_parameters.top_k", 4),
    ("adapter", ""),
    ("adapter", ".run/adapters/searcher"),
    ("adapter", "/models/searcher"),
    ("base_model", "/models/base"),
    ("base_model", "./base"),
    ("data.questions", "data/mine.jsonl"),
    ("data.questions", ["data/mine.jsonl", "/models/q.jsonl"]),
    ("retriever", "127.0.0.1:50051"),
    ("generator", "generator:50053"),
    ("generator", "generator:50053/reader"),
    ("generator", "generator:50053,127.0.0.1:50051/reader"),
    ("verl.trainer.total_training_steps", 20),
    ("verl.actor_rollout_ref.actor.optim.lr", 1e-5),
    ("verl.algorithm.adv_estimator", "grpo"),
]
REFUSED: list[tuple[str, Any]] = [
    # files
    ("data.questions", "/etc/passwd"),
    ("data.questions", ["data/mine.jsonl", "../../etc/passwd"]),
    ("data.questions", "data/../../etc/passwd"),
    ("data.questions", "https://there.example/q.jsonl"),
    ("teacher.corpus", "/etc/passwd"),
    ("teacher", {"corpus": "/etc/passwd"}),
    ("data.scores", "redis://10.0.0.1:6379/0"),
    ("data.scores", "/etc/scores.parquet"),
    ("adapter", "/etc"),
    ("adapter", "/modelsbeside/x"),
    ("adapter", {"a": 1}),
    ("base_model", "attacker/model"),
    ("base_model", ""),
    # hosts
    ("retriever", "169.254.169.254:80"),
    ("generator", "evil.example:50053/reader"),
    ("generator", "generator:50053,evil.example:50053/reader"),
    ("generator", "ipv4:generator:50053,10.0.0.1:50053/reader"),
    ("retriever", "127.0.0.1:50051,generator:50053"),
    ("reward.judge", {"url": "http://evil.example/v1", "model": "m"}),
    ("reward.judge.url", "http://evil.example/v1"),
    ("reward", {"judge": {"url": "http://evil.example/v1", "model": "m"}}),
    # the gate's own terms
    ("gate.questions", "secret.json#x"),
    ("gate.margin", 0),
    ("gate", {}),
    # verl
    ("verl", {}),
    ("verl.actor_rollout_ref.model.external_lib", "os"),
    ("verl.actor_rollout_ref.model.trust_remote_code", True),
    ("verl.reward.custom_reward_function.path", "x.py"),
    ("verl.data.custom_cls.path", "x.py"),
    ("verl.ray_kwargs.ray_init.runtime_env.working_dir", "http://evil.example/x.zip"),
    ("verl.actor_rollout_ref.actor.optim.optimizer_impl", "os"),
    ("verl.+trainer.total_training_steps", 1),
    ("verl.++trainer.total_training_steps", 1),
    ("verl.~trainer.total_training_steps", 1),
    ("verl. trainer.total_training_steps", 1),
    ("verl.trainer", {"total_training_steps": 1}),
    ("verl.trainer.total_training_steps", {"a": 1}),
    ("verl.trainer.total_training_steps", [1]),
    ("verl.data.max_prompt_length", "many"),
    ("verl.algorithm.adv_estimator", "${oc.env:JUDGE_API_KEY}"),
    ("verl.algorithm.adv_estimator", "os.path"),
    ("verl.algorithm.adv_estimator", "a/b"),
    ("data", {"questions": "/etc/passwd"}),
    ("agent", "s3"),
    ("verl.", 1),
    ("", 1),
    ("...", 1),
]


@pytest.mark.parametrize(("field", "value"), ADMITTED, ids=str)
def test_what_reaches_nothing_is_admitted(field: str, value: Any) -> None:
    first, _, rest = field.partition(".")
    found = ADMISSION.config("universe", {"teacher.corpus": "p.jsonl", field: value}).model_dump(mode="json")[first]
    sent = [value] if field == "data.questions" and isinstance(value, str) else value
    assert (found[rest] if rest else found) == json.loads(json.dumps(sent))


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=str)
def test_what_reaches_further_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigProblem) as raised:
        ADMISSION.config("universe", {field: value})
    assert raised.value.field == field


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../run_configs/universe", "universe.yaml", "name: x", "a b", "x\0"]
)
def test_a_request_names_a_configuration_and_sends_none(name: str) -> None:
    with pytest.raises(ConfigProblem, match="universe"):
        ADMISSION.config(name, {})


def test_an_installation_has_configurations_of_its_own(tmp_path: Path) -> None:
    text = (FOLDER / "universe.yaml").read_text(encoding="utf-8")
    (tmp_path / "ours.yaml").write_text(text.replace("seed: 1", "seed: 5"), encoding="utf-8")
    admission = Admission(Path("/work"), tmp_path)
    assert admission.config("ours", {}).seed == 5
    assert admission.config("universe", {"seed": 2}).seed == 2
    with pytest.raises(ConfigProblem, match="ours"):
        admission.config("theirs", {})


def test_a_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "out").symlink_to("/etc")
    (models / "in").symlink_to(models)
    (models / "loop").symlink_to(models / "loop")
    admission = Admission(Path("/work"), None, (models,))
    admission.config("universe", {"adapter": str(models / "in" / "a")})
    for path in (models / "out" / "a", models / "loop"):
        with pytest.raises(ConfigProblem, match="adapter"):
            admission.config("universe", {"adapter": str(path)})


def test_no_option_of_verl_that_a_request_may_set_names_a_module_or_a_file() -> None:
    suspicious = ("path", "lib", "impl", "cls", "class", "dir", "file", "code", "module", "name", "url", "host")
    assert [option for option in _VERL if any(part in option.rpartition(".")[2] for part in suspicious)] == []


def test_aliases_of_yaml_are_refused() -> None:
    with pytest.raises(ConfigProblem, match="aliases are not taken"):
        read("a: &a [x, x]\nb: [*a, *a]\n")
