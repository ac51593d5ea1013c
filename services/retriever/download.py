"""Makes index folders and corpora from published files; nothing is encoded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from services.retriever import dense, folders, kinds
from services.retriever.bm25 import Backend
from services.retriever.build import index_words, store_passages
from services.retriever.errors import BuildRefused, DownloadFailed
from services.retriever.hub import Hub, Remote
from services.retriever.manifest import Manifest
from services.retriever.passages import PassageStore
from services.retriever.published import Published


def download_index(
    published: Published, hub: Hub, name: str, out: Path, backend: Backend, force: bool, say: Callable[[str], None]
) -> Path:
    """Makes an index folder of the published FAISS file and corpus. The same call resumes after an interruption.

    Raises RetrieverProblem.
    """
    with folders.new_index(out, name, force) as work:
        commit, files = hub.files(published.index_repo)
        say(f"{published.index_repo} at {commit}")
        parts = [_named(files, part, published.index_repo) for part in published.index]
        hub.download(published.index_repo, commit, parts, work / kinds.FAISS)
        corpus = _corpus(published, hub, work / "corpus", say)
        count, dim = dense.shape_of(work / kinds.FAISS, kinds.FLAT)
        store_passages(corpus, "stop", work)
        store = PassageStore(work)
        if len(store) != count:
            raise BuildRefused(f"{name}: the index has {count} vectors, the corpus {len(store)} passages")
        index_words(backend, store, work)
        manifest = Manifest(
            name, published.encoder, dim, count, published.source, published.licence,
            bm25=backend.name, bm25_parameters=backend.parameters,
        )  # fmt: skip
        folders.seal(work, manifest, kinds.FAISS)
    return out / name


def download_corpus(published: Published, hub: Hub, folder: Path, say: Callable[[str], None]) -> Path:
    """Fetches the published corpus into `folder`, which `index build --corpus` takes. Raises DownloadFailed."""
    return _corpus(published, hub, folder, say)


def _corpus(published: Published, hub: Hub, folder: Path, say: Callable[[str], None]) -> Path:
    commit, files = hub.files(published.corpus_repo)
    say(f"{published.corpus_repo} at {commit}")
    wanted = [file for file in files if re.fullmatch(published.corpus, file.path)]
    if not wanted:
        raise DownloadFailed(f"{published.corpus_repo}: has no file {published.corpus}")
    folder.mkdir(parents=True, exist_ok=True)
    for file in wanted:
        hub.download(published.corpus_repo, commit, [file], folder / Path(file.path).name)
    return folder


def _named(files: list[Remote], path: str, repo: str) -> Remote:
    for file in files:
        if file.path == path:
            return file
    raise DownloadFailed(f"{repo}: has no file {path}")
