"""Secrets come from an environment variable NAME, or from the file that NAME_FILE names. There is no other way."""

from __future__ import annotations

import os
from pathlib import Path

from common.problems import Problem


def secret(name: str) -> str:
    """Returns the secret of that name, empty where none is set. Raises Problem, which names the variable."""
    value, file = os.environ.get(name, ""), os.environ.get(f"{name}_FILE", "")
    if value and file:
        raise Problem(f"{name} and {name}_FILE are both set; set one")
    try:
        return Path(file).read_text(encoding="utf-8").strip() if file else value
    except OSError as error:
        raise Problem(f"{name}_FILE: {file}: {error.strerror}") from None
    except ValueError:
        raise Problem(f"{name}_FILE: {file}: it is not text") from None
