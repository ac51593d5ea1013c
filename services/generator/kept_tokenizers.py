"""OpenVINO's tokenizers of GGUF models, kept in a folder: to make one takes 1.6 s, and to read it again 0.1."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from services.generator import gguf_header

log = structlog.get_logger()


def opened(model: Path, folder: Path | None) -> Any:
    """Returns the tokenizer of a GGUF file, which is kept below `folder` for the next start if that is given.

    Raises whatever OpenVINO raises.
    """
    import openvino_genai

    if folder:
        header = gguf_header.without_tensors(model)
        version = hashlib.sha256(openvino_genai.__version__.encode() + header).hexdigest()[:12]
        kept = folder.absolute() / f"tokenizer-{version}"
        with suppress(RuntimeError):  # it is not there, or damaged
            return _read(kept)
        try:
            return _keep(header, kept)
        except (OSError, RuntimeError) as error:
            log.warning("the tokenizer is not kept", folder=str(folder), error=type(error).__name__)
    return openvino_genai.Tokenizer(str(model))


def _read(folder: Path) -> Any:
    """Raises RuntimeError if there is no tokenizer. OpenVINO itself does so at its first use only."""
    import openvino_genai

    tokenizer = openvino_genai.Tokenizer(str(folder))
    tokenizer.decode(tokenizer.encode("a").input_ids)
    return tokenizer


def _keep(header: bytes, kept: Path) -> Any:
    """Makes a tokenizer and returns it as read again. If two services make it at once, either's stays."""
    import openvino_genai

    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as draft:
        made = Path(draft) / "made"
        made.mkdir()
        model = made / "model.gguf"
        model.write_bytes(header)
        openvino_genai.Tokenizer(str(model), enable_save_ov_model=True)
        model.unlink()
        tokenizer = _read(made)
        shutil.rmtree(kept, ignore_errors=True)  # what is there cannot be read
        with suppress(OSError):
            made.rename(kept)
        return tokenizer
