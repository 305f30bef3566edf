"""What a person recognises a session by: the device in words, and the place of its address.

For pages. Both come from what a client claimed, so they help to recognise and prove nothing.
"""

from __future__ import annotations

from functools import cache, lru_cache
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

from django.conf import settings as django_settings
from django.utils.translation import gettext, pgettext

from .conf import reset_on_change
from .words import isolated

_KNOWN: Final = 4096
"""Different user agents, and addresses, of which the answer is kept."""
_MAC: Final = {"Mac OS X": "macOS"}


class _Device(NamedTuple):
    browser: str
    """Empty where nobody knows it."""
    system: str
    """The operating system, or the name of a device whose name is better known."""


def describe_device(user_agent: str) -> str:
    """A user agent in translated words, as "Firefox on Linux".

    The text itself where it is no browser's that is known, and everywhere without the extra
    ``devices``. Never empty.
    """
    browser, system = _parsed(user_agent)
    if browser and system:
        # Translators: Where your language is read from right to left, begin with the character
        # U+200F, so that the two names do not change places.
        words = gettext("%(browser)s on %(system)s")
        return words % {"browser": isolated(browser), "system": isolated(system)}
    return browser or system or user_agent or gettext("Unknown device")


@lru_cache(_KNOWN)
def _parsed(user_agent: str) -> _Device:
    try:
        from ua_parser import parse
    except ImportError:
        return _Device("", "")
    found = parse(user_agent)
    browser = found.user_agent.family if found.user_agent else ""
    system = found.os.family if found.os else ""
    # "iPhone" says more than "iOS"; of other devices the model's number is known to nobody.
    if found.device and found.device.brand == "Apple" and system == "iOS":
        system = found.device.family
    return _Device(browser.replace("Mobile Safari", "Safari"), _MAC.get(system, system))


def describe_place(ip: str) -> str:
    """Where an address is, as "Boston, United States".

    Empty without Django's GeoIP2 (``GEOIP_PATH`` and the package ``geoip2``), and for an address
    that its database does not know, as private ones.
    """
    city, country = _located(ip)
    if city and country:
        words = pgettext("place", "%(city)s, %(country)s")
        return words % {"city": city, "country": country}
    return city or country


class _Place(NamedTuple):
    city: str
    country: str


_NOWHERE: Final = _Place("", "")


@lru_cache(_KNOWN)
def _located(ip: str) -> _Place:
    reader = _reader()
    # GeoIP2 would ask a name server about a text that is no address.
    if reader is None or not _is_address(ip):
        return _NOWHERE
    from geoip2.errors import AddressNotFoundError

    try:
        found = reader.city(ip) if reader.is_city else reader.country(ip)
    except AddressNotFoundError:
        return _NOWHERE
    return _Place(found.get("city") or "", found.get("country_name") or "")


@cache
def _reader() -> Any:
    """The database of places; ``None`` where there is none."""
    if not getattr(django_settings, "GEOIP_PATH", None):
        return None
    from django.contrib.gis import geoip2

    if not geoip2.HAS_GEOIP2:
        return None
    from maxminddb import InvalidDatabaseError

    try:
        return geoip2.GeoIP2()
    except (geoip2.GeoIP2Exception, InvalidDatabaseError):
        # A page of sessions is no place to fail for a file that was not downloaded.
        return None


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


for _cached in (_reader, _located):
    reset_on_change("GEOIP_PATH", "GEOIP_CITY", "GEOIP_COUNTRY")(_cached.cache_clear)
