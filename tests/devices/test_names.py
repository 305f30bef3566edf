"""Devices in words, with and without the parser, and places, with and without a database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from django.utils import translation
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from django_sessionstores.devices import names as devices
from django_sessionstores.devices.names import describe_device, describe_place, device_kind

LIKE_GECKO = "AppleWebKit/537.36 (KHTML, like Gecko)"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


@pytest.mark.parametrize(
    ("user_agent", "kind"),
    [
        (FIREFOX, "computer"),
        (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {LIKE_GECKO} Chrome/142.0", "computer"),
        (f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {LIKE_GECKO} Safari/605", "computer"),
        (f"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {LIKE_GECKO} Chrome/142.0", "computer"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) Mobile/15E148", "phone"),
        (f"Mozilla/5.0 (Linux; Android 15; Pixel 9) {LIKE_GECKO} Mobile Safari/537.36", "phone"),
        ("Mozilla/5.0 (Android 15; Mobile; rv:145.0) Gecko/145.0 Firefox/145.0", "phone"),
        (f"Mozilla/5.0 (Linux; Android 15; CUBOT_X30) {LIKE_GECKO} Mobile Safari", "phone"),
        ("Mozilla/5.0 (Android 15; Tablet; rv:145.0) Gecko/145.0 Firefox/145.0", "tablet"),
        (f"Mozilla/5.0 (Linux; Android 15; SM-X710) {LIKE_GECKO} Safari/537.36", "tablet"),
        ("Mozilla/5.0 (iPad; CPU OS 18_6 like Mac OS X) Mobile/15E148", "tablet"),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "program"),
        ("curl/8.5.0", "program"),
        ("python-requests/2.32.5", "program"),
        ("Mozilla/5.0", "unknown"),
        ("", "unknown"),
    ],
)
def test_kinds_of_devices(user_agent: str, kind: str) -> None:
    """They need no parser: the kind decides only about an icon."""
    assert device_kind(user_agent) == kind


@pytest.mark.parametrize(
    ("user_agent", "words"),
    [
        (FIREFOX, "Firefox on Linux"),
        (
            f"Mozilla/5.0 (Windows NT 10.0) {LIKE_GECKO} Chrome/126.0 Safari/537.36",
            "Chrome on Windows",
        ),
        (
            f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {LIKE_GECKO} Version/17 Safari/605",
            "Safari on macOS",
        ),
        (
            (
                f"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) {LIKE_GECKO} Version/17.5 "
                "Mobile/15E148 Safari/604.1"
            ),
            "Safari on iPhone",
        ),
        ("MyApp/3.2 CFNetwork/1490.0.4 Darwin/23.2.0", "MyApp on iOS"),
        (
            f"Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) {LIKE_GECKO}",
            "iPad",
        ),
        ("Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8)", "Android"),
        (
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Googlebot",
        ),
        (
            "Mozilla/5.0 (compatible; monitor; https://example.org/bot)",
            "Mozilla/5.0 (compatible; monitor; https://example.org/bot)",
        ),
        ("curl/8.5.0", "curl"),
        ("a browser of my own", "a browser of my own"),
        ("", "Unknown device"),
    ],
    ids=[
        *("firefox", "chrome", "safari", "iphone", "app", "view in an app", "app on android"),
        *("robot", "robot without a name", "program", "own", "none"),
    ],
)
def test_devices_in_words(user_agent: str, words: str) -> None:
    """Devices have the names that people use."""
    assert describe_device(user_agent) == words


def test_devices_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text that the client sent is better than nothing."""
    monkeypatch.setitem(sys.modules, "ua_parser", None)
    devices._parse_device.cache_clear()
    try:
        assert describe_device(FIREFOX) == FIREFOX
        assert describe_device("") == "Unknown device"
    finally:
        devices._parse_device.cache_clear()


def test_words_are_those_of_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cached result for a user agent is not a text in the language of its first reader."""

    def gettext(text: str) -> str:
        return "%(browser)s auf %(system)s" if translation.get_language() == "de" else text

    monkeypatch.setattr(devices, "gettext", gettext)
    with translation.override("en"):
        assert describe_device(FIREFOX) == "Firefox on Linux"
    with translation.override("de"):
        assert describe_device(FIREFOX) == "Firefox auf Linux"


# Places -------------------------------------------------------------------------------------------


def database(folder: Path, kind: str, place: dict[str, Any]) -> str:
    """Return a file of places, which knows one network."""
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type=kind)
    writer.insert_network(IPSet(["192.0.2.0/24"]), place)
    path = folder / f"{kind}.mmdb"
    writer.to_db_file(str(path))
    return str(path)


COUNTRY = {"country": {"iso_code": "SE", "names": {"en": "Sweden"}}}
CITY = {**COUNTRY, "city": {"names": {"en": "Uppsala"}}}


@pytest.fixture(params=["GeoLite2-City", "GeoLite2-Country"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield whether the database in force knows cities."""
    place = CITY if request.param.endswith("City") else COUNTRY
    with override_settings(GEOIP_PATH=database(tmp_path, request.param, place)):
        yield request.param


def test_places(places: str) -> None:
    """A place is described as precisely as the database knows it."""
    expected = "Uppsala, Sweden" if places.endswith("City") else "Sweden"
    assert describe_place("192.0.2.7") == expected
    assert describe_place("10.0.0.1") == ""


def test_no_name_server_is_asked(places: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that is no address came from somewhere else."""
    monkeypatch.setattr("socket.gethostbyname", lambda name: pytest.fail(f"asked for {name}"))
    for text in ("", "example.com", "-"):
        assert describe_place(text) == ""


@pytest.mark.parametrize("content", [None, b"", b"nonsense"], ids=["absent", "empty", "damaged"])
def test_no_usable_database_is_no_place(content: bytes | None, tmp_path: Path) -> None:
    """A page that says less is better than none."""
    path = tmp_path / "GeoLite2-City.mmdb"
    if content is not None:
        path.write_bytes(content)
    with override_settings(GEOIP_PATH=str(tmp_path)):
        assert describe_place("192.0.2.7") == ""


def test_no_database_is_no_place() -> None:
    """By default, there is no database of places."""
    assert describe_place("192.0.2.7") == ""
