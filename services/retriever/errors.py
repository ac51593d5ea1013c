"""Faults that an operator must fix. Each message is one line and names the file or option at fault."""

from __future__ import annotations

from pathlib import Path

from common.problems import Problem


class RetrieverProblem(Problem):
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
    """A library that an index needs is not installed here."""


class DownloadFailed(RetrieverProblem):
    """A hub does not deliver a file, or delivers a different one than it announced."""


class BuildRefused(RetrieverProblem):
    """An index cannot be built as asked."""
