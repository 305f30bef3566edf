"""A session that the doctor stores, reads, changes and ends, to find out whether requests can."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

import msgspec
from django.db import DatabaseError
from django.utils.translation import gettext_noop

from ...core import clock
from ...core.phrases import Phrase
from ...core.records import Record, draw_key, next_version, session_id
from ...exceptions import SessionStoresError, StorageUnavailable
from ...storages.base import CacheStorage, Storage, Updated
from ...storages.copies import make_copy

S = TypeVar("S", bound=Storage)

ERRORS: Final = (SessionStoresError, DatabaseError)
"""What a storage raises if a request fails."""
MARK: Final = int.from_bytes(b"test", "big")
"""The mark of the record. It is that of no site, so that no site lists, counts or ends it."""
LIFETIME: Final = 60_000
"""Milliseconds after which the record expires, if this process is killed before it removes it."""
SMALL: Final = 256
"""Bytes of a session without much in it."""
LARGE: Final = 16 * 1024
"""Bytes of a session with as much in it as cookies can hold."""


def probe(storage: Storage, record_id: str) -> None:
    """Do with a session of this id what requests do with sessions.

    Raises one of `ERRORS` if a request would fail. It is ``PayloadTooLarge`` if only those would
    whose session has `LARGE` bytes. The record is removed in any case.
    """
    record = _draw_record(record_id)
    with _removed(storage, record_id) as store:
        _check(isinstance(store.create(record, record.created), Updated))
        current = _read_back(store, record)
        for size in (SMALL, LARGE):
            changed = _with_payload(current, size)
            outcome = store.update(changed, current, record.created)
            _check(isinstance(outcome, Updated))
            store.touch(changed, changed.expires + 1, record.created, record.created)
            current = _read_back(store, changed)


def is_in_one_store(storage: Storage, others: Iterable[Storage]) -> bool:
    """Return whether a session that a storage stores is found by one of the others.

    Settings can name one server in several ways. Raises one of `ERRORS`.
    """
    record = _draw_record(session_id(draw_key()))
    with _removed(storage, record.id) as store:
        store.create(record, record.created)
        return any(each.lookup(record.id) is not None for each in others)


def probe_copies(cache: CacheStorage, record_id: str) -> None:
    """Do with the copy of a session of this id what requests do with copies. See `probe`."""
    record = _draw_record(record_id)
    with _removed(cache, record_id) as store:
        for size in (SMALL, LARGE):
            record = _with_payload(record, size)
            copy = make_copy(record, record.created)
            store.fill(copy, record.expires, record.created)
            _read_back(store, copy)


def _draw_record(record_id: str) -> Record:
    now = clock.now()
    return Record(
        id=record_id,
        payload=secrets.token_bytes(SMALL),
        version=next_version(),
        created=now,
        last_activity=now,
        expires=now + LIFETIME,
        site=MARK,
    )


def _with_payload(record: Record, size: int) -> Record:
    return msgspec.structs.replace(
        record, payload=secrets.token_bytes(size), version=next_version(record.version)
    )


@contextmanager
def _removed(storage: S, record_id: str) -> Generator[S]:
    """Provide the storage for the record, which is removed at the end."""
    store = storage.with_mark(MARK)
    try:
        yield store
    except BaseException:
        with suppress(*ERRORS):
            store.delete(record_id)
        raise
    # If it was not there, it was evicted.
    _check(store.delete(record_id) or store.read(record_id) is None)


def _read_back(store: Storage, stored: Record) -> Record:
    """Return the record as it was stored."""
    found = store.read(stored.id)
    if found is None or found.payload != stored.payload:
        raise _silent_loss()
    return found


def _check(is_done: bool) -> None:
    if not is_done:
        raise _silent_loss()


def _silent_loss() -> StorageUnavailable:
    return StorageUnavailable(
        Phrase(
            gettext_noop(
                "It reports no error, but a session that was just stored was not there, or one "
                "that was just ended was still there. Look at its memory limit, and at proxies and "
                "replicas in between."
            )
        )
    )
