"""The behaviour of every engine, written once: load, merge, save, rotate, expire.

What needs a storage is a flow (see `flow`), so that the sync and the async methods cannot differ.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from threading import RLock
from typing import Any, ClassVar, Final, TypeGuard, TypeVar, cast

from django.conf import settings as django_settings
from django.contrib.sessions.backends.base import CreateError, SessionBase
from django.dispatch import Signal
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.module_loading import import_string

from . import adoption, in_use, lifetime, limits, secret_rotation, signals
from .codec import Codec, Snapshot, change_context, newest_data
from .conf import bare_codec, codec, key_ring, merge_functions, reset_on_change, settings
from .exceptions import (
    PartlyEnded,
    PayloadTooLarge,
    SessionConflict,
    SessionEnded,
    SessionLimitReached,
    StorageUnavailable,
    UnreadablePayload,
    UnserializableValue,
)
from .flow import Call, Flow, Pause, arun, run
from .merge import AUTH_KEYS, AUTHENTICATED_AT, changes, merge
from .records import (
    Changes,
    Client,
    Record,
    SecretText,
    State,
    draw_key,
    hidden,
    is_well_formed,
    moved,
    session_id,
    tombstone,
)
from .storages.base import Conflict, Gone, Storage, Taken, Updated

security_logger = logging.getLogger("django.security.SuspiciousSession")

T = TypeVar("T")

_PURGE_BATCH: Final = 1000
_NEW_KEY_TRIES: Final = 3
_RENEWED: Final = "_session_renewed"
"""The key of a session's data that tells when its session key was renewed, in milliseconds."""
_HARMLESS_TO_READERS: Final = (SessionEnded, SessionConflict, StorageUnavailable)


def now() -> int:
    """Milliseconds since the epoch: the clock that decides what is expired."""
    return time.time_ns() // 1_000_000


