"""Users as operators name them, as sessions know them, by primary key as text, and of a request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import Error
from django.db.models import Model
from django.http import HttpRequest

from .records import is_storable


def find_users(text: str) -> dict[str, str]:
    """The usernames, by primary key, of whom a text means: one with this primary key or username.

    They may be two. Raises Django's ``Error`` where their database does not answer.
    """
    users = get_user_model()
    found: dict[str, str] = {}
    if not is_storable(text):
        return found  # A driver's complaint would be taken for an outage.
    for condition in ({"pk": _primary_key(text)}, {users.USERNAME_FIELD: text}):
        if None not in condition.values():
            matches = users._base_manager.filter(**condition)[:2]
            found |= {str(user.pk): user.get_username() for user in matches}
    return found


def find_user(user_id: str) -> Model | None:
    """The user with this primary key, as far as one can be read now."""
    try:
        return get_user_model()._base_manager.filter(pk=_primary_key(user_id)).first()
    except (Error, ImproperlyConfigured):
        return None


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


class RequestUser:
    """Who makes a request, as a call that a flow can ask for."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    def get(self) -> Any:
        return self._request.user

    async def aget(self) -> Any:
        return await self._request.auser()
