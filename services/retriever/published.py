"""Indexes and corpora that others have published, and how they become folders of ours; nothing is encoded."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.retriever import dense, folders
from services.retriever.build import index_words, store_passages
from services.retriever.errors import BuildRefused, DownloadFailed
from services.retriever.hub import Hub, Remote
from services.retriever.passages import PassageStore


@dataclass(frozen=True, slots=True)
class Published:
    """`index` are the parts of one FAISS file, in order; none: there is a corpus only.

    `corpus` is a regular expression of the corpus's files.
    """

    corpus_repo: str
    corpus: str
    source: str
    licence: str
    index_repo: str = ""
    index: tuple[str, ...] = ()
    encoder: str = ""


def _medrag(name: str, what: str, licence: str) -> Published:
    return Published(f"MedRAG/{name}", r"chunk/.*\.jsonl(\.gz)?", f"{what}, from MedCorp", licence)


PUBLISHED = {
    "wiki-18": Published(
        corpus_repo="PeterJinGo/wiki-18-corpus",
        corpus=r"wiki-18\.jsonl\.gz",
        source="Wikipedia of December 2018 in passages of 100 words, corpus and index by PeterJinGo",
        licence="CC BY-SA (Wikipedia)",
        index_repo="PeterJinGo/wiki-18-e5-index",
        index=("part_aa", "part_ab"),
        encoder="intfloat/e5-base-v2",
    ),
    "medcorp-pubmed": _medrag("pubmed", "abstracts of PubMed", "NLM's terms"),
    "medcorp-textbooks": _medrag("textbooks", "medical textbooks", "the publishers'"),
    "medcorp-wikipedia": _medrag("wikipedia", "Wikipedia", "CC BY-SA (Wikipedia)"),
}


def download_index(
    published: Published, hub: Hub, name: str, out: Path, backend: str, force: bool, say: Callable[[str], None]
) -> Path:
    """An index folder of the published FAISS file and corpus. The same call goes on after an interruption.

    `backend` is one of bm25.BACKENDS. Raises RetrieverProblem.
    """
    with folders.new_index(out, name, force) as work:
        commit, files = hub.files(published.index_repo)
        say(f"{published.index_repo} at {commit}")
        parts = [_named(files, part, published.index_repo) for part in published.index]
        hub.download(published.index_repo, commit, parts, work / dense.FAISS)
        corpus = _corpus(published, hub, work / "corpus", say)
        count, dim = dense.flat_shape(work / dense.FAISS)
        store_passages(corpus, "stop", work)
        store = PassageStore(work)
        if len(store) != count:
            raise BuildRefused(f"{name}: the index has {count} vectors, the corpus {len(store)} passages")
        index_words(backend, store, work)
        about = folders.About(name, published.encoder, dim, count, published.source, published.licence, bm25=backend)
        folders.seal(work, about, dense.FAISS)
    return out / name


def download_corpus(published: Published, hub: Hub, folder: Path, say: Callable[[str], None]) -> Path:
    """The published corpus's files in `folder`, which `index build --corpus` takes. Raises DownloadFailed."""
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
