"""deploy/backup.sh keeps the backup before, and saves what it can. A script stands in for Docker."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

BACKUP = str(Path(__file__).parents[2] / "deploy/backup.sh")
VOLUMES = ("runs", "indexes", "changing", "generator-state", "redis-data")
DOCKER = f"""#!{sys.executable}
import os, pathlib, subprocess, sys
home, words = pathlib.Path(os.environ["FAKE"]), sys.argv[1:]
with (home / "calls").open("a") as calls:
    print(*words, file=calls)
redis = home / "redis-is-up"
match words:
    case ["compose", "config"]:
        print("name: project")
    case ["compose", "ps", *_]:
        print("c0ffee" * redis.exists())
    case ["compose", "pause" | "unpause" as action, "redis"]:
        sys.exit(int(os.environ.get("STATUS_OF_" + action, not redis.exists())))
    case ["run", *_]:
        volume = words[words.index("-v") + 1].removeprefix("project_").removesuffix(":/volume")
        program, folder = words[words.index("--entrypoint") + 1], str(home / "volumes" / volume)
        rest = [folder if word == "/volume" else word for word in words[words.index("image") + 1 :]]
        status = subprocess.run([program, *rest]).returncode
        sys.exit(int(os.environ.get("STATUS_OF_" + volume, status)))
    case ["compose", "config", "--images", _]:
        print("image")
"""


class Machine:
    """Volumes as folders, and a Docker that knows no more than the script asks."""

    def __init__(self, home: Path) -> None:
        self.home, self.backup = home, home / "backup"
        for volume in VOLUMES:
            (home / "volumes" / volume).mkdir(parents=True)
            self.write(volume, "first")
        (home / "redis-is-up").touch()
        (home / "bin").mkdir()
        docker = home / "bin/docker"
        docker.write_text(DOCKER)
        docker.chmod(0o755)

    def write(self, volume: str, text: str) -> None:
        (self.home / "volumes" / volume / "file").write_text(text)

    def run(self, action: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {"FAKE": str(self.home), "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}"}
        command = [BACKUP, action, str(self.backup)]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | known | environment)

    def calls(self) -> list[str]:
        return (self.home / "calls").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def saved(folder: Path, volume: str) -> str:
    with tarfile.open(folder / f"{volume}.tar.gz") as archive:
        found = archive.extractfile("./file")
        assert found
        return found.read().decode()


def test_files_that_change_while_they_are_read_are_saved_as_they_are(machine: Machine) -> None:
    done = machine.run("create", STATUS_OF_runs="1")
    assert done.returncode == 0, done.stderr
    assert {volume: saved(machine.backup, volume) for volume in VOLUMES} == dict.fromkeys(VOLUMES, "first")
    assert machine.calls()[-1] == "compose unpause redis"


def test_nobody_else_may_read_a_backup(machine: Machine) -> None:
    machine.run("create")
    assert {path.stat().st_mode & 0o077 for path in (machine.backup, *machine.backup.iterdir())} == {0}


def test_a_redis_that_is_down_is_saved_as_it_lies(machine: Machine) -> None:
    (machine.home / "redis-is-up").unlink()
    done = machine.run("create")
    assert (done.returncode, saved(machine.backup, "redis-data")) == (0, "first"), done.stderr


def test_a_backup_that_fails_leaves_nothing_and_redis_goes_on(machine: Machine) -> None:
    assert machine.run("create", **{"STATUS_OF_redis-data": "2"}).returncode
    assert [*machine.backup.iterdir()] == []
    assert machine.calls()[-1] == "compose unpause redis"


def test_a_backup_leaves_nothing_where_redis_cannot_go_on(machine: Machine) -> None:
    assert machine.run("create", STATUS_OF_unpause="1", **{"STATUS_OF_redis-data": "2"}).returncode
    assert [*machine.backup.iterdir()] == []


def test_a_backup_is_never_written_over(machine: Machine) -> None:
    machine.run("create")
    machine.write("runs", "second")
    done = machine.run("create")
    assert done.returncode == 1
    assert str(machine.backup) in done.stderr
    assert saved(machine.backup, "runs") == "first"


def test_what_was_saved_comes_back(machine: Machine) -> None:
    machine.run("create")
    machine.write("runs", "second")
    done = machine.run("restore")
    assert done.returncode == 0, done.stderr
    assert (machine.home / "volumes/runs/file").read_text() == "first"


def test_a_backup_that_is_not_whole_is_refused_before_anything_is_removed(machine: Machine) -> None:
    machine.run("create")
    archive = machine.backup / "redis-data.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-9])
    machine.write("runs", "second")
    assert machine.run("restore").returncode
    assert (machine.home / "volumes/runs/file").read_text() == "second"
