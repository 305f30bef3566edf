"""What happens to sessions, for logs, alerts and counters of a project's own.

Each signal is sent after the fact, with the engine's ``SessionStore`` as its sender and keyword
arguments as said here; never with a session key. Receivers may be sync or async. One that raises
is logged and changes nothing for the request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django.dispatch import Signal

from .flow import Call, Flow

session_created: Final = Signal()
"""A session was stored for the first time: ``session_id``, ``user_id`` (None for a visitor)."""

session_rotated: Final = Signal()
"""A session goes on under another id, as at a login: ``session_id``, ``former_id``, ``user_id``."""

session_ended: Final = Signal()
"""A session is over: ``session_id``, and the ``reason``: ``"logout"`` (or any ``flush()`` or
``delete()``), ``"expired"`` (found out by the request that came too late; each such request tells),
``"revoked"`` (through the inventory), ``"limit"`` (a login over ``MAX_SESSIONS``), and
``"password"``, ``"deactivated"`` or ``"deleted"`` (that of its user's account)."""

session_rejected: Final = Signal()
"""A request brought a key that is not accepted: ``session_id`` (None where it has none), and the
``reason``: ``"unknown"``, ``"superseded"`` (by a login), or the text of an `UnreadablePayload`."""

client_changed: Final = Signal()
"""The client of a stored session is another one: ``session_id``, ``before`` and ``after``, each
with ``ip`` and ``user_agent``. Only with the package's middleware, and at most once per
``TOUCH_INTERVAL`` and session."""


observers: Final[list[Callable[[Signal, dict[str, Any]], None]]] = []
"""What the package itself does at each event. Called at once, may not block nor fail; a receiver
would cost a thread under ASGI."""


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
        observe(signal, facts)
    if signal.receivers:
        yield Call(_Sending, "send", (signal, sender, facts))