class SessionStore(SessionBase):
    """A session over a `Storage`. An engine is a subclass that says which.

    The class must be called ``SessionStore`` in each engine's module: Django looks it up by that
    name, and derives from it the salt under which its own engines read each other's data.
    """

    _storages: ClassVar[dict[type[SessionStore], Storage]] = {}
    # An engine may ask another one for its storage while it makes its own.
    _storages_lock: ClassVar[RLock] = RLock()

    # What is known of the stored session. All of it belongs to the current key.
    _record: Record | None
    """The record as loaded or last saved; ``None`` where nothing is known to be stored."""
    _base: Snapshot | None
    """The data of that record: what changes are merged against."""
    _reference: Snapshot | None
    """What `modified` compares with: `_base`, or the data when someone set it to False."""
    _predecessor: Record | None
    """The record of the former key, which the next save supersedes."""
    _predecessor_key: str | None
    _cycles: int
    """How often the key was cycled since the last save."""
    _renewal: int | None
    """When the key was drawn, if because the former one had grown old: the save lets that go on
    for a grace."""
    _is_old: bool
    """The key is older than `RENEW_AGE`: the next save renews it."""
    _unstored: bool
    """The key was drawn here and nothing is stored under it yet."""
    _stored_here: bool
    """The record was written or touched by this object, which proves that the session lives."""
    _state: State
    """What the storage said of the key; anything but live makes saving an error."""
    _unreadable: bool
    """There is a record that could not be read: leave it alone, and save under a new key."""
    _is_outdated: bool
    """The record should be stored anew: under a newer key, or with changes merged into it."""
    _flushed_id: str | None
    """The session that this request deleted. Not of the current key: it outlives it."""
    _former_cookie: SecretText | None
    """What the browser sent as the key of a former engine; the key is derived from it."""

    # What a middleware says and is told, where it does more than Django's.
    client: Client | Callable[[], Client] | None = None
    """Who the request came from; called when a record is written or compared."""
    cookie_is_optional: bool = False
    """Whether the cookie is sent only where `cookie_is_due`, not after each save."""
    cookie_is_due: bool = False
    """Whether a save gave the browser something to learn: a key, or a later expiry."""
    anonymous_on_outage: bool = False
    """Whether a session that cannot be read for an outage is empty, and cannot be saved."""
    outage: StorageUnavailable | None = None
    """The last outage that this session met."""

    def __init__(self, session_key: str | None = None) -> None:
        # Not calling SessionBase, which would import the serializer for each request.
        self.accessed = False
        self._modified = False
        self._flushed_id = None
        self._session_key = session_key
        if session_key is not None and self.session_key is None:
            # No key of this engine's, but perhaps of a former one.
            self._session_key = adoption.key_in_use(session_key)
            self._former_cookie = SecretText(session_key)
        in_use.add(self)

    @classmethod
    def make_storage(cls) -> Storage:
        """The storage of this engine, from settings. Called once per process."""
        raise NotImplementedError("an engine must provide make_storage()")

    @classmethod
    def storage(cls) -> Storage:
        """The storage of this engine, the same one for the whole process."""
        storage = SessionStore._storages.get(cls)
        if storage is None:
            with SessionStore._storages_lock:
                storage = SessionStore._storages.get(cls) or cls.make_storage()
                storage = SessionStore._storages.setdefault(cls, storage)
        return storage

    @cached_property
    def serializer(self) -> Any:
        # Only for encode() and decode(), the text form of Django's own engines.
        return import_string(django_settings.SESSION_SERIALIZER)

    # --- Keys ------------------------------------------------------------------------------

    def _validate_session_key(self, key: object) -> bool:
        return is_well_formed(key)

    def _set_session_key(self, value: str | None) -> None:
        super()._set_session_key(value)
        self._former_cookie = None
        self._forget()

    def _forget(self) -> None:
        """Know nothing of what is stored under the key."""
        self._record = self._base = self._reference = None
        self._predecessor = self._predecessor_key = None
        self._cycles = 0
        self._renewal = None
        self._unstored = self._stored_here = self._unreadable = self._is_outdated = False
        self._is_old = False
        self._state = State.LIVE

    _session_key = property(SessionBase._get_session_key, _set_session_key)

    def _get_new_session_key(self) -> str:
        # No probe whether it is free: create() finds out in the same trip.
        return draw_key()

    def _get_or_create_session_key(self) -> str:
        if self.session_key is None:
            self._adopt_key(draw_key())
        return cast("str", self.session_key)

    async def _aget_or_create_session_key(self) -> str:
        return self._get_or_create_session_key()

    async def _aget_new_session_key(self) -> str:
        return draw_key()

    @property
    def session_id(self) -> str | None:
        """The id under which the session is stored and listed, for logs and other tables.

        Unlike the key it is no secret. It stays until the key is cycled, as a login does.
        """
        key = self.session_key
        if key is None:
            return None
        if self._unstored:
            return session_id(key)
        return self._record.id if self._record else self.storage().identify(key)

    @property
    def has_new_key(self) -> bool:
        """Whether the key was drawn here, and nothing is stored under it yet."""
        return self._unstored

    @property
    def stored_ids(self) -> set[str]:
        """The ids under which the session is stored, or will be: two, once its key was cycled."""
        known = {each.id for each in (self._record, self._predecessor) if each}
        return known | ({self.session_id} if self.session_id else set())

    # --- What changed ----------------------------------------------------------------------

    @property
    def modified(self) -> bool:
        """True when set, or when the data is no longer what was loaded, at any depth.

        Also when the stored session is not up to date with its keys or its client. Setting it to
        False dismisses the changes made so far, until the next one.
        """
        return (
            self._modified
            or self._has_changed()
            or self._is_outdated
            or self._is_old
            or self._has_moved()
            or self._is_idling()
        )

    @modified.setter
    def modified(self, value: bool) -> None:
        if not value and self.modified and "_session_cache" in self.__dict__:
            # What cannot be kept cannot be compared either. Saving it says what is wrong.
            with suppress(UnserializableValue):
                self._reference = codec().freeze(self._session_cache)
        self._modified = bool(value)

    def _has_changed(self) -> bool:
        data = self.__dict__.get("_session_cache")
        if data is None:
            return False
        if self._reference is None:
            return bool(data)
        return not codec().matches(self._reference, data)

    def _has_moved(self) -> bool:
        """Whether the client is another one, and the last write so long ago that it may follow."""
        record = self._record
        if self.client is None or record is None or not self.storage().keeps_client:
            return False
        if now() - record.last_activity < settings.TOUCH_INTERVAL * 1000:
            return False
        return self._client(record) != (record.ip, record.user_agent)

    def _is_idling(self) -> bool:
        """Whether reading has to move the end of the session."""
        return bool(settings.IDLE_AGE and self._record and self._is_due(self._record))

    def _client(self, base: Record | None) -> Client:
        if self.client is None:
            return Client(base.ip, base.user_agent) if base else Client("", "")
        return self.client() if callable(self.client) else self.client

    async def adelete_test_cookie(self) -> None:
        # Django's forgets to set ``modified``.
        await self.apop(self.TEST_COOKIE_NAME)

    # --- Expiry ----------------------------------------------------------------------------

    def get_expiry_age(self, **kwargs: Any) -> int:
        """Seconds until the session expires. See Django's documentation."""
        if "expiry" not in kwargs:
            kwargs["expiry"] = self.get("_session_expiry")
        return self._expiry(lifetime.expiry_age, **kwargs)

    async def aget_expiry_age(self, **kwargs: Any) -> int:
        """See `get_expiry_age`."""
        if "expiry" not in kwargs:
            kwargs["expiry"] = await self.aget("_session_expiry")
        return self._expiry(lifetime.expiry_age, **kwargs)

    def get_expiry_date(self, **kwargs: Any) -> datetime:
        """When the session expires. See Django's documentation."""
        if "expiry" not in kwargs:
            kwargs["expiry"] = self.get("_session_expiry")
        return self._expiry(lifetime.expiry_date, **kwargs)

    async def aget_expiry_date(self, **kwargs: Any) -> datetime:
        """See `get_expiry_date`."""
        if "expiry" not in kwargs:
            kwargs["expiry"] = await self.aget("_session_expiry")
        return self._expiry(lifetime.expiry_date, **kwargs)

    def _expiry(
        self,
        of: Callable[[lifetime.Expiry, datetime, int], T],
        expiry: lifetime.Expiry,
        modification: datetime | None = None,
    ) -> T:
        return of(expiry, modification or timezone.now(), self.get_session_cookie_age())

    def deadlines(self) -> lifetime.Deadlines | None:
        """When the session ends, and how; ``None`` for one that is not stored."""
        return self._deadlines(self.get("_session_expiry"))

    async def adeadlines(self) -> lifetime.Deadlines | None:
        """See `deadlines`."""
        return self._deadlines(await self.aget("_session_expiry"))

    def _deadlines(self, expiry: lifetime.Expiry) -> lifetime.Deadlines | None:
        record = self._record
        if record is None:
            return None
        by_default = django_settings.SESSION_EXPIRE_AT_BROWSER_CLOSE
        at_close = by_default if expiry is None else expiry == 0
        absolute = settings.limits.absolute
        return lifetime.Deadlines(
            idle=lifetime.aware(self._ends(record)),
            absolute=lifetime.aware(record.created + absolute) if absolute else None,
            cookie=None if at_close else lifetime.aware(record.expires),
        )

    # --- Django's methods, each a flow and its two drivers ---------------------------------

    def load(self) -> dict[str, Any]:
        """The session's data from the storage; empty for a key that is not there.

        Changes nothing in a session that is loaded already: what it was loaded from is what its
        changes are merged against. Raises `StorageUnavailable` when the store does not answer,
        which is no empty session.
        """
        return run(self._peek() if "_session_cache" in self.__dict__ else self._load())

    async def aload(self) -> dict[str, Any]:
        """See `load`."""
        return await arun(self._peek() if "_session_cache" in self.__dict__ else self._load())

    def save(self, must_create: bool = False) -> None:
        """Store what changed since the session was loaded, merged with what others saved.

        Raises `SessionEnded` if the session is gone, `SessionConflict` if others kept changing
        it, `UnserializableValue`, `PayloadTooLarge` and `StorageUnavailable`. After each of
        them, the stored session is whole. With ``must_create``, raises ``CreateError`` if there
        is a session with this key.
        """
        run(self._save(must_create))

    async def asave(self, must_create: bool = False) -> None:
        """See `save`."""
        await arun(self._save(must_create))

    def create(self) -> None:
        """Store a new session under a new key."""
        run(self._create())

    async def acreate(self) -> None:
        """See `create`."""
        await arun(self._create())

    def exists(self, session_key: str | None) -> bool:
        """Whether there is a live session with this key."""
        session_key = hidden(session_key)
        return run(self._exists(session_key))

    async def aexists(self, session_key: str | None) -> bool:
        """See `exists`."""
        session_key = hidden(session_key)
        return await arun(self._exists(session_key))

    def delete(self, session_key: str | None = None) -> None:
        """Remove the session with this key, or this one. No later save brings it back."""
        session_key = hidden(session_key)
        run(self._delete(session_key))

    async def adelete(self, session_key: str | None = None) -> None:
        """See `delete`."""
        session_key = hidden(session_key)
        await arun(self._delete(session_key))

    def cycle_key(self) -> None:
        """Give the session a new key, from the next save on.

        Deferred: the save creates the new record and supersedes the old one in one step, so a
        request that fails in between loses nothing, and a login writes once.
        """
        run(self._cycle())

    async def acycle_key(self) -> None:
        """See `cycle_key`."""
        await arun(self._cycle())

    @classmethod
    def clear_expired(cls) -> int:  # type: ignore[override]
        """Remove the expired sessions in batches; how many were removed."""
        return run(purging(cls.storage()))

    @classmethod
    async def aclear_expired(cls) -> int:  # type: ignore[override]
        """See `clear_expired`."""
        return await arun(purging(cls.storage()))

    # --- Flows -----------------------------------------------------------------------------

    def _call(self, name: str, *args: Any) -> Call:
        return Call(self.storage(), name, args)

    def _payload_codec(self) -> Codec:
        return bare_codec() if self.storage().holds_in_key else codec()

    def _load(self) -> Flow[dict[str, Any]]:
        if self._unstored:
            return codec().thaw(self._base) if self._base else {}
        self._forget()
        # No local variable holds the key: error reports show those.
        if self.session_key is None:
            return {}
        storage = self.storage()
        try:
            record = yield from self._read()
            moment = now()
            was_renewed = _is_good(record, moment)
            if was_renewed:
                record = yield from self._follow(cast("Record", record))
            if storage.holds_in_key and record is not None:
                _check_issued(record, moment)
            if record is None or record.state is State.ENDED or self._ends(record) <= moment:
                record_id = record.id if record else storage.identify(self.session_key)
                self._session_key = None
                if record is None or record.state is not State.LIVE:
                    yield from self._reject(record_id, "unknown")
                else:
                    yield from self._tell_end(record.id, "expired", record)
                return {}
            if record.state is not State.LIVE:
                self._state = State.SUPERSEDED
                reason = "too old" if record.state is State.RENEWED else "superseded"
                yield from self._reject(record.id, reason)
                return {}
            return self._remember(record, was_renewed)
        except UnreadablePayload as reason:
            # The key stays until something is saved: a worker with a wrong SECRET_KEY must not
            # log out whoever only passes by.
            self._unreadable = True
            security_logger.warning(
                "Session %s reads as empty: %s.", self.session_id or "without an id", reason
            )
            yield from self._reject(self.session_id, "tampered", str(reason))
            return {}
        except StorageUnavailable as outage:
            self.outage = outage
            if not self.anonymous_on_outage:
                raise
            return {}

    def _read(self) -> Flow[Record | None]:
        """What is stored under the key, taken over from a former engine if need be."""
        storage = self.storage()
        if not settings.MIGRATE_FROM:
            locator = storage.locate(cast("str", self.session_key))
            record: Record | None = yield Call(storage, "read", (locator,))
            return record
        key, cookie = SecretText(self.session_key), self._former_cookie
        found = yield from adoption.reading(storage, key, cookie, now)
        if found.key is not None:
            self._session_key = found.key
        if cookie or found.key is not None:
            self._modified = self.cookie_is_due = True
        self._stored_here = found.is_new
        return found.record

    def _remove(self, record_id: str, key: str | None, record: Record | None) -> Flow[None]:
        """End a session, in the storage and in former engines that know its key."""
        yield from adoption.end(self.storage(), record_id, record, key, now)

    def _peek(self) -> Flow[dict[str, Any]]:
        other = type(self)(self.session_key)
        return (yield from other._load())

    def _remember(self, record: Record, was_renewed: bool) -> dict[str, Any]:
        base = self._open(record)
        data = codec().thaw(base)
        self._record, self._base, self._reference = record, base, base
        self._is_outdated = self.storage().is_outdated(record)
        if was_renewed:
            self._modified = True  # So that the answer brings the new key.
        else:
            self._is_old = self._is_older(record, data)
        return data

    @classmethod
    def data_of(cls, record: Record) -> dict[str, Any]:
        """What a record holds, to be shown. Raises `UnreadablePayload`."""
        return codec().thaw(cls()._open(record))

    def _open(self, record: Record) -> Snapshot:
        """The newest data that a record tells of. Raises `UnreadablePayload`."""
        return newest_data(record, self._payload_codec(), codec())

    def _save(self, must_create: bool = False) -> Flow[None]:
        try:
            yield from self._save_changes(must_create)
        except StorageUnavailable as outage:
            self.outage = outage
            raise
        except PayloadTooLarge as error:
            raise PayloadTooLarge(f"{error} {self._largest_keys()}") from error

    def _save_changes(self, must_create: bool) -> Flow[None]:
        if "_session_cache" not in self.__dict__:
            self._session_cache = {} if must_create else (yield from self._load())
        elif self.outage and self._is_unmet and not must_create:
            # What was served as empty must not be taken for what the session should be.
            if not self.modified:
                return
            raise self.outage
        elif self._is_unmet and not must_create:
            yield from self._meet()
            if self.session_key is None:
                raise SessionEnded("The session was deleted, or expired, before this save.")
        if self._unreadable and not self.modified:
            return  # It only rolls. A worker with the right keys may read it.
        if self._unreadable or self.session_key is None:
            self._adopt_key(draw_key())
        if self._state is not State.LIVE:
            if self._state is State.SUPERSEDED and self.cookie_is_optional and not self.modified:
                return
            raise SessionEnded("The session got a new key, or was deleted, before this save.")
        if self._predecessor and (yield from self._is_secret_rotation()):
            self._return_to_predecessor()
        try:
            if self._predecessor:
                yield from self._rotate(self._predecessor)
            elif self._is_old and not must_create:
                yield from self._renew()
            elif must_create or self._unstored:
                yield from self._store_new(keep_key=must_create)
            else:
                yield from self._update()
        except UnreadablePayload as reason:
            raise SessionEnded(
                f"The stored session was damaged before this save: {reason}."
            ) from None

    def _create(self) -> Flow[None]:
        if self._predecessor:
            self._draw_successor()
        else:
            self._session_key = None
        yield from self._save(must_create=True)
        self.modified = True

    def _cycle(self) -> Flow[None]:
        if "_session_cache" not in self.__dict__:
            self._session_cache = yield from self._load()
        if self._is_unmet:
            if self.outage:
                raise self.outage  # The old key would stay in force.
            yield from self._meet()
        self.accessed = True
        self._draw_successor()

    def _exists(self, key: str | None) -> Flow[bool]:
        if not self._validate_session_key(key) or key == self._predecessor_key:
            return False
        storage = self.storage()
        try:
            record = yield Call(storage, "read", (storage.locate(cast("str", key)),))
        except UnreadablePayload:
            return False
        if record is None and settings.MIGRATE_FROM:
            return (yield from adoption.exists(storage, cast("str", key), now))
        moment = now()
        return record is not None and record.is_live(moment) and self._ends(record) > moment

    def _delete(self, key: str | None) -> Flow[None]:
        if key is not None and key != self.session_key:
            # The next save supersedes the former key, and finds out whether it still lives.
            if self._validate_session_key(key) and key != self._predecessor_key:
                other = self.storage().identify(key)
                if other is not None:
                    yield from self._remove(other, key, None)
                    yield from self._tell_end(other, "logout", None)
            return
        if self.session_key is None:
            return
        stored_id, record = None, self._predecessor or self._record
        if self._predecessor:
            stored_id = self._predecessor.id
        elif not self._unstored and self._state is State.LIVE:
            stored_id = self.session_id or adoption.former_id(hidden(self.session_key))
        if stored_id:
            try:
                key = hidden(self._predecessor_key or self.session_key)
                yield from self._remove(stored_id, key, record)
            except StorageUnavailable as outage:
                self.outage = outage
                raise
            self._flushed_id = stored_id
        self._state = State.ENDED
        if stored_id:
            reason = "replaced" if in_use.is_logging_in() else "logout"
            yield from self._tell_end(stored_id, reason, record)

    # --- Steps of saving -------------------------------------------------------------------

    def _store_new(self, keep_key: bool = False) -> Flow[None]:
        """Create a record for a session that has none."""
        if keep_key and not self._unstored and self.storage().holds_in_key:
            raise CreateError  # Such a key was made by a save: its session is there, or has ended.
        snapshot = codec().freeze(self._session_cache)
        for _ in range(_NEW_KEY_TRIES):
            record = self._next_record(snapshot, None)
            yield from self._ask_admission(record, None)
            outcome = yield self._call("create", record, now())
            if isinstance(outcome, Updated):
                self._saved(outcome, snapshot)
                yield from self._admit(outcome.record, None, snapshot)
                yield from self._mark_flushed(outcome.record)
                yield from self._tell(signals.session_created, outcome.record)
                yield from self._tell_evicted(outcome)
                return
            if keep_key and not self._unstored:
                raise CreateError
            self._adopt_key(draw_key())
        raise StorageUnavailable(
            f"{self.storage().describe()} calls every new session id taken; is it working?"
        )

    def _mark_flushed(self, record: Record) -> Flow[None]:
        """Leave a tombstone where a login took the place of a session that it flushed.

        As after a rotation, parallel requests with the old key are anonymous, cookie untouched.
        """
        flushed_id, self._flushed_id = self._flushed_id, None
        if flushed_id and record.user_id is not None:
            # The session is saved. Without the tombstone only a parallel request is worse off.
            with suppress(StorageUnavailable):
                yield from adoption.bury(self.storage(), _grave(flushed_id), now, replace=True)

    def _update(self) -> Flow[None]:
        """Store the changes, or only move the expiry if there are none."""
        record, base = cast("Record", self._record), cast("Snapshot", self._base)
        snapshot = codec().freeze(self._session_cache)
        # Who sets ``modified`` means even a change of order.
        same = snapshot == base or (
            not self._modified and codec().matches(base, self._session_cache)
        )
        if not same or not self._payload_codec().is_newest(record.payload):
            yield from self._replace(record, snapshot)
        elif self._is_outdated or self._has_moved() or self._is_due_in_key(record):
            # Unless a view asked for it, it must not fail a request that only reads.
            failures = () if self._modified else _HARMLESS_TO_READERS
            with suppress(*failures):
                yield from self._replace(record, snapshot)
        else:
            yield from self._touch(record)

    def _replace(self, record: Record, snapshot: Snapshot) -> Flow[None]:
        """Store the session in place of ``record``, merged with what others have saved."""
        for attempt in range(settings.CONFLICT_RETRIES + 1):
            successor = self._next_record(snapshot, record)
            outcome = yield self._call("update", successor, record, now())
            if isinstance(outcome, Updated):
                self._saved(outcome, snapshot)
                yield from self._tell_client(record, outcome.record)
                return
            key, record = yield from self._still_live(outcome, hidden(self.session_key))
            self._go_on_with(key, record)
            snapshot = yield from self._merge(record, attempt)
        raise _conflict()

    def _rotate(self, predecessor: Record) -> Flow[None]:
        """Store the session under its new key and supersede the old one, in one step."""
        snapshot = codec().freeze(self._session_cache)
        for attempt in range(settings.CONFLICT_RETRIES + 1):
            record = self._next_record(snapshot, predecessor, version=1)
            yield from self._ask_admission(record, predecessor)
            grave = _grave(predecessor.id, predecessor, self._renewal)
            outcome = yield self._call("rotate", record, predecessor, grave, now())
            if isinstance(outcome, Updated):
                self._saved(outcome, snapshot)
                yield from self._admit(outcome.record, predecessor, snapshot)
                yield from self._tell(
                    signals.session_rotated, outcome.record, former_id=predecessor.id
                )
                yield from self._tell_client(predecessor, outcome.record)
                yield from self._tell_evicted(outcome)
                return
            if isinstance(outcome, Taken):
                if self._renewal is None:
                    self._adopt_key(draw_key(), predecessor, self._predecessor_key, self._base)
                else:
                    self._draw_renewed(predecessor, hidden(self._predecessor_key))
                continue
            # A login brings proof of its own, so it may go on with the data of an anonymous
            # session that another login superseded. Anything else would come back from the dead.
            is_login = predecessor.user_id is None and record.user_id is not None
            if is_login and not _is_live(outcome):
                self._predecessor = None
                yield from self._store_new()
                return
            former_key = hidden(self._predecessor_key)
            key, current = yield from self._still_live(outcome, former_key)
            if self._renewal is not None and key != former_key:
                # Another request renewed it.
                self._return_to_predecessor()
                self._go_on_with(key, current)
                yield from self._replace(current, (yield from self._merge(current, attempt)))
                return
            self._predecessor = predecessor = current
            self._predecessor_key = key and str(key)
            snapshot = yield from self._merge(predecessor, attempt)
        raise _conflict()

    def _renew(self) -> Flow[None]:
        """Store the session under another key, because the one it has is old."""
        record, before = cast("Record", self._record), self._session_cache.get(_RENEWED)
        is_asked_for = self._modified or self._has_changed()
        self._session_cache[_RENEWED] = now()
        self._draw_renewed(record, hidden(self.session_key))
        try:
            yield from self._rotate(record)
        except _HARMLESS_TO_READERS as error:
            # A request that only reads goes on with the old key, and a later one renews it. Not
            # where Django's middleware would send that key in place of one from a login.
            ended = isinstance(error, SessionEnded) and not self.cookie_is_optional
            if is_asked_for or ended:
                raise
            self._return_to_predecessor()
            self._session_cache[_RENEWED] = before
            if before is None:
                del self._session_cache[_RENEWED]

    def _touch(self, record: Record) -> Flow[None]:
        """Move the expiry if it lags, and prove that the session lives where that matters.

        After this, Django's middleware sends the cookie again. If the session got another key
        meanwhile, that would put the old cookie in place of the new and log the user out.
        """
        moment = now()
        expires = self._expires(moment, record.created)
        if not self._is_due(record):
            if self._stored_here or self.storage().holds_in_key:
                return
            # Nearly always it is a login that changes the key, and so an anonymous session that
            # is at risk. Logged-in ones are spared a trip for each request that only rolls.
            is_at_risk = record.user_id is None and not self.cookie_is_optional
            if not (self._modified or is_at_risk):
                return
            expires = record.expires
        if (yield self._call("touch", record, expires, moment, moment)):
            self._record = moved(record, expires, moment)
            self._modified = self._stored_here = self.cookie_is_due = True
            return
        current = yield self._call("read", record.id)
        if _is_good(current, moment):
            key, current = yield from self._still_live(Conflict(current), hidden(self.session_key))
            self._go_on_with(key, current)
            self._modified = self._stored_here = self.cookie_is_due = True
            return
        if current is not None and current.is_live(moment):
            return
        if self.cookie_is_optional and not self._modified:
            return
        raise SessionEnded("The session got a new key, was deleted, or expired meanwhile.")

    def _is_due_in_key(self, record: Record) -> bool:
        """Whether the expiry has to move, and cannot be touched without another key."""
        return self.storage().holds_in_key and self._is_due(record)

    def _is_due(self, record: Record) -> bool:
        """Whether the stored expiry lags so far behind that it has to move."""
        moment = now()
        expires = self._expires(moment, record.created)
        return expires - record.expires >= self._touch_step(expires - moment)

    @property
    def _is_unmet(self) -> bool:
        """Whether the data was replaced, by `clear`, without reading what is stored."""
        return (
            self.session_key is not None
            and self._record is None
            and self._state is State.LIVE
            and not (self._unstored or self._unreadable)
        )

    def _meet(self) -> Flow[None]:
        """Read the record behind data that was replaced without loading it."""
        yield from self._load()

    def _merge(self, current: Record, attempt: int) -> Flow[Snapshot]:
        """Lay my changes over the record that another request saved."""
        if attempt > 2:
            # Who loses this often meets a crowd: spread it.
            yield Call(Pause, "sleep", (random.uniform(0, 0.002 * min(attempt, 20)),))  # noqa: S311
        try:
            theirs = self._open(current)
        except UnreadablePayload as reason:
            # Written by a worker with newer keys, perhaps: not mine to overwrite.
            raise SessionConflict(
                f"Another request saved the session meanwhile, and its data is unreadable here: "
                f"{reason}. Are SECRET_KEY_FALLBACKS the same in all workers?"
            ) from None  # Error reports show the frames of causes, and what was opened in them.
        self._lay_over(theirs)
        return codec().freeze(self._session_cache)

    def _lay_over(self, theirs: Snapshot) -> None:
        """Merge with what another request saved."""
        base = codec().thaw(self._base) if self._base else {}
        data = self._session_cache
        merged = merge(base, data, codec().thaw(theirs), merge_functions())
        data.clear()
        data.update(merged)
        self._base = theirs

    def _next_record(
        self, snapshot: Snapshot, base: Record | None, version: int | None = None
    ) -> Record:
        """The record to store in place of ``base``."""
        moment, storage = now(), self.storage()
        if base is None or self._unstored:
            record_id = self.session_id or session_id(cast("str", self.session_key))
        else:
            record_id = base.id
        payload = self._payload_codec().seal(record_id, snapshot)
        limit = storage.max_payload
        if limit is not None and len(payload) > limit:
            raise PayloadTooLarge(_too_large(storage, len(payload), limit))
        version = version or (base.version + 1 if base else 1)
        changed: Changes = ()
        if base and storage.keeps_changes:
            changed = tuple(self._changes(change_context(record_id, version), snapshot))
        user_id = self._session_cache.get("_auth_user_id")
        user_id = None if user_id is None else str(user_id)
        # An absolute lifetime starts anew with a login, and with nothing else.
        created = self._began(base) if base and base.user_id == user_id else moment
        expires = self._expires(moment, created)
        if base and self._keeps_expiry(base, expires, moment):
            expires = base.expires
        client = self._client(base)
        return Record(
            id=record_id,
            payload=payload,
            version=version,
            user_id=user_id,
            created=created,
            last_activity=moment,
            expires=expires,
            ip=client.ip,
            user_agent=client.user_agent,
            changes=changed,
        )

    def _began(self, base: Record) -> int:
        """When a session of the same user began, or its user last signed in."""
        authenticated_at = self._session_cache.get(AUTHENTICATED_AT)
        if base.user_id is None or not isinstance(authenticated_at, int):
            return base.created
        return max(base.created, authenticated_at)

    def _changes(self, context: str, snapshot: Snapshot) -> Iterator[tuple[bytes, bytes]]:
        """What this request changed, as `Record.changes`."""
        base = codec().thaw(self._base) if self._base else {}
        # The data as it will be read, which some serializers make different.
        for key, change in changes(base, codec().thaw(snapshot)):
            digest = key_ring().digest(f"{type(key).__name__} {key}")
            yield digest, codec().seal(context, codec().freeze(change))

    def _largest_keys(self) -> str:
        sizes = {
            key: len(codec().freeze({key: value}).data)
            for key, value in self._session_cache.items()
        }
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:3]
        return f"Largest: {', '.join(f'{key!r} with {sizes[key]} bytes' for key in largest)}."

    def _expires(self, moment: int, created: int) -> int:
        """When a session expires that is written at ``moment``."""
        expiry = self._session_cache.get("_session_expiry")
        expires = lifetime.expires_at(expiry, moment, self.get_session_cookie_age())
        return min(expires, settings.limits.end(created, moment))

    @staticmethod
    def _ends(record: Record) -> int:
        """When a record ends, which may be earlier than when it was written."""
        if record.state is not State.LIVE:
            return record.expires
        return min(record.expires, settings.limits.end(record.created, record.last_activity))

    def _keeps_expiry(self, base: Record, expires: int, moment: int) -> bool:
        """Whether the stored expiry is near enough. Then no index moves with this save."""
        return 0 <= expires - base.expires < self._touch_step(expires - moment)

    def _touch_step(self, age: int) -> int:
        return lifetime.touch_step(age, settings.TOUCH_INTERVAL)

    def _saved(self, outcome: Updated, snapshot: Snapshot) -> None:
        if outcome.key is not None:
            super()._set_session_key(outcome.key)
        # Still modified, by whatever it was: a middleware reads it to decide on the cookie.
        self._modified, self._is_outdated = True, False
        self._record, self._base, self._reference = outcome.record, snapshot, snapshot
        self._predecessor = self._predecessor_key = self._renewal = None
        self._cycles = 0
        self._unstored = self._is_old = False
        self._stored_here = self.cookie_is_due = True

    # --- Telling ---------------------------------------------------------------------------

    def _tell(self, signal: Signal, record: Record, **facts: Any) -> Flow[None]:
        return signals.tell(
            signal, type(self), session_id=record.id, user_id=record.user_id, **facts
        )

    def _tell_end(self, record_id: str, reason: str, record: Record | None) -> Flow[None]:
        user_id = record.user_id if record else None
        return signals.tell(
            signals.session_ended,
            type(self),
            session_id=record_id,
            user_id=user_id,
            reason=reason,
        )

    def _tell_evicted(self, outcome: Updated) -> Flow[None]:
        for each in outcome.evicted:
            yield from self._tell_end(each.id, "evicted", each)

    def _reject(self, record_id: str | None, reason: str, detail: str = "") -> Flow[None]:
        return signals.tell(
            signals.session_rejected,
            type(self),
            session_id=record_id,
            reason=reason,
            detail=detail,
        )

    def _tell_client(self, base: Record, record: Record) -> Flow[None]:
        before, after = Client(base.ip, base.user_agent), Client(record.ip, record.user_agent)
        if before != after and any(before):
            yield from signals.tell(
                signals.client_changed,
                type(self),
                session_id=record.id,
                before=before,
                after=after,
            )

    # --- Steps of renewing -----------------------------------------------------------------

    def _is_older(self, record: Record, data: dict[str, Any]) -> bool:
        """Whether the key should be renewed, and can be: whoever ends the session must find it."""
        if not settings.RENEW_AGE or record.user_id is None:
            return False
        storage = self.storage()
        if storage.holds_in_key or not storage.lists:
            return False
        renewed = data.get(_RENEWED)
        since = max(record.created, renewed if isinstance(renewed, int) else 0)
        return now() - since >= settings.RENEW_AGE * 1000

    def _follow(self, grave: Record) -> Flow[Record | None]:
        """Go on under the key that a renewal gave the session; the record that it has there."""
        key, record = yield from self._find_renewed(grave, hidden(self.session_key))
        if record is not None:
            self._session_key = str(key)
        return record

    def _find_renewed(self, grave: Record, key: str | None) -> Flow[tuple[str, Record | None]]:
        """Where a session has got to that was renewed, perhaps more than once."""
        storage, record, found = self.storage(), grave, cast("str", key)
        while _is_good(record, now()):
            for successor in key_ring().successors(found, record.last_activity):
                record = yield Call(storage, "read", (storage.locate(successor),))
                if record is not None:
                    found = successor
                    break
        return found, record

    def _still_live(
        self, outcome: Conflict | Gone, key: str | None
    ) -> Flow[tuple[str | None, Record]]:
        """The record to merge with, and its key. Raises `SessionEnded` if there is none."""
        current = outcome.current if isinstance(outcome, Conflict) else None
        if _is_good(current, now()):
            key, current = yield from self._find_renewed(current, hidden(key))
        if current is None or not current.is_live(now()):
            raise SessionEnded(
                "The session got a new key, was deleted, or expired before this save."
            )
        return key, current

    def _go_on_with(self, key: str | None, record: Record) -> None:
        super()._set_session_key(key and str(key))
        self._record = record

    # --- Steps of being admitted -----------------------------------------------------------

    def _is_login(self, record: Record, base: Record | None) -> bool:
        return record.user_id is not None and (base is None or base.user_id != record.user_id)

    def _ask_admission(self, record: Record, base: Record | None) -> Flow[None]:
        """Refuse a login where its user has no session left, before anything is written."""
        most = settings.MAX_SESSIONS
        if most and settings.ON_LIMIT == "refuse" and self._is_login(record, base):
            others = yield from limits.others(self.storage(), record, now())
            if len(others) >= most:
                raise _limit_reached(most)

    def _admit(self, record: Record, base: Record | None, snapshot: Snapshot) -> Flow[None]:
        """Keep to `MAX_SESSIONS`, whoever else logs in at the same time.

        Nobody knows the new key yet: a session that is not admitted was never there.
        """
        most = settings.MAX_SESSIONS
        if not most or not self._is_login(record, base):
            return
        others = yield from limits.others(self.storage(), record, now())
        if settings.ON_LIMIT == "end_oldest":
            for each in limits.surplus(others, most - 1):
                ended = yield from adoption.end(self.storage(), each.id, each, None, now)
                if ended:
                    yield from self._tell_end(ended, "evicted", each)
            return
        admitted = len(limits.ahead(record, others)) < most
        if admitted:
            # From now on it counts for those who began earlier by their servers' clocks, and may
            # not see that they came later.
            marked = yield self._call("update", limits.admitted(record), record, now())
            if isinstance(marked, Updated):
                self._saved(marked, snapshot)
                others = yield from limits.others(self.storage(), record, now())
                admitted = sum(map(limits.is_admitted, others)) < most
        if not admitted:
            yield self._call("delete", record.id)
            raise _limit_reached(most)

    # --- Steps of rotating -----------------------------------------------------------------

    def _draw_successor(self) -> None:
        predecessor, key, base = self._record, self.session_key, self._base
        if self._unstored:
            # Rotated twice before a save: only the stored key needs to be superseded.
            predecessor, key = self._predecessor, self._predecessor_key
        cycles = self._cycles + 1
        self._adopt_key(draw_key(), predecessor, key, base)
        self._cycles = cycles
        self.modified = True

    def _adopt_key(
        self,
        key: str,
        predecessor: Record | None = None,
        predecessor_key: str | None = None,
        base: Snapshot | None = None,
    ) -> None:
        self._session_key = key
        self._unstored = True
        self._predecessor, self._predecessor_key = predecessor, predecessor_key
        self._base = self._reference = base

    def _is_secret_rotation(self) -> Flow[bool]:
        """Whether the key was cycled only because ``SECRET_KEY`` has changed.

        Django does that when it finds the session under a fallback. The session's key is as
        secret as before, and requests that carry it in parallel must stay logged in, so it is
        kept. A password change looks the same but for the user's stored hash.
        """
        if not (django_settings.SECRET_KEY_FALLBACKS and self._base and self._predecessor_key):
            return False
        if self._cycles > 1:
            return False  # Someone else asked for a new key as well.
        before, data = codec().thaw(self._base), self._session_cache
        changed = {key for key in AUTH_KEYS if before.get(key) != data.get(key)}
        if changed != {"_auth_user_hash"} or "_auth_user_hash" not in before:
            return False
        return cast("bool", (yield Call(secret_rotation, "was_issued_under_fallback", (before,))))

    def _draw_renewed(self, predecessor: Record, former_key: str | None) -> None:
        moment = max(now(), (self._renewal or 0) + 1)
        key = next(key_ring().successors(cast("str", former_key), moment))
        self._adopt_key(str(key), predecessor, str(former_key), self._base)
        self._renewal = moment

    def _return_to_predecessor(self) -> None:
        record, base = self._predecessor, self._base
        self._session_key = self._predecessor_key
        self._record, self._base, self._reference = record, base, base


