"""Sessions of engines that were in use before, taken over when they are asked for.

The order of the steps is what keeps it right, whoever else does the same at that moment:

Take over
    Look in the storage in use; then in the former ones; create the record, which only the first
    of several can; then remove it where it was. So a session is always in at least one of the two.
    Who finds it in neither looks into the storage in use once more: someone else may have moved it
    between the two looks. A crash between the last two steps leaves a copy behind.
End
    Remove the session from the former engines; then from the storage in use, and leave a tombstone
    there. It refuses a copy that was left behind or that someone has read before, as it stands
    where that would have to be created. So do the tombstones of keys that were replaced. They
    last for as long as a session of a former engine can.

Where the engine in use holds sessions in their keys, the browser gets a new key, and may not hear
of it. So its session stays in the former engine until it expires there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Final, NamedTuple

import msgspec
from django.conf import settings as django_settings

from . import ending
from .conf import bare_codec, codec, former_engine, reset_on_change, settings
from .exceptions import PayloadTooLarge, StorageUnavailable, UnreadablePayload
from .flow import Call, Flow, Pause
from .formers import Former, Found, open_former
from .records import Record, SecretText, State, derived_key, is_well_formed, session_id, tombstone
from .storages.base import Outcome, Storage, Taken, Updated
from .storages.layered import Layered
from .storages.registered import Registered

_ROUNDS: Final = 5
_PAUSE: Final = 0.01
"""Seconds; the last of the pauses is 16 times as long."""

Clock = Callable[[], int]
"""Milliseconds since the epoch."""


@cache
def formers() -> tuple[Former, ...]:
    """The engines of ``MIGRATE_FROM``. Raises ``ImproperlyConfigured``."""
    return tuple(open_former(former_engine(entry)) for entry in settings.MIGRATE_FROM)


@reset_on_change(
    "SESSION_ENGINE",
    "SESSION_CACHE_ALIAS",
    "SESSION_FILE_PATH",
    "SESSION_SERIALIZER",
    "SESSION_COOKIE_AGE",
    "CACHES",
    "DATABASES",
)
def _forget_formers() -> None:
    if formers.cache_info().currsize:
        for former in formers():
            former.close()
        formers.cache_clear()


def key_in_use(cookie: str) -> str | None:
    """The session key of whom a former engine gave ``cookie``, which is none itself."""
    if not settings.MIGRATE_FROM or not any(former.in_key for former in formers()):
        return None
    return derived_key(cookie)


class Reading(NamedTuple):
    """What is stored under a key, by now in the storage in use."""

    record: Record | None
    key: str | None = None
    """The session key from now on, where it is another one."""
    is_new: bool = False
    """Whether this reading has stored it."""

    def __repr__(self) -> str:
        # Error reports show local variables.
        return f"<Reading {self.record!r}>"


def reading(
    storage: Storage, key: SecretText, cookie: SecretText | None, now: Clock
) -> Flow[Reading]:
    """Read a session, and take it over where only a former engine has it.

    ``cookie`` is what the browser sent if that is no session key; ``key`` is derived from it then.
    """
    failure = None
    try:
        record: Record | None = yield Call(storage, "read", (storage.locate(key),))
    except UnreadablePayload as error:
        if not storage.holds_in_key:
            raise
        # It may be one of another engine.
        record, failure = None, error
    if record is not None:
        return Reading(_lasting(record, now()))
    return (yield from _take_over(storage, key, cookie, failure, now))


def _take_over(
    storage: Storage,
    key: SecretText,
    cookie: SecretText | None,
    failure: UnreadablePayload | None,
    now: Clock,
) -> Flow[Reading]:
    presented, asked, grave = cookie or key, False, None
    is_plain = cookie is None and is_well_formed(key)
    record_id = session_id(key if is_plain or cookie else derived_key(key))
    for former in formers():
        if former.in_key is is_plain:
            continue
        asked = True
        try:
            found: Found | None = yield Call(former, "find", (presented,))
            if found is None or found.record.expires <= now():
                continue
            if found.record.state is not State.LIVE:
                grave = _lasting(found.record, now())
                break
            record = record_of(storage, record_id, found)
            outcome: Updated | Taken = yield Call(storage, "create", (record, now()))
        except UnreadablePayload as error:
            failure = error
            continue
        except PayloadTooLarge as error:
            failure = UnreadablePayload(str(error))
            continue
        if storage.holds_in_key:
            return (yield from _issue(storage, record, outcome, now))
        if isinstance(outcome, Taken):
            current = yield from _stored_by_another(storage, record, now)
            return Reading(_lasting(current, now()))
        yield from _remove(former, presented, _authority(storage))
        return Reading(outcome.record, is_new=True)
    if asked and not storage.holds_in_key:
        moved: Record | None = yield Call(storage, "read", (storage.locate(key),))
        if moved is not None:
            return Reading(_lasting(moved, now()))
    if failure is not None:
        raise failure
    return Reading(grave)


def _stored_by_another(storage: Storage, record: Record, now: Clock) -> Flow[Record]:
    """What another request has stored under the id of a record that was to be created.

    Raises `StorageUnavailable` where it cannot be seen: that there is nothing would be a lie.
    """
    # A cache in front tells of no tombstones.
    source = storage.authority if isinstance(storage, Layered) else storage
    for attempt in range(_ROUNDS):
        if attempt:
            yield Call(Pause, "sleep", (_PAUSE * 2**attempt,))
        current: Record | None = yield Call(source, "read", (record.id,))
        if current is not None:
            return current
    if isinstance(storage, Registered):
        entry: Record | None = yield Call(storage, "lookup", (record.id,))
        if entry is not None and entry.state is not State.LIVE:
            return entry
        # Data without an entry: its transaction was rolled back. Or the other way round.
        yield Call(storage, "delete", (record.id,))
        outcome: Updated | Taken = yield Call(storage, "create", (record, now()))
        if isinstance(outcome, Updated):
            return outcome.record
    raise StorageUnavailable(
        f"{storage.describe()} has a session that another request is taking over, and does not "
        "show it yet."
    )


def _remove(former: Former, key: SecretText, authority: Storage) -> Flow[None]:
    """Remove a session where it was, once it is sure to be where it is."""
    if not (yield Call(authority, "in_transaction", ())):
        yield Call(former, "remove", (key,))
        return

    def remove() -> None:
        # The request has been answered. What stays is as what a crash leaves behind.
        with suppress(StorageUnavailable):
            former.remove(key)

    yield Call(authority, "after_commit", (remove,))


def _authority(storage: Storage) -> Storage:
    """The one of a storage's storages that decides whether a session is there."""
    if isinstance(storage, Layered):
        return storage.authority
    return _authority(storage.registry) if isinstance(storage, Registered) else storage


