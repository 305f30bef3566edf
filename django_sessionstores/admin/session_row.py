"""A session as the session pages show it."""

from __future__ import annotations

from typing import Final, NamedTuple

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


def columns() -> list[Column]:
    """Return the columns of the list in their order. The first one names the row."""
    return [
        Column(_("User"), f"{_TEMPLATES}/_user.html"),
        Column(_("Device"), f"{_TEMPLATES}/cells/device.html"),
        Column(_("IP address"), f"{_TEMPLATES}/_ip_address.html"),
        Column(_("Began"), f"{_TEMPLATES}/cells/began.html"),
        Column(last_activity_heading(), f"{_TEMPLATES}/cells/last_activity.html"),
        Column(_("Expires"), f"{_TEMPLATES}/cells/expires.html"),
        Column(_("Size"), f"{_TEMPLATES}/cells/size.html", "ss-number"),
        Column(_("Id"), f"{_TEMPLATES}/cells/id.html"),
    ]


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
