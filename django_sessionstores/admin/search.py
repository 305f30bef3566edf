"""The search of the list page: the text of the search field, and the selected filters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
from django.db import Error as DatabaseError
from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..accounts.users import (
    FoundUser,
    find_unknown_user,
    find_users,
    find_users_by_part,
    usernames,
)
from ..core.client import normal_ip, normal_network
from ..core.phrases import escape_invisible
from ..core.records import is_typed_id
from ..inventory import Inventory
from ..middleware.installed import records_reads

WITHIN: Final = 2000
"""How many sessions are read at most for one page of those that match the filters."""
_MOST_CHOICES: Final = 20
"""How many users are offered if a text could be several."""
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
_UNCHANGED: Final = {
    "": gettext_lazy("Any time"),
    "1": gettext_lazy("Unchanged for an hour"),
    "24": gettext_lazy("Unchanged for a day"),
    "168": gettext_lazy("Unchanged for a week"),
    "720": gettext_lazy("Unchanged for 30 days"),
}
"""The same, if requests that only read a session are not counted."""


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
    """The id of the user whose sessions are listed; empty for all."""
    user_name: str = ""
    problem: str = ""
    """Why nothing can be found; empty if something can."""
    choices: dict[str, str] = {}
    """User ids and names, if the text could be several users."""


def selects(request: HttpRequest) -> list[Select]:
    """Return the filters of the list, with the options that the address selects."""
    idle = (_("Last activity"), _IDLE) if records_reads() else (_("Last change"), _UNCHANGED)
    return [
        Select(name, label, options, request.GET.get(name, ""))
        for name, label, options in (
            ("who", _("Whose"), _WHO),
            ("state", _("State"), _STATES),
            ("idle", *idle),
        )
    ]


def may_be_a_key(text: str) -> bool:
    """Return whether a text could be a session key, which must not be shown again."""
    if not _LIKE_A_KEY.search(text):
        return False
    return not (is_typed_id(text) or text.startswith("user:"))


def search(inventory: Inventory, request: HttpRequest, text: str, now: datetime) -> Search:
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
        _search_text(inventory, text, found, filters)
    elif user:
        found.user, found.user_name = user, usernames([user]).shown(user)
    if found.user:
        filters["user"] = found.user
    found.filters = filters
    return found


def _search_text(inventory: Inventory, text: str, found: Search, filters: dict[str, Any]) -> None:
    """Find what a text means. The first that matches is taken, in this order: an IP address, the
    username, email address or id of a user, a network, the beginning of a session id, and a part
    of a user's name.

    After ``user:``, ``ip:`` or ``id:``, a text means this kind only.
    """
    kind, colon, rest = text.partition(":")
    kind, wanted = (kind, rest.strip()) if colon and kind in {"user", "ip", "id"} else ("", text)
    if kind in {"", "ip"} and (ip := normal_ip(wanted)):
        filters["ip"] = ip
        return
    problem = ""
    if kind in {"", "user"}:
        try:
            users = find_users(wanted)
        except DatabaseError as error:
            users, problem = [], _users_unreachable(error)
        if _select_user([*users, *_unknown_user(inventory, wanted, users)], found):
            return
    if kind in {"", "ip"} and (network := normal_network(wanted)):
        filters["ip"] = network
        return
    if kind in {"", "id"} and is_typed_id(wanted.lower()):
        filters["id_prefix"] = wanted.lower()
        return
    if kind in {"", "user"} and not problem:
        try:
            if _select_user(find_users_by_part(wanted, _MOST_CHOICES), found):
                return
        except DatabaseError as error:
            problem = _users_unreachable(error)
    if problem:
        found.problem = problem
        return
    found.problem = _(
        "No user, IP address or session id matches. Enter at least 6 characters of an id."
    )


def _users_unreachable(error: DatabaseError) -> str:
    return _("The database of users is unreachable: %s") % error


def _select_user(users: Sequence[FoundUser], found: Search) -> bool:
    """Have the sessions of the only user listed, or all users offered; return False without any."""
    if len(users) > 1:
        found.problem = _("Several users match. Choose one, or enter more of the name.")
        found.choices = {
            each.id: escape_invisible(
                each.name if each.name == each.id else f"{each.name} ({each.id})"
            )
            for each in users
        }
    elif users:
        found.user, found.user_name = users[0].id, escape_invisible(users[0].name)
    return bool(users)


def _unknown_user(
    inventory: Inventory, text: str, known: Sequence[FoundUser]
) -> Sequence[FoundUser]:
    """Return the user with this id who has sessions and is not among those that were found."""
    unknown = find_unknown_user(inventory, text, WITHIN)
    if unknown is None or unknown in {each.id for each in known}:
        return ()
    return [FoundUser(unknown, unknown, exists=False)]
