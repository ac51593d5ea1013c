"""A gateway with fakes behind it, for tests that need nothing special of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.gateway.rest import Rest


@pytest.fixture
async def rest() -> AsyncIterator[Rest]:
    gateway = Rest()
    async with gateway.http:
        yield gateway
