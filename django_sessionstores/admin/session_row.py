"""A session as the session pages show it."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

import msgspec
from django.utils.translation import gettext as _

from ..core.phrases import escape_invisible
from ..inventory import SHORT_ID, SessionInfo
from ..middleware.installed import records_reads

_TEMPLATES: Final = "admin/django_sessionstores"


class Column(NamedTuple):
    """A column of the list of sessions."""

    heading: str
    template: str
    """The template of a cell, which is given a `SessionRow` as ``session``, and ``now``."""
    css_class: str = ""
    name: str = ""
    """Its name in addresses."""
    sort_key: Callable[[SessionRow], Any] | None = None
    """Returns the value by which sessions are sorted; ``None`` if they cannot be."""


def columns() -> list[Column]:
    """Return the columns of the list in their order. The first one names the row."""
    return [
        _column("user", _("User"), lambda row: (not row.info.user_id, row.user.casefold())),
        _column("device", _("Device"), lambda row: row.device.casefold()),
        _column("ip", _("IP address"), lambda row: _place_of_ip(row.info.ip)),
        _column("began", _("Began"), lambda row: row.info.created),
        _column("last_activity", last_activity_heading(), lambda row: row.info.last_activity),
        _column("expires", _("Expires"), lambda row: row.info.expires),
        _column("size", _("Size"), lambda row: row.info.size or 0, "ss-number"),
    ]


def _column(
    name: str, heading: str, sort_key: Callable[[SessionRow], Any], css_class: str = ""
) -> Column:
    return Column(heading, f"{_TEMPLATES}/cells/{name}.html", css_class, name, sort_key)


def _place_of_ip(ip: str) -> tuple[int, int, str]:
    """Return the place of an IP address among others. What is not an address comes first."""
    try:
        address = ip_address(ip)
    except ValueError:
        return 0, 0, ip
    return address.version, int(address), ""


def last_activity_heading() -> str:
    """Return what the last activity of a session is called, with the present settings."""
    return _("Last activity") if records_reads() else _("Last change")


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A session in the words of a page: a row of the list, or the subject of another page."""

    info: SessionInfo
    user: str
    """The username, or the primary key of a deleted user; empty for a visitor."""
    device: str
    place: str
    url: str
    is_own: bool
    """Whether the session is the one of the reader's own request."""
    is_of_deleted_user: bool
    """Whether the session is of a user who no longer exists."""

    @property
    def user_agent(self) -> str:
        """The user agent as pages show it."""
        return escape_invisible(self.info.user_agent)

    @property
    def summary(self) -> str:
        """Return the session in a few words, for a log entry."""
        return f"{self.info.id[:SHORT_ID]} ({self.user or '-'}, {self.device})"
