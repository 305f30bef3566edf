"""Users as operators name them, and as sessions know them: by primary key, as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management.base import CommandError
from django.db import Error


def find_user_id(text: str) -> str:
    """The primary key of the user with this primary key or username.

    Raises ``CommandError`` for nobody, and for a text that means two users.
    """
    users = get_user_model()
    found: dict[str, str] = {}
    try:
        for condition in ({"pk": _primary_key(text)}, {users.USERNAME_FIELD: text}):
            if None not in condition.values():
                matches = users._base_manager.filter(**condition)[:2]
                found |= {str(user.pk): user.get_username() for user in matches}
    except Error as error:
        raise CommandError(f"The database of users does not answer: {error}") from error
    if not found:
        raise CommandError(f"There is no user with the primary key or username {text!r}.")
    if len(found) > 1:
        means = " or ".join(f"{name!r} (primary key {pk})" for pk, name in found.items())
        raise CommandError(f"{text!r} could be {means}. Name the user by the other of the two.")
    return next(iter(found))


def usernames(user_ids: Iterable[str | None]) -> dict[str, str]:
    """The usernames of those who still exist, as far as they can be read now."""
    keys = {_primary_key(user_id) for user_id in user_ids if user_id is not None} - {None}
    try:
        users = get_user_model()
        found = users._base_manager.only(users.USERNAME_FIELD).in_bulk(list(keys))
    except (Error, ImproperlyConfigured):
        # Names are a convenience: sessions can be listed while this database is away.
        return {}
    return {str(pk): user.get_username() for pk, user in found.items()}


def _primary_key(text: str) -> Any:
    try:
        return get_user_model()._meta.pk.to_python(text)
    except (ValidationError, ImproperlyConfigured):
        return None
