"""Records that session keys hold, with a journal of the last saves in the registry."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from ... import conf
from ...core.flow import Call, Flow
from ...core.records import Change, Record, State, without_payload
from ...exceptions import SessionConflict, UnreadablePayload
from ...payloads.codec import change_context
from ..base import Conflict, Gone, Outcome, Storage, Taken, Updated
from .entries import (
    Handle,
    combine_outcomes,
    entry_of,
    last_activity_of,
    newest_save,
    replace_tombstone,
    with_entry,
    without_entry,
)
from .journal import MOST_SAVES, Journal, Save

logger: Final = logging.getLogger("django_sessionstores")

_UNKNOWN_CHANGES: Final = (
    "Other requests have saved the session within SESSIONSTORES['MERGE_WINDOW'] seconds, and its "
    "registry cannot tell what they have changed since this request's cookie was made: it "
    f"remembers the last {MOST_SAVES} saves. Nothing was saved; send the newest cookie, or save "
    "less often."
)


class KeyRecords:
    """The operations of `RegisteredStorage` if the session key holds the record.

    Any number of keys of a session are in use, and the registry decides which one is the newest.
    The payload of an entry is a `Journal` of what the saves of the last ``memory`` milliseconds
    changed. So a request with an older key sees what was saved since, and what two requests save
    at once is merged, whichever cookie the browser gets last.

    A key that the journal does not know is read as it is. While others have saved within the
    window, a request with such a key cannot save, because what the others saved would be lost.
    After that the newer keys evidently did not arrive.
    """

    def __init__(self, data: Storage, registry: Storage, memory: int) -> None:
        self._data = data
        self._registry = registry
        self._memory = memory

    def read(self, locator: str, method: str = "read") -> Flow[Record | None]:
        """See `Storage.read`. ``method`` is the method of both storages to read with."""
        record: Record | None = yield Call(self._data, method, (locator,))
        if record is None or record.state is not State.LIVE:
            return record
        entry: Record | None = yield Call(self._registry, method, (record.id,))
        if entry is None:
            return None
        if entry.state is not State.LIVE:
            return msgspec.structs.replace(entry, handle=record)  # For `follow`.
        if record.version >> 32 > entry.version >> 32:
            # The entry is a copy that lags, or from a backup. A save finds out which.
            return with_entry(record, entry, (record.version, self._data.mark(record)))
        journal = Journal.unpack(entry.payload)
        missed = journal.changes_since(record.version, self._data.mark(record)) if journal else None
        if missed is None:
            logger.info(
                "Session %s: its registry does not know the save that made its cookie. It is "
                "read as it is.",
                record.id,
            )
            unknown = msgspec.structs.replace(
                record, version=entry.version, expires=min(record.expires, entry.expires)
            )
            return with_entry(unknown, entry)
        return _bring_forward(record, entry, missed)

    def follow(self, base: Record, successor: str) -> Flow[Record | None]:
        """See `Storage.follow`. ``base`` has no pending changes; its data is brought forward.

        If it is a tombstone that was read by a key, the data is what the key holds.

        Raises `SessionConflict` if the registry does not know what to merge with.
        """
        entry: Record | None = yield Call(self._registry, "read", (successor,))
        if entry is None or entry.state is not State.LIVE:
            return entry
        handle, known = base.handle, None
        if isinstance(handle, Handle):
            known = handle.known
        elif isinstance(handle, Record):
            base, known = handle, (handle.version, self._data.mark(handle))
        missed = _missed_changes(entry, known)
        return _bring_forward(msgspec.structs.replace(base, id=successor), entry, missed)

    def create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        """See `Storage.create`."""
        if record.state is not State.LIVE:
            left: Updated | Taken = yield Call(self._registry, "create", (record, now))
            return left
        issued: Updated = yield Call(self._data, "create", (record, now))
        creation = Save(issued.record.version, now, mark=b"")
        entry = _with_journal(issued.record, Journal.start(creation))
        registered: Updated | Taken = yield Call(self._registry, "create", (entry, now))
        return registered if isinstance(registered, Taken) else combine_outcomes(issued, registered)

    def issue(self, record: Record, now: int) -> Flow[Updated]:
        """See `Storage.issue`.

        If the registry knows the save that has created the session, the key is of that save. So it
        is brought up to date with what was saved since.
        """
        entry: Record | None = yield Call(self._registry, "read_latest", (record.id,))
        journal = Journal.unpack(entry.payload) if entry is not None else None
        if journal is not None and journal.creation is not None:
            record = msgspec.structs.replace(record, version=journal.creation.version)
        issued: Updated = yield Call(self._data, "create", (record, now))
        return issued

    def update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        """See `Storage.update`. Raises `SessionConflict`."""
        if base.state is not State.LIVE:
            return (yield from replace_tombstone(self._registry, record, base, now))
        entry = entry_of(base)
        if record.state is not State.LIVE:
            # It goes into the registry as it is: the payload names the successor, if there is one.
            left: Outcome = yield Call(self._registry, "update", (record, entry, now))
            is_left = isinstance(left, Updated)
            return left if is_left else self._outcome(left, Updated(record), base)
        self._check_known(base, now)
        outcome: Outcome = yield Call(self._data, "update", (record, without_entry(base), now))
        if isinstance(outcome, Conflict):
            return Conflict(with_entry(outcome.current, entry))
        if isinstance(outcome, Gone):
            return outcome
        successor = self._next_entry(outcome.record, entry, now)
        decided: Outcome = yield Call(self._registry, "update", (successor, entry, now))
        return self._outcome(decided, outcome, base)

    def rotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        """See `Storage.rotate`. Raises `SessionConflict`."""
        entry = entry_of(base)
        self._check_known(base, now)
        issued: Updated = yield Call(self._data, "create", (record, now))
        first = self._rotated_entry(issued.record, base, now)
        decided: Outcome | Taken = yield Call(
            self._registry, "rotate", (first, entry, tombstone, now)
        )
        return decided if isinstance(decided, Taken) else self._outcome(decided, issued, base)

    def delete(self, session_id: str) -> Flow[bool]:
        """See `Storage.delete`."""
        had_entry: bool = yield Call(self._registry, "delete", (session_id,))
        yield Call(self._data, "delete", (session_id,))
        return had_entry

    def end_many(self, session_ids: Sequence[str]) -> Flow[Collection[str]]:
        """See `Storage.end_many`. Only the browsers have the data."""
        ended: Collection[str] = yield Call(self._registry, "end_many", (session_ids,))
        return ended

    def _next_entry(self, record: Record, entry: Record, now: int) -> Record:
        """Return the entry of a record that was encrypted into a key, to replace ``entry``."""
        save, journal = self._save(record, now), Journal.unpack(entry.payload)
        if journal is None:
            journal = Journal.start(save)
        else:
            journal = journal.add(save, record.changes, now - self._memory)
        return _with_journal(record, journal)

    def _rotated_entry(self, record: Record, base: Record, now: int) -> Record:
        """Return the entry of a session under its new id.

        It knows what the rotation changed, for a request that has the key from before the rotation
        and may continue under the new id, see `follow`.
        """
        handle = base.handle
        before = None
        if isinstance(handle, Handle) and handle.known is not None:
            before = _reencrypt_journal(Journal.unpack(handle.entry.payload), base.id, record.id)
        save = self._save(record, now)
        if before is None:
            return _with_journal(record, Journal.start(save))
        return _with_journal(record, before.add(save, record.changes, now - self._memory))

    def _save(self, record: Record, now: int) -> Save:
        return Save(record.version, now, self._data.mark(record))

    def _check_known(self, base: Record, now: int) -> None:
        """Raise `SessionConflict` if a save would overwrite changes that a key does not know."""
        handle: Handle = base.handle
        journal = Journal.unpack(handle.entry.payload)
        if not handle.known and journal and not journal.is_quiet(now - self._memory):
            raise SessionConflict(_UNKNOWN_CHANGES)

    def _outcome(self, decided: Outcome, issued: Updated, base: Record) -> Outcome:
        """Return what the registry's decision means for a record that was encrypted into a key.

        Raises `SessionConflict` if the registry does not know what to merge with.
        """
        if isinstance(decided, Updated):
            return combine_outcomes(issued, decided)
        if isinstance(decided, Gone) or decided.current.state is not State.LIVE:
            return decided
        handle: Handle = base.handle
        missed = _missed_changes(decided.current, handle.known)
        return Conflict(_bring_forward(base, decided.current, missed))


def _with_journal(record: Record, journal: Journal) -> Record:
    """Return the entry of a record that was encrypted into a key."""
    return msgspec.structs.replace(without_payload(record), payload=journal.pack())


def _missed_changes(entry: Record, known: tuple[int, bytes] | None) -> tuple[Change, ...]:
    """Return the changes since the save ``known``. Raises `SessionConflict` if they are unknown."""
    journal = Journal.unpack(entry.payload)
    missed = journal.changes_since(*known) if journal and known else None
    if missed is None:
        raise SessionConflict(_UNKNOWN_CHANGES)
    return missed


def _bring_forward(record: Record, entry: Record, missed: tuple[Change, ...]) -> Record:
    """Return the record as the registry knows it, with the changes that it has missed."""
    forward = msgspec.structs.replace(
        record,
        version=entry.version,
        # A key is not accepted for longer than it says itself.
        expires=min(record.expires, entry.expires),
        user_id=entry.user_id,
        created=entry.created,
        last_activity=last_activity_of(record, entry),
        ip=entry.ip,
        user_agent=entry.user_agent,
        pending=(*record.pending, *missed),
    )
    return with_entry(forward, entry, newest_save(entry))


def _reencrypt_journal(journal: Journal | None, old: str, new: str) -> Journal | None:
    """Return the journal encrypted for another session id; ``None`` if it cannot be decrypted."""
    if journal is None:
        return None
    codec, changes = conf.codec(), dict[bytes, tuple[int, bytes]]()
    try:
        for digest, (version, change) in journal.changes.items():
            opened = codec.decrypt(change_context(old, version), change)
            changes[digest] = version, codec.encrypt(change_context(new, version), opened)
    except UnreadablePayload:
        return None
    return Journal(journal.saves, changes)