def _check_issued(record: Record, moment: int) -> None:
    """Look at the times of a record that only the browser has kept."""
    if record.last_activity > moment + lifetime.CLOCK_SKEW:
        raise UnreadablePayload("issued in the future, by a server whose clock is ahead")
    if record.expires <= moment:
        security_logger.info("Session %s reads as empty: it has expired.", record.id)


def _grave(record_id: str, of: Record | None = None, renewal: int | None = None) -> Record:
    seconds = adoption.grave_seconds()
    if renewal is None:
        return tombstone(record_id, State.SUPERSEDED, now=now(), seconds=seconds, of=of)
    # After the grace it says what that of a login says.
    seconds += settings.RENEW_GRACE
    return tombstone(record_id, State.RENEWED, now=renewal, seconds=seconds, of=of)


def _is_good(grave: Record | None, moment: int) -> TypeGuard[Record]:
    """Whether it leads to a session that got another key, and the old one may still be used."""
    return (
        grave is not None
        and grave.state is State.RENEWED
        and moment < grave.last_activity + settings.RENEW_GRACE * 1000
    )


def _is_live(outcome: Conflict | Gone) -> bool:
    return isinstance(outcome, Conflict) and outcome.current.is_live(now())


def _limit_reached(most: int) -> SessionLimitReached:
    return SessionLimitReached(
        f"The user has {most} sessions, as many as SESSIONSTORES['MAX_SESSIONS'] allows."
    )


