"""The migration of a session from a previous backend at the moment when a request needs it.

The order of the steps makes it safe, even if other requests do the same at the same time:

Migrate
    Look in the storage in use, then in the previous backends. Create the record, which only one of
    several requests can do. Then remove the session from the previous backend. So a session is
    always in at least one of the two. A request that finds it in neither looks into the storage in
    use once more, because another request may have moved the session in between. A crash between
    the last two steps leaves a copy in the previous backend.
End
    Remove the session from the previous backends. Then replace it by a tombstone in the storage in
    use, in one step: between two steps, a copy in the previous backend would be migrated again,
    without later changes. A copy that was left there, or that another request has already read,
    cannot be migrated, because its record would have to be created, and the tombstone prevents
    that. So do the tombstones of keys that were rotated. They last as long as the session would
    have, and at least ``SESSION_COOKIE_AGE``.

If the backend in use stores sessions in their keys, the browser gets a new key, but the response
with the key may be lost. So the session stays in the previous backend until it expires there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Final, NamedTuple

import msgspec
from django.conf import settings as django_settings

from ..conf import codec, previous_backend, reset_on_change, settings
from ..core import clock
from ..core.flow import Call, Flow, Pause, arun, run
from ..core.records import (
    Record,
    SecretText,
    State,
    derived_key,
    draw_key,
    is_well_formed,
    make_tombstone,
    next_version_for,
    session_id,
)
from ..exceptions import PayloadTooLarge, StorageUnavailable, UnreadablePayload
from ..storages.base import Found, Outcome, Storage, Taken, Updated
from ..storages.composed import Wrapper
from ..storages.tombstones import extend_until, leave_tombstone
from .sources import ForeignSession, PreviousSession, Source, open_source

_ROUNDS: Final = 5
"""How often a session that another request migrates is read, until the store shows it."""
_PAUSE: Final = 0.01
"""The first pause, in seconds. The last one is 16 times as long."""


@cache
def sources() -> tuple[Source, ...]:
    """Return the backends of ``MIGRATE_FROM``. Raises ``ImproperlyConfigured``."""
    return tuple(open_source(previous_backend(entry)) for entry in settings.MIGRATE_FROM)


@reset_on_change(
    "SESSION_ENGINE",
    "SESSION_CACHE_ALIAS",
    "SESSION_FILE_PATH",
    "SESSION_SERIALIZER",
    "SESSION_COOKIE_AGE",
    "CACHES",
    "DATABASES",
)
def _forget_sources() -> None:
    if sources.cache_info().currsize:
        for source in sources():
            source.close()
        sources.cache_clear()


class MigratingStorage(Wrapper):
    """A storage that looks for an unknown session in the previous backends."""

    # --- Finding ---------------------------------------------------------------------------

    def key_of(self, cookie: str) -> str | None:
        key = self.inner.key_of(cookie)
        if key is None and any(source.in_key for source in sources()):
            return derived_key(cookie)
        return key

    def identify(self, key: str) -> str | None:
        # If the storage in use has never issued the key, a previous backend may have.
        return self.inner.identify(key) or _id_of(key)

    def stated_id(self, key: str) -> str | None:
        return session_id(key) if is_well_formed(key) else self.inner.stated_id(key)

    def find(self, key: str, cookie: str) -> Found:
        return run(self._find(SecretText(key), SecretText(cookie)))

    async def afind(self, key: str, cookie: str) -> Found:
        return await arun(self._find(SecretText(key), SecretText(cookie)))

    def _find(self, key: SecretText, cookie: SecretText) -> Flow[Found]:
        failure = None
        try:
            found = yield from self._calls.find(key, cookie)
        except UnreadablePayload as error:
            if not self.holds_in_key:
                raise
            # It may be a key of a previous backend.
            found, failure = Found(None), error
        if found.record is not None:
            return msgspec.structs.replace(
                found, record=_with_effective_state(found.record, clock.now())
            )
        is_foreign = self.inner.key_of(cookie) is None
        return (yield from self._migrate(key, cookie if is_foreign else None, failure))

    def peek(self, key: str) -> Record | None:
        return run(self._peek(SecretText(key)))

    async def apeek(self, key: str) -> Record | None:
        return await arun(self._peek(SecretText(key)))

    def _peek(self, key: SecretText) -> Flow[Record | None]:
        record = yield from self._calls.peek(key)
        if record is not None:
            return _with_effective_state(record, clock.now())
        for source in sources() if is_well_formed(key) else ():
            if source.in_key:
                continue
            with suppress(UnreadablePayload):
                found: PreviousSession | None = yield Call(source, "find", (key,))
                if found is not None:
                    return found.record
        return None

    def _read(self, locator: str) -> Flow[Record | None]:
        record = yield from self._calls.read(locator)
        return None if record is None else _with_effective_state(record, clock.now())

    # --- Migrating -------------------------------------------------------------------------

    def _migrate(
        self, key: SecretText, cookie: SecretText | None, failure: UnreadablePayload | None
    ) -> Flow[Found]:
        """Store a session of a previous backend in the storage in use.

        ``cookie`` is the value that the browser has sent, if that is not a session key; ``key`` is
        derived from it then. ``failure`` says why the storage in use cannot read the key.
        """
        presented, asked, tombstone = cookie or key, False, None
        is_plain = cookie is None and is_well_formed(key)
        record_id = session_id(key) if cookie else _id_of(key)
        for source in sources():
            if source.in_key is is_plain:
                continue
            asked = True
            try:
                found: PreviousSession | None = yield Call(source, "find", (presented,))
                if found is None or found.record.expires <= clock.now():
                    continue
                if found.record.state is not State.LIVE:
                    tombstone = _with_effective_state(found.record, clock.now())
                    break
                record = record_of(self.inner, record_id, found)
                outcome = yield from self._calls.create(record, clock.now())
            except UnreadablePayload as error:
                failure = error
                continue
            except PayloadTooLarge as error:
                failure = UnreadablePayload(str(error))
                continue
            if self.holds_in_key:
                return (yield from self._issue_key(record, outcome))
            if isinstance(outcome, Taken):
                current = yield from self._record_of_other_request(record)
                return Found(_with_effective_state(current, clock.now()))
            yield from self._remove(source, presented, outcome)
            return Found(outcome.record, is_provisional=outcome.is_provisional)
        if asked and not self.holds_in_key:
            record_in_use = yield from self._calls.read(self.locate(key))
            if record_in_use is not None:
                return Found(_with_effective_state(record_in_use, clock.now()))
        if failure is not None:
            raise failure
        return Found(tombstone)

    def _record_of_other_request(self, record: Record) -> Flow[Record]:
        """Return the record that another request has stored with the id of ``record``.

        Raises `StorageUnavailable` if it cannot be read yet, because the session does exist.
        """
        for attempt in range(_ROUNDS):
            if attempt:
                yield Call(Pause, "sleep", (_PAUSE * 2**attempt,))
            current = yield from self._calls.read_latest(record.id)
            if current is None:
                current = yield from self._calls.lookup(record.id)
                if current is not None and current.state is State.LIVE:
                    current = None
            if current is not None:
                return current
        raise StorageUnavailable(
            f"{self.describe()} has a session that another request is migrating, and does not "
            "show it yet."
        )

    def _remove(self, source: Source, key: SecretText, outcome: Updated) -> Flow[None]:
        """Remove a session from the previous backend, when the new record is committed.

        If the backend does not answer, the session stays there, like a copy after a crash.
        """
        if not outcome.is_provisional:
            with suppress(StorageUnavailable):
                yield Call(source, "remove", (key,))
            return

        def remove() -> None:
            with suppress(StorageUnavailable):
                source.remove(key)

        yield from self._calls.after_commit(remove)

    def _issue_key(self, record: Record, outcome: Updated | Taken) -> Flow[Found]:
        """Return a key that holds the session, for each request with the old key."""
        if isinstance(outcome, Updated):
            return Found(outcome.record, outcome.key, outcome.is_provisional)
        # Another request has registered the session. This one makes a key with the same data.
        issued = yield from self._calls.issue(record, clock.now())
        token = SecretText(issued.key)
        current = yield from self._calls.read_latest(self.locate(token))
        if current is None or current.state is not State.LIVE:
            return Found(current and _with_effective_state(current, clock.now()))
        return Found(current, token)

    # --- Ending ----------------------------------------------------------------------------

    def end(self, session_id: str, presented: str | None) -> bool:
        return run(self._end(session_id, presented))

    async def aend(self, session_id: str, presented: str | None) -> bool:
        return await arun(self._end(session_id, presented))

    def _end(self, session_id: str, presented: str | None) -> Flow[bool]:
        """End a session, so that no copy in a previous backend comes back.

        Without the key, Django's backends can neither find nor remove the session. Then only the
        tombstone keeps it from coming back, and the answer is that no live session was there.
        """
        elsewhere = yield from self._end_in_sources(session_id, presented)
        if elsewhere.is_foreign and not elsewhere.was_there:
            # Only another site can migrate it, and a tombstone would prevent that.
            return (yield from self._calls.end(session_id, presented))
        seconds = longest_seconds()
        tombstone = make_tombstone(session_id, State.ENDED, now=clock.now(), seconds=seconds)
        tombstone = extend_until(tombstone, elsewhere.expires)
        left = yield from leave_tombstone(self.inner, tombstone, outlasts=True)
        # If there was a tombstone already, the session had ended before.
        return left.has_ended or (elsewhere.was_there and left.is_stored)

    def _end_in_sources(self, session_id: str, presented: str | None) -> Flow[PreviousCopies]:
        """Remove a session from the previous backends.

        In a transaction of the caller, it is removed when the transaction commits. Sessions of
        other sites stay.
        """
        was_there, is_foreign, expires = False, False, 0
        removals: list[Callable[[], object]] = []
        is_provisional = yield from self._calls.in_transaction()
        for source in sources():
            if presented is not None and source.in_key is is_well_formed(presented):
                continue
            try:
                record = yield from _record_in(source, session_id, presented)
            except ForeignSession:
                is_foreign = True
                continue
            except UnreadablePayload:
                record = None
            if record is not None and record.is_live(clock.now()):
                was_there, expires = True, max(expires, record.expires)
            remove, subject = "remove_id", session_id
            if presented is not None:
                remove, subject = "remove", SecretText(presented)
            if is_provisional:
                removals.append(partial(getattr(source, remove), subject))
            else:
                yield Call(source, remove, (subject,))
        if removals:
            yield from self._calls.after_commit(partial(_remove_all, removals))
        return PreviousCopies(was_there, expires, is_foreign)

    def _delete(self, session_id: str) -> Flow[bool]:
        return self._end(session_id, None)

    def end_many(self, session_ids: Sequence[str]) -> Collection[str]:
        # Each end takes several calls. In the order of the ids, so that no two requests wait for
        # each other's rows.
        return self.inner.end_each(sorted(session_ids), lambda each: self._end(each, None))

    async def aend_many(self, session_ids: Sequence[str]) -> Collection[str]:
        return await self._in_thread(self.end_many)(session_ids)

    def _rotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        return self._calls.rotate(record, base, _extend_tombstone(tombstone, now, base), now)

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        return self._calls.create(_extend_tombstone(record, now), now)

    def _update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        return self._calls.update(_extend_tombstone(record, now, base), base, now)


def _record_in(source: Source, session_id: str, presented: str | None) -> Flow[Record | None]:
    """Return the record of a session in a previous backend, by its key if the caller has it."""
    if presented is None:
        known: Record | None = yield Call(source, "lookup", (session_id,))
        return known
    found: PreviousSession | None = yield Call(source, "find", (SecretText(presented),))
    return None if found is None else found.record


class PreviousCopies(NamedTuple):
    """The copies that previous backends had of a session that was ended."""

    was_there: bool
    expires: int
    """When the last copy would have expired, in milliseconds since the epoch; 0 if there was none,
    or if that is not known."""
    is_foreign: bool
    """Whether there is a session of another site with the same key."""


def _remove_all(removals: Iterable[Callable[[], object]]) -> None:
    # The request has been answered. The tombstone prevents that a copy that stays is migrated.
    for remove in removals:
        with suppress(StorageUnavailable):
            remove()


def _id_of(key: str) -> str:
    """Return the id under which a session of a previous backend is stored here."""
    return session_id(key if is_well_formed(key) else derived_key(key))


def longest_seconds() -> float:
    """Return for how many seconds a previous backend may have a copy of an unknown session."""
    return max(settings.TOMBSTONE_AGE, django_settings.SESSION_COOKIE_AGE)


def _extend_tombstone(record: Record, now: int, base: Record | None = None) -> Record:
    """Return a tombstone that lasts as long as a copy of its session may; live records unchanged.

    ``base`` is the record that it replaces.
    """
    if record.state is State.LIVE:
        return record
    expires = now + int(longest_seconds() * 1000)
    return extend_until(record, max(expires, base.expires if base else 0))


def _with_effective_state(record: Record, moment: int) -> Record:
    """Return the record with the state that it has at ``moment``.

    A key that was superseded some time ago has ended. Its tombstone would have expired by then, but
    it is kept for longer, see `_extend_tombstone`.
    """
    seconds = settings.TOMBSTONE_AGE
    if record.state is State.ROTATED:
        seconds += settings.ROTATION_GRACE
    is_tombstone = record.state in {State.SUPERSEDED, State.ROTATED}
    if is_tombstone and record.last_activity + seconds * 1000 <= moment:
        return msgspec.structs.replace(record, state=State.ENDED, payload=b"")
    return record


def record_of(storage: Storage, record_id: str, found: PreviousSession) -> Record:
    """Return the record to store for a session that a previous backend has.

    Raises `UnreadablePayload` and `PayloadTooLarge`.
    """
    record, snapshot, payload = found.record, found.snapshot, found.record.payload
    if snapshot is None and storage.holds_in_key:
        snapshot = codec().decrypt(record.id, payload)
    if snapshot is not None:
        payload = storage.codec.encrypt(record_id, snapshot)
    if storage.max_payload is not None and len(payload) > storage.max_payload:
        raise PayloadTooLarge(
            f"The session takes {len(payload)} bytes, and {storage.describe()} accepts "
            f"{storage.max_payload}."
        )
    return msgspec.structs.replace(
        record,
        id=record_id,
        payload=payload,
        version=next_version_for(record, 0),
        expires=min(record.expires, settings.timeouts.end(record.created, record.last_activity)),
        site=storage.sites()[0],
        handle=None,
        changes=(),
        pending=(),
        # Other requests may store the same session under the same id, and be rolled back.
        origin=session_id(draw_key()),
    )
