"""The last activity of a session, which a request that changes nothing stores for lists."""

from __future__ import annotations

from contextlib import suppress

from ..conf import settings
from ..core import clock
from ..core.flow import Flow
from ..core.records import Record
from ..exceptions import SessionConflict, StorageUnavailable, UnreadablePayload
from ..storages.base import Storage
from ..storages.calls import Calls


def is_due(storage: Storage, record: Record) -> bool:
    """Return whether the stored last activity is older than ``ACTIVITY_INTERVAL``.

    Always False if only the session key has it, because then no list shows it.
    """
    if storage.holds_in_key and not storage.lists:
        return False
    interval = settings.ACTIVITY_INTERVAL * 1000
    return interval > 0 and clock.now() - record.last_activity >= interval


def store(storage: Storage, record: Record) -> Flow[int | None]:
    """Store that the session is in use now; return the moment, or ``None`` if it was not stored.

    No error of the store is raised: a request must not fail because of a list. Nothing is stored
    in the caller's transaction, because a lost race would undo what else is in it.
    """
    moment, calls = clock.now(), Calls(storage)
    with suppress(StorageUnavailable, SessionConflict, UnreadablePayload):
        if not (yield from calls.in_transaction()) and (
            yield from calls.touch(record, record.expires, moment, moment)
        ):
            return moment
    return None
