"""A record to store, and many saves of it at once, for the tests of several storages."""

import secrets
from typing import Any

from django_sessionstores.core.records import Record
from django_sessionstores.storages.base import Conflict, Updated
from django_sessionstores.testing import in_threads, now, successor

HOUR = 60 * 60 * 1000
ID = "a" * 40


def make_record(record_id: str = ID, **fields: Any) -> Record:
    """Return a record of a session that is used now and ends in an hour, unless fields differ."""
    moment = now()
    values = {"payload": b"encrypted", "last_activity": moment, "expires": moment + HOUR}
    return Record(id=record_id, **{**values, **fields})


def assert_threads_lose_no_save(storage: Any, threads: int = 16, saves: int = 20) -> None:
    """Save one record in many threads: each answer "updated" must be a version of its own."""
    storage.create(make_record(), now())

    def save() -> None:
        for _ in range(saves):
            base = storage.read(ID)
            for _ in range(10_000):
                # Of bytes of its own, as encryption makes them.
                saved = successor(base, payload=secrets.token_bytes(16))
                outcome = storage.update(saved, base, now())
                if isinstance(outcome, Updated):
                    break
                assert isinstance(outcome, Conflict)
                base = outcome.current

    in_threads([save] * threads)

    assert storage.read(ID).version == 1 + threads * saves


def assert_touch_never_shortens(storage: Any, base: Record) -> None:
    """Touch a stored record by a clock that is late: its times must stay as they are."""
    storage.touch(base, base.expires - 1, base.last_activity - 1, now())

    held = storage.read(base.id)
    assert (held.expires, held.last_activity) == (base.expires, base.last_activity)
