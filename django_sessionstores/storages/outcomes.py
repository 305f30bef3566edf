"""What the methods of a storage return: the outcomes of writes, and pages of records."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import msgspec

from ..core.records import ID_LENGTH, Record, State, is_session_id, list_entry
from ..exceptions import SessionStoresError, StorageUnavailable


class LockTaken(Exception):
    """Another request holds a lock, and the caller does not wait for it."""


class Unconfirmed(StorageUnavailable):
    """The store has carried out a write, or may have, and may lose it again."""


class Updated(msgspec.Struct, frozen=True):
    """The write was done. ``record`` is what the store now has, with a new handle."""

    record: Record
    key: str | None = None
    """The new session key; ``None`` if it does not change. See `Storage.holds_in_key`."""
    evicted: tuple[Record, ...] = ()
    """The live sessions that were evicted to make room, if the storage knows."""
    is_provisional: bool = False
    """Whether the caller can still roll back the write, see `Storage.in_transaction`."""
    is_rotated: bool = False
    """Whether another request has rotated the session since, and has taken the write along, or has
    ended it."""

    def __repr__(self) -> str:
        # Error reports show local variables.
        return f"<Updated {self.record!r}>"


@contextmanager
def noting_evicted(evicted: Callable[[tuple[Record, ...]], tuple[Record, ...]]) -> Generator[None]:
    """Note on an error of this context which sessions were evicted before it.

    ``evicted`` returns their records, from those that the error has already.
    """
    try:
        yield
    except SessionStoresError as error:
        error.evicted = evicted(error.evicted)
        raise


class Conflict(NamedTuple):
    """Nothing was written: the store has another version, ``current``, or a tombstone."""

    current: Record


class Gone(NamedTuple):
    """Nothing was written: the store does not have the record, or it has expired."""


class Taken(NamedTuple):
    """Nothing was written: a record with this id exists."""


Outcome = Updated | Conflict | Gone


class Found(msgspec.Struct, frozen=True):
    """The result of `Storage.find`."""

    record: Record | None
    key: str | None = None
    """The new session key, if it differs from the one that was presented."""
    is_provisional: bool = False
    """Whether finding the record has stored something that the caller can still roll back."""

    def __repr__(self) -> str:
        # Error reports show local variables.
        return f"<Found {self.record!r}>"


class Page(NamedTuple):
    """Some of a storage's records, and the cursor of the next page."""

    records: list[Record]
    """The records, without payloads, see `list_entry`."""
    next: str
    """The cursor of the next page; empty after the last one."""


def refusal(current: Record | None, base: Record, now: int) -> Conflict | Gone | None:
    """Return why ``base`` must not be replaced by a write; ``None`` if it may be replaced.

    ``current`` is what the store has. For storages that compare versions themselves, under a lock.
    """
    if current is None or current.expires <= now:
        return Gone()
    return Conflict(current) if current.version != base.version else None


def is_removal(record: Record) -> bool:
    """Return whether an update by ``record`` only removes what it replaces, see `Storage.update`.

    For storages whose store does not drop what has expired.
    """
    return record.state is not State.LIVE and not record.expires


def known_base(base: Record, now: int) -> Record | None:
    """Return ``base`` if it is what to compare with `refusal` at first, without asking the store.

    For storages whose handle is the value to compare and set. ``None`` if it has none, or if
    ``base`` has expired: another request may have prolonged it.
    """
    return base if base.handle is not None and base.expires > now else None


def cursor_error(cursor: str) -> ValueError:
    """Return the exception for a cursor that no page has returned."""
    return ValueError(f"{cursor!r} is not the cursor of a page of sessions.")


def id_of_cursor(cursor: str) -> str:
    """Return the id at which a page of `page_of` ended; empty for the first page.

    Raises ``ValueError`` if the cursor is not one.
    """
    if cursor and not is_session_id(cursor):
        raise cursor_error(cursor)
    return cursor


_EXPIRY_CURSOR: Final = re.compile(rf"(\d{{1,18}})\.([0-9a-f]{{{ID_LENGTH}}}|~)", re.ASCII)
"""An expiry, as large as a column allows, and an id, or what sorts after all ids."""
_AFTER_ALL_IDS: Final = "~"
MOST_EXPIRES: Final = 10**18 - 1
"""The last expiry that a cursor can have."""


def expiry_cursor(expires: int, session_id: str = _AFTER_ALL_IDS) -> str:
    """Return the cursor after a session, in lists in which the last to expire comes first.

    Without an id, the cursor is that before all sessions that expire at this moment.
    """
    return f"{expires}.{session_id}"


def expiry_page(entries: Sequence[Record], limit: int, *, are_all: bool) -> Page:
    """Return the page of the first ``limit`` entries, in a list of `expiry_cursor`.

    ``are_all`` says that the store has no more. If not, there must be an entry: no cursor can name
    the place of one that is damaged.
    """
    records = list(entries[:limit])
    if are_all and len(entries) <= limit:
        return Page(records, "")
    return Page(records, expiry_cursor(records[-1].expires, records[-1].id))


def place_of_cursor(cursor: str) -> tuple[int, str]:
    """Return the expiry and the id of an `expiry_cursor`; without an id, a text after all ids.

    Raises ``ValueError`` if the cursor is not one.
    """
    parts = _EXPIRY_CURSOR.fullmatch(cursor)
    if parts is None:
        raise cursor_error(cursor)
    return int(parts[1]), parts[2]


def page_of(records: Iterable[Record], limit: int) -> Page:
    """Return a page of the first of some records, without tombstones.

    ``records`` come in the order of their ids. No more of them are read than the page needs.
    """
    found: list[Record] = []
    for record in records:
        if record.state is not State.LIVE:
            continue
        if len(found) == limit:
            return Page(found, found[-1].id)
        found.append(list_entry(record))
    return Page(found, "")
