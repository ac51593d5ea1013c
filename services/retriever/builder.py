"""Builds the changes that wait at the writable indexes, one index after another."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import structlog

from common import metrics
from common.indexes import Change, ChangeState
from services.retriever import folders
from services.retriever import manifest as manifests
from services.retriever.changes import Changes
from services.retriever.errors import IndexRefused
from services.retriever.rebuild import Progress, rebuild
from services.retriever.served_folders import ServedFolders

log = structlog.get_logger()
_BUILT, _FAILED = "built", "failed"  # outcomes of a build
_AGAIN_S = 2.0  # before a failed build is tried again


class Builder:
    """Makes a version of an index and all its waiting changes, and serves it."""

    def __init__(self, served: ServedFolders) -> None:
        self._served = served
        self._building: dict[str, Change] = {}
        self._progress = Progress()
        self._wake = asyncio.Event()
        for outcome in (_BUILT, _FAILED):  # so that Prometheus sees the first of each as a growth
            metrics.RETRIEVER_BUILD_SECONDS.labels(outcome)

    async def run(self) -> None:
        """Builds what waits, again and again."""
        while True:
            self._wake.clear()
            waiting = self._waiting()
            for name in waiting:
                await asyncio.to_thread(self.build, name)
            failed = any(self._served.changes_of(name).fault for name in waiting)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _AGAIN_S if failed else None)

    def wake(self) -> None:
        """Says that there is a new change."""
        self._wake.set()

    def _waiting(self) -> list[str]:
        """Returns the indexes that have changes to build, including any whose folder cannot be read."""
        found = []
        names = [served.info.name for served in self._served.shelf]
        for name in filter(self._served.writable, names):
            changes = self._served.changes_of(name)
            try:
                if changes.waiting():
                    found.append(name)
                else:
                    changes.fault = ""
            except OSError:
                found.append(name)
        return found

    def build(self, name: str) -> None:
        """Builds all waiting changes into one version, and serves it. Never raises."""
        changes, started = self._served.changes_of(name), time.time()
        self._progress = Progress()
        try:
            waiting, known = changes.waiting(), {change.id: change for change in changes.all()}
            if not waiting:  # the index was deleted meanwhile
                return
            self._building[name] = replace(known[max(waiting)], started=started)
            with _measured():
                version = self._new_version(name, changes, [*waiting.values()])
            with self._served.swapping:
                self._check_same(name, changes)
                for id in waiting:
                    done = replace(known[id], done=self._progress.done, total=self._progress.total, version=version)
                    changes.finish(replace(done, state=ChangeState.DONE, started=started, finished=time.time()))
                changes.fault = ""
            log.info("changes built", index=name, version=version, changes=len(waiting))
        except Exception as error:  # whatever it is, the version before goes on
            if not self._served.still_has(name, changes):
                log.info("build given up, the index was deleted", index=name)
                return
            changes.fault = str(error) or repr(error)
            log.error("build failed, the version before it stays", index=name, error=repr(error))
        finally:
            self._building.pop(name, None)

    def _check_same(self, name: str, changes: Changes) -> None:
        """Raises IndexRefused if the changes' index was deleted, even if there is a new one of the same name."""
        if not self._served.still_has(name, changes):
            raise IndexRefused(self._served.folder(name), "was deleted")

    def _new_version(self, name: str, changes: Changes, edits: list[Path]) -> str:
        """Returns the version with the changes. Starts again if another version was put in place meanwhile."""
        folder = self._served.folder(name)
        with folders.working(folder.parent, name) as work:
            while True:
                before = manifests.read(folder, verify_checksums=False)
                made = rebuild(folder, edits, work, self._served.encoders.of(before), self._progress)
                if made is None:
                    shutil.rmtree(work)
                    return before.version
                self._progress.phase = "verify"
                opened = self._served.open(work)
                with self._served.swapping:
                    self._check_same(name, changes)
                    if manifests.read(folder, verify_checksums=False).version == before.version:
                        return self._served.put_in_place(name, work, opened).version

    def changes(self, name: str) -> list[Change]:
        """Returns the changes of an index, newest first, with how far the builder is. Raises OSError."""
        changes = self._served.changes_of(name)
        return [self._with_state(change, changes.fault) for change in changes.all()]

    def _with_state(self, change: Change, fault: str) -> Change:
        if change.state is not ChangeState.WAITING:
            return change
        building = self._building.get(change.index)
        if building and change.id <= building.id:
            now = self._progress
            return replace(
                change, state=ChangeState.BUILDING, phase=now.phase, done=now.done, total=now.total,
                started=building.started,
            )  # fmt: skip
        return replace(change, state=ChangeState.FAILED, error=fault) if fault else change


@contextmanager
def _measured() -> Iterator[None]:
    """Counts a build and its time."""
    started, outcome = time.monotonic(), _FAILED
    metrics.RETRIEVER_BUILDING.inc()
    try:
        yield
        outcome = _BUILT
    finally:
        metrics.RETRIEVER_BUILDING.dec()
        metrics.RETRIEVER_BUILD_SECONDS.labels(outcome).observe(time.monotonic() - started)
