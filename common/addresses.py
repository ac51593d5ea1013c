"""Addresses: HOST:PORT with an IPv6 host in brackets, and which hosts are near enough to need no proxy."""

from __future__ import annotations

from ipaddress import ip_address

_OUR_DOMAINS = (".localhost", ".local", ".internal", ".svc")


def bare(host: str) -> str:
    """Returns the host without the brackets that an IPv6 address has in a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def join(host: str, port: int) -> str:
    """Returns HOST:PORT."""
    host = bare(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(address: str) -> tuple[str, int]:
    """Returns host and port of HOST:PORT. Raises ValueError."""
    host, _, port = address.strip().rpartition(":")
    is_ipv6 = bare(host) != host
    is_port = port.isascii() and port.isdigit() and int(port) < 65536
    if not bare(host) or is_ipv6 != (":" in host) or "/" in host or not is_port:
        raise ValueError("must be HOST:PORT, for example retriever:50051 or [::1]:50051")
    if is_ipv6:
        ip_address(bare(host))
    return bare(host), int(port)


def is_near(host: str) -> bool:
    """Tells whether the host is this machine or on a private network, where no proxy stands in between."""
    host = bare(host.lower().rstrip("."))
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return "." not in host or host.endswith(_OUR_DOMAINS)
    return address.is_private or address.is_link_local
