"""A headless Chromium, and a gateway over fakes that it can open."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.waiting import LIMIT_S

expect.set_options(timeout=LIMIT_S * 1000)
NAMES = ("chromium", "chromium-browser", "google-chrome")


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Starts the Chromium of this machine. Skips the test without one, except in continuous integration."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse("no Chromium; deploy/ci/install.sh chromium fonts-dejavu-core installs it on Debian")
    async with (
        async_playwright() as playwright,
        # Chromium's sandbox refuses to run as root; the pages are our own.
        await playwright.chromium.launch(executable_path=found, args=["--no-sandbox"]) as browser,
    ):
        yield browser


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Serves the application in this loop while the context is open, which gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"  # whoever connects early waits in the backlog
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def opened(browser: Browser, address: str, **options: Any) -> AsyncIterator[Page]:
    """Opens a page. Afterwards no script may have failed, no policy been hurt, and no other host asked."""
    faults: list[str] = []
    hosts: set[str] = set()
    async with await browser.new_context(**options) as context:
        context.set_default_timeout(LIMIT_S * 1000)
        page = await context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if "Security Policy" in message.text else None)
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        await page.goto(address)
        yield page
    assert faults == []
    assert hosts == {address.split("/")[2]}
