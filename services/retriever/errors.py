"""What an operator must put right. Each message is one line and says which file or option is at fault."""

from __future__ import annotations

from pathlib import Path


class RetrieverProblem(Exception):
    """Base of the refusals below; the command line and the service print it and exit with status 1."""


class IndexRefused(RetrieverProblem):
    """A file of an index is missing, damaged or does not fit the others."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


class EncoderUnavailable(RetrieverProblem):
    """The encoder that an index names cannot be loaded here."""


class RerankerUnavailable(RetrieverProblem):
    """The model of RETRIEVER_RERANKER cannot be loaded here."""


class LibraryMissing(RetrieverProblem):
    """What an index is made with is not installed here."""


class DownloadFailed(RetrieverProblem):
    """What a hub has cannot be had, or is not what it should be."""


class BadRecord(RetrieverProblem):
    """A line of a corpus is not a passage."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}")


class BuildRefused(RetrieverProblem):
    """An index cannot be built as asked."""
