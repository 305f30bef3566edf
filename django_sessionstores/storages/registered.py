"""A registry beside a storage: which sessions there are, whose they are, and which have ended."""

from __future__ import annotations

import logging
from typing import Any, Final, NamedTuple

import msgspec

from ..exceptions import SessionConflict
from ..flow import Call, Flow, arun, run
from ..records import Record, State, bare
from .base import Conflict, Gone, Outcome, Page, Storage, Taken, Updated

logger: Final = logging.getLogger("django_sessionstores")

_MOST_CHANGES: Final = 8192
"""Bytes of changes that an entry keeps; the oldest go first."""

_Change = tuple[int, int, bytes]
"""The version that a save made, when, and what it changed."""

_encode_changes = msgspec.msgpack.Encoder().encode
_decode_changes = msgspec.msgpack.Decoder(list[_Change]).decode


class _Handle(NamedTuple):
    """What belongs to a record that was handed out."""

    own: Any
    """The handle of the storage that has the data."""
    entry: Record
    """What the registry had of the session."""


class Registered(Storage):
    """Records in ``data``, and an entry without data for each of them in ``registry``.

    A record counts only while the registry has its entry. So ending a session is deleting its
    entry, wherever the data is; and a registry that does not answer is an outage.

    Where ``data`` compares versions by itself, the entry follows: it knows the user, the client
    and the expiry. Where the key holds the record, any number of keys of a session are about, and
    the registry decides which is the newest. It keeps what the saves of the last ``window``
    seconds changed, a few sealed bytes each. So a request with an older key sees what was saved
    since, and what two requests save at once is merged, whichever cookie the browser gets last.
    A key older than that is taken as it is: the newer ones evidently did not arrive.
    """

    def __init__(self, data: Storage, registry: Storage, *, window: float) -> None:
        self.data = data
        self.registry = registry
        self._window = int(window * 1000)
        self.native_async = data.native_async and registry.native_async
        self.shared = data.shared and registry.shared
        self.durable = data.durable and registry.durable
        self.self_expiring = data.self_expiring and registry.self_expiring
        self.max_payload = data.max_payload
        self.lists = registry.lists
        self.holds_in_key = self.keeps_changes = data.holds_in_key

    def describe(self) -> str:
        return f"{self.data.describe()}, registered in {self.registry.describe()}"

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
        missed = _changes_since(record.version, entry)
        if missed is None:
            logger.info(
                "Session %s: its cookie is older than what its registry remembers of changes. "
                "It is taken as it is.",
                record.id,
            )
        return self._brought_forward(record, entry, missed or ())

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        created: Updated | Taken = yield Call(self.data, "create", (record, now))
        if isinstance(created, Taken):
            return created
        registered: Updated | Taken = yield Call(
            self.registry, "create", (self._entry(record, now), now)
        )
        if isinstance(registered, Taken):
            yield Call(self.data, "delete", (record.id,))
            return registered
        return _updated(created, registered.record)

    def _update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        entry = _entry_of(base)
        outcome: Outcome = yield Call(self.data, "update", (record, _own(base), now))
        if isinstance(outcome, Conflict):
            return Conflict(_with_entry(outcome.current, entry))
        if isinstance(outcome, Gone):
            return outcome
        if self.holds_in_key:
            decided: Outcome = yield Call(
                self.registry, "update", (self._entry(record, now, entry), entry, now)
            )
            return self._decided(decided, outcome, base)
        followed = yield from self._follow(record, entry, now)
        return Gone() if followed is None else _updated(outcome, followed)

    def _follow(self, record: Record, entry: Record, now: int) -> Flow[Record | None]:
        """Bring an entry up to date with a record that was saved; ``None`` if there is none."""
        while _has_drifted(record, entry):
            successor = self._entry(record, now, version=entry.version + 1)
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
            issued: Updated = yield Call(self.data, "create", (record, now))
            decided: Outcome | Taken = yield Call(
                self.registry, "rotate", (self._entry(record, now), entry, grave, now)
            )
            return decided if isinstance(decided, Taken) else self._decided(decided, issued, base)
        # The entry comes first and the tombstone last: whatever fails in between, the session
        # can be read under one of the two ids.
        registered: Updated | Taken = yield Call(
            self.registry, "create", (self._entry(record, now), now)
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
            yield Call(self.registry, "update", (grave, entry, now))
            return _updated(outcome, registered.record)
        yield Call(self.registry, "delete", (record.id,))
        if isinstance(outcome, Conflict):
            return Conflict(_with_entry(outcome.current, entry))
        return outcome

    def _touch(self, base: Record, expires: int, last_activity: int, now: int) -> Flow[bool]:
        times = (expires, last_activity, now)
        touched: bool = yield Call(self.data, "touch", (_own(base), *times))
        return touched and (yield Call(self.registry, "touch", (_entry_of(base), *times)))

    def _delete(self, session_id: str) -> Flow[None]:
        # What has no entry is ended, even if the data cannot be reached.
        yield Call(self.registry, "delete", (session_id,))
        yield Call(self.data, "delete", (session_id,))

    def _purge(self, now: int, batch: int) -> Flow[int]:
        purged: int = yield Call(self.data, "purge", (now, batch))
        entries: int = yield Call(self.registry, "purge", (now, batch))
        return purged + entries

    # --- Entries ---------------------------------------------------------------------------

    def _entry(
        self, record: Record, now: int, former: Record | None = None, version: int | None = None
    ) -> Record:
        """The registry's entry for a record that is being written in place of ``former``."""
        return msgspec.structs.replace(
            record,
            payload=self._journal(record, now, former) if self.keeps_changes else b"",
            version=version or record.version,
            handle=None,
            changes=b"",
            pending=(),
        )

    def _journal(self, record: Record, now: int, former: Record | None) -> bytes:
        """The changes of the last ``window`` seconds, with those of ``record``."""
        if former is None:
            return b""
        kept = [change for change in _changes(former) if change[1] > now - self._window]
        kept.append((record.version, now, record.changes))
        while sum(len(changed) for _, _, changed in kept) > _MOST_CHANGES:
            del kept[0]
        return _encode_changes(kept)

    def _decided(self, decided: Outcome, issued: Updated, base: Record) -> Outcome:
        """What the registry's decision means for a record that was sealed into a key.

        Raises `SessionConflict` where the registry has forgotten what to merge with.
        """
        if isinstance(decided, Updated):
            return _updated(issued, decided.record)
        if isinstance(decided, Gone) or decided.current.state is not State.LIVE:
            return decided
        missed = _changes_since(base.version, decided.current)
        if missed is None:
            raise SessionConflict(
                "Another request has saved the session, and its registry no longer knows what "
                "was changed. Raise SESSIONSTORES['MERGE_WINDOW'] above the time that requests "
                "take, and change less than 8 kB at once."
            )
        return Conflict(self._brought_forward(base, decided.current, missed))

    @staticmethod
    def _brought_forward(record: Record, entry: Record, missed: tuple[bytes, ...]) -> Record:
        """The record as the registry knows it, with the changes that it has missed."""
        is_behind = entry.version > record.version
        return msgspec.structs.replace(
            record,
            version=max(record.version, entry.version),
            expires=entry.expires if is_behind else record.expires,
            user_id=entry.user_id if is_behind else record.user_id,
            last_activity=max(record.last_activity, entry.last_activity),
            ip=entry.ip,
            user_agent=entry.user_agent,
            pending=(*record.pending, *missed),
            handle=_Handle(_own(record).handle, entry),
        )

    def lookup(self, session_id: str) -> Record | None:
        return self._listed(self.registry.lookup(session_id))

    async def alookup(self, session_id: str) -> Record | None:
        return self._listed(await self.registry.alookup(session_id))

    @staticmethod
    def _listed(entry: Record | None) -> Record | None:
        return None if entry is None else bare(entry)

    def scan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        return self.registry.scan(cursor, limit, user_id)

    async def ascan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        return await self.registry.ascan(cursor, limit, user_id)

    def count(self, now: int, user_id: str | None) -> int:
        return self.registry.count(now, user_id)

    async def acount(self, now: int, user_id: str | None) -> int:
        return await self.registry.acount(now, user_id)

    # Each flow under its two drivers.

    def read(self, locator: str) -> Record | None:
        return run(self._read(locator))

    async def aread(self, locator: str) -> Record | None:
        return await arun(self._read(locator))

    def create(self, record: Record, now: int) -> Updated | Taken:
        return run(self._create(record, now))

    async def acreate(self, record: Record, now: int) -> Updated | Taken:
        return await arun(self._create(record, now))

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        return run(self._update(record, base, now))

    async def aupdate(self, record: Record, base: Record, now: int) -> Outcome:
        return await arun(self._update(record, base, now))

    def rotate(self, record: Record, base: Record, grave: Record, now: int) -> Outcome | Taken:
        return run(self._rotate(record, base, grave, now))

    async def arotate(
        self, record: Record, base: Record, grave: Record, now: int
    ) -> Outcome | Taken:
        return await arun(self._rotate(record, base, grave, now))

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        return run(self._touch(base, expires, last_activity, now))

    async def atouch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        return await arun(self._touch(base, expires, last_activity, now))

    def delete(self, session_id: str) -> None:
        run(self._delete(session_id))

    async def adelete(self, session_id: str) -> None:
        await arun(self._delete(session_id))

    def purge(self, now: int, batch: int) -> int:
        return run(self._purge(now, batch))

    async def apurge(self, now: int, batch: int) -> int:
        return await arun(self._purge(now, batch))

    def close(self) -> None:
        self.data.close()
        self.registry.close()


def _with_entry(record: Record, entry: Record) -> Record:
    return msgspec.structs.replace(record, handle=_Handle(record.handle, entry))


def _updated(outcome: Updated, entry: Record) -> Updated:
    return Updated(_with_entry(outcome.record, entry), outcome.key)


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


def _changes(entry: Record) -> list[_Change]:
    if not entry.payload:
        return []
    try:
        return _decode_changes(entry.payload)
    except msgspec.DecodeError:
        return []


def _changes_since(version: int, entry: Record) -> tuple[bytes, ...] | None:
    """What was saved after ``version``, the oldest first; ``None`` if some of it is forgotten."""
    if version >= entry.version:
        return ()
    newer = [change for change in _changes(entry) if change[0] > version]
    if [change[0] for change in newer] != list(range(version + 1, entry.version + 1)):
        return None
    return tuple(changed for _, _, changed in newer)
