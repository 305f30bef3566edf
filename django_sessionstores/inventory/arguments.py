"""Checks of the inventory's arguments, which raise an error before a store is called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeAlias

from ..core.records import ID_LENGTH, is_session_id, is_storable
from ..sessions.user_ids import user_id_of

KeptIds: TypeAlias = str | Iterable[str] | None
"""The id or ids of sessions that must not end; ``None`` for none."""


REQUEST_SECONDS: Final = 5.0
"""How long a request goes on to end or purge sessions. With its last batch, it takes less than the
30 seconds after which many proxies give up."""


class Limits(NamedTuple):
    """How much one call may do; ``None`` disables a limit."""

    most: int | None = None
    """How many sessions may end."""
    seconds: float | None = None
    """After how many seconds no further batch is begun."""


def checked_id(session_id: str) -> str:
    """Return a session id unchanged.

    Raises ``ValueError`` if it cannot be one. The message does not repeat the text, because it may
    be a session key.
    """
    if not (isinstance(session_id, str) and is_session_id(session_id)):
        raise ValueError(
            f"This is not a session id, which has {ID_LENGTH} characters of 0-9 and a-f. "
            "A session key is not accepted."
        )
    return session_id


def checked_ids(session_ids: KeptIds) -> list[str]:
    """Return session ids, each once. Raises ``ValueError``."""
    if session_ids is None:
        return []
    ids = [session_ids] if isinstance(session_ids, str) else session_ids
    return list(dict.fromkeys(map(checked_id, ids)))


def user_id_or_any(user: Any) -> str | None:
    """Return the primary key of a user as text; ``None`` if any user will do.

    ``user`` is an object or a primary key. Raises ``ValueError`` if it has no primary key.
    """
    if user is None:
        return None
    is_user = getattr(user, "pk", user) is not None
    text = user_id_of(user) if is_user else ""
    if not text or not is_storable(text):
        raise ValueError(f"{user!r} is not a user: it has no primary key.")
    return text


def required_user_id(user: Any) -> str:
    """Return the primary key of a user as text.

    Raises ``ValueError`` for ``None``, because that would mean everybody.
    """
    user_id = user_id_or_any(user)
    if user_id is None:
        raise ValueError(
            "None is not a user. To end the sessions of all users, call end_everything()."
        )
    return user_id


def checked_most(most: int | None) -> int | None:
    """Return the number of sessions to end at most. Raises ``TypeError`` or ``ValueError``."""
    if most is not None:
        check_number("most", most, least=0)
    return most


def checked_limits(most: int | None, seconds: float | None) -> Limits:
    """Return the limits of a call that ends sessions. Raises ``TypeError`` or ``ValueError``."""
    if seconds is not None:
        check_type("seconds", seconds, (int, float))
        if not seconds >= 0:
            raise ValueError(f"seconds is {seconds}; it must be 0 or more.")
    return Limits(checked_most(most), seconds)


def check_type(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    """Raise ``TypeError`` if an argument is not of this type, or of one of these."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(each.__name__ for each in kinds)
        raise TypeError(f"{name} is {value!r}; it must be of type {names}.")


def check_number(name: str, number: int, *, least: int) -> None:
    """Raise ``TypeError`` or ``ValueError`` if an argument is not a number of ``least`` or more."""
    check_type(name, number, int)
    if number < least:
        raise ValueError(f"{name} is {number}; it must be {least} or more.")
