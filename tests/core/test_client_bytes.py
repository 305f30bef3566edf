"""Addresses and user agents as bytes: nothing of them is lost, and the usual ones take few."""

import hashlib

import pytest

from django_sessionstores.core import client_bytes
from django_sessionstores.core.client_bytes import (
    pack_ip,
    pack_user_agent,
    unpack_ip,
    unpack_user_agent,
)

ON_WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
ON_IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_3_2 like Mac OS X) "
    "AppleWebKit/605.1.15 (KHTML, like Gecko) "
)
USUAL = {
    f"{ON_WINDOWS}Chrome/135.0.0.0 Safari/537.36": 5,
    f"{ON_WINDOWS}Chrome/135.0.0.0 Safari/537.36 Edg/134.0.0.0": 11,
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/135.0.0.0 Mobile Safari/537.36": 5,
    f"{ON_IPHONE}Version/18.3.1 Mobile/15E148 Safari/604.1": 15,
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0": 9,
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)": 20,
    "python-requests/2.32.3": 7,
}
UNUSUAL = (
    "",
    "B",
    "Browser/1.0",
    "Browsér/1.0 (😀)",
    "\0",
    "\0Mozilla/5.0 (",
    "line\nline\x7f",
    "\x80\xff",
    "Mozilla/5.0 (" * 100,
)


@pytest.mark.parametrize("text", [*USUAL, *UNUSUAL, *client_bytes._PARTS])
def test_a_user_agent_comes_back(text: str) -> None:
    assert unpack_user_agent(pack_user_agent(text)) == text


def test_the_usual_ones_take_few_bytes() -> None:
    assert {text: len(pack_user_agent(text)) for text in USUAL} == USUAL


def test_other_text_takes_as_many_bytes_as_before() -> None:
    assert pack_user_agent("a b c") == b"a b c"
    assert len(pack_user_agent("é" * 300)) == 601


def test_the_longest_part_is_taken() -> None:
    assert len(pack_user_agent("Mozilla/5.0 (X11; Linux x86_64; rv:")) == 1
    assert len(pack_user_agent("Mozilla/5.0 (X11; Linux x86_64; rx:")) == 14


def test_parts_keep_their_bytes() -> None:
    """They are in records. Parts that are added come after these."""
    parts = client_bytes._PARTS[:107]
    assert len(set(client_bytes._PARTS)) == len(client_bytes._PARTS) <= 128
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    assert digest == "07c37d934134155627f2c4cabd7c767e4bbbb0b67662678a8b4b8b3d93e6c972"
    assert pack_user_agent(parts[0] + parts[106]) == b"\x80\xea"


def test_a_part_that_is_not_known_yet() -> None:
    """Workers of the next version may have added it."""
    assert unpack_user_agent(b"B\xff\x01/1") == "B\ufffd\ufffd/1"
    assert unpack_user_agent(b"\0\xff") == "\ufffd"


@pytest.mark.parametrize(
    ("text", "size"), [("", 0), ("192.0.2.1", 4), ("2001:db8::1", 16), ("::", 16)]
)
def test_an_address_is_packed(text: str, size: int) -> None:
    assert len(pack_ip(text)) == size
    assert unpack_ip(pack_ip(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("abc", "abcd", "a" * 14, "a" * 15, "a" * 16, "a" * 400, "é"),
        *("192.0.2.1 ", "192.0.2", "192.0.2.01", "3221225985", "unix"),
        *("2001:DB8::1", "2001:db8:0::1", "::ffff:192.0.2.1", "fe80::1%eth0", "[::1]"),
    ],
)
def test_any_other_text_comes_back_as_well(text: str) -> None:
    assert unpack_ip(pack_ip(text)) == text


def test_a_damaged_address_is_a_text() -> None:
    assert unpack_ip(b"\0\xff") == "\ufffd"
    assert unpack_ip(b"12345") == "12345"


def test_the_longest_text_of_an_address_fits_its_column() -> None:
    longest = "0000:0000:0000:0000:0000:ffff:255.255.255.255"
    assert (len(longest), len(pack_ip(longest))) == (45, 46)
    assert len(pack_ip(longest)) < client_bytes.MAX_IP_SIZE
