"""The users of the simulated site: in memory, with a password, active or inactive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

from django.conf import settings
from django.utils.crypto import salted_hmac

BACKEND = f"{__name__}.Backend"


class User:
    """A user for ``django.contrib.auth``."""

    _meta: ClassVar[Any] = SimpleNamespace(
        pk=SimpleNamespace(value_to_string=lambda user: str(user.pk))
    )
    is_authenticated = True
    is_anonymous = False
    last_login: Any = None

    def __init__(self, pk: int) -> None:
        self.pk = pk
        self.password = 0
        self.is_active = True
        self.backend = BACKEND

    def __eq__(self, other: object) -> bool:
        return isinstance(other, User) and other.pk == self.pk

    def __hash__(self) -> int:
        return self.pk

    def save(self, **kwargs: Any) -> None:
        """Do nothing. Django calls this to store the time of the last login."""

    def get_session_auth_hash(self) -> str:
        """Return a hash that changes with the password, as Django's users do."""
        return self._hash(settings.SECRET_KEY)

    def get_session_auth_fallback_hash(self) -> Iterator[str]:
        """Return the hash for each of ``SECRET_KEY_FALLBACKS``."""
        return map(self._hash, settings.SECRET_KEY_FALLBACKS)

    def _hash(self, secret: str | bytes) -> str:
        text = f"{self.pk} {self.password}"
        return salted_hmac("simulation", text, secret=secret, algorithm="sha256").hexdigest()


find: list[Callable[[int], User | None]] = []
"""The function by which the running world finds a user: an empty list or one item."""


class Backend:
    """The authentication backend of the site."""

    def get_user(self, user_id: Any) -> User | None:
        """Return an active user, or None."""
        return find[0](int(user_id))

    async def aget_user(self, user_id: Any) -> User | None:
        """See `get_user`."""
        return find[0](int(user_id))
