"""The session limit of a user, enforced by a storage around another storage."""

from __future__ import annotations

import hashlib
import random
import shlex
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Final, TypeAlias, TypeVar, cast

from django.core.exceptions import ImproperlyConfigured
from msgspec.structs import replace

from .. import conf
from ..core import clock
from ..core.flow import Call, Flow, Pause
from ..core.records import Record, State, last_write, next_version
from ..exceptions import SessionLimitReached, StorageUnavailable, UnreadablePayload
from . import revocation
from .base import MOST_AT_ONCE, Outcome, Storage, Taken, Updated
from .calls import Calls
from .composed import Wrapper
from .outcomes import noting_evicted

T = TypeVar("T")
_Records: TypeAlias = list[Record]
"""The records of one session. The first one that ends stands for it: those after it are of
rotations that are not over, or have no data."""

_PAGE: Final = 500
"""How many records one call lists."""
_MOST_EVICTED: Final = 500
"""How many surplus sessions are enough for one login, which then reads no further page."""
_MOST_CHECKED: Final = 100
"""The same if each of them has to be read, because the list may have lost ones."""
_MOST_LOOKS: Final = 100
"""How often one login lists the sessions of a user."""
_EVICTION_SECONDS: Final = 0.15
"""How long a login goes on to end surplus sessions, after a first batch."""
_LOCK_SECONDS: Final = 10
"""How long the lock of a user stays if its process was killed."""
_PAUSES: Final = (0.002, 0.02)
"""The shortest and the longest time between reads of a lock of another login, in seconds."""


