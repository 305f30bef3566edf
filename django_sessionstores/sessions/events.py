"""Sending the signals of events, when what they tell is certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import signals
from ..core.flow import Flow, run
from ..storages.base import Storage
from ..storages.calls import Calls
from .state import Event


def send(kind: type[Any], events: Sequence[Event]) -> Flow[None]:
    """Send the signal of each event, from the class ``kind``."""
    for event in events:
        yield from signals.send(event.signal, kind, **event.facts)


def send_after_commit(
    kind: type[Any], storage: Storage, events: Sequence[Event]
) -> Flow[Callable[[], bool | None]]:
    """Send the signals when the caller's transaction commits, see `Storage.after_commit`."""
    return Calls(storage).after_commit(lambda: run(send(kind, events)))


def send_if_committed(kind: type[Any], storage: Storage, events: Sequence[Event]) -> Flow[None]:
    """Send the signals now, or after the commit if the caller is in a transaction."""
    if not events:
        return
    if (yield from Calls(storage).in_transaction()):
        yield from send_after_commit(kind, storage, events)
    else:
        yield from send(kind, events)
