"""search_agent.json: what a model was taught, in the folder of its weights, so that it travels with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import structlog

from common import stored
from common.files import write_whole
from search_agent.types import UNTAUGHT, ModelCard

log = structlog.get_logger()

FILE = "search_agent.json"


def read(weights: Path) -> ModelCard:
    """Returns the card beside the weights, a folder or a file.

    Without a card, and with one that cannot be read, which is logged, nothing is known of what they were taught.
    """
    file = (weights if weights.is_dir() else weights.parent) / FILE
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return UNTAUGHT
    except OSError as error:
        log.error("a model card cannot be read", file=str(file), error=error.strerror)
        return UNTAUGHT
    card = stored.read(ModelCard, content)
    if card is None:
        log.error("a model card is damaged; the model is served as if it had none", file=str(file))
    return card or UNTAUGHT


def write(folder: Path, card: ModelCard) -> None:
    """Writes the card into the folder of its weights. Raises OSError."""
    write_whole(folder / FILE, json.dumps(asdict(card), indent=1, ensure_ascii=False) + "\n")


def base_of(model: Path) -> str:
    """Returns the hash that a card names a base model by, and "" for one that is not on this machine.

    It is the hash of the folder's weights, or of the file that they were unpacked from. Raises OSError.
    """
    return read(model).base_model or digest(model.glob("*.safetensors"))


def digest(files: Iterable[Path]) -> str:
    """Returns 12 hexadecimal digits that stand for the files' bytes, "" for no files. Raises OSError."""
    paths = sorted(files)
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:12] if paths else ""


def trained(card: ModelCard, base: Path, start: Path | None, figures: Mapping[str, float]) -> ModelCard:
    """Returns the card of an adapter that was trained as `card` says.

    `base` is its model, and `start` the adapter that it began from, whose data it has learned too. Raises OSError.
    """
    data = (*read(start).data, *card.data) if start else card.data
    return replace(card, base_model=base_of(base), data=tuple(dict.fromkeys(data)), figures=figures)


def merged(base: Path, adapter: Path) -> ModelCard:
    """Returns the card of a base model with an adapter merged in: the adapter's or, without one, the base's.

    It has the data of both, and names no base model, because the new model is one itself.
    """
    under, over = read(base), read(adapter)
    return replace(
        under if over == UNTAUGHT else over, base_model="", data=tuple(dict.fromkeys((*under.data, *over.data)))
    )
