"""Whose address a request is said to come from, and what becomes of its user agent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_sessionstores.core import client
from django_sessionstores.core.client import (
    Proxies,
    clean_user_agent,
    client_ip,
    is_in_network,
    normal_network,
)

NOBODY = ()
ONE = ("10.0.0.1",)
LAN = ("10.0.0.0/8", "fd00::/8")
UNIX = ("unix",)
UNIX_AND_LAN = ("unix", *LAN)


@pytest.mark.parametrize(
    ("remote", "forwarded", "trusted", "expected"),
    [
        # Nobody is trusted: the header is the client's own invention.
        ("203.0.113.9", "", NOBODY, "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", NOBODY, "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1", NOBODY, "10.0.0.1"),
        ("2001:DB8:0:0::1", "", NOBODY, "2001:db8::1"),
        ("::ffff:203.0.113.9", "", NOBODY, "203.0.113.9"),
        ("fe80::1%eth0", "", NOBODY, "fe80::1"),
        ("", "198.51.100.1", NOBODY, ""),
        ("", "", NOBODY, ""),
        ("garbage", "198.51.100.1", NOBODY, ""),
        # One proxy.
        ("10.0.0.1", "198.51.100.1", ONE, "198.51.100.1"),
        ("10.0.0.1", "", ONE, "10.0.0.1"),
        ("10.0.0.2", "198.51.100.1", ONE, "10.0.0.2"),
        ("::ffff:10.0.0.1", "198.51.100.1", ONE, "198.51.100.1"),
        # A spoofed entry stands to the left of what the proxy saw.
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", ONE, "198.51.100.1"),
        ("10.0.0.1", "10.0.0.1, 198.51.100.1", ONE, "198.51.100.1"),
        ("10.0.0.1", "garbage, 198.51.100.1", ONE, "198.51.100.1"),
        ("203.0.113.9", "10.0.0.1, 10.0.0.1", ONE, "203.0.113.9"),
        # Several.
        ("10.0.0.1", "198.51.100.1, 10.9.9.9, 10.0.0.7", LAN, "198.51.100.1"),
        ("fd00::1", "2001:db8::1,fd00::2", LAN, "2001:db8::1"),
        ("10.0.0.1", "::ffff:198.51.100.1", LAN, "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1,::ffff:10.0.0.7", LAN, "198.51.100.1"),
        # All are trusted: the leftmost is the nearest to whoever asked.
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", LAN, "10.0.0.3"),
        # What is no address ends it.
        ("10.0.0.1", "198.51.100.1, unknown, 10.0.0.2", LAN, "10.0.0.2"),
        ("10.0.0.1", "198.51.100.1,", LAN, "10.0.0.1"),
        ("10.0.0.1", ",", LAN, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.999", LAN, "10.0.0.1"),
        ("10.0.0.1", "010.0.0.3", LAN, "10.0.0.1"),
        ("10.0.0.1", "<script>", LAN, "10.0.0.1"),
        ("10.0.0.1", "\x00\r\n", LAN, "10.0.0.1"),
        # Ports.
        ("10.0.0.1", "198.51.100.1:51234", LAN, "198.51.100.1"),
        ("10.0.0.1", "[2001:db8::1]:51234", LAN, "2001:db8::1"),
        ("10.0.0.1", "[2001:db8::1]", LAN, "2001:db8::1"),
        ("10.0.0.1", "[2001:db8::1", LAN, "2001:db8::1"),
        ("10.0.0.1", "[]", LAN, "10.0.0.1"),
        ("10.0.0.1", "[fe80::1%eth0]:80", LAN, "fe80::1"),
        # A Unix socket.
        ("", "198.51.100.1", UNIX, "198.51.100.1"),
        ("", "198.51.100.1, 10.0.0.1", UNIX, "10.0.0.1"),
        ("", "198.51.100.1, 10.0.0.1", UNIX_AND_LAN, "198.51.100.1"),
        ("", "", UNIX, ""),
        ("", "garbage", UNIX, ""),
        ("", "198.51.100.1", LAN, ""),
        ("garbage", "198.51.100.1", UNIX_AND_LAN, ""),
    ],
)
def test_the_client_is_who_the_last_trusted_proxy_saw(
    remote: str, forwarded: str, trusted: tuple[str, ...], expected: str
) -> None:
    """Believing one entry more lets anybody appear under any address; one less makes everybody
    the proxy."""
    assert client_ip(remote, forwarded, Proxies.parse(trusted)) == expected


def test_a_header_of_10_kb_is_no_way_around() -> None:
    """The longest that servers let through."""
    proxies = Proxies.parse(LAN)
    assert client_ip("10.0.0.1", "198.51.100.1," * 1_000 + "10.0.0.2", proxies) == "198.51.100.1"
    assert client_ip("10.0.0.1", "," * 10_000, proxies) == "10.0.0.1"
    assert client_ip("10.0.0.1", "9" * 10_000, proxies) == "10.0.0.1"


def test_the_last_32_hops_are_read_to_their_end() -> None:
    """No chain of proxies is longer."""
    forwarded = "10.0.0.9," * 1_000 + "198.51.100.1" + ",10.0.0.2" * 31
    assert client_ip("10.0.0.1", forwarded, Proxies.parse(LAN)) == "198.51.100.1"


@pytest.mark.parametrize("number", [32, 1_000])
def test_no_more_than_32_hops_are_read(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Anybody can name a trusted proxy a thousand times, and would be parsed for as often."""
    read: list[str] = []
    real = client._address

    def counted(text: str) -> client.Address | None:
        read.append(text)
        return real(text)

    monkeypatch.setattr(client, "_address", counted)
    forwarded = "198.51.100.1" + ",10.0.0.2" * number
    assert client_ip("10.0.0.1", forwarded, Proxies.parse(LAN)) == "10.0.0.2"
    assert len(read) == 1 + 32


