"""Configuration of a training run: one YAML file, checked before anything starts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from common import model_card, strict_yaml
from common.by_steps import BySteps, Staged, at
from common.problems import Problem
from common.settings import ModelTarget, Target
from search_agent.agents import AGENTS, Agent
from search_agent.grading.reward import Penalties
from search_agent.parameters import BadParameter
from search_agent.types import ModelCard, Question

FOLDER = Path(__file__).with_name("run_configs")

# Options of verl that follow from the rest of the configuration or from the run's folder.
_OURS = (
    "algorithm.filter_groups.max_num_gen_batches",
    "algorithm.filter_groups.metric",
    "actor_rollout_ref.model.path",
    "actor_rollout_ref.model.lora_adapter_path",
    "actor_rollout_ref.rollout.agent.agent_loop_config_path",
    "actor_rollout_ref.rollout.agent.default_agent_loop",
    "actor_rollout_ref.rollout.seed",
    "data.seed",
    "data.shuffle",
    "data.train_files",
    "data.val_files",
    "trainer.default_local_dir",
    "trainer.experiment_name",
    "trainer.logger",
    "trainer.project_name",
    "trainer.resume_mode",
    "trainer.use_v1",
    "trainer.v1",
)
# Options of verl that the trainer calculates with.
_WHOLE = (
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.val_kwargs.n",
    "data.max_prompt_length",
    "data.max_response_length",
    "data.train_batch_size",
    "trainer.total_epochs",
)
_STEPS = "trainer.total_training_steps"  # null: all that the epochs make
_OPTION = re.compile(r"\+?\w[\w-]*(\.\w[\w-]*)*")  # of verl; a plus adds one that it does not have


class ConfigProblem(Problem, ValueError):
    """A configuration that cannot be run. `field` is its dotted name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field, self.message = field, message


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _dotted(value: object) -> object:
    """Returns options of verl by their dotted names, whether they were nested or not."""
    if not isinstance(value, Mapping):
        return value
    found: dict[str, Any] = {}
    for name, inner in value.items():
        nested = _dotted(inner)
        options = {f"{name}.{rest}": each for rest, each in nested.items()} if isinstance(nested, dict) else {}
        for option, each in (options or {str(name): inner}).items():
            if option in found:
                raise ConfigProblem(f"verl.{option}", "is given twice")
            found[option] = each
    return found


def _is_ours(option: str) -> bool:
    """Returns whether an option of verl is one that the trainer sets, or has one of those inside it."""
    asked = f"{option.removeprefix('+')}."
    return any(asked.startswith(f"{ours}.") or f"{ours}.".startswith(asked) for ours in _OURS)


def _share(value: object) -> object:
    if value in ("naive_rag_fails", "all") or (
        isinstance(value, int | float) and 0 <= value <= 1 and value is not True
    ):
        return value
    raise ValueError("must be naive_rag_fails, all, or a share from 0 to 1")


