"""Addresses: HOST:PORT with an IPv6 host in brackets, the name of a model after it, and which hosts need no proxy."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address

MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_PORTS = range(20_000, 32_768)  # by default, connections get those from 32,768 on
_GRPC_SCHEMES = ("dns:", "unix:", "ipv4:", "ipv6:", "xds:")  # gRPC reads these itself
_OUR_DOMAINS = (".localhost", ".local", ".internal", ".svc")


def bare(host: str) -> str:
    """Returns the host without the brackets that an IPv6 address has in a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def free_port() -> int:
    """Returns a TCP port of this machine that nothing uses now, and that Linux gives to no outgoing connection."""
    while True:
        port = secrets.choice(_PORTS)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


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


def model_at(target: str) -> tuple[str, str]:
    """Returns the address, or `several`, in HOST:PORT/NAME and the name, which is empty for an address alone.

    A name follows a port and has none itself, since gRPC's own addresses hold slashes too: dns:///HOST:PORT and
    dns://SERVER:PORT/HOST:PORT.
    """
    address, slash, name = target.rpartition("/")
    is_name = slash and ":" not in name and address.rpartition(":")[2].isdigit()
    return (address, name) if is_name else (target, "")


def is_grpc(address: str) -> bool:
    """Returns whether the address is in a scheme that gRPC reads itself."""
    return address.startswith(_GRPC_SCHEMES)


def several(address: str) -> list[str]:
    """Returns the addresses of HOST:PORT,HOST:PORT. One in a scheme of gRPC's is one, whatever commas it has."""
    return [address] if is_grpc(address) else [each.strip() for each in address.split(",")]


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach the host."""
    try:
        return ip_address(bare(host)).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache(1024)  # every request names a host, and nearly always the same one
def is_unclaimable(host: str) -> bool:
    """Returns whether no site can have the host as its name: an address, localhost, or a name without a dot."""
    try:
        ip_address(bare(host))
    except ValueError:
        return "." not in host or host.endswith(".localhost")
    return True


def is_near(host: str) -> bool:
    """Returns whether the host is this machine or on a private network, for which no proxy is used."""
    host = bare(host.lower().rstrip("."))
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return "." not in host or host.endswith(_OUR_DOMAINS)
    return address.is_private or address.is_link_local
