"""Names by which a user recognises a session: its device, and the place of its IP address.

They are for pages only. Both come from what the client sent, so they do not prove anything.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from django.conf import settings as django_settings
from django.utils.translation import gettext, pgettext

from ..conf import cached_until_change
from ..core.phrases import escape_invisible, isolate_direction

_KNOWN: Final = 4096
"""How many results are cached, for user agents and for addresses."""
_PLACE_SETTINGS: Final = ("GEOIP_PATH", "GEOIP_CITY", "GEOIP_COUNTRY")
NO_DEVICE: Final = "-"
"""Stands in addresses for the device of a client that sends no user agent."""
_MAC: Final = {"Mac OS X": "macOS"}
_APPLE: Final = {"iPhone", "iPad", "iPod"}
"""The devices that are better known than their system. "iOS-Device" is one that is not known."""

DeviceKind: TypeAlias = Literal["computer", "phone", "tablet", "program", "unknown"]
_KINDS: Final[tuple[tuple[DeviceKind, re.Pattern[str]], ...]] = (
    ("program", re.compile(r"bot[/;]|spider|crawler")),
    ("tablet", re.compile(r"ipad|tablet|kindle|silk/")),
    ("phone", re.compile(r"iphone|ipod|mobile")),
    # Browsers on Android say "Mobile" on phones only.
    ("tablet", re.compile(r"android")),
    ("computer", re.compile(r"windows nt|macintosh|cros |x11|linux")),
)
"""What the user agents of a kind of device have, in lower case. The first that is found counts."""


class _Device(NamedTuple):
    browser: str
    """Empty if it is not known."""
    system: str
    """The operating system, or the name of a device that is better known, such as "iPhone"."""


def describe_device(user_agent: str) -> str:
    """Return a user agent in translated words, such as "Firefox on Linux".

    Returns the user agent itself if it is not known, or if the extra ``devices`` is not installed.
    The result is never empty.
    """
    browser, system = _parse_device(user_agent)
    if browser and system:
        # Translators: Where your language is read from right to left, begin with the character
        # U+200F, so that the two names do not change places.
        words = gettext("%(browser)s on %(system)s")
        return words % {"browser": isolate_direction(browser), "system": isolate_direction(system)}
    return browser or system or escape_invisible(user_agent) or gettext("Unknown device")


def device_name(user_agent: str) -> str:
    """Return the English name of the device that `describe_device` describes.

    It is the same in every language, so an address can have it. The result is `NO_DEVICE` for a
    client that sends no user agent.
    """
    browser, system = _parse_device(user_agent)
    if browser and system:
        return f"{browser} on {system}"
    return browser or system or user_agent or NO_DEVICE


def device_kind(user_agent: str) -> DeviceKind:
    """Return the kind of device that a user agent names, without the extra ``devices``.

    A tablet that asks for the pages of a computer is a computer.
    """
    words = user_agent.lower()
    if not words:
        return "unknown"
    for kind, pattern in _KINDS:
        if pattern.search(words):
            return kind
    return "unknown" if words.startswith("mozilla/") else "program"


@lru_cache(_KNOWN)
def _parse_device(user_agent: str) -> _Device:
    try:
        from ua_parser import parse
    except ImportError:
        return _Device("", "")
    found = parse(user_agent)
    browser = found.user_agent.family if found.user_agent else ""
    system = found.os.family if found.os else ""
    # "iPhone" tells more than "iOS". The model numbers of other devices tell users nothing.
    if system == "iOS" and found.device and found.device.family in _APPLE:
        system = found.device.family
    # The parser takes "com/bot" from the address of a robot without a name, and says "Android on
    # Android" and "Safari UI/WKWebView" of apps.
    if "/" in browser or browser == system:
        browser = ""
    return _Device(browser.replace("Mobile Safari", "Safari"), _MAC.get(system, system))


def describe_place(ip: str) -> str:
    """Return the place of an IP address, such as "Boston, United States".

    The result is empty without Django's GeoIP2 (``GEOIP_PATH`` and the package ``geoip2``), and for
    an address that its database does not have, such as a private one.
    """
    city, country = _locate(ip)
    if city and country:
        words = pgettext("place", "%(city)s, %(country)s")
        return words % {"city": city, "country": country}
    return city or country


def country_name(ip: str) -> str:
    """Return the country of an IP address, which is empty in the same cases."""
    return _locate(ip).country


def knows_countries() -> bool:
    """Return whether there is a database of places."""
    return _reader() is not None


class _Place(NamedTuple):
    city: str
    country: str


_NOWHERE: Final = _Place("", "")


@cached_until_change(*_PLACE_SETTINGS, maxsize=_KNOWN)
def _locate(ip: str) -> _Place:
    reader = _reader()
    # GeoIP2 would ask a name server about a text that is not an address.
    if reader is None or not _is_address(ip):
        return _NOWHERE
    from geoip2.errors import AddressNotFoundError

    try:
        found = reader.city(ip) if reader.is_city else reader.country(ip)
    except AddressNotFoundError:
        return _NOWHERE
    return _Place(found.get("city") or "", found.get("country_name") or "")


@cached_until_change(*_PLACE_SETTINGS)
def _reader() -> Any:
    """Return the database of places; ``None`` if there is none."""
    if not getattr(django_settings, "GEOIP_PATH", None):
        return None
    from django.contrib.gis import geoip2

    if not geoip2.HAS_GEOIP2:
        return None
    from maxminddb import InvalidDatabaseError

    try:
        return geoip2.GeoIP2()
    except (geoip2.GeoIP2Exception, InvalidDatabaseError):
        # A page of sessions must not fail because this file was not downloaded.
        return None


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
