"""Signals for events of sessions. Connect receivers to write logs, send alerts or count events.

Each signal is sent after the event. Its sender is the ``SessionStore`` class of the engine, and its
keyword arguments are listed below; they never have a session key. Receivers may be sync or async.
If a receiver raises an exception, that is logged, and the request continues.

If the sessions are in a database and a transaction is open on it, the signal of what was stored or
ended is sent when the transaction commits. It is not sent if the transaction is rolled back. What a
request finds when it reads its session is sent at once, because a rollback does not change it:
``session_rejected``, and ``session_ended`` with the reason ``"expired"``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from django.dispatch import Signal

from .core.flow import Call, Flow

logger: Final = logging.getLogger("django_sessionstores")

session_created: Final = Signal()
"""A session was stored for the first time.

Sent with ``session_id`` and ``user_id`` (``None`` for an anonymous session).
"""

session_rotated: Final = Signal()
"""A session got another id, or a login has begun another session with its data.

Sent with ``session_id``, ``previous_id`` and ``user_id``.
"""

session_ended: Final = Signal()
"""A session has ended.

Sent with ``session_id``, ``user_id`` (``None`` for an anonymous session, and if the session was
ended without reading it) and ``reason``, one of `END_REASONS`.
"""

END_REASONS: Final = {
    "logout": "a logout, or another ``flush()`` or ``delete()``",
    "expired": "it had expired when a request used it; sent for each such request, but with "
    "``EXPLAIN_ENDS`` once in each process, because the browser keeps the cookie until it is told",
    "revoked": "it was ended through the inventory",
    "evicted": "to make room: at a login over ``MAX_SESSIONS``, or for a new session if the "
    "``memory`` engine is full",
    "replaced": "the same browser has signed in another user, even if ``ON_LIMIT`` has then "
    "refused that login or the view has failed, or the same user after a change of the password",
    "password": "the user has a new password",
    "deactivated": "the user may no longer sign in",
    "deleted": "the user was deleted",
    "no proof": "its key was used without the proof of the session's device, and "
    "``END_WITHOUT_PROOF`` is set",
}
"""Why a session has ended."""

session_rejected: Final = Signal()
"""A request had a session key that is not accepted.

Sent with ``session_id``, ``reason``, one of `REJECTION_REASONS`, and ``detail``, a text that is
often empty. ``session_id`` is ``None`` if the key does not state an id. With the ``cookie`` engine,
it is the id in the cookie, which nothing vouches for if the cookie cannot be decrypted.
"""

REJECTION_REASONS: Final = {
    "unknown": "no session has this key, or it has ended",
    "superseded": "the session got another key, by ``cycle_key()``, or a login has begun another "
    "session",
    "too old": "the key was rotated, and its grace period is over",
    "no proof": "the session is bound to a device, and the request came without the proof of it: "
    "the cookie was copied, or the browser could not refresh its bound cookie; ``detail`` is the "
    "reason that the browser gives. Sent at most once a minute per session and process",
    "foreign": "the stored session, or the cookie, is encrypted with a key that this worker does "
    "not have: that of another site, or one that is missing in its settings",
    "tampered": "the stored session, or the cookie, was altered or is damaged; ``detail`` says "
    "which. A session of a Django backend that is signed with another ``SECRET_KEY`` cannot be "
    "told from an altered one",
}
"""Why a key is not accepted."""

client_changed: Final = Signal()
"""The IP address or user agent of a stored session has changed.

Sent with ``session_id``, ``before`` and ``after``, each of which has ``ip`` and ``user_agent``. It
is only sent with the middleware of this package, and at most once per session in
``TOUCH_INTERVAL``.
"""

new_sign_in: Final = Signal()
"""A user has signed in on a device that none of the user's live sessions has.

Sent with ``user``, ``client`` (which has ``ip`` and ``user_agent``), ``country`` (the name of the
country of the address, which is often empty), ``when`` (an aware datetime), ``language`` (the code
of the user's language) and ``devices_url`` (the address of "Your devices", which may be empty). It
is only sent if ``NEW_SIGN_IN`` says so, and after the login was stored and committed.
"""


Observer = Callable[[Signal, type[Any], Mapping[str, Any]], None]
"""Called with a signal, its sender and its keyword arguments."""
observers: Final[list[Observer]] = []
"""Functions that are called for all signals. They are called directly, because a sync receiver
would need a thread in async code. So they must neither wait nor raise an exception."""


_ended: Final[ContextVar[set[str] | None]] = ContextVar("ended", default=None)


@contextmanager
def noting_ended() -> Generator[set[str]]:
    """Yield a set that grows by the ids of the sessions that receivers of signals end."""
    outer, ended = _ended.get(), set[str]()
    _ended.set(ended)
    try:
        yield ended
    finally:
        # Not by a token: a flow may be closed in another context.
        _ended.set(outer)
        note_ended(ended)


def note_ended(session_ids: Iterable[str]) -> None:
    """Note that the running code has ended these sessions."""
    ended = _ended.get()
    if ended is not None:
        ended.update(session_ids)


class _Sending:
    """The sending of a signal, as a call that a flow can ask for."""

    @staticmethod
    def send(signal: Signal, sender: type[Any], facts: dict[str, Any]) -> None:
        try:
            signal.send_robust(sender, **facts)
        except RuntimeError:
            # asgiref runs no async code from sync code in the thread of a loop. The sync receivers
            # were called, and what they raise is logged and not raised.
            logger.exception(
                "An async receiver of a signal was not called, because a sync method of the "
                "session was called in an event loop. Call the async one there, such as asave()."
            )

    @staticmethod
    async def asend(signal: Signal, sender: type[Any], facts: dict[str, Any]) -> None:
        await signal.asend_robust(sender, **facts)


def send(signal: Signal, sender: type[Any], **facts: Any) -> Flow[None]:
    """Call the observers, and send a signal if it has receivers."""
    for observe in observers:
        observe(signal, sender, facts)
    if signal.receivers:
        yield Call(_Sending, "send", (signal, sender, facts))