def _issue(storage: Storage, record: Record, outcome: Updated | Taken, now: Clock) -> Flow[Reading]:
    """The key of a session that is in it, for each request that brings the former one."""
    if isinstance(outcome, Updated):
        return Reading(outcome.record, outcome.key, is_new=True)
    entry: Record | None = yield Call(storage, "lookup", (record.id,))
    if entry is None or entry.state is not State.LIVE:
        return Reading(entry and _lasting(entry, now()))
    # Another request has registered it. This one makes a key with the same data.
    maker = storage.data if isinstance(storage, Registered) else storage
    issued: Updated = yield Call(maker, "create", (record, now()))
    token = SecretText(issued.key)
    current: Record | None = yield Call(storage, "read", (storage.locate(token),))
    return Reading(current, token)


def exists(storage: Storage, key: str, now: Clock) -> Flow[bool]:
    """Whether a former engine has a live session with this key."""
    for former in formers():
        if former.in_key:
            continue
        try:
            found: Found | None = yield Call(former, "find", (SecretText(key),))
        except UnreadablePayload:
            continue
        if found is not None and found.record.is_live(now()):
            return True
    return False


def record_of(storage: Storage, record_id: str, found: Found) -> Record:
    """The record to store for a session that a former engine has. Raises `UnreadablePayload`
    and `PayloadTooLarge`."""
    record, snapshot, payload = found.record, found.snapshot, found.record.payload
    if snapshot is None and storage.holds_in_key:
        snapshot = codec().open(record.id, payload)
    if snapshot is not None:
        payload = (bare_codec() if storage.holds_in_key else codec()).seal(record_id, snapshot)
    if storage.max_payload is not None and len(payload) > storage.max_payload:
        raise PayloadTooLarge(
            f"The session takes {len(payload)} bytes and {storage.describe()} keeps "
            f"{storage.max_payload}."
        )
    return msgspec.structs.replace(
        record,
        id=record_id,
        payload=payload,
        version=1,
        expires=min(record.expires, settings.limits.end(record.created, record.last_activity)),
        handle=None,
        changes=(),
        pending=(),
    )


