"""The signals about a session: what they say, and when they are sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import signals
from ..core.flow import Flow, run
from ..storages.base import Storage
from ..storages.calls import Calls
from .state import Event


def rejection_event(record_id: str | None, reason: str, detail: str = "") -> Event:
    """Return the event for a key that is not accepted."""
    facts = {"session_id": record_id, "reason": reason, "detail": detail}
    return Event(signals.session_rejected, facts)


def end_event(record_id: str, reason: str, user_id: str | None) -> Event:
    """Return the event for the end of a session."""
    facts = {"session_id": record_id, "user_id": user_id, "reason": reason}
    return Event(signals.session_ended, facts)


def send(kind: type[Any], events: Sequence[Event]) -> Flow[None]:
    """Send the signal of each event, from the class ``kind``."""
    for event in events:
        yield from signals.send(event.signal, kind, **event.facts)


def send_after_commit(
    storage: Storage, kind: type[Any], events: Sequence[Event]
) -> Flow[Callable[[], bool | None]]:
    """Send the signals when the caller's transaction commits, see `Storage.after_commit`."""
    return Calls(storage).after_commit(lambda: run(send(kind, events)))


def send_when_certain(storage: Storage, kind: type[Any], events: Sequence[Event]) -> Flow[None]:
    """Send the signals now, or after the commit if the caller can still roll back the events."""
    if not events:
        return
    if (yield from Calls(storage).in_transaction()):
        yield from send_after_commit(storage, kind, events)
    else:
        yield from send(kind, events)
