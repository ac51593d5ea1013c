"""Downloads files of a data set from a Hugging Face hub: pinned to a commit, resumed, checked, parts joined."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tqdm import tqdm

from common.corpus import PARTS
from common.files import append_whole, write_whole
from services.retriever.errors import DownloadFailed

ENDPOINT = "https://huggingface.co"
_CHUNK = 1 << 20  # bytes
_TIMEOUT_S = 60.0
_JSON_BYTES = 64 << 20
_TRIES = 5  # in a row that bring no byte
_BROKEN = (OSError, http.client.HTTPException)  # a connection that fails, stalls or ends early


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of a data set. `size` is in bytes; `digest` is its SHA-256, or git's SHA-1 if it is not in LFS."""

    path: str
    size: int
    digest: str


class Hub:
    """A hub at `endpoint`. `wait` sleeps for the given seconds before another try."""

    def __init__(self, endpoint: str = ENDPOINT, wait: Callable[[float], None] = time.sleep) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._wait = wait

    def files(self, repo: str) -> tuple[str, list[Remote]]:
        """Returns the newest commit of the data set `repo`, and its files. Raises DownloadFailed."""
        commit = str(self._json(f"{self._endpoint}/api/datasets/{repo}/revision/main")[0]["sha"])
        found: list[Remote] = []
        url = f"{self._endpoint}/api/datasets/{repo}/tree/{commit}?recursive=true"
        while url:
            entries, url = self._json(url)
            for entry in entries:
                if entry["type"] == "file":
                    found.append(Remote(entry["path"], entry["size"], entry.get("lfs", entry)["oid"]))
        return commit, found

    def download(self, repo: str, commit: str, parts: Sequence[Remote], target: Path) -> None:
        """Writes the parts one after the other into `target`, resuming where an earlier call stopped.

        Raises DownloadFailed. Received bytes stay for the next call, except those of a part with a wrong checksum.
        """
        beside = target.with_name(f"{target.name}{PARTS}")
        wanted = json.dumps([asdict(part) for part in parts])
        if not (beside.exists() and beside.read_text() == wanted):
            target.unlink(missing_ok=True)
            write_whole(beside, wanted)
        total = sum(part.size for part in parts)
        with (
            target.open("a+b", buffering=0) as file,
            tqdm(desc=target.name, total=total, unit="B", unit_scale=True, disable=None) as progress,
        ):
            done = file.seek(0, os.SEEK_END)
            free = shutil.disk_usage(target.parent).free
            if free < total - done:
                raise DownloadFailed(
                    f"{target}: needs {(total - done) / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free"
                )
            start = 0
            for part in parts:
                if done <= start + part.size:  # else a later part was begun, so this one has been checked
                    progress.update(start - progress.n)
                    self._part(repo, commit, part, file, start, progress)
                start += part.size

    def _part(self, repo: str, commit: str, part: Remote, file: Any, start: int, progress: Any) -> None:
        url = f"{self._endpoint}/datasets/{repo}/resolve/{commit}/{quote(part.path)}"
        digest = hashlib.sha256() if len(part.digest) == 64 else hashlib.sha1(b"blob %d\0" % part.size)
        file.seek(start)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            progress.update(len(chunk))
        failed = 0
        while (have := file.seek(0, os.SEEK_END) - start) < part.size:
            try:
                with self._open(url, have) as response:
                    if have and response.status != http.client.PARTIAL_CONTENT:
                        raise DownloadFailed(f"{url}: the server cannot resume")
                    while chunk := response.read1(min(_CHUNK, part.size - have)):
                        self._write(file, chunk)
                        digest.update(chunk)
                        progress.update(len(chunk))
                        have += len(chunk)
                        failed = 0
                if have < part.size:
                    raise http.client.IncompleteRead(b"", part.size - have)
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code != http.client.TOO_MANY_REQUESTS:
                    raise DownloadFailed(f"{url}: HTTP status {error.code}") from error
                failed = self._again(failed, url, error)
            except _BROKEN as error:
                failed = self._again(failed, url, error)
        if digest.hexdigest() != part.digest:
            file.truncate(start)
            raise DownloadFailed(f"{url}: its checksum is not the hub's, {part.digest}; the received file was removed")
        os.fsync(file.fileno())

    def _write(self, file: Any, chunk: bytes) -> None:
        try:
            append_whole(file, chunk)
        except OSError as error:
            raise DownloadFailed(f"{file.name}: {error.strerror}; the same command resumes where it stopped") from error

    def _again(self, failed: int, url: str, error: Exception) -> int:
        if failed + 1 >= _TRIES:
            raise DownloadFailed(f"{url}: {error!r}; the same command resumes where it stopped") from error
        self._wait(2.0**failed)
        return failed + 1

    def _open(self, url: str, start: int = 0) -> Any:
        headers = {"User-Agent": "search-agent", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S)

    def _json(self, url: str) -> tuple[Any, str]:
        """Returns the answer, and the address of the next page, empty if there is none."""
        try:
            with self._open(url) as response:
                link = response.headers.get("Link", "")
                following = link.partition("<")[2].partition(">")[0] if 'rel="next"' in link else ""
                body = response.read(_JSON_BYTES + 1)
                if len(body) > _JSON_BYTES:
                    raise ValueError(f"the answer has more than {_JSON_BYTES >> 20} MiB")
                return json.loads(body), following
        except (*_BROKEN, ValueError) as error:
            raise DownloadFailed(f"{url}: {error}") from error