def test_what_is_too_long_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that parsing takes grows with the text, and so does the message of the error."""
    read: list[str] = []
    monkeypatch.setattr(client, "ip_address", read.append)
    client_ip("1:" * 5_000, "", Proxies())
    assert read == []


def test_the_longest_address_is_parsed() -> None:
    """A proxy may write more around the address."""
    longest = "[1111:2222:3333:4444:5555:6666:255.255.255.255%enp255s31f7np15]:65535"
    expected = "1111:2222:3333:4444:5555:6666:ffff:ffff"
    assert client_ip("10.0.0.1", f"1.1.1.1, {longest} ", Proxies.parse(ONE)) == expected


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_header_is_an_error(remote: str, forwarded: str) -> None:
    """It is anybody's to send."""
    assert isinstance(client_ip(remote, forwarded, Proxies.parse(UNIX_AND_LAN)), str)
    assert isinstance(client_ip("10.0.0.1", forwarded, Proxies.parse(UNIX_AND_LAN)), str)


def test_a_network_of_mapped_addresses_is_the_ipv4_network() -> None:
    """Addresses are compared unmapped, so the entry would otherwise never match."""
    proxies = Proxies.parse(["::ffff:10.0.0.0/104"])
    assert client_ip("10.1.2.3", "198.51.100.1", proxies) == "198.51.100.1"


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "localhost", "", "*", "10.0.0", None, 5])
def test_what_is_no_network_is_refused(entry: object) -> None:
    """Whom to trust must not be guessed: 10.0.0.1/8 may mean one host or a network."""
    with pytest.raises(ValueError, match=r"host bits|does not appear"):
        Proxies.parse([entry])  # type: ignore[list-item]


def test_user_agents_are_cut_and_cleaned() -> None:
    """They are shown on pages and written to logs: no line of their own, no reversed text."""
    assert clean_user_agent("Mozilla/5.0 (X11)") == "Mozilla/5.0 (X11)"
    assert clean_user_agent("a\r\nSet-Cookie: x\x00\x1b[31m\x7f\u202e\ud800b") == (
        "aSet-Cookie: x[31mb"
    )
    assert clean_user_agent("Browsér 😀") == "Browsér 😀"
    assert clean_user_agent("\x00" * 10_000 + "x" * 10_000) == "x" * 300


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.77/24", "192.0.2.0/24"),
        ("192.0.2.", "192.0.2.0/24"),
        ("192.0.2", "192.0.2.0/24"),
        (" 192.0. ", "192.0.0.0/16"),
        ("10.", "10.0.0.0/8"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("2001:db8:", "2001:db8::/32"),
        ("2001:db8", "2001:db8::/32"),
        ("2001:0db8:0:1:", "2001:db8:0:1::/64"),
        ("1:2:3:4:5:6:7:", "1:2:3:4:5:6:7:0/112"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("10", ""),
        ("2001", ""),
        ("192.0.2.1", ""),
        ("192.0.2.1.", ""),
        ("300.", ""),
        ("192..2", ""),
        ("1:2:3:4:5:6:7:8:", ""),
        ("2001::db8:", ""),
        ("12345:", ""),
        ("192.0.2.0/33", ""),
        ("192.0.2.0/x", ""),
        ("/", ""),
        ("", ""),
        ("ada", ""),
        ("\u0661\u0660.", ""),
        ("1." * 5_000, ""),
    ],
)
def test_networks(text: str, network: str) -> None:
    """An operator enters what a log, a provider or a colleague has named."""
    assert normal_network(text) == network


@pytest.mark.parametrize(
    ("ip", "network", "expected"),
    [
        ("192.0.2.1", "192.0.2.0/24", True),
        ("192.0.20.1", "192.0.2.0/24", False),
        ("2001:db8::1", "2001:db8::/32", True),
        ("2001:db8::1", "192.0.2.0/24", False),
        ("", "192.0.2.0/24", False),
        ("nonsense", "192.0.2.0/24", False),
        ("192.0.2.1", "nonsense/24", False),
    ],
)
def test_addresses_in_networks(ip: str, network: str, expected: bool) -> None:
    """Addresses are compared by bits and not as texts: 192.0.2 is not the beginning of 192.0.20."""
    assert is_in_network(ip, network) == expected
