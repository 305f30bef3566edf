"""A value that is too long for one cookie comes back from several, and nothing that a browser can
send is an error."""

from __future__ import annotations

import string
from http.cookies import SimpleCookie

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_sessionstores.payloads import cookie_chunks
from django_sessionstores.payloads.cookie_chunks import LIMIT, join, parts, split

NAMES = ("sessionid", "__Host-session", "s")
ALPHABET = string.ascii_letters + string.digits + "-_"


def value(size: int) -> str:
    """Return a value of that size, in which no two places look alike."""
    return "".join(f"{number:07d}_" for number in range(size // 8 + 1))[:size]


def room(name: str, number: int) -> int:
    """Return the longest value that this many cookies can carry, counted by hand."""
    if number == 1:
        return LIMIT - len(name)
    prefix = len(f"{number}.")
    return number * LIMIT - len(name) - prefix - sum(len(f"{name}-{i}") for i in range(1, number))


SIZES = [0, 1, 7, 8, 4000, 20_000] + [
    room("sessionid", number) + step for number in (1, 2, 3, 4, 9, 10, 11) for step in (-1, 0, 1)
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_split_is_joined_again(name: str, size: int) -> None:
    """The test tries each length around a size that needs one more cookie."""
    assert join(name, split(name, value(size))) == value(size)


@given(st.text(ALPHABET, max_size=64), st.integers(0, 300))
def test_any_value_is_joined_again(start: str, repeats: int) -> None:
    """The characters at the seams do not matter."""
    text = start * repeats
    assert join("sessionid", split("sessionid", text)) == text


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_no_cookie_is_larger_than_a_browser_takes(name: str, size: int) -> None:
    """A browser drops it without a word, and keeps the one from before."""
    for part, text in split(name, value(size)).items():
        assert len(part) + len(text) <= 4096


@pytest.mark.parametrize("number", [1, 2, 3, 9, 10, 11])
def test_no_more_cookies_than_needed(number: int) -> None:
    """Each costs its name and attributes, and servers limit the size of headers."""
    assert len(split("sessionid", value(room("sessionid", number)))) == number
    assert len(split("sessionid", value(room("sessionid", number) + 1))) == number + 1


def test_a_short_value_is_sent_as_it_is() -> None:
    """The cookie of a session in a store must be the one that Django's middleware sends."""
    assert split("sessionid", "abc") == {"sessionid": "abc"}


def test_the_first_part_says_how_many_there_are() -> None:
    """Otherwise a value that lost its last part would look complete."""
    cookies = split("sessionid", value(10_000))
    assert list(cookies) == ["sessionid", "sessionid-1", "sessionid-2"]
    assert cookies["sessionid"].startswith("3.")


def test_parts_need_no_quotes() -> None:
    """Quotes and escapes would be counted by the browser, and not here."""
    for part, text in split("sessionid", value(10_000)).items():
        cookie: SimpleCookie = SimpleCookie({part: text})
        assert cookie[part].coded_value == text


def test_a_missing_part_leaves_a_gap() -> None:
    """The encrypt over the whole then does not open: an empty session, never a shortened one."""
    cookies = split("sessionid", value(10_000))
    del cookies["sessionid-1"]
    joined = join("sessionid", cookies)
    assert joined != value(10_000)
    assert len(joined) < 10_000


def test_parts_beyond_the_number_are_ignored() -> None:
    """A deletion that did not reach the browser must not spoil the session that came after."""
    cookies = split("sessionid", value(5_000))
    assert join("sessionid", {**cookies, "sessionid-2": "stale", "sessionid-7": "stale"}) == value(
        5_000
    )


def test_the_order_in_the_header_does_not_matter() -> None:
    """Browsers sort by path and age."""
    cookies = split("sessionid", value(10_000))
    assert join("sessionid", dict(reversed(cookies.items()))) == value(10_000)


@pytest.mark.parametrize(
    "sent",
    [
        "",
        ".",
        "1.abc",
        "0.abc",
        "02.abc",
        "17.abc",
        "100.abc",
        "-2.a",
        "²." + "abc",
        "2,abc",
        "x2.a",
    ],
)
def test_what_was_never_sent_stays_as_it_is(sent: str) -> None:
    """The engine judges it, as under Django's middleware."""
    cookies = {"sessionid": sent, "sessionid-1": "x"}
    assert join("sessionid", cookies) == sent
    assert parts("sessionid", cookies) == []


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=14), st.text(max_size=9)))
def test_no_cookies_are_an_error(first: str, others: dict[str, str]) -> None:
    """Anybody can send anything; a 500 for each request would be theirs to cause."""
    cookies = {**others, "sessionid": first, "sessionid-1": "a"}
    assert isinstance(join("sessionid", cookies), str)
    assert len(parts("sessionid", cookies)) < cookie_chunks.MOST_PARTS


def test_only_what_the_first_part_counts_is_a_part() -> None:
    """Cookies of others are not to be touched, whatever their names."""
    others = ["sessionid-", "sessionid-0", "sessionid-01", "sessionid-3", "sessionid-16", "other"]
    cookies = dict.fromkeys(["sessionid-2", *others, "sessionid-1"], "x")
    assert parts("sessionid", {**cookies, "sessionid": "3.abc"}) == ["sessionid-1", "sessionid-2"]
    assert parts("sessionid", {**cookies, "sessionid": "abc"}) == []
    assert parts("sessionid", cookies) == []


def test_the_last_part_that_can_be_is_one() -> None:
    """One that is overlooked is lost, and one that is never deleted is sent for ever."""
    cookies = split("sessionid", value(room("sessionid", cookie_chunks.MOST_PARTS)))
    assert parts("sessionid", cookies) == list(cookies)[1:]


def test_a_value_that_no_number_of_cookies_holds_is_refused() -> None:
    """It has to end somewhere; engines do so long before."""
    most = room("s", cookie_chunks.MOST_PARTS)
    assert len(split("s", value(most))) == cookie_chunks.MOST_PARTS
    with pytest.raises(ValueError, match="too many cookies"):
        split("s", value(most + 1))
