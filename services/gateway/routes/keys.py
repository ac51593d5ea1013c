"""Routes over the API keys: make, list and revoke them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field, StrictInt, StringConstraints

from common import keys
from common.codecs import fields_of
from common.keys import Key, KeyStore, Scope
from search_agent.errors import Failure, KeysError
from services.gateway import caller
from services.gateway.problems import NotConfigured
from services.gateway.schemas import Body, Out

_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
_Limit = Annotated[StrictInt, Field(ge=0)] | None


class KeyLimits(Out):
    """0 is no limit; null leaves the choice to the gateway's settings."""

    requests_per_minute: _Limit = None
    questions_at_once: _Limit = None
    tokens_per_day: _Limit = None


class KeyRequest(Body):
    """`indexes` are those that the key may use, all if left out. Without `days` it never expires."""

    name: _Name
    scopes: Annotated[list[Scope], Field(min_length=1)]
    indexes: list[_Name] = Field(default_factory=list)
    days: Annotated[StrictInt, Field(ge=1, le=36500)] | None = None
    limits: KeyLimits = Field(default_factory=KeyLimits)


class KeyOut(Out):
    id: str
    name: str
    scopes: list[Scope]
    indexes: list[str]
    created_at: datetime
    expires_at: datetime | None
    limits: KeyLimits


class NewKeyOut(KeyOut):
    """`key` is the key itself, which is shown only once."""

    key: str


class RevokedOut(Out):
    id: str


def routes(store: KeyStore | None) -> APIRouter:
    """Returns the routes; without a store, each answers that there are no keys."""
    router = APIRouter(prefix="/v1/keys", tags=["keys"])

    def kept() -> KeyStore:
        if store is None:
            raise NotConfigured("no keys are configured (GATEWAY_KEYS)")
        return store

    @router.post("", status_code=201)
    async def create(body: KeyRequest) -> NewKeyOut:
        """Makes a key. A caller whose key is for certain indexes cannot make keys for others."""
        there, who = kept(), caller.current()
        indexes = body.indexes or who.indexes
        for index in indexes:
            who.check_index(index)
        lifetime = timedelta(days=body.days) if body.days else None
        limits = keys.Limits(**body.limits.model_dump())
        key, secret = keys.make(body.name, body.scopes, indexes, lifetime, limits)
        await there.add(key)
        return NewKeyOut.model_validate(fields_of(key, key=secret))

    @router.get("", response_model=list[KeyOut])
    async def list_keys() -> list[Key]:
        """Returns the keys that the caller may manage, oldest first, without their secrets.

        A caller whose key is for certain indexes manages only keys for those.
        """
        return [key for key in await kept().all() if caller.current().may_manage(key.indexes)]

    @router.delete("/{id}")
    async def revoke(id: str) -> RevokedOut:
        """Revokes a key at once."""
        there, who = kept(), caller.current()
        if who.indexes:
            found = await there.get(id)
            known = bool(found and who.may_manage(found.indexes)) and await there.remove(id)
        else:
            known = await there.remove(id)  # also one whose record is damaged
        if not known:
            raise KeysError(Failure.NOT_FOUND, f"no key {id!r}", "id")
        return RevokedOut(id=id)

    return router
