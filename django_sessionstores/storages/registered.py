"""A registry beside a storage: which sessions there are, whose they are, and which have ended."""

from __future__ import annotations

import logging
from typing import Any, Final, NamedTuple

import msgspec
from django.utils.translation import gettext_noop

from ..exceptions import SessionConflict, StorageUnavailable
from ..flow import Call, Flow
from ..lifetime import CLOCK_SKEW
from ..records import Change, Record, State, bare
from ..words import Phrase
from .base import Conflict, Gone, Outcome, Storage, Taken, Updated
from .composed import ComposedStorage
from .journal import Journal, Save

logger: Final = logging.getLogger("django_sessionstores")

_UNKNOWN_CHANGES: Final = (
    "Other requests have saved the session within SESSIONSTORES['MERGE_WINDOW'] seconds, and its "
    "registry cannot tell what they have changed since this request's cookie was made. Nothing "
    "was saved."
)


class _Handle(NamedTuple):
    """What belongs to a record that was handed out."""

    own: Any
    """The handle of the storage that has the data."""
    entry: Record
    """What the registry had of the session."""
    known: tuple[int, bytes] | None = None
    """Version and mark of the save up to which the record is complete; ``None`` where a key holds
    the record and the registry does not know the save that made it."""


class Registered(ComposedStorage):
    """Records in ``data``, and an entry without data for each of them in ``registry``.

    A record counts only while the registry has its entry. So ending a session is deleting its
    entry, wherever the data is; and a registry that does not answer is an outage.

    Where ``data`` compares versions by itself, the entry follows: it knows the user, the client
    and the expiry. Where the key holds the record, any number of keys of a session are about, and
    the registry decides which is the newest. It keeps a `Journal` of what the saves of the last
    ``window`` seconds changed. So a request with an older key sees what was saved since, and what
    two requests save at once is merged, whichever cookie the browser gets last.

    A key that the journal does not know is read as it is. While others have saved within the
    window, it is not written to: what they saved would be lost. After that the newer keys evidently
    did not arrive.
    """

    def __init__(self, data: Storage, registry: Storage, *, window: float) -> None:
        super().__init__(listing=registry)
        self.data = data
        self.registry = registry
        # Those who prune are as much ahead of those who save as clocks may be.
        self._memory = int(window * 1000) + CLOCK_SKEW
        self.shared = data.shared and registry.shared
        self.durable = data.durable and registry.durable
        self.self_expiring = data.self_expiring and registry.self_expiring
        self.max_payload = data.max_payload
        self.holds_in_key = self.keeps_changes = data.holds_in_key

    @property
    def native_async(self) -> bool:
        return self.data.native_async and self.registry.native_async

    def eviction_policy(self) -> str:
        return self.data.eviction_policy() or self.registry.eviction_policy()

    def describe(self) -> str:
        return Phrase(
            gettext_noop("%(store)s, registered in %(registry)s"),
            store=self.data.describe(),
            registry=self.registry.describe(),
        )

    def identify(self, key: str) -> str | None:
        return self.data.identify(key)

    def locate(self, key: str) -> str:
        return self.data.locate(key)

    def is_outdated(self, record: Record) -> bool:
        return bool(record.pending) or self.data.is_outdated(_own(record))

    # --- Flows -----------------------------------------------------------------------------

    def _read(self, locator: str) -> Flow[Record | None]:
        record: Record | None = yield Call(self.data, "read", (locator,))
        if record is None or record.state is not State.LIVE:
            return record
        entry: Record | None = yield Call(self.registry, "read", (record.id,))
        if entry is None or entry.state is not State.LIVE:
            return entry
        if not self.holds_in_key:
            return _with_entry(record, entry)
        if record.version > entry.version:
            # The entry is a copy that lags, or from a backup. A save finds out which.
            return _with_entry(record, entry, (record.version, self.data.mark(record)))
        journal = Journal.unpack(entry.payload)
        missed = journal.since(record.version, self.data.mark(record)) if journal else None
        if missed is None:
            logger.info(
                "Session %s: its registry does not know the save that made its cookie. It is "
                "read as it is.",
                record.id,
            )
            unknown = msgspec.structs.replace(
                record, version=entry.version, expires=min(record.expires, entry.expires)
            )
            return _with_entry(unknown, entry)
        return self._brought_forward(record, entry, missed)

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        created: Updated | Taken = yield Call(self.data, "create", (record, now))
        if isinstance(created, Taken):
            return created
        entry = self._first_entry(created.record, now)
        registered: Updated | Taken = yield Call(self.registry, "create", (entry, now))
        if isinstance(registered, Taken):
            yield Call(self.data, "delete", (record.id,))
            return registered
        return _updated(created, registered.record)

    def _update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        entry = _entry_of(base)
        if self.holds_in_key:
            self._check_known(base, now)
        outcome: Outcome = yield Call(self.data, "update", (record, _own(base), now))
        if isinstance(outcome, Conflict):
            return Conflict(_with_entry(outcome.current, entry))
        if isinstance(outcome, Gone):
            return outcome
        if self.holds_in_key:
            successor = self._next_entry(outcome.record, entry, now)
            decided: Outcome = yield Call(self.registry, "update", (successor, entry, now))
            return self._decided(decided, outcome, base)
        followed = yield from self._follow(record, entry, now)
        return Gone() if followed is None else _updated(outcome, followed)

    def _follow(self, record: Record, entry: Record, now: int) -> Flow[Record | None]:
        """Bring an entry up to date with a record that was saved; ``None`` if there is none."""
        while _has_drifted(record, entry):
            successor = msgspec.structs.replace(bare(record), version=entry.version + 1)
            outcome: Outcome = yield Call(self.registry, "update", (successor, entry, now))
            if isinstance(outcome, Updated):
                return outcome.record
            if isinstance(outcome, Gone) or not outcome.current.is_live(now):
                return None
            entry = outcome.current
            if entry.last_activity > record.last_activity:
                break  # By a request that was saved later.
        return entry

    def _rotate(
        self, record: Record, base: Record, grave: Record, now: int
    ) -> Flow[Outcome | Taken]:
        entry = _entry_of(base)
        if self.holds_in_key:
            self._check_known(base, now)
            issued: Updated = yield Call(self.data, "create", (record, now))
            first = self._first_entry(issued.record, now)
            decided: Outcome | Taken = yield Call(
                self.registry, "rotate", (first, entry, grave, now)
            )
            return decided if isinstance(decided, Taken) else self._decided(decided, issued, base)
        registered: Updated | Taken = yield Call(
            self.registry, "create", (self._first_entry(record, now), now)
        )
        if isinstance(registered, Taken):
            return registered
        try:
            outcome: Outcome | Taken = yield Call(
                self.data, "rotate", (record, _own(base), grave, now)
            )
        except Exception:
            yield Call(self.registry, "delete", (record.id,))
            raise
        if isinstance(outcome, Updated):
            yield from self._supersede(entry, grave, now)
            return _updated(outcome, registered.record)
        yield Call(self.registry, "delete", (record.id,))
        if isinstance(outcome, Conflict):
            return Conflict(_with_entry(outcome.current, entry))
        return outcome

    def _supersede(self, entry: Record, grave: Record, now: int) -> Flow[None]:
        """Put a tombstone in place of the entry, whatever version of it there is by now."""
        try:
            while True:
                outcome: Outcome = yield Call(self.registry, "update", (grave, entry, now))
                if not isinstance(outcome, Conflict) or not outcome.current.is_live(now):
                    return
                entry = outcome.current
        except StorageUnavailable as error:
            # The session goes on under its new id, and must be answered with it.
            logger.warning("Session %s stays listed until it expires: %s", entry.id, error)

    def _touch(self, base: Record, expires: int, last_activity: int, now: int) -> Flow[bool]:
        times = (expires, last_activity, now)
        touched: bool = yield Call(self.data, "touch", (_own(base), *times))
        return touched and (yield Call(self.registry, "touch", (_entry_of(base), *times)))

    def _delete(self, session_id: str) -> Flow[bool]:
        # What has no entry is ended, even if the data cannot be reached.
        deleted: bool = yield Call(self.registry, "delete", (session_id,))
        yield Call(self.data, "delete", (session_id,))
        return deleted

    def _purge(self, now: int, batch: int) -> Flow[int]:
        purged: int = yield Call(self.data, "purge", (now, batch))
        entries: int = yield Call(self.registry, "purge", (now, batch))
        return purged + entries

    # --- Entries ---------------------------------------------------------------------------

    def _told(self, entry: Record) -> Record:
        # Its size is that of the entry, not of the session.
        return bare(entry)

    def _first_entry(self, record: Record, now: int) -> Record:
        """The entry of a record that is new."""
        if not self.holds_in_key:
            return bare(record)
        journal = Journal.begun(self._save(record, now))
        return msgspec.structs.replace(bare(record), payload=journal.pack())

    def _next_entry(self, record: Record, entry: Record, now: int) -> Record:
        """The entry of a record that was sealed into a key, in place of ``entry``."""
        save, journal = self._save(record, now), Journal.unpack(entry.payload)
        if journal is None:
            journal = Journal.begun(save)
        else:
            journal = journal.after(save, record.changes, now - self._memory)
        return msgspec.structs.replace(bare(record), payload=journal.pack())

    def _save(self, record: Record, now: int) -> Save:
        return Save(record.version, now, self.data.mark(record))

    def _check_known(self, base: Record, now: int) -> None:
        """Raise `SessionConflict` rather than to overwrite what a key does not know of."""
        handle: _Handle = base.handle
        journal = Journal.unpack(handle.entry.payload)
        if not handle.known and journal and not journal.is_quiet(now - self._memory):
            raise SessionConflict(_UNKNOWN_CHANGES)

    def _decided(self, decided: Outcome, issued: Updated, base: Record) -> Outcome:
        """What the registry's decision means for a record that was sealed into a key.

        Raises `SessionConflict` where it does not know what to merge with.
        """
        if isinstance(decided, Updated):
            return _updated(issued, decided.record)
        if isinstance(decided, Gone) or decided.current.state is not State.LIVE:
            return decided
        handle: _Handle = base.handle
        journal = Journal.unpack(decided.current.payload)
        missed = journal.since(*handle.known) if journal and handle.known else None
        if missed is None:
            raise SessionConflict(_UNKNOWN_CHANGES)
        return Conflict(self._brought_forward(base, decided.current, missed))

    @staticmethod
    def _brought_forward(record: Record, entry: Record, missed: tuple[Change, ...]) -> Record:
        """The record as the registry knows it, with the changes that it has missed."""
        forward = msgspec.structs.replace(
            record,
            version=entry.version,
            # A key is not accepted for longer than it says itself.
            expires=min(record.expires, entry.expires),
            user_id=entry.user_id,
            last_activity=entry.last_activity,
            ip=entry.ip,
            user_agent=entry.user_agent,
            pending=(*record.pending, *missed),
        )
        return _with_entry(forward, entry, _newest(entry))

    def close(self) -> None:
        self.data.close()
        self.registry.close()


def _with_entry(record: Record, entry: Record, known: tuple[int, bytes] | None = None) -> Record:
    handle = _Handle(_own(record).handle, entry, known)
    return msgspec.structs.replace(record, handle=handle)


def _newest(entry: Record) -> tuple[int, bytes] | None:
    """Version and mark of the save that an entry knows last."""
    journal = Journal.unpack(entry.payload)
    return (journal.newest.version, journal.newest.mark) if journal else None


def _updated(outcome: Updated, entry: Record) -> Updated:
    return Updated(_with_entry(outcome.record, entry, _newest(entry)), outcome.key)


def _entry_of(record: Record) -> Record:
    if isinstance(record.handle, _Handle):
        return record.handle.entry
    return msgspec.structs.replace(record, payload=b"")


def _own(record: Record) -> Record:
    """The record as the storage of the data gave it out."""
    if isinstance(record.handle, _Handle):
        return msgspec.structs.replace(record, handle=record.handle.own)
    return record


def _has_drifted(record: Record, entry: Record) -> bool:
    return (record.expires, record.user_id, record.ip, record.user_agent) != (
        entry.expires,
        entry.user_id,
        entry.ip,
        entry.user_agent,
    )
