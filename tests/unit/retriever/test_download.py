"""Downloads a small "wiki-18" in the shape of the published one from a hub on this machine."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import faiss
import pytest

from cli.main import main
from search_agent.types import Mode, Retrieval
from services.retriever.bm25 import NONE
from services.retriever.download import download_index
from services.retriever.errors import BuildRefused, DownloadFailed
from services.retriever.hub import Hub
from services.retriever.index import Index
from services.retriever.published import PUBLISHED
from services.retriever.service import assemble
from services.retriever.settings import RetrieverSettings
from tests.full_disk import full_disk
from tests.unit.retriever.helpers import FakeEncoder
from tests.unit.retriever.hub_server import FakeHub, serve
from tests.waiting import LIMIT_S

COUNT, DIM = 2000, 32
WIKI = PUBLISHED["wiki-18"]
ENCODER = "intfloat/e5-base-v2"


def text(row: int) -> str:
    return f"Title {row}\ncommon word{row} text"


def wiki(tmp_path: Path, count: int = COUNT) -> FakeHub:
    """Returns a hub whose index has COUNT vectors in two files, and whose corpus has `count` passages."""
    index = faiss.IndexFlatIP(DIM)
    index.add(FakeEncoder(dim=DIM).passages([text(row) for row in range(COUNT)]))
    faiss.write_index(index, str(tmp_path / "whole.index"))
    whole = (tmp_path / "whole.index").read_bytes()
    lines = [
        json.dumps({"id": str(row), "contents": f'"{title}"\n{rest}'})
        for row in range(count)
        for title, rest in [text(row).split("\n")]
    ]
    corpus = gzip.compress("\n".join(lines).encode())
    return FakeHub(
        {
            WIKI.index_repo: {"README.md": b"x", "part_ab": whole[150_000:], "part_aa": whole[:150_000]},
            WIKI.corpus_repo: {"README.md": b"x", "wiki-18.jsonl.gz": corpus},
        }
    )


@pytest.fixture
def hub(tmp_path: Path) -> FakeHub:
    return wiki(tmp_path)


@pytest.fixture
def endpoint(hub: FakeHub) -> Iterator[str]:
    with serve(hub) as address:
        yield address


def fetch(endpoint: str, out: Path) -> Path:
    return download_index(WIKI, Hub(endpoint, lambda _: None), "wiki-18", out, NONE, False, lambda _: None)


async def test_the_published_index_is_downloaded_joined_and_served(
    endpoint: str, hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "indexes"
    assert main(["index", "download", "wiki-18", "--out", str(out), "--endpoint", endpoint, "--bm25", "bm25s"]) == 0
    assert ENCODER in capsys.readouterr().out
    assert [path for path, _ in hub.asked] == ["part_aa", "part_ab", "wiki-18.jsonl.gz"]
    assert {path.name for path in (out / "wiki-18").iterdir()} == {
        "bm25", "manifest.json", "passages.bin", "passages.idx.npy", "vectors.faiss"
    }  # fmt: skip
    assert (out / "wiki-18/vectors.faiss").read_bytes() == (tmp_path / "whole.index").read_bytes()

    encoder = FakeEncoder(ENCODER, DIM)
    retriever = assemble(RetrieverSettings(indexes=out), lambda _: encoder)
    for mode in (Mode.DENSE, Mode.BM25, Mode.HYBRID):
        [found] = await retriever.search([text(1234)], Retrieval(3, "wiki-18", mode))
        assert (found[0].id, found[0].title, found[0].text) == ("1234", "Title 1234", "common word1234 text")
    [served] = await retriever.indexes()
    assert (served.kind, served.encoder, served.passages, served.dim) == ("flat", ENCODER, COUNT, DIM)
    await retriever.close()
    convert = ["index", "convert", str(out / "wiki-18"), "--kind", "sq8", "--name", "small", "--out", str(out)]
    assert main(convert) == 0
    assert Index(out / "small").manifest.encoder == ENCODER


def test_a_download_onto_a_full_disk_goes_on_once_there_is_room(endpoint: str, hub: FakeHub, tmp_path: Path) -> None:
    out = tmp_path / "indexes"
    with full_disk(100_001), pytest.raises(DownloadFailed, match=r"vectors\.faiss: File too large; the same command"):
        fetch(endpoint, out)
    assert (out / "wiki-18.building/vectors.faiss").stat().st_size > 50_000
    fetch(endpoint, out)
    assert (out / "wiki-18/vectors.faiss").read_bytes() == (tmp_path / "whole.index").read_bytes()


def test_a_killed_download_goes_on_where_it_stopped(endpoint: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.slow = 0.01
    command = ["index", "download", "wiki-18", "--out", str(tmp_path), "--endpoint", endpoint]
    code = "import sys; from cli.main import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, *command], stderr=subprocess.DEVNULL)
    partial = tmp_path / "wiki-18.building" / "vectors.faiss"
    deadline = time.monotonic() + LIMIT_S
    while not partial.exists() or partial.stat().st_size < 16_384:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = partial.stat().st_size
    assert have < 150_000
    hub.slow = 0
    hub.asked.clear()
    folder = fetch(endpoint, tmp_path)
    assert hub.asked == [("part_aa", have), ("part_ab", 0), ("wiki-18.jsonl.gz", 0)]
    assert (folder / "vectors.faiss").read_bytes() == (tmp_path / "whole.index").read_bytes()
    assert Index(folder).manifest.modes == (Mode.DENSE,)


def test_connections_that_end_early_are_taken_up_again(endpoint: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.cut, hub.cuts = 70_000, 4
    fetch(endpoint, tmp_path)
    assert [start for path, start in hub.asked if path == "part_aa"] == [0, 70_000, 140_000]


def test_a_hub_that_brings_nothing_is_given_up_and_later_gone_on_with(
    endpoint: str, hub: FakeHub, tmp_path: Path
) -> None:
    hub.cut, hub.cuts = 100_000, 1
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        hub.cut, hub.cuts = 0, 9

    with pytest.raises(DownloadFailed, match=r"part_aa: .*; the same command resumes where it stopped"):
        download_index(WIKI, Hub(endpoint, wait), "wiki-18", tmp_path, NONE, False, lambda _: None)
    assert waited == [1, 2, 4, 8]
    hub.cuts = 0
    hub.asked.clear()
    fetch(endpoint, tmp_path)
    assert hub.asked[0] == ("part_aa", 100_000)


@pytest.mark.parametrize("path", ["part_ab", "wiki-18.jsonl.gz"])
def test_a_wrong_checksum_is_refused_and_only_that_part_comes_again(
    endpoint: str, hub: FakeHub, tmp_path: Path, path: str
) -> None:
    hub.lies = {path}
    with pytest.raises(DownloadFailed, match=f"{path}: its checksum is not the hub's"):
        fetch(endpoint, tmp_path)
    hub.asked.clear()
    with pytest.raises(DownloadFailed, match=f"{path}: its checksum is not the hub's"):
        fetch(endpoint, tmp_path)
    assert hub.asked == [(path, 0)]
    hub.lies = set()  # the hub now states other files, so what came of the old ones is of no use
    fetch(endpoint, tmp_path)
    assert [start for _, start in hub.asked] == [0] * len(hub.asked)


def test_a_server_that_cannot_resume(endpoint: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.ranges, hub.cut, hub.cuts = False, 1000, 1
    with pytest.raises(DownloadFailed, match="cannot resume"):
        fetch(endpoint, tmp_path)


def test_a_corpus_that_does_not_fit_the_index(tmp_path: Path) -> None:
    with serve(wiki(tmp_path, COUNT - 1)) as endpoint, pytest.raises(BuildRefused, match=r"2000 vectors, .* 1999 pass"):
        fetch(endpoint, tmp_path)


def test_a_data_set_or_file_that_is_not_there(endpoint: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.files[WIKI.index_repo].pop("part_ab")
    with pytest.raises(DownloadFailed, match="wiki-18-e5-index: has no file part_ab"):
        fetch(endpoint, tmp_path)
    hub.files.pop(WIKI.index_repo)
    with pytest.raises(DownloadFailed, match="404"):
        fetch(endpoint, tmp_path)
    with pytest.raises(DownloadFailed, match="refused"):
        fetch("http://127.0.0.1:1", tmp_path)


def test_medcorp_is_downloaded_and_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(row: int) -> str:
        record = {"id": f"A_{row}", "title": "Anatomy", "content": f"bone {row}", "contents": f"Anatomy. bone {row}"}
        return json.dumps(record) + "\n"

    files = {f"chunk/b{n}.jsonl": "".join(line(n * 10 + row) for row in range(10)).encode() for n in range(3)}
    with serve(FakeHub({"MedRAG/textbooks": {**files, "README.md": b"x"}})) as endpoint:
        command = ["index", "download", "medcorp-textbooks", "--out", str(tmp_path), "--endpoint", endpoint]
        assert main(command) == 0
    corpus = tmp_path / "medcorp-textbooks"
    assert f"search-agent index build --corpus {corpus}" in capsys.readouterr().out
    build = ["index", "build", "--corpus", str(corpus), "--name", "med", "--out", str(tmp_path), "--no-dense"]
    assert main(build) == 0
    index = Index(tmp_path / "med")
    passage = index.passages([21])[21]
    assert (passage.id, passage.title, passage.text) == ("A_21", "Anatomy", "bone 21")
