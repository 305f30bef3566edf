"""What happens to sessions, for logs, alerts and counters of a project's own.

Each signal is sent after the fact, with the engine's ``SessionStore`` as its sender and keyword
arguments as said here; never with a session key. Receivers may be sync or async. One that raises
is logged and changes nothing for the request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from django.dispatch import Signal

from .flow import Call, Flow

session_created: Final = Signal()
"""A session was stored for the first time: ``session_id``, ``user_id`` (None for a visitor)."""

session_rotated: Final = Signal()
"""A session goes on under another id, as at a login: ``session_id``, ``former_id``, ``user_id``."""

session_ended: Final = Signal()
"""A session is over: ``session_id``, ``user_id`` (None for a visitor, and where the session was
ended unread), and the ``reason``, one of `END_REASONS`."""

END_REASONS: Final = {
    "logout": "a logout, or any other ``flush()`` or ``delete()``",
    "expired": "found out by a request that came too late; each such request tells",
    "revoked": "through the inventory",
    "evicted": "to make room: by a login over ``MAX_SESSIONS``, or by a new session where the "
    "``memory`` engine is full",
    "replaced": "by the login of another user in the same browser, or of the same one after a "
    "new password",
    "password": "its user has a new password",
    "deactivated": "its user may no longer log in",
    "deleted": "its user was deleted",
}
"""Why a session is over."""

session_rejected: Final = Signal()
"""A request brought a key that is not accepted: ``session_id`` (None where it has none), the
``reason``, one of `REJECTION_REASONS`, and a ``detail`` in words, often empty."""

REJECTION_REASONS: Final = {
    "unknown": "there is no such session, or not any more",
    "superseded": "by a login, or where the key was cycled for another reason",
    "too old": "the key was renewed, and its grace is over",
    "tampered": "what is stored, or in the cookie, cannot be read. It was altered, or sealed under "
    "a key that this worker does not have: ``detail`` says which",
}
"""Why a key is not accepted."""

client_changed: Final = Signal()
"""The client of a stored session is another one: ``session_id``, ``before`` and ``after``, each
with ``ip`` and ``user_agent``. Only with the package's middleware, and at most once per
``TOUCH_INTERVAL`` and session."""


Observer = Callable[[Signal, type[Any], Mapping[str, Any]], None]
"""Called with a signal, its sender and its facts."""
observers: Final[list[Observer]] = []
"""Told of all signals. They are called as they are, where a sync receiver would cost a thread in
async code. So they must neither wait nor raise."""


class _Sending:
    """Sending a signal, as a call that a flow can ask for."""

    @staticmethod
    def send(signal: Signal, sender: type[Any], facts: dict[str, Any]) -> None:
        signal.send_robust(sender, **facts)

    @staticmethod
    async def asend(signal: Signal, sender: type[Any], facts: dict[str, Any]) -> None:
        await signal.asend_robust(sender, **facts)


def tell(signal: Signal, sender: type[Any], **facts: Any) -> Flow[None]:
    """Send a signal if anybody listens."""
    for observe in observers:
        observe(signal, sender, facts)
    if signal.receivers:
        yield Call(_Sending, "send", (signal, sender, facts))
