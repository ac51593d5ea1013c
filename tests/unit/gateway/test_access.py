"""Every route against every scope. `pytest -s` shows the table of statuses."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.keys import FileKeys, Scope, make
from services.gateway.access import ACCESS, leaves, names
from services.gateway.door import Rules
from tests.unit.gateway.rest import Rest

OPEN = {"GET /", "GET /static/{name}", "GET /docs", "GET /openapi.json", "GET /healthz", "GET /readyz", "GET /metrics"}
FOR_ADMIN = {"DELETE /v1/cache", "POST /v1/runs/{id}/promote", "POST /v1/rollback", "POST /v1/keys", "GET /v1/keys",
             "DELETE /v1/keys/{id}"}  # fmt: skip


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Rest]:
    gateway = Rest(rules=Rules(FileKeys(tmp_path / "keys.json")))
    async with gateway.http:
        yield gateway


def declared(rest: Rest) -> list[str]:
    return sorted(name for route in leaves(rest.app.routes) for name in names(route))


def test_every_route_has_its_place_in_the_table(rest: Rest) -> None:
    assert set(declared(rest)) == set(ACCESS)


def test_the_routes_without_a_key_and_for_admin_alone_are_these() -> None:
    assert {name for name, access in ACCESS.items() if not access.scopes} == OPEN
    assert {name for name, access in ACCESS.items() if access.scopes == (Scope.ADMIN,)} == FOR_ADMIN


async def test_every_route_asks_for_one_of_its_scopes(rest: Rest) -> None:
    store = rest.rules.keys
    assert store
    secrets = {"no key": ""}
    for scope in Scope:
        key, secrets[scope] = make(scope, [scope])
        await store.add(key)
    lines = ["route".ljust(38) + "".join(name.rjust(10) for name in secrets)]
    for name in declared(rest):
        verb, path = name.split()
        found = {}
        for scope, secret in secrets.items():
            headers = {"authorization": f"Bearer {secret}"} if secret else {}
            sent = {"json": {}} if verb == "POST" else {}
            verb = "GET" if verb == "*" else verb
            response = await rest.http.request(verb, path.replace("{id}", "x"), headers=headers, **sent)
            found[scope] = response.status_code
        lines.append(name.ljust(38) + "".join(str(status).rjust(10) for status in found.values()))
        allowed = ACCESS[name].scopes
        for scope, status in found.items():
            if not allowed:
                assert status not in (401, 403), (name, scope)
            elif scope == "no key":
                assert status == 401, name
            else:
                assert (status != 403) == (scope in (*allowed, Scope.ADMIN)), (name, scope)
                assert status != 401, (name, scope)
    print("\n" + "\n".join(lines))


async def test_a_route_that_the_table_lacks_is_for_admin_alone(rest: Rest) -> None:
    rest.app.mount("/new", rest.app)
    store = rest.rules.keys
    assert store
    key, secret = make("me", [scope for scope in Scope if scope is not Scope.ADMIN])
    await store.add(key)
    response = await rest.http.get("/new/healthz", headers={"x-api-key": secret})
    assert response.status_code == 403
