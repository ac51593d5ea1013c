"""Indexes and corpora that others have published, by the name that `index download` takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """A corpus in a data set of a hub, whose files match the regular expression `corpus`.

    `index` are the parts, in order, of a FAISS file of kind flat over it; none: there is a corpus only.
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
