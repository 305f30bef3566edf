"""The users that an operator names on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from django.conf import settings
from django.core.management.base import CommandError
from django.db import Error

from ..accounts.users import (
    FoundUser,
    find_unknown_user,
    find_users,
    find_users_by_part,
    usernames,
)
from ..core.records import is_storable
from ..inventory import Inventory
from ..sessions.user_ids import primary_key

_MOST_SUGGESTED: Final = 5
"""How many users a message names who may have been meant."""


def find_user(
    inventory: Inventory,
    text: str | None,
    user_id: str | None,
    *,
    warn: Callable[[str], None] | None = None,
) -> FoundUser | None:
    """Return the user that ``--user`` or ``--user-id`` names; ``None`` without either.

    ``text`` is a username, an email address or a primary key, also of a user that no longer exists
    but has sessions. Raises ``CommandError`` if there is no such user, or if the text could be
    several. If the database of users does not answer, ``warn`` is called and a text that has
    sessions as a user id is that user; without ``warn``, that is an error too.
    """
    if user_id is not None:
        return _by_id(inventory, user_id)
    return None if text is None else _by_text(inventory, text, warn)


def _by_id(inventory: Inventory, user_id: str) -> FoundUser:
    if not user_id or not is_storable(user_id):
        raise CommandError(f"{user_id!r} cannot be the primary key of a user.")
    # The sessions may be of another user model that the site used before.
    if primary_key(user_id) is None and find_unknown_user(inventory, user_id) is None:
        raise CommandError(f"{user_id!r} is not a primary key of {settings.AUTH_USER_MODEL}.")
    names = usernames([user_id])
    return FoundUser(user_id, names.of(user_id), user_id in names)


def _by_text(inventory: Inventory, text: str, warn: Callable[[str], None] | None) -> FoundUser:
    try:
        found = find_users(text)
    except Error as error:
        problem = f"The database of users is unreachable: {error}"
        unknown = None if warn is None else find_unknown_user(inventory, text)
        if warn is None or unknown is None:
            raise CommandError(f"{problem}. With --user-id it is not needed.") from error
        warn(f"{problem}. {text!r} is taken for a primary key.")
        return FoundUser(unknown, unknown, exists=False)
    unknown = find_unknown_user(inventory, text)
    if unknown is not None and unknown not in {each.id for each in found}:
        found.append(FoundUser(unknown, unknown, exists=False))
    if not found:
        raise CommandError(
            f"There is no user with the username, email address or primary key {text!r}."
            f"{_suggestion(text)}"
        )
    if len(found) > 1:
        means = " or ".join(map(_in_words, found))
        raise CommandError(f"{text!r} could be {means}. Use --user-id with the primary key.")
    return found[0]


def _in_words(user: FoundUser) -> str:
    if not user.exists:
        return f"a user that no longer exists (primary key {user.id})"
    return f"{user.name!r} (primary key {user.id})"


def _suggestion(text: str) -> str:
    """Return a sentence with the users whose names contain a text; empty without any."""
    try:
        similar = find_users_by_part(text, _MOST_SUGGESTED)
    except Error:
        return ""
    return f" Similar: {', '.join(map(_in_words, similar))}." if similar else ""