class LimitedStorage(Wrapper):
    """A storage that lets a user have at most ``most`` sessions.

    With ``refuses``, a login over the limit fails; otherwise it ends the oldest sessions. Logins of
    one user are made one after another. Each takes the lock of the user, which is a record in the
    storage ``locks``, counts the sessions, stores its own, and ends the surplus ones. In a
    transaction of the caller, the lock belongs to the transaction, so that the next login waits for
    its commit or rollback.
    """

    def __init__(self, inner: Storage, locks: Storage, *, most: int, refuses: bool) -> None:
        super().__init__(inner)
        self._locks = Calls(locks)
        self._most = most
        self._refuses = refuses

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        if record.state is not State.LIVE or record.user_id is None:
            return (yield from self._calls.create(record, now))
        return (yield from self._store_under_lock(record, self._calls.create(record, now)))

    def _rotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        storing = self._calls.rotate(record, base, tombstone, now)
        if record.user_id is None or revocation.is_same_session(tombstone, record):
            return (yield from storing)
        return (yield from self._store_under_lock(record, storing, base))

    def _update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        storing = self._calls.update(record, base, now)
        if record.user_id in {None, base.user_id}:
            return (yield from storing)
        # Not Django's login(), which changes the key: a view has put the user into the session.
        return (yield from self._store_under_lock(record, storing, base))

    def _store_under_lock(
        self, record: Record, storing: Flow[T], base: Record | None = None
    ) -> Flow[T]:
        """Store the session of a login under the lock of its user, and return the outcome.

        ``base`` is the session that it replaces, which may be of the same user.
        """

        def store(lock: Record) -> Flow[T]:
            try:
                surplus = yield from self._surplus(record, base)
            except SessionLimitReached:
                if base is None or (yield from self._is_there(base.id)):
                    raise
                # The session that the login would replace has got another key. So nothing is stored
                # now, and the login may continue the session of another login.
                surplus = ()
            outcome = yield from storing
            # If the lock has expired, another login may have ended the same sessions.
            if isinstance(outcome, Updated) and clock.now() < lock.expires:
                outcome = cast("T", (yield from self._evict(outcome, surplus)))
            return outcome

        outcome, is_held = yield from self._run_under_lock(str(record.user_id), store)
        if isinstance(outcome, Updated) and not is_held:
            # The lock has expired meanwhile, so another login may have stored a session as well.
            outcome = cast("T", (yield from self._count_again(outcome)))
        return outcome

    def _is_there(self, session_id: str) -> Flow[bool]:
        """Return whether a live session is stored under an id."""
        current = yield from self._calls.lookup(session_id)
        return current is not None and current.is_live(clock.now())

    def _count_again(self, outcome: Updated) -> Flow[Updated]:
        """End surplus sessions after the session of a login was stored without the lock.

        ``outcome`` is that of storing the session. Repeats until the lock is held all the time.
        Raises `SessionLimitReached`, and deletes the session, if the limit refuses it after all.
        """
        record = outcome.record

        def count(lock: Record) -> Flow[Updated | None]:
            if not (yield from self._is_there(record.id)):
                # Another login has ended this session as a surplus one.
                return None
            try:
                surplus = yield from self._surplus(record)
            except SessionLimitReached:
                yield from self._calls.delete(record.id)
                raise
            return (yield from self._evict(outcome, surplus))

        is_held = False
        with noting_evicted(lambda evicted: (*outcome.evicted, *evicted)):
            while not is_held:
                counted, is_held = yield from self._run_under_lock(str(record.user_id), count)
                if counted is None:
                    break
                outcome = counted
        return outcome

    # --- Counting --------------------------------------------------------------------------

    def _surplus(self, record: Record, base: Record | None = None) -> Flow[Sequence[_Records]]:
        """Return the sessions that have to end when ``record`` is stored: the oldest ones.

        Raises `SessionLimitReached` if the limit refuses logins, and ``ImproperlyConfigured`` if
        the storage cannot list sessions.
        """
        # What is lost is removed, and others are listed then. A store that still lists it must
        # not hold up a login forever.
        for _ in range(_MOST_LOOKS):
            others, are_all = yield from self._other_sessions(record, base)
            if len(others) >= self._most and self.lists_lost:
                others = yield from self._without_lost(others)
            if are_all or len(others) >= self._most:
                break
        if self._refuses and len(others) >= self._most:
            raise _refusal(record.user_id, len(others), self._most, are_all=are_all)
        surplus = len(others) - (self._most - 1)
        return sorted(others, key=_creation)[: max(0, surplus)]

    def _other_sessions(
        self, record: Record, base: Record | None
    ) -> Flow[tuple[list[_Records], bool]]:
        """Return other live sessions of the same user, each with all its records.

        Also return whether they are all of them. A user may have very many from before the limit
        was set: only so many are read that `_MOST_EVICTED` of them are surplus. Those that are too
        many among some of the sessions are too many among all of them.

        While a session rotates, it may have two records, and it is not known which one will stay.
        """
        if not self.lists:
            raise ImproperlyConfigured(
                f"SESSIONSTORES['MAX_SESSIONS'] is set, but {self.describe()} cannot tell how many "
                "sessions a user has. With the cookie or cache engine, set "
                "SESSIONSTORES['REGISTRY'], for example to 'db'. Otherwise choose another "
                "SESSION_ENGINE."
            )
        own = {record.lineage} if base is None else {record.lineage, base.lineage}
        wanted = min(_MOST_EVICTED, _MOST_CHECKED) if self.lists_lost else _MOST_EVICTED
        enough = self._most - 1 + wanted
        found: dict[str, _Records] = {}
        cursor = ""
        while True:
            now = clock.now()
            page = yield from self._calls.scan(cursor, min(_PAGE, enough), record.user_id, now)
            for each in page.records:
                if each.lineage not in own and each.is_live(now) and _deadline_of(each) > now:
                    found.setdefault(each.lineage, []).append(each)
            cursor = page.next
            if not cursor or len(found) >= enough:
                return [sorted(each, key=last_write) for each in found.values()], not cursor

    def _without_lost(self, others: Sequence[_Records]) -> Flow[list[_Records]]:
        """Return the sessions whose data is still stored; remove the others from the list."""
        kept, lost = [], list[str]()
        for records in others:
            # The older record first. If it is superseded at this moment, the newer one is there.
            for place, each in enumerate(records):
                if not (yield from self._is_lost(each.id)):
                    kept.append([*records[place:], *records[:place]])
                    break
            else:
                lost += [each.id for each in records]
        for start in range(0, len(lost), MOST_AT_ONCE):
            yield from self._calls.end_many(lost[start : start + MOST_AT_ONCE])
        return kept

    def _is_lost(self, session_id: str) -> Flow[bool]:
        """Return whether the data of a listed session is no longer stored."""
        try:
            # A tombstone says that the session has got another key since it was listed.
            return (yield from self._calls.read_latest(session_id)) is None
        except UnreadablePayload:
            return False  # It may be readable with the right keys.

    def _evict(self, outcome: Updated, surplus: Sequence[_Records]) -> Flow[Updated]:
        """End the surplus sessions; return the outcome with those that were live.

        If that takes long, the rest is left to the next login of the user.
        """
        began, ids = clock.monotonic(), set[str]()
        records = list(chain.from_iterable(surplus))

        def evicted(ended: Sequence[Record]) -> tuple[Record, ...]:
            ids.update(each.id for each in ended)
            # If several records were live, the rotations of the others fail now.
            found = (next((each for each in every if each.id in ids), None) for every in surplus)
            return tuple(each for each in found if each is not None)

        with noting_evicted(evicted):
            for start in range(0, len(records), MOST_AT_ONCE):
                if start and clock.monotonic() - began >= _EVICTION_SECONDS:
                    break
                batch = records[start : start + MOST_AT_ONCE]
                ended = yield from revocation.end_many(self.inner, batch)
                ids.update(each.id for each in ended)
        return replace(outcome, evicted=(*outcome.evicted, *evicted(())))

    # --- The lock --------------------------------------------------------------------------

    def _run_under_lock(
        self, user_id: str, flow_of: Callable[[Record], Flow[T]]
    ) -> Flow[tuple[T, bool]]:
        """Run a flow under the lock of a user, which it gets.

        Return its result, and whether the lock was held until the end.
        """
        lock = yield from self._lock(user_id)
        try:
            result = yield from flow_of(lock)
            return result, (yield from self._unlock(lock))
        except (Exception, CancelledError):
            # Not in a ``finally``: a flow that is closed must not ask for another call.
            yield from self._unlock(lock)
            raise

    def _lock(self, user_id: str) -> Flow[Record]:
        """Wait for the lock of a user; return it.

        A lock that has not changed for `_LOCK_SECONDS` is over, whatever time it has: the clock of
        the server that took it may have been ahead.
        """
        deadline = clock.monotonic() + 2 * _LOCK_SECONDS
        current: Record | None = None
        unchanged_since = clock.monotonic()
        while True:
            now = clock.now()
            lock = _lock_of(user_id, self._tenant(), now)
            outcome: Outcome | Taken | None = None
            try:
                if current is None:
                    outcome = yield from self._locks.create(lock, now)
                elif current.expires <= now or clock.monotonic() - unchanged_since >= _LOCK_SECONDS:
                    # A store does not update a record that has expired at the given time.
                    moment = min(now, current.expires - 1)
                    outcome = yield from self._locks.update(lock, current, moment)
            except CancelledError:
                yield from self._unlock(lock)  # It may be stored nevertheless.
                raise
            if isinstance(outcome, Updated):
                return lock
            if clock.monotonic() > deadline:
                raise StorageUnavailable(
                    f"{self.describe()}: another login of user {user_id!r} has kept the lock of "
                    f"SESSIONSTORES['MAX_SESSIONS'] for {2 * _LOCK_SECONDS} seconds. Try again "
                    "later."
                )
            if current is not None:
                yield Call(Pause, "sleep", (random.uniform(*_PAUSES),))  # noqa: S311
            # While another login holds the lock, it is only read. SQLite has one writer at a time,
            # and waiting logins that write would delay the login that holds the lock.
            found = yield from self._locks.lookup(lock.id)
            if found is None or current is None or found.version != current.version:
                unchanged_since = clock.monotonic()
            current = found

    def _unlock(self, lock: Record) -> Flow[bool]:
        """Release a lock, and return whether it was held until now."""
        # An expired lock that nobody has taken yet can be released, but it was not held.
        is_in_time = clock.now() < lock.expires
        # This time has passed by the clock of any server.
        released = replace(lock, version=next_version(lock.version), expires=1)
        # Without this, the lock ends when it expires.
        with suppress(StorageUnavailable):
            now = min(clock.now(), lock.expires - 1)
            outcome = yield from self._locks.update(released, lock, now)
            return is_in_time and isinstance(outcome, Updated)
        return is_in_time