# --- Ending --------------------------------------------------------------------------------


def end(
    storage: Storage, record_id: str, record: Record | None, key: str | None, now: Clock
) -> Flow[str | None]:
    """End a session as `ending.end` does, and see to it that no copy in a former engine comes back.

    Without the key, Django's engines cannot be told, and the tombstone alone keeps it away.
    """
    if not settings.MIGRATE_FROM:
        return (yield from ending.end(storage, record_id, record))
    for former in formers():
        if key is None:
            yield Call(former, "remove_id", (record_id,))
        elif not former.in_key and is_well_formed(key):
            yield Call(former, "remove", (SecretText(key),))
    ended = yield from ending.end(storage, record_id, record)
    for each in {record_id, ended} - {None}:
        grave = tombstone(str(each), State.ENDED, now=now(), seconds=grave_seconds())
        yield from bury(storage, grave, now)
    return ended


def bury(storage: Storage, grave: Record, now: Clock, *, replace: bool = False) -> Flow[None]:
    """Store a tombstone, in place of what someone may have put there meanwhile.

    One that is there already stays, unless it is to be replaced.
    """
    for _ in range(_ROUNDS):
        outcome: Outcome | Taken = yield Call(storage, "create", (grave, now()))
        if isinstance(outcome, Updated):
            return
        current: Record | None = yield Call(storage, "lookup", (grave.id,))
        if current is None:
            continue
        if current.state is State.LIVE or current.expires <= now():
            yield Call(storage, "delete", (grave.id,))
        elif not replace:
            return
        else:
            outcome = yield Call(storage, "update", (grave, current, now()))
            if isinstance(outcome, Updated):
                return


def grave_seconds() -> float:
    """How long a tombstone has to stay: as long as a former engine may have a copy."""
    if not settings.MIGRATE_FROM:
        return settings.TOMBSTONE_AGE
    return max(settings.TOMBSTONE_AGE, django_settings.SESSION_COOKIE_AGE)


def _lasting(record: Record, moment: int) -> Record:
    """The record as it counts: who was superseded a while ago has ended, see `grave_seconds`."""
    seconds = settings.TOMBSTONE_AGE
    if record.state is State.RENEWED:
        seconds += settings.RENEW_GRACE
    is_grave = record.state in {State.SUPERSEDED, State.RENEWED}
    if is_grave and record.last_activity + seconds * 1000 <= moment:
        return msgspec.structs.replace(record, state=State.ENDED)
    return record


def former_id(key: str | None) -> str | None:
    """The id under which a session is taken over, for a key that tells the storage nothing."""
    if key is None or not settings.MIGRATE_FROM:
        return None
    return session_id(key if is_well_formed(key) else derived_key(key))
