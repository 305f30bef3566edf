"""Users: by the text that an operator enters, by the primary keys in sessions, and by request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import Error
from django.db.models import Model
from django.http import HttpRequest

from ..core.records import is_storable


def find_users(text: str) -> dict[str, str]:
    """Return the users with this primary key or username: usernames by primary key.

    There may be two of them. Raises Django's ``Error`` if their database does not answer.
    """
    users = get_user_model()
    found: dict[str, str] = {}
    if not is_storable(text):
        return found  # The error of a database driver would be mistaken for an outage.
    for condition in ({"pk": _primary_key(text)}, {users.USERNAME_FIELD: text}):
        if None not in condition.values():
            matches = users._base_manager.filter(**condition)[:2]
            found |= {str(user.pk): user.get_username() for user in matches}
    return found


def find_user(user_id: str) -> Model | None:
    """Return the user with this primary key; ``None`` if there is none or it cannot be read."""
    try:
        return get_user_model()._base_manager.filter(pk=_primary_key(user_id)).first()
    except (Error, ImproperlyConfigured):
        return None


def usernames(user_ids: Iterable[str | None]) -> dict[str, str]:
    """Return the usernames by primary key.

    Users that no longer exist are left out. The result is empty if the database does not answer.
    """
    keys = {_primary_key(user_id) for user_id in user_ids if user_id is not None} - {None}
    try:
        users = get_user_model()
        found = users._base_manager.only(users.USERNAME_FIELD).in_bulk(list(keys))
    except (Error, ImproperlyConfigured):
        # Usernames are optional: sessions can be listed while this database is unreachable.
        return {}
    return {str(pk): user.get_username() for pk, user in found.items()}


def _primary_key(text: str) -> Any:
    try:
        return get_user_model()._meta.pk.to_python(text)
    except (ValidationError, ImproperlyConfigured):
        return None


class RequestUser:
    """The user of a request, with a sync and an async method for a flow to call."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    def get(self) -> Any:
        return self._request.user

    async def aget(self) -> Any:
        return await self._request.auser()