def _lock_of(user_id: str, tenant: str, now: int) -> Record:
    """Return a new lock of a user, which expires `_LOCK_SECONDS` after ``now``.

    The mark of the site is not part of its name: while a site rotates its secret, its workers have
    different marks. Users of two sites with one primary key wait for each other, and that is all.
    """
    name = f"{tenant}\0\0{user_id}"
    digest = hashlib.blake2b(name.encode(), digest_size=20, person=b"session limit")
    return Record(
        id=digest.hexdigest(),
        # Not the state of a session, so that lists do not show it.
        state=State.ENDED,
        version=next_version(),
        created=now,
        last_activity=now,
        expires=now + _LOCK_SECONDS * 1000,
    )


def _refusal(user_id: str | None, others: int, most: int, *, are_all: bool) -> SessionLimitReached:
    """Return the exception for a login of a user who has ``others`` sessions already."""
    listing = f"manage.py sessions list --user-id {shlex.quote(str(user_id))}"
    number = f"{'' if are_all else 'at least '}{others} live session{'' if others == 1 else 's'}"
    return SessionLimitReached(
        f"User {user_id!r} has {number}, and a login was refused because "
        f"SESSIONSTORES['MAX_SESSIONS'] is {most} and SESSIONSTORES['ON_LIMIT'] is 'refuse'. "
        f"End one of them ({listing} shows them), raise MAX_SESSIONS, or set ON_LIMIT to "
        "'end_oldest'."
    )


def _deadline_of(record: Record) -> int:
    """Return when the timeouts end a session, in milliseconds since the epoch."""
    return conf.settings.timeouts.end(record.created, record.last_activity)


def _latest_record(records: _Records) -> Record:
    """Return the newest record of a session, by its last activity and version."""
    return max(records, key=last_write)


def _creation(records: _Records) -> tuple[int, str]:
    """Return when a session was created, and its id, to sort sessions by their creation."""
    record = _latest_record(records)
    return record.created, record.id
