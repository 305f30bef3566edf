"""Move all sessions from one engine to another while the site is running.

Each session is created in the target, unless the target has a session with this id, and is then
removed from the source if it is still as it was read. If a request has saved it meanwhile, it is
read again. If it is no longer in the source, its user has logged out, so it is ended in the target
as well. A run that is killed leaves a copy of at most one session in the source, which the next run
removes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import msgspec
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from ..conf import NAME, PreviousBackend, previous_backend, session_store, settings
from ..core import clock
from ..core.flow import run
from ..core.records import Record, State, make_tombstone, next_version
from ..exceptions import PayloadTooLarge, UnreadablePayload
from ..migration import lazy
from ..migration.sources import Claim, Entry, PreviousSession, Source, open_source
from ..sessions import SessionStore
from ..storages.base import Storage, Taken, Updated
from ..storages.tombstones import leave_tombstone
from .checks.previous_backends import shared_parts

PATIENCE: Final = 1.0
"""Seconds after which a copy in the source counts as left by a killed run. Until then, the request
that has stored the session in the target may be about to remove the copy."""
_MAX_REASONS: Final = 20


class Outcome(StrEnum):
    """What happened to a session."""

    MOVED = "moved"
    ALREADY_THERE = "already_there"
    EXPIRED = "expired"
    ENDED = "ended"


class Report(msgspec.Struct, kw_only=True):
    """The numbers of sessions in the source, by what happened to them."""

    moved: int = 0
    already_there: int = 0
    """Sessions that a request or an earlier run has moved, or that have ended since."""
    expired: int = 0
    """Expired sessions, which stay in the source."""
    ended: int = 0
    """Sessions that ended while they were being moved."""
    unreadable: dict[str, int] = {}
    """Sessions that cannot be moved and stay in the source, by the reason."""

    @property
    def failures(self) -> int:
        """Return the number of sessions that could not be moved."""
        return sum(self.unreadable.values())

    def add(self, outcome: Outcome | str) -> None:
        """Count a session; a string is the reason why it could not be moved."""
        if isinstance(outcome, Outcome):
            setattr(self, outcome.value, getattr(self, outcome.value) + 1)
            return
        if outcome not in self.unreadable and len(self.unreadable) >= _MAX_REASONS:
            outcome = "for other reasons"
        self.unreadable[outcome] = self.unreadable.get(outcome, 0) + 1


# --- Which engines -------------------------------------------------------------------------


def source(path: str, cache_alias: str | None) -> Source:
    """Return the source for an engine to move from.

    ``path`` is the dotted path of the engine. ``cache_alias`` is the cache in which it keeps its
    sessions; ``None`` for the one in ``MIGRATE_FROM`` or in the settings. Raises ``CommandError``.
    """
    options = {} if cache_alias is None else {"SESSION_CACHE_ALIAS": cache_alias}
    entry = PreviousBackend(path, options)
    if not entry.options:
        if path == django_settings.SESSION_ENGINE and not is_named(path):
            raise CommandError(
                f"{path} is SESSION_ENGINE, so moving its sessions would log their users out. "
                f"Change SESSION_ENGINE first, and name {path} in {NAME}['MIGRATE_FROM']."
            )
        entry = _named_source(path) or entry
    try:
        source = open_source(entry)
    except ImproperlyConfigured as error:
        raise CommandError(f"--from {path} cannot be used: {error}") from error
    if not source.lists:
        raise CommandError(
            f"{path} cannot list its sessions: {source.describe()}. Name it in "
            f"{NAME}['MIGRATE_FROM']: each session is then migrated at its next request."
        )
    return source


def is_named(path: str) -> bool:
    """Return whether ``MIGRATE_FROM`` names this engine."""
    return _named_source(path) is not None


def _named_source(path: str) -> PreviousBackend | None:
    """Return the entry of ``MIGRATE_FROM`` for this engine, which has its cache or folder."""
    entries = map(previous_backend, settings.MIGRATE_FROM)
    return next((entry for entry in entries if entry.path == path), None)


def target(path: str) -> Storage:
    """Return the storage of the engine to move to. Raises ``CommandError``."""
    try:
        store = session_store(path)
        if not (isinstance(store, type) and issubclass(store, SessionStore)):
            raise CommandError(
                f"--to {path} is not a session engine of django_sessionstores. Sessions cannot be "
                "moved to other engines: this package stores digests of the session keys, and "
                "other engines need the keys. Switching back logs all users out."
            )
        storage = store.own_storage()
    except (ImportError, ImproperlyConfigured) as error:
        raise CommandError(f"--to {path} cannot be used: {error}") from error
    if storage.holds_in_key:
        cure = (
            f"{NAME}['MIGRATE_FROM'] names the previous engine, so there is nothing to move: each "
            "session is migrated at its next request. Keep the entry until the others have expired."
            if settings.MIGRATE_FROM
            else f"Name the previous engine in {NAME}['MIGRATE_FROM']: each session is then "
            "migrated at its next request."
        )
        raise CommandError(
            f"{path} keeps sessions in the browsers, so only a request can store one. {cure}"
        )
    return storage


def check_pair(source: Source, storage: Storage) -> None:
    """Raise ``CommandError`` if sessions cannot be moved from the source to the storage."""
    for each in (storage, getattr(source, "storage", storage)):
        if not each.shared:
            raise CommandError(
                f"Sessions in {each.describe()} are in the memory of each process of the site, so "
                "this command cannot move them."
            )
    if shared := shared_parts(storage, source):
        raise CommandError(
            f"Both engines store their sessions in {shared[0].describe()}, so there is nothing to "
            "move."
        )


# --- Moving --------------------------------------------------------------------------------


def move(source: Source, storage: Storage, batch: int) -> Iterator[Outcome | str]:
    """Move all sessions; yield the outcome for each, or the reason why it cannot be moved.

    ``batch`` is the number of sessions that are read from the source at once.
    """
    copies: deque[tuple[float, str]] = deque()
    for entry in _entries(source, batch):
        outcome = _move_entry(source, storage, entry)
        if outcome is Outcome.ALREADY_THERE:
            copies.append((time.monotonic(), entry.locator))
        while copies and time.monotonic() - copies[0][0] >= PATIENCE:
            source.remove_at(copies.popleft()[1])
        yield outcome
    for since, locator in copies:
        time.sleep(max(0.0, since + PATIENCE - time.monotonic()))
        source.remove_at(locator)


def survey(source: Source, storage: Storage, batch: int) -> Iterator[Outcome | str]:
    """Yield what `move` would do, without writing."""
    for entry in _entries(source, batch):
        try:
            record = _record(storage, entry, entry.found)
        except (UnreadablePayload, PayloadTooLarge) as error:
            yield _reason(error)
            continue
        if record is None:
            yield Outcome.EXPIRED
        else:
            there = storage.lookup(entry.id)
            yield Outcome.MOVED if there is None else Outcome.ALREADY_THERE


def _entries(source: Source, batch: int) -> Iterator[Entry]:
    cursor = ""
    while True:
        entries, cursor = source.scan(cursor, batch)
        yield from entries
        if not cursor:
            return


def _move_entry(source: Source, storage: Storage, entry: Entry) -> Outcome | str:
    try:
        record = _record(storage, entry, entry.found)
        if record is None:
            return Outcome.EXPIRED
        created: Updated | Taken = storage.create(record, clock.now())
    except (UnreadablePayload, PayloadTooLarge) as error:
        return _reason(error)
    if isinstance(created, Taken):
        return Outcome.ALREADY_THERE
    return _remove_from_source(source, storage, entry, created.record)


def _remove_from_source(
    source: Source, storage: Storage, entry: Entry, stored: Record
) -> Outcome | str:
    """Remove a session from the source after it was stored in the target, and return the outcome.

    ``stored`` is the record in the target. If the session in the source has changed since it was
    read, the target is updated first.
    """
    found = entry.found
    while isinstance(found, PreviousSession):
        claim = source.claim(entry.locator, found)
        if claim is Claim.REMOVED:
            return Outcome.MOVED
        if claim is Claim.GONE:
            break
        # A worker that still runs on the source has saved it.
        try:
            found = source.find_at(entry.locator)
            newer = _record(storage, entry, found)
        except (UnreadablePayload, PayloadTooLarge) as error:
            storage.delete(entry.id)
            return _reason(error)
        if newer is None:
            continue
        newer = msgspec.structs.replace(newer, version=next_version(stored.version))
        outcome = storage.update(newer, stored, clock.now())
        if not isinstance(outcome, Updated):
            # A request has changed or ended the session in the target, which counts from now on.
            source.remove_at(entry.locator)
            return Outcome.MOVED
        stored = outcome.record
    storage.delete(entry.id)
    seconds = lazy.longest_seconds()
    tombstone = make_tombstone(entry.id, State.ENDED, now=clock.now(), seconds=seconds)
    run(leave_tombstone(storage, tombstone))
    return Outcome.ENDED


def _record(
    storage: Storage, entry: Entry, found: PreviousSession | UnreadablePayload | None
) -> Record | None:
    """Return the record to store; ``None`` if the session has expired.

    Raises `UnreadablePayload` and `PayloadTooLarge`.
    """
    if isinstance(found, UnreadablePayload):
        raise found
    moment = clock.now()
    if found is None or not found.record.is_live(moment):
        return None
    record = lazy.record_of(storage, entry.id, found)
    return record if record.is_live(moment) else None


def _reason(error: Exception) -> str:
    # The text of the error contains the size, so each session would have a reason of its own.
    return "it is too large" if isinstance(error, PayloadTooLarge) else str(error)