def _conflict() -> SessionConflict:
    return SessionConflict(
        f"Other requests changed the session {settings.CONFLICT_RETRIES} times while it was "
        "being saved. Raise SESSIONSTORES['CONFLICT_RETRIES'], or write to it less often."
    )


def _too_large(storage: Storage, size: int, limit: int) -> str:
    return (
        f"The session takes {size} bytes and {storage.describe()} keeps {limit}. Store less in "
        "the session, or choose another SESSION_ENGINE."
    )


def purging(storage: Storage, most: int | None = None) -> Flow[int]:
    """Remove what has expired, in batches; how many sessions. No batch after ``most`` of them."""
    moment, total = now(), 0
    try:
        while most is None or total < most:
            removed: int = yield Call(storage, "purge", (moment, _PURGE_BATCH))
            if not removed:
                break
            total += removed
    except StorageUnavailable as error:
        if total:
            raise PartlyEnded(total, error) from error
        raise
    return total


@reset_on_change(
    "SESSION_ENGINE", "SESSION_CACHE_ALIAS", "SESSION_FILE_PATH", "CACHES", "DATABASES"
)
def _forget_storages() -> None:
    with SessionStore._storages_lock:
        storages = list(SessionStore._storages.values())
        SessionStore._storages.clear()
    for storage in storages:
        storage.close()
