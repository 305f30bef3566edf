"""The search of the list page: the text of the search field, and the selected filters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
from django.db import Error as DatabaseError
from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..accounts.users import find_users, usernames
from ..core.client import normal_ip

_ID_PREFIX: Final = re.compile(r"[0-9a-f]{6,40}", re.ASCII)
_LIKE_A_KEY: Final = re.compile(r"(?<![a-z0-9])[a-z0-9]{32}(?![a-z0-9])|\S{150}", re.ASCII)

_WHO: Final = {
    "": gettext_lazy("Users and visitors"),
    "users": gettext_lazy("Only users"),
    "visitors": gettext_lazy("Only visitors"),
}
_STATES: Final = {
    "": gettext_lazy("Live"),
    "expired": gettext_lazy("Expired, not purged"),
    "all": gettext_lazy("Live and expired"),
}
_IDLE: Final = {
    "": gettext_lazy("Any time"),
    "1": gettext_lazy("Unused for an hour"),
    "24": gettext_lazy("Unused for a day"),
    "168": gettext_lazy("Unused for a week"),
    "720": gettext_lazy("Unused for 30 days"),
}
"""By hours."""


class Select(NamedTuple):
    """A filter of the list, from which a reader selects one option."""

    name: str
    """Its name in the address."""
    label: str
    options: Mapping[str, str | Promise]
    value: str


class Search(msgspec.Struct, kw_only=True):
    """The sessions that a reader wants to see."""

    filters: dict[str, Any] = {}
    """The filters of `Inventory.list`."""
    parameters: dict[str, str] = {}
    """The parameters of the address without the cursor, for the links of the page."""
    user: str = ""
    """The primary key of the user whose sessions are listed; empty for all."""
    user_name: str = ""
    problem: str = ""
    """Why nothing can be found; empty if something can."""
    choices: dict[str, str] = {}
    """Primary keys and names, if the text could be two users."""


def selects(request: HttpRequest) -> list[Select]:
    """Return the filters of the list, with the options that the address selects."""
    return [
        Select(name, label, options, request.GET.get(name, ""))
        for name, label, options in (
            ("who", _("Whose"), _WHO),
            ("state", _("State"), _STATES),
            ("idle", _("Last use"), _IDLE),
        )
    ]


def may_be_a_key(text: str) -> bool:
    """Return whether a text could be a session key, which must not be shown again."""
    if not _LIKE_A_KEY.search(text):
        return False
    return not (_ID_PREFIX.fullmatch(text) or text.startswith("user:"))


def search(request: HttpRequest, text: str, now: datetime) -> Search:
    """Return the search that the address and the text of the search field describe."""
    found = Search(
        parameters={
            name: value
            for name in ("q", "user", "who", "state", "idle")
            if (value := request.GET.get(name, "")) and not (name == "user" and text)
        }
    )
    who, state = request.GET.get("who", ""), request.GET.get("state", "")
    idle, user = request.GET.get("idle", ""), request.GET.get("user", "")
    filters: dict[str, Any] = {"expired": {"expired": True, "all": None}.get(state, False)}
    if who in {"users", "visitors"}:
        filters["logged_in"] = who == "users"
    if idle and idle in _IDLE:
        filters["idle_since"] = now - timedelta(hours=int(idle))
    if text:
        _search_text(text, found, filters)
    elif user:
        found.user, found.user_name = user, usernames([user]).get(user, user)
    if found.user:
        filters["user"] = found.user
    found.filters = filters
    return found


def _search_text(text: str, found: Search, filters: dict[str, Any]) -> None:
    """Find the user, the IP address or the beginning of an id that a text means."""
    kind, colon, rest = text.partition(":")
    kind, wanted = (kind, rest.strip()) if colon and kind in {"user", "ip", "id"} else ("", text)
    if kind in {"", "ip"} and (ip := normal_ip(wanted)):
        filters["ip"] = ip
        return
    if kind in {"", "user"}:
        try:
            users = find_users(wanted)
        except DatabaseError as error:
            found.problem = _("The database of users does not answer: %s") % error
            return
        if len(users) > 1:
            found.choices = users
            found.problem = _("This matches two users.")
        if users:
            found.user, found.user_name = next(iter(users.items()))
            return
    if kind in {"", "id"} and _ID_PREFIX.fullmatch(wanted.lower()):
        filters["id_prefix"] = wanted.lower()
        return
    found.problem = _(
        "No user, IP address or session id matches. Enter at least 6 characters of an id."
    )
