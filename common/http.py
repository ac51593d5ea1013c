"""HTTP clients: no proxy stands before this machine and private networks, whatever the environment says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from common.addresses import is_near

C = TypeVar("C")


def client(make: Callable[..., C], url: str, **options: Any) -> C:
    """Makes a client (`httpx.Client`, `httpx.AsyncClient` or one that takes the same) for one server.

    A server that is not near is asked as `HTTP_PROXY`, `NO_PROXY` and the like say. Raises httpx.ProxyError for a
    proxy of the environment that cannot be used.
    """
    try:
        parts = urlsplit(url)
        if is_near(parts.hostname or ""):
            options["trust_env"] = False
            if parts.scheme == "https":  # certificates of the environment (SSL_CERT_FILE) count all the same
                options = {"verify": httpx.create_ssl_context(), **options}
        return make(**options)
    except (ImportError, ValueError) as error:
        raise httpx.ProxyError(f"{url} cannot be asked{through(url)}: {error}") from error


def through(url: str) -> str:
    """Returns " through the proxy …" for a URL that is asked through one, else the empty text: for errors."""
    parts = urlsplit(url)
    proxies, host = getproxies(), parts.hostname or ""
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or is_near(host) or proxy_bypass(host):
        return ""
    return f" through the proxy {proxy.rpartition('@')[2]}"  # without its password
