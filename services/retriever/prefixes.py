"""The texts that an encoder reads before a query and before a passage; manifests keep them as its parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from types import MappingProxyType
from typing import NamedTuple

QUERY_PREFIX, PASSAGE_PREFIX = "query_prefix", "passage_prefix"
NOTHING: Mapping[str, str] = MappingProxyType({})

# Names under which models' configurations keep their prompts, the usual ones first.
_PROMPTS = {
    QUERY_PREFIX: ("query", "search_query", "retrieval.query", "web_search_query", "s2p_query"),
    PASSAGE_PREFIX: ("passage", "document", "search_document", "retrieval.passage", "corpus"),
}
_WEB_SEARCH = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


class _Family(NamedTuple):
    """Models in whose names all `words` stand and none of `without`."""

    words: set[str]
    query: str
    passage: str = ""
    without: frozenset[str] = frozenset()


_FAMILIES = (
    _Family({"e5", "instruct"}, f"{_WEB_SEARCH} "),
    _Family({"e5"}, "query: ", "passage: "),
    _Family({"bge", "zh"}, "为这个句子生成表示以用于检索相关文章："),
    _Family({"bge"}, "Represent this sentence for searching relevant passages: ", without=frozenset({"m3"})),
)
_LATER = (  # came with the recording of prefixes: passages of an index that records none were encoded without
    _Family({"qwen3", "embedding"}, _WEB_SEARCH),
    _Family({"nomic", "embed"}, "search_query: ", "search_document: "),
)


def prefixes(name: str, prompts: Mapping[str, str] = NOTHING, given: Mapping[str, str] = NOTHING) -> dict[str, str]:
    """Returns the prefixes of the model called `name`, a hub id or a folder.

    Each is the one `given`, else the one among `prompts` (of config_sentence_transformers.json), else the one that
    belongs to the model's name, else empty.
    """
    told = {
        prefix: next((prompts[task] for task in tasks if task in prompts), "") for prefix, tasks in _PROMPTS.items()
    }
    # The library adds empty prompts for a model that has none. A model with one of the two means the other to be empty.
    found = told if any(told.values()) else _by_name(name, (*_FAMILIES, *_LATER))
    return {prefix: given.get(prefix, found[prefix]) for prefix in _PROMPTS}


def unrecorded(name: str) -> dict[str, str]:
    """Returns the prefixes with which an index was built that records none."""
    return _by_name(name, _FAMILIES)


def _by_name(name: str, families: Iterable[_Family]) -> dict[str, str]:
    words = set(re.split(r"[^a-z0-9]+", PurePath(name).name.lower()))
    for family in families:
        if family.words <= words and not family.without & words:
            return {QUERY_PREFIX: family.query, PASSAGE_PREFIX: family.passage}
    return {QUERY_PREFIX: "", PASSAGE_PREFIX: ""}
