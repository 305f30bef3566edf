"""Who a request comes from, as far as the server can tell: address and user agent.

Everything here but the address of the connection is the client's own claim, or a proxy's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from itertools import islice
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNIX: Final = "unix"
"""Stands for a proxy that connects through a Unix socket, and so has no address."""

MAX_HOPS: Final = 32
"""Entries of a header that are looked at. Anybody can send thousands, and name trusted proxies."""

MAX_USER_AGENT: Final = 300
_MAX_ENTRY: Final = 100
"""Characters of the longest address, with brackets, zone, port and spaces."""
_MAPPED: Final = 96
"""Bits before the IPv4 address in an IPv6 address that maps one."""


@dataclass(frozen=True)
class Proxies:
    """The proxies whose word is taken for who is behind them."""

    networks: tuple[Network, ...] = ()
    unix: bool = False

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Proxies:
        """From addresses, networks and ``"unix"``. Raises ``ValueError`` for anything else."""
        texts = [str(entry) for entry in entries]
        networks = tuple(_network(text) for text in texts if text != UNIX)
        return cls(networks, UNIX in texts)

    def __bool__(self) -> bool:
        return bool(self.networks) or self.unix

    def __contains__(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


def client_ip(remote_addr: str, forwarded_for: str, trusted: Proxies) -> str:
    """The address of the client, ``""`` where none is known.

    ``forwarded_for`` is read from the right, where the nearest proxy wrote: each entry is as good
    as the one who added it. It ends at the first address that is not trusted, which is the client,
    at one that is no address, or after `MAX_HOPS`. Nothing of it counts where the connection is not
    a proxy's.
    """
    client = _address(remote_addr)
    if client is None and (remote_addr or not trusted.unix):
        return ""
    # What is left of the last hops stays in one piece.
    hops = forwarded_for.rsplit(",", MAX_HOPS)[-MAX_HOPS:]
    while hops and (client is None or client in trusted):
        address = _address(hops.pop())
        if address is None:
            break
        client = address
    return "" if client is None else str(client)


def clean_user_agent(text: str) -> str:
    """The header without what could disturb a log or a page, cut to `MAX_USER_AGENT`."""
    return "".join(islice(filter(str.isprintable, text), MAX_USER_AGENT))


def normal_ip(text: str) -> str:
    """An address as `client_ip` writes it; empty for any other text."""
    return str(_address(text) or "")


def _address(text: str) -> Address | None:
    """The address in an entry, without port and zone; None if there is none."""
    if len(text) > _MAX_ENTRY:
        return None
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _network(text: str) -> Network:
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED))
    return network
