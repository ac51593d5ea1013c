"""Files are written in whole or not at all, and a full disk loses nothing."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from common.files import draft_folder, draft_of, refusal, share, write_whole
from common.journal import Journal, read
from tests.full_disk import full_disk


def test_a_full_disk_leaves_the_text_before_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_whole(path, "before")
    with full_disk(1000), pytest.raises(OSError, match="too large") as caught:
        write_whole(path, "after" * 1000)
    assert refusal(caught.value)
    assert not refusal(FileNotFoundError(2, "x"))
    assert (path.read_text(), os.listdir(tmp_path)) == ("before", ["report.json"])
    write_whole(path, "after" * 1000)
    assert path.read_text() == "after" * 1000


def test_links_and_permissions_stay(tmp_path: Path) -> None:
    secret, link = tmp_path / "keys.json", tmp_path / "link.json"
    secret.touch(mode=0o600)
    link.symlink_to(secret)
    write_whole(link, "changed")
    assert link.is_symlink()
    assert (secret.read_text(), secret.stat().st_mode & 0o777) == ("changed", 0o600)


def test_a_draft_that_is_given_up_goes(tmp_path: Path) -> None:
    with suppress(KeyError), draft_of(tmp_path / "table") as draft:
        draft.write_text("half")
        raise KeyError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("folder_mode", "mode"), [(0o755, 0o644), (0o750, 0o640), (0o700, 0o600)])
def test_whoever_lists_a_folder_reads_its_files(tmp_path: Path, folder_mode: int, mode: int) -> None:
    (tmp_path / "model.safetensors").touch(0o600)
    (tmp_path / "config.json").touch(0o644)
    (tmp_path / "more").mkdir(0o700)
    tmp_path.chmod(folder_mode)
    share(tmp_path)
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == {"model.safetensors": mode, "config.json": mode, "more": 0o700}


def test_a_folder_is_there_in_whole_or_not_at_all(tmp_path: Path) -> None:
    mine = tmp_path / "model.draft"
    mine.mkdir()
    with suppress(KeyboardInterrupt), draft_folder(tmp_path / "model") as draft:
        (draft / "config.json").touch()
        raise KeyboardInterrupt
    assert [*tmp_path.iterdir()] == [mine]
    with draft_folder(tmp_path / "model") as draft:
        (draft / "config.json").touch()
        assert not (tmp_path / "model").exists()
    assert {each.name for each in tmp_path.iterdir()} == {"model", "model.draft"}
    assert [each.name for each in (tmp_path / "model").iterdir()] == ["config.json"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    write_whole(Path(f"/dev/fd/{writer}"), "said")
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "said"


def test_a_full_disk_tears_no_line_of_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    journal = Journal(path, dict)
    journal.append({"row": 1})
    with full_disk(50), pytest.raises(OSError, match="too large"):
        journal.append({"row": 2, "text": "x" * 100})
    journal.append({"row": 3})
    journal.close()
    assert path.read_text() == '{"row": 1}\n{"row": 3}\n'
    assert read(path, dict) == [{"row": 1}, {"row": 3}]