def _interval(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if not 0 <= low < high <= 1:
        raise ValueError("must be two numbers from 0 to 1, the smaller one first")
    return value


_Interval = Annotated[tuple[float, float], AfterValidator(_interval)]


def _from_stages(value: object) -> object:
    """Returns the mixture of a run from before 26 November 2026, a list of stages, by steps."""
    if not isinstance(value, list) or not all(isinstance(stage, Mapping) and "from_step" in stage for stage in value):
        return value
    return {stage["from_step"]: {name: stage[name] for name in stage if name != "from_step"} for stage in value}


def _without_end(part: object, weight: str, end: str) -> object:
    """Returns the fields of a run from before 26 November 2026, whose `end` was the last step of a weight, by steps."""
    if not isinstance(part, Mapping) or end not in part:
        return part
    last, now = part[end], {name: value for name, value in part.items() if name != end}
    if last is None:
        return now
    return now | {weight: {1: part[weight], last + 1: 0}} if isinstance(last, int) and weight in part else part


class MixtureConfig(_Part):
    """A mixture of questions. Those whose value of the group has no share are not asked."""

    group: str = Field("hops", description="group of the questions that has shares: hops, dataset or chain")
    shares: dict[Annotated[str, BeforeValidator(str)], Annotated[float, Field(gt=0)]] = Field(
        min_length=1, description='weight by the group\'s value; "" stands for questions without the group'
    )


class DataConfig(_Part):
    """The training questions, named as for `search-agent evaluate --questions`."""

    questions: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
    part: _Interval = Field((0.0, 1.0), description="part of the articles; a hash places each from 0 to 1")
    limit: int | None = Field(None, ge=1, description="number of questions to take, chosen by the seed")
    keep: Annotated[Literal["naive_rag_fails", "all"] | float, BeforeValidator(_share)] = Field(
        "naive_rag_fails",
        description="questions that naive RAG fails, all, or those it fails and this share of the others",
    )
    mixture: Annotated[BySteps[MixtureConfig], BeforeValidator(_from_stages)] = Field(
        {}, description="shares of kinds of questions; empty: all questions, shuffled"
    )
    validation: int = Field(128, ge=1, description="questions held out, from articles that training does not see")
    scores: str = Field(
        "",
        description="naive-RAG scores from `precompute`: redis://…, or a Parquet file; missing ones are computed",
    )


class JudgeConfig(_Part):
    """A judge behind an OpenAI-compatible endpoint; its key, if it needs one, is in JUDGE_API_KEY."""

    url: str
    model: str
    timeout_s: float = Field(60, gt=0)


_Weight = Staged[Annotated[float, Field(ge=0)]]


def _weight(description: str) -> Any:
    return Field(0.0, validate_default=True, description=description)


class RewardConfig(_Part):
    """The reward of an episode: `kind`, plus the weighted coverage of the gold passages, less penalties.

    `gain` is GenAcc beyond naive RAG; `exact_match` scores the searcher's own answer.
    """

    kind: Literal["gain", "gain_plus_accuracy", "exact_match"] = "gain"
    coverage_weight: _Weight = _weight("weight of the share of the gold passages that were kept")
    judge: JudgeConfig | None = Field(None, description="judges answers that contain no gold answer")
    rag_documents: int = Field(3, ge=1, description="passages that naive RAG reads")
    answer_tokens: int = Field(64, ge=1, description="longest answer of the generator")
    max_failed_share: float = Field(
        0.1, ge=0, lt=1, description="share of a step's samples; more failures stop the run"
    )
    attempts: int = Field(2, ge=1, description="attempts at an episode before its sample is dropped")
    # Penalties are subtracted from the reward. They default to 0, so that the reward is the figure that is reported.
    everything_penalty: _Weight = _weight("for keeping every passage of every block")
    copied_penalty: _Weight = _weight("for searching with the question itself")
    idle_penalty: _Weight = _weight("for following the protocol and keeping nothing")
    malformed_penalty: _Weight = _weight("for each malformed turn")
    repeated_penalty: _Weight = _weight("for each search that was made before")
    wasted_penalty: _Weight = _weight("for each other search after which nothing new was kept")
    kept_penalty: _Weight = _weight("for each passage kept, which the generator has to read")

    @model_validator(mode="before")
    @classmethod
    def _of_an_old_run(cls, values: object) -> object:
        return _without_end(values, "coverage_weight", "coverage_until")

    def penalties_at(self, step: int) -> Penalties:
        return Penalties(*(at(step, getattr(self, f"{field.name}_penalty")) for field in fields(Penalties)))


class TeacherConfig(_Part):
    """The teacher's samples among those of each question, so that a search that the start never makes is rewarded too.

    The teacher knows the gold passages (`search-agent teach searching`). Its samples count in their group and in no
    figure of the run.
    """

    corpus: str = Field(min_length=1, description="file or folder of the passages, as for `index build --corpus`")
    where: dict[str, tuple[Annotated[str, BeforeValidator(str)], ...]] = Field(
        {}, description="groups and their values, such as {hops: [3, 4]}: questions of which it plays; empty: all"
    )
    samples: Staged[Annotated[int, Field(ge=0)]] = Field(
        {1: 2, 51: 0}, description="samples of each such question that the teacher plays"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_an_old_run(cls, values: object) -> object:
        return _without_end(values, "samples", "until")

    def plays(self, question: Question) -> bool:
        return all(question.groups.get(group) in values for group, values in self.where.items())


class StopConfig(_Part):
    """Rules that stop a run that no longer learns. A rule that is not set is off."""

    mixed_groups: float | None = Field(
        default=None, gt=0, le=1, description="least share of questions whose samples differ in reward"
    )
    choice_entropy: float | None = Field(default=None, gt=0, description="least entropy of the first choice, nats")
    coverage_rise: float | None = Field(
        default=None, gt=0, le=1, description="least rise of coverage in `coverage_steps`"
    )
    coverage_steps: int = Field(default=50, ge=1)
    window: int = Field(default=5, ge=1, description="steps over which each figure is averaged")


class GateConfig(_Part):
    """The test that a checkpoint must pass before it is promoted."""

    questions: str
    part: _Interval = Field((0.0, 1.0), description="part of the articles; a hash places each from 0 to 1")
    limit: int | None = Field(None, ge=1)
    margin: float = Field(1.0, ge=0, description="least gain in points of GenAcc over the current searcher")
    group_fall: float | None = Field(
        None, ge=0, description="points of GenAcc by which no group of the questions, such as hops, may fall"
    )
    resamples: int = Field(1000, ge=100)
    seed: int = 0
    max_failed_share: float = Field(
        0.05, ge=0, lt=1, description="share of the questions; with more failures the gate is inconclusive"
    )
    constrained: bool = Field(True, description="hold both searchers to the method's grammar, as the gateway does")


class RunConfig(_Part):
    """A run. `verl` holds dotted options of verl, which override verl's defaults and those of `learning/train.py`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)  # a run's folder has a longer name
    seed: int = Field(ge=0, lt=2**32)
    agent: Literal["s3", "search_r1"]
    agent_parameters: dict[str, Any] = Field(
        {}, description="parameters of the agent; in a file also a searcher's folder, whose card has them"
    )
    base_model: str = Field(min_length=1, description="a folder as transformers saves it, or a hub id")
    adapter: str = Field("", description="LoRA adapter to start from; it is merged first if all weights are trained")
    data: DataConfig
    retriever: Target = Field(min_length=1, description="host:port")
    index: str = Field("", description="empty: the retriever's default")
    generator: ModelTarget = Field(
        min_length=1,
        description="host:port, or host:port/name for one of its models; host:port,host:port/name for several services",
    )
    retriever_timeout_s: float = Field(30, gt=0)
    generator_timeout_s: float = Field(60, gt=0)
    patience_s: float = Field(
        300, ge=0, description="seconds for which a service that is busy or away is asked again, more slowly"
    )
    reward: RewardConfig
    drop_even_groups: bool = Field(
        False, description="leave out of a step the questions whose samples all have the same reward; GRPO only"
    )
    teacher: TeacherConfig | None = Field(None, description="plays some of the samples of s3 and GRPO; empty: none")
    stop: StopConfig = StopConfig()
    gate: GateConfig
    verl: Annotated[dict[str, Any], BeforeValidator(_dotted)] = {}

    @property
    def trains_adapter(self) -> bool:
        """False if all weights of the model are trained."""
        return bool(self.verl.get("actor_rollout_ref.model.lora_rank"))

    @property
    def questions_a_step(self) -> int:
        return int(self.verl.get("data.train_batch_size", 1024))

    @property
    def method(self) -> Agent:
        """Returns the agent with the run's parameters.

        Rollouts use no grammar unless `constrained` is set. A grammar removes tokens from the sampled distribution,
        while the actor's log-probabilities cover all tokens, so the policy gradient would belong to another policy.
        A model that cannot write the protocol gets a warm start instead.
        """
        return AGENTS[self.agent].with_params({"constrained": False, "index": self.index, **self.agent_parameters})

    def card(self, part: tuple[float, float] | None = None) -> ModelCard:
        """Returns what a searcher learns from the run's questions, those of `part` or the run's own."""
        low, high = part or self.data.part
        names = (Path(name).name if Path(name).suffix else name for name in self.data.questions)
        return replace(self.method.card(), data=tuple(f"{name} {low:g}-{high:g}" for name in names))

    @model_validator(mode="after")
    def _agrees(self) -> RunConfig:
        for name, why in (
            ("index", "set `index` of the run"),
            ("temperature", "set actor_rollout_ref.rollout.temperature in `verl`"),
            ("constrained", "verl's rollouts are sampled without a grammar; warm the model up first"),
        ):
            if name in self.agent_parameters:
                raise ConfigProblem(f"agent_parameters.{name}", why)
        try:
            params = self.method.params
        except BadParameter as error:
            raise ConfigProblem(f"agent_parameters.{error.field}", error.message) from None
        own_answer = getattr(params, "answerer", "generator") == "searcher"
        if (self.reward.kind == "exact_match") != own_answer:
            raise ConfigProblem("reward.kind", "exact_match goes with search_r1's answerer: searcher, and only with it")
        if own_answer and self.data.keep != "all":
            raise ConfigProblem("data.keep", "must be all, because the reward does not use naive RAG")
        for option, value in self.verl.items():
            if not _OPTION.fullmatch(option):
                raise ConfigProblem(f"verl.{option}", "is not the dotted name of an option")
            if _is_ours(option):
                raise ConfigProblem(f"verl.{option}", "is set by the trainer")
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigProblem(f"verl.{option}", "is not a finite number")
            is_whole = isinstance(value, int) and value >= 1 and value is not True
            if not is_whole and (option in _WHOLE or (option == _STEPS and value is not None)):
                raise ConfigProblem(f"verl.{option}", "must be a whole number from 1")
        rank = self.verl.get("actor_rollout_ref.model.lora_rank", 0)
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 0:
            raise ConfigProblem(
                "verl.actor_rollout_ref.model.lora_rank", "must be a whole number; 0 trains all weights"
            )
        if self.drop_even_groups and not str(self.verl.get("algorithm.adv_estimator")).startswith("grpo"):
            raise ConfigProblem("drop_even_groups", "only GRPO compares samples of one question")
        if self.drop_even_groups and self.verl.get("algorithm.filter_groups.enable"):
            raise ConfigProblem(
                "drop_even_groups", "verl's algorithm.filter_groups replaces such questions; choose one"
            )
        self._check_mixture()
        self._check_teacher()
        prompt, response = (self.verl.get(f"data.max_{part}_length", 512) for part in ("prompt", "response"))
        if prompt + response < params.context_tokens:
            raise ConfigProblem(
                "agent_parameters.context_tokens",
                f"{params.context_tokens} tokens do not fit verl's data.max_prompt_length {prompt} "
                f"and data.max_response_length {response}",
            )
        return self

    def _check_mixture(self) -> None:
        if not self.data.mixture:
            return
        if self.verl.get(_STEPS) is None:
            raise ConfigProblem(f"verl.{_STEPS}", "data.mixture needs the number of steps")
        if self.verl.get("algorithm.filter_groups.enable"):
            raise ConfigProblem("data.mixture", "verl's algorithm.filter_groups takes more questions than a step has")

    def _check_teacher(self) -> None:
        if not self.teacher:
            return
        if self.agent != "s3" or not str(self.verl.get("algorithm.adv_estimator")).startswith("grpo"):
            raise ConfigProblem("teacher", "plays s3, and only GRPO compares samples of one question")
        own = int(self.verl.get("actor_rollout_ref.rollout.n", 1)) - max(self.teacher.samples.values())
        if own < 2:
            raise ConfigProblem("teacher.samples", "leaves the searcher fewer than 2 of rollout.n samples")
        if self.verl.get("actor_rollout_ref.rollout.temperature", 1.0) != 1.0:
            raise ConfigProblem("teacher", "needs rollout.temperature 1.0, at which the engine states probabilities")


def load(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Loads the configuration of that name in `run_configs/`, or a file, and replaces dotted fields.

    The file may give `agent_parameters` as the folder of a searcher, whose card then has them. The rest of a field
    after `verl.` or `agent_parameters.` is one key. Raises ConfigProblem.
    """
    return _replaced(_values(_path(name_or_path, Path())), overrides)


def read(text: str, overrides: Mapping[str, Any] | None = None, source: str = "the text") -> RunConfig:
    """Does what `load` does for YAML text, which has no base; errors call it `source`."""
    return _replaced(_mapping(text, source), overrides)


def _path(name_or_path: object, beside: Path) -> Path:
    """Returns the path of a configuration's file, which is relative to the folder `beside` if it has a suffix."""
    if not isinstance(name_or_path, str):
        raise ConfigProblem("base", "must be the name of a configuration, or a file")
    return beside / name_or_path if Path(name_or_path).suffix else FOLDER / f"{name_or_path}.yaml"


def _values(path: Path, over: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Returns the fields of a file, laid over those of its base. `over` are the files that have it as base."""
    try:
        text, real = path.read_text(encoding="utf-8"), path.resolve()
    except FileNotFoundError:
        names = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        named = path.stem if path.parent == FOLDER else path
        raise ConfigProblem("base" if over else "", f"no configuration {named}; there are {names}") from None
    except (OSError, ValueError) as error:  # no text, or no name of a file
        raise ConfigProblem("base" if over else "", f"{path}: {error}") from None
    if real in over:
        raise ConfigProblem("base", f"{real} would be its own base")
    values = _mapping(text, str(path))
    if "base" not in values:
        return values
    base = _path(values.pop("base"), path.parent)
    return _laid_over(_values(base, (real, *over)), values)


def _laid_over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Returns a configuration whose fields are those of `own` or, where it has none, of `base`; so are those of parts,
    such as `reward`.
    """
    for values in (base, own):
        if "verl" in values:
            values["verl"] = _dotted(values["verl"])
    both = (name for name in base.keys() & own.keys() if isinstance(base[name], dict) and isinstance(own[name], dict))
    return {**base, **own, **{name: {**base[name], **own[name]} for name in both}}


def _mapping(text: str, source: str) -> dict[str, Any]:
    try:
        values = strict_yaml.load(text, source)
    except Problem as problem:
        raise ConfigProblem("", str(problem)) from None
    if not isinstance(values, dict):
        raise ConfigProblem("", f"{source}: not a mapping")
    if isinstance(searcher := values.get("agent_parameters"), str):
        values["agent_parameters"] = _taught(searcher, values.get("agent", ""))
    return values


def _replaced(values: dict[str, Any], overrides: Mapping[str, Any] | None) -> RunConfig:
    for field, value in (overrides or {}).items():
        _replace(values, field, value)
    return parse(values)


def _taught(searcher: str, agent: object) -> dict[str, Any]:
    """Returns the parameters that the searcher in this folder was taught. `agent` is empty if the file's base has it.

    Raises ConfigProblem.
    """
    card = model_card.read(Path(searcher))
    if not card.method:
        raise ConfigProblem("agent_parameters", f"{searcher} has no {model_card.FILE} that names a method")
    if agent not in ("", card.method):
        raise ConfigProblem("agent_parameters", f"{searcher} was taught {card.method}, not {agent}")
    return dict(card.parameters)


def parse(values: Mapping[str, Any]) -> RunConfig:
    """Checks a configuration. Raises ConfigProblem, which names the first field at fault."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, ConfigProblem):
            raise cause from None
        # the last parts of a union's location are its members, which are no fields
        named = [str(part) for part in problem["loc"] if re.fullmatch(r"\w+(\.\w+)*", str(part))]
        raise ConfigProblem(".".join(named), problem["msg"]) from None


def dump(config: RunConfig) -> str:
    """Returns YAML that `load` reads."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _replace(values: dict[str, Any], field: str, value: Any) -> None:
    first, _, rest = field.partition(".")
    if not rest:
        values[first] = value
        return
    inner = values.setdefault(first, {}) or {}
    if not isinstance(inner, dict):
        raise ConfigProblem(field, f"{first} has no fields")
    values[first] = inner
    if first in ("verl", "agent_parameters"):
        inner[rest] = value
    else:
        _replace(inner, rest, value)
