"""The IP address and the user agent of the client that sent a request.

Only the address of the connection is certain. Everything else is a claim of the client or a proxy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNIX: Final = "unix"
"""Stands for a proxy that connects through a Unix socket and therefore has no address."""

MAX_HOPS: Final = 32
"""How many entries of a header are read. A client can send thousands that name trusted proxies."""

MAX_USER_AGENT: Final = 300
"""The maximum length of a user agent that is stored, in characters."""
_MAX_ENTRY: Final = 100
"""The length of the longest address, with brackets, zone, port and spaces."""
_BEGINNING_V4: Final = re.compile(r"\d{1,3}\.|\d{1,3}(\.\d{1,3}){1,2}\.?", re.ASCII)
_BEGINNING_V6: Final = re.compile(
    r"[0-9a-f]{1,4}(:[0-9a-f]{1,4}){0,6}:|"
    r"[0-9a-f]{1,4}(:[0-9a-f]{1,4}){1,6}",
    re.ASCII | re.IGNORECASE,
)
_CLIENTS: Final = 1024
"""How many addresses are kept that were parsed or written last."""
_MAPPED_PREFIX: Final = 96
"""The bits before the IPv4 address in an IPv4-mapped IPv6 address."""


@dataclass(frozen=True)
class Proxies:
    """The proxies that are trusted to name the client of a request."""

    networks: tuple[Network, ...] = ()
    unix: bool = False

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Proxies:
        """Return the proxies for a list of addresses, networks and ``"unix"``.

        Raises ``ValueError`` for any other entry.
        """
        texts = [str(entry) for entry in entries]
        networks = tuple(_network(text) for text in texts if text != UNIX)
        return cls(networks, UNIX in texts)

    def __bool__(self) -> bool:
        return bool(self.networks) or self.unix

    def __contains__(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


def client_ip(remote_addr: str, forwarded_for: str, trusted: Proxies) -> str:
    """Return the IP address of the client; an empty string if it is not known.

    ``remote_addr`` is the address of the connection, and ``forwarded_for`` the header
    ``X-Forwarded-For``. The header is read from the right, because the nearest proxy writes there,
    and each entry is as trustworthy as the proxy that added it. The first address that is not
    trusted is the client. Reading also stops at an entry that is not an address, and after
    `MAX_HOPS` entries; the last address that was read is the client then. If the connection does
    not come from a trusted proxy, the header is ignored.
    """
    client = _address(remote_addr)
    if client is None and (remote_addr or not trusted.unix):
        return ""
    # The entries before the last hops are not used, so they are not split.
    hops = forwarded_for.rsplit(",", MAX_HOPS)[-MAX_HOPS:]
    while hops and (client is None or client in trusted):
        address = _address(hops.pop())
        if address is None:
            break
        client = address
    return "" if client is None else _text_of(client)


def clean_user_agent(text: str) -> str:
    """Return the header without characters that could disturb a log or a page.

    It is cut to `MAX_USER_AGENT` characters.
    """
    if text.isprintable():
        return text[:MAX_USER_AGENT]  # Nearly always.
    return "".join(islice(filter(str.isprintable, text), MAX_USER_AGENT))


def normal_ip(text: str) -> str:
    """Return an address as `client_ip` writes it; an empty string for any other text."""
    return str(_address(text) or "")


def _address(text: str) -> Address | None:
    """Return the address in an entry, without port and zone; ``None`` if there is none."""
    return None if len(text) > _MAX_ENTRY else _parsed_address(text)


# Each write needs the address of its client, and a client makes several requests.
_text_of: Final = lru_cache(maxsize=_CLIENTS)(str)


@lru_cache(maxsize=_CLIENTS)
def _parsed_address(text: str) -> Address | None:
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


def normal_network(text: str) -> str:
    """Return the network that a text means; an empty string for any other text.

    The text is a network such as ``192.0.2.0/24``, or the beginning of an address: ``192.0.2`` or
    ``2001:db8:``.
    """
    if len(text) > _MAX_ENTRY:
        return ""
    text = text.strip()
    if "/" not in text:
        text = _with_length(text)
    try:
        return str(_network(text, strict=False)) if "/" in text else ""
    except ValueError:
        return ""


def is_in_network(ip: str, network: str) -> bool:
    """Return whether an address is in a network, both as the functions above return them."""
    try:
        return ip_address(ip) in _parsed_network(network)
    except ValueError:
        return False


@lru_cache(maxsize=16)
def _parsed_network(text: str) -> Network:
    return ip_network(text)


def _with_length(beginning: str) -> str:
    """Return the network of the addresses with this beginning; the text itself without one."""
    if found := _BEGINNING_V4.fullmatch(beginning):
        parts = found[0].rstrip(".").split(".")
        return f"{'.'.join([*parts, *['0'] * (4 - len(parts))])}/{8 * len(parts)}"
    if found := _BEGINNING_V6.fullmatch(beginning):
        parts = found[0].rstrip(":").split(":")
        return f"{':'.join(parts)}::/{16 * len(parts)}"
    return beginning


def _network(text: str, *, strict: bool = True) -> Network:
    network = ip_network(text, strict)
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_PREFIX:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_PREFIX))
    return network
