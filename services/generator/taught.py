"""The card of the served model, which tells what it was taught; checked before the model is served."""

from __future__ import annotations

from pathlib import Path

import structlog

from common import model_card
from search_agent import prompts
from search_agent.agents import AGENTS
from search_agent.errors import Failure, GeneratorError
from search_agent.types import UNTAUGHT, ModelCard, ModelInfo

log = structlog.get_logger()


def card_of(path: str, adapter: str) -> ModelCard:
    """Returns the adapter's card or, without one, the model's.

    Raises GeneratorError if the card names a method or a parameter that this version lacks, because the searcher could
    not be asked as it was taught.
    """
    for field, weights in (("adapter", adapter), ("path", path)):
        card = model_card.read(Path(weights)) if weights else UNTAUGHT
        if card == UNTAUGHT:
            continue
        if card.method and card.method not in AGENTS:
            raise _invalid(field, weights, f"method: there is no {card.method!r}; there are {', '.join(AGENTS)}")
        if card.method:
            try:
                AGENTS[card.method].as_taught(card)
            except ValueError as error:
                raise _invalid(field, weights, f"parameters.{error}") from None
        return card
    return UNTAUGHT


def warn(info: ModelInfo) -> None:
    """Logs a warning if the model is not served as it was taught, which may reduce quality."""
    card = info.card
    base = model_card.read(Path(info.path)).base_model if info.path else ""
    served = base or info.model.rpartition("@")[2].partition("+")[0]
    if info.adapter and card.base_model not in ("", served):
        log.warning("the adapter was trained on another base model", trained_on=card.base_model, served=served)
    if card.method and card.prompt_version not in ("", now := prompts.version(card.method)):
        log.warning("the searcher was taught another prompt", method=card.method, taught=card.prompt_version, now=now)


def _invalid(field: str, weights: str, problem: str) -> GeneratorError:
    return GeneratorError(Failure.INVALID, f"{model_card.FILE} of {weights}: {problem}", field)
