"""The search of the list page: what its text finds, and the selected filters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from django.db import Error as DatabaseError
from django.utils.translation import gettext as _

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
from ..inventory import Inventory, SessionInfo
from .filters import NAMES, STATE, Filter, filters

WITHIN: Final = 2000
"""How many sessions are read at most for one page of those that match the filters."""
_MOST_CHOICES: Final = 20
"""How many users are offered if a text could be several."""
_LIKE_A_KEY: Final = re.compile(r"(?<![a-z0-9])[a-z0-9]{32}(?![a-z0-9])|\S{150}", re.ASCII)
_TEXTS: Final = ("q", "user")
"""The parameters of the text of the search field, and of the user whose sessions are listed."""
FACETS: Final = "_facets"
"""The parameter of Django's admin that shows how many objects each option of a filter has."""
_VIEW: Final = ("o", FACETS)
PARAMETERS: Final = (*_TEXTS, *NAMES, *_VIEW, "p", "cursor", "back")
"""All parameters of the list."""


class Search(msgspec.Struct, kw_only=True):
    """The sessions that a reader wants to see."""

    found: dict[str, Any] = {}
    """The filters of `Inventory.list` for what the text means."""
    selected: list[Filter] = []
    """The filters beside the list."""
    parameters: dict[str, str] = {}
    """The parameters of the address that select sessions, for the links of the page."""
    view: dict[str, str] = {}
    """Those for the order of the sessions and for the counts of the filters."""
    user: str = ""
    """The id of the user whose sessions are listed; empty for all."""
    user_name: str = ""
    problem: str = ""
    """Why nothing can be found; empty if something can."""
    choices: dict[str, str] = {}
    """User ids and names, if the text could be several users."""

    @property
    def is_of_everything(self) -> bool:
        """Return whether all live sessions are listed."""
        return not self.found and not self.filters

    @property
    def filters(self) -> list[Filter]:
        """Return the filters that leave sessions out, or expired ones in."""
        return [each for each in self.selected if each.value]

    @property
    def words(self) -> str:
        """Return the search for a log entry, which is in English."""
        return ", ".join(
            f"{name}: {escape_invisible(text)}" for name, text in self.parameters.items()
        )

    def matches(self, session: SessionInfo) -> bool:
        """Return whether the filters beside the list have a session."""
        return all(each.matches(session) for each in self.filters)

    def of_inventory(self, **others: Any) -> dict[str, Any]:
        """Return the filters of `Inventory.list` for this search."""
        state = next((each.value for each in self.filters if each.name == STATE), "")
        where = self.matches if self.filters else None
        expired = {"expired": True, "all": None}.get(state, False)
        return {**self.found, "expired": expired, "where": where, **others}


def may_be_a_key(text: str) -> bool:
    """Return whether a text could be a session key, which must not be shown again."""
    if not _LIKE_A_KEY.search(text):
        return False
    return not (is_typed_id(text) or text.startswith("user:"))


def search(inventory: Inventory, parameters: Mapping[str, str], now: datetime) -> Search:
    """Return the search that the parameters of an address describe."""
    text, user = parameters.get("q", "").strip(), parameters.get("user", "")
    found = Search(
        selected=filters(parameters, now),
        view={name: parameters[name] for name in _VIEW if parameters.get(name)},
    )
    found.parameters = {each.name: each.value for each in found.filters}
    if text or user:
        found.parameters["q" if text else "user"] = text or user
    if text:
        _search_text(inventory, text, found)
    elif user:
        found.user, found.user_name = user, usernames([user]).shown(user)
    if found.user:
        found.found["user"] = found.user
    return found


def _search_text(inventory: Inventory, text: str, found: Search) -> None:
    """Find what a text means. The first that matches is taken, in this order: an IP address, the
    username, email address or id of a user, a network, the beginning of a session id, and a part
    of a user's name.

    After ``user:``, ``ip:`` or ``id:``, a text means this kind only.
    """
    kind, colon, rest = text.partition(":")
    kind, wanted = (kind, rest.strip()) if colon and kind in {"user", "ip", "id"} else ("", text)
    if kind in {"", "ip"} and (ip := normal_ip(wanted)):
        found.found["ip"] = ip
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
        found.found["ip"] = network
        return
    if kind in {"", "id"} and is_typed_id(wanted.lower()):
        found.found["id_prefix"] = wanted.lower()
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
