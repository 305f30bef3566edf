"""The users that an operator names on the command line."""

from __future__ import annotations

from django.core.management.base import CommandError
from django.db import Error

from ..accounts.users import find_users


def find_user_id(text: str) -> str:
    """Return the primary key of the user with this primary key or username.

    Raises ``CommandError`` if there is no such user, or if the text could be two users.
    """
    try:
        found = find_users(text)
    except Error as error:
        raise CommandError(f"The database of users does not answer: {error}") from error
    if not found:
        raise CommandError(f"There is no user with the primary key or username {text!r}.")
    if len(found) > 1:
        means = " or ".join(f"{name!r} (primary key {pk})" for pk, name in found.items())
        raise CommandError(f"{text!r} could be {means}. Name the user by the other of the two.")
    return next(iter(found))
