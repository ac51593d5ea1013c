"""OpenAI's embeddings over the retriever's encoders."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request
from pydantic import Field, StringConstraints

from search_agent.errors import RetrieverError
from search_agent.types import IndexInfo
from services.gateway.player import Backends
from services.gateway.problems import BadField
from services.gateway.routes.openai.shape import RESPONSES, OpenAIRequest, OpenAIRoute, UnknownModel
from services.gateway.streams import unless_caller_leaves

Text = Annotated[str, StringConstraints(min_length=1, max_length=8000)]


class EmbeddingsRequest(OpenAIRequest):
    """Texts to embed. Lists of tokens are not taken."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"user"})
    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: str = Field(description="an encoder or an index, as GET /v1/indexes names them")
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=256)]
    input_type: Literal["query", "passage"] = Field(
        "query", description="how the encoder reads the texts; query also where texts of one kind are compared"
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="refused unless it is the encoder's own")


def routes(backends: Backends) -> APIRouter:
    """Returns the route."""
    router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAIRoute, responses=RESPONSES)

    @router.post("/embeddings")
    async def embeddings(body: EmbeddingsRequest, request: Request) -> dict[str, Any]:
        """Returns the texts' vectors, which have length 1, as OpenAI's embeddings."""
        index = _index(await backends.retriever.indexes(), body.model)
        if body.dimensions not in (None, index.dim):
            raise BadField("dimensions", f"{body.model} has {index.dim} dimensions, which cannot be changed")
        texts = [body.input] if isinstance(body.input, str) else body.input
        work = backends.retriever.embed(texts, index.name, body.input_type == "passage")
        try:
            vectors = await unless_caller_leaves(request, work)
        except RetrieverError as error:
            error.field = {"texts": "input", "index": "model"}.get(error.field, error.field)
            raise
        data = [
            {"object": "embedding", "index": number, "embedding": _encoded(vector, body.encoding_format)}
            for number, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        return {"object": "list", "data": data, "model": body.model, "usage": usage}

    return router


def _index(served: Sequence[IndexInfo], model: str) -> IndexInfo:
    """Returns the index of that name or with that encoder, the default one first. Raises UnknownModel."""
    with_vectors = sorted((index for index in served if index.encoder), key=lambda index: not index.is_default)
    for index in with_vectors:
        if model in (index.name, index.encoder):
            return index
    names = ", ".join(dict.fromkeys(index.encoder for index in with_vectors))
    raise UnknownModel(f"there is no encoder {model!r}; there are {names or 'none'}")


def _encoded(vector: bytes, encoding: str) -> str | list[float]:
    return base64.b64encode(vector).decode() if encoding == "base64" else array("f", vector).tolist()
