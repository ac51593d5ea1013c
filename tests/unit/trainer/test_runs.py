"""Runs on disk: made, moved, found again."""

import json
from pathlib import Path

import pytest

from common.run_config import load
from common.training import Run, RunState
from search_agent.errors import Failure, TrainerError
from services.trainer.runs import Runs
from tests.full_disk import full_disk
from tests.trainer_fakes import clock

DEMO = load("smollm2-demo")


def test_a_run_is_found_again_as_it_was(tmp_path: Path) -> None:
    made = Runs(tmp_path, clock()).create(DEMO)
    runs = Runs(tmp_path, lambda: "2026-01-02T00:00:00Z")
    assert runs.get(made.id) == made
    assert (made.id, made.state, made.job) == ("smollm2-demo-20260101000000", RunState.QUEUED, f"{made.id}-1")
    assert runs.config(made.id) == DEMO
    moved = runs.move(made, RunState.FAILED, "it broke")
    assert (moved.state, moved.reason) == (RunState.FAILED, "it broke")
    assert moved.changed_at > moved.created_at
    again = runs.again(moved)
    assert (again.state, again.reason, again.job) == (RunState.QUEUED, "", f"{made.id}-2")
    assert Runs(tmp_path).get(made.id) == again


def test_a_full_disk_takes_no_run_and_keeps_those_there_are(tmp_path: Path) -> None:
    runs = Runs(tmp_path, clock())
    made = runs.create(DEMO)
    for room in (10, 1500):  # for nothing, and for the record only
        with full_disk(room), pytest.raises(TrainerError) as caught:
            runs.create(DEMO)
        assert caught.value.failure is Failure.UNAVAILABLE
    with full_disk(10), pytest.raises(TrainerError):
        runs.move(made, RunState.FAILED, "it broke")
    assert [path.name for path in tmp_path.iterdir()] == [made.id]
    assert Runs(tmp_path).get(made.id) == made
    assert runs.move(made, RunState.FAILED, "it broke").state is RunState.FAILED


def test_two_runs_of_one_second_are_two(tmp_path: Path) -> None:
    runs = Runs(tmp_path, lambda: "2026-01-01T00:00:00Z")
    assert [runs.create(DEMO).id for _ in range(3)] == [
        f"smollm2-demo-20260101000000{suffix}" for suffix in ("", "-2", "-3")
    ]
    assert len(runs.all()) == 3


def test_newest_first(tmp_path: Path) -> None:
    runs = Runs(tmp_path, clock())
    first, second = runs.create(DEMO), runs.create(DEMO)
    assert [run.id for run in runs.all()] == [second.id, first.id]


@pytest.mark.parametrize("id", ["missing", "", "..", "../x", "a/b", "A", "a" * 300])
def test_what_is_no_run_is_not_found(tmp_path: Path, id: str) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(TrainerError) as caught:
        Runs(tmp_path / "runs").get(id)
    assert caught.value.failure is Failure.NOT_FOUND


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"state": "dreaming", "created_at": "", "changed_at": ""}'])
def test_a_damaged_record_is_told_and_hides_no_other_run(tmp_path: Path, record: str) -> None:
    runs = Runs(tmp_path, clock())
    good = runs.create(DEMO)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text(record)
    found = {run.id: run for run in runs.all()}
    assert found == {good.id: good, "bad": runs.get("bad")}
    assert found["bad"].state is RunState.DAMAGED
    assert "remove the run's folder" in found["bad"].reason
    assert str(tmp_path) not in found["bad"].reason  # callers learn no path of this machine


def test_a_record_of_another_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    record = {"state": "finished", "created_at": "2026-01-01T00:00:00Z", "changed_at": "2026-01-01T00:00:00Z"}
    (tmp_path / "old" / "run.json").write_text(json.dumps(record | {"colour": "red"}))
    assert Runs(tmp_path).get("old") == Run("old", RunState.FINISHED, record["created_at"], record["changed_at"])


@pytest.mark.parametrize("text", [None, "", "[]", "name: x", "a: [b", "\udcff"])
def test_a_configuration_that_cannot_be_read_is_an_error_of_that_run_alone(tmp_path: Path, text: str | None) -> None:
    runs = Runs(tmp_path, clock())
    run, other = runs.create(DEMO), runs.create(DEMO)
    (runs.path(run.id) / "config.yaml").unlink()
    if text is not None:
        (runs.path(run.id) / "config.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(TrainerError, match=f"the configuration of run {run.id} cannot be used") as caught:
        runs.config(run.id)
    assert caught.value.failure is Failure.UNSUPPORTED
    assert runs.whole(run).id == run.id
    assert runs.config(other.id) == DEMO


def test_checkpoints_are_found(tmp_path: Path) -> None:
    runs = Runs(tmp_path, clock())
    run = runs.create(DEMO)
    assert runs.checkpoints(run.id) == []
    for folder in ("checkpoints/global_step_100", "checkpoints/global_step_20", "checkpoints/other"):
        (runs.path(run.id) / folder).mkdir(parents=True)
    (runs.path(run.id) / "checkpoints/latest_checkpointed_iteration.txt").write_text("100")
    assert runs.checkpoints(run.id) == [20, 100]
