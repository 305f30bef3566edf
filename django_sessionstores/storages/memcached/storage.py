"""The storage of records in memcached, on the nodes of a Django cache but with its own clients."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.utils.translation import gettext_noop

from ...core import clock
from ...core.phrases import Phrase
from ...core.records import Record, State, list_entry, pack, unpack, with_times
from ...exceptions import StorageFull, StorageUnavailable, UnreadablePayload
from ..base import CacheStorage, Gone, Outcome, Taken, Updated, place_of_cache, refusal
from ..copies import is_refused
from ..inspection import draw_ids
from ..outcomes import known_base
from .client import BROKEN, translate_error
from .exchange import STORED, Answer
from .nodes import Nodes

# memcached interprets larger numbers as a time since the epoch.
_LONGEST_RELATIVE: Final = 30 * 24 * 60 * 60
# memcached keeps a time since the epoch in 31 bits, until the year 2038.
_LATEST_ABSOLUTE: Final = 2**31 - 1
_NEVER: Final = 0
# An item that is stored with a lifetime in the past is gone at once.
_GONE: Final = -1
# How many items one round trip reads and replaces. Each may have a megabyte.
_AT_ONCE: Final = 50

# A round is lost only to a request that touches or fills the same session at that very moment.
_ROUNDS: Final = 50


class _Result(NamedTuple):
    """The answer of a node to a command that stores."""

    stored: bool | None
    """``False`` if the item exists, or has changed; ``None`` if there is none."""
    sent_twice: bool
    """Whether the node may have carried out the command already when it answered this."""


class _Item(NamedTuple):
    """An item as a node returns it."""

    data: bytes
    cas: bytes


def from_cache(alias: str) -> MemcachedStorage:
    """Return the storage for sessions in the PyMemcacheCache with this alias.

    Opens no connection.
    """
    # An instance of its own, for its keys and its list of servers only. Its HashClient unpickles
    # what it reads, answers "no such key" for a node that is down, and then moves the node's keys
    # to others: a user who logged out meanwhile is logged in again when the node is back.
    return MemcachedStorage(
        alias, caches.create_connection(alias), caches.settings[alias].get("OPTIONS") or {}
    )


class MemcachedStorage(CacheStorage):
    """Records as items in their packed form. Every change of one is a compare-and-set.

    A session belongs to one node, see `Nodes`. While its node is down, the session is unavailable;
    others are not affected.
    """

    self_expiring = True

    def __init__(self, alias: str, cache: BaseCache, options: dict[str, Any]) -> None:
        self._nodes = Nodes(alias, cache, options)

    def describe(self) -> str:
        return Phrase(
            gettext_noop("memcached at %(nodes)s through pymemcache (cache alias %(alias)s)"),
            alias=repr(self._nodes.alias),
            nodes=", ".join(sorted(self._nodes.clients)),
        )

    def nodes(self) -> dict[str, str]:
        return draw_ids(self._nodes.clients, self._nodes.node_of)

    def place(self) -> str:
        return place_of_cache(self._nodes.alias)

    def namespace(self) -> str:
        return self._nodes.key("")

    def missing_timeout(self) -> str:
        return self._nodes.missing_timeout()

    def read(self, session_id: str) -> Record | None:
        return _record(session_id, self._find(session_id))

    def create(self, record: Record, now: int) -> Updated | Taken:
        data = pack(record)
        answer = self._store("add", record, data, record.expires, now)
        if not answer.stored and not (answer.sent_twice and self._holds(record.id, data)):
            return Taken()
        return Updated(_without_handle(record))

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        data = pack(record)
        current = known_base(base, now) or self.read(base.id)
        for _ in range(_ROUNDS):
            refused = refusal(current, base, now)
            if current is None or refused is not None:
                return refused or Gone()
            try:
                answer = self._store("cas", record, data, record.expires, now, current.handle)
            except StorageFull:
                if record.state is State.LIVE or record.successor:
                    raise
                # The session must end, if without a tombstone.
                self._nodes.call(base.id, "delete")
                return Updated(_without_handle(record))
            if answer.stored:
                return Updated(_without_handle(record))
            if answer.stored is None:
                return Gone()
            found = self._find(base.id)
            if answer.sent_twice and found is not None and found.data == data:
                return Updated(_without_handle(record))
            # If the version is still the same, another request has only moved the expiry.
            current = _record(base.id, found)
        raise self._contention(base.id)

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        # Not memcached's own ``touch``, which looks at no version and leaves the times in the
        # record as they are.
        current = known_base(base, now) or self.read(base.id)
        if current is None or refusal(current, base, now) is not None:
            return False
        touched = with_times(current, expires, last_activity)
        answer = self._store("cas", touched, pack(touched), touched.expires, now, current.handle)
        return answer.stored is True

    def delete(self, session_id: str) -> bool:
        # Not memcached's own ``delete``, which would remove a tombstone like a session.
        for _ in range(_ROUNDS):
            found = self._find(session_id)
            if found is None:
                return False
            try:
                record = unpack(session_id, found.data)
            except UnreadablePayload:
                self._nodes.call(session_id, "delete")
                return False
            if record.state is not State.LIVE or not self.is_own(record):
                return False
            try:
                answer = self._store("cas", record, b"", 0, 0, found.cas)
            except StorageFull:
                # A full node has no room for an empty item either, and so hardly for a tombstone.
                deleted, sent_twice = self._nodes.call(session_id, "delete")
                return deleted or sent_twice
            if answer.stored is not False:
                was_there = answer.stored is True or answer.sent_twice
                return was_there and record.is_live(clock.now())
        raise self._contention(session_id)

    def lookup_many(self, session_ids: Sequence[str]) -> Mapping[str, Record]:
        found = dict[str, Record]()
        for start in range(0, len(session_ids), _AT_ONCE):
            items = self._nodes.items(session_ids[start : start + _AT_ONCE])
            for each, (data, _) in items.items():
                with suppress(UnreadablePayload):
                    found[each] = list_entry(unpack(each, data))
        return found

    def end_many(self, session_ids: Sequence[str]) -> Collection[str]:
        """See `Storage.end_many`. Two round trips for `_AT_ONCE` sessions of a node."""
        ended: list[str] = []
        for start in range(0, len(session_ids), _AT_ONCE):
            try:
                ended += self._end_some(session_ids[start : start + _AT_ONCE])
            except StorageUnavailable:
                if not ended:
                    raise
                break
        return ended

    def rotate(self, record: Record, base: Record, tombstone: Record, now: int) -> Outcome | Taken:
        # One round trip: the second write does not wait for the first. If only one was done, it is
        # undone, and the rotation in two steps finds out why the other was refused.
        if base.handle is not None and base.expires > now:
            data = pack(record)
            end = _pad(tombstone, len(data))
            created, superseded = self._add_and_cas(record, data, base, end, tombstone.expires, now)
            if created and superseded:
                return Updated(_without_handle(record))
            if superseded:
                self._put_back(base, end, now)
            elif created:
                self.delete(record.id)
        return super().rotate(record, base, tombstone, now)

    def purge(self, now: int, batch: int) -> int:
        return 0

    def fill(self, record: Record, until: int, now: int) -> None:
        data = pack(record)
        for _ in range(_ROUNDS):
            found = self._find(record.id)
            if found is None:
                answer = self._store("add", record, data, until, now)
            elif self._is_refused(record, found, now):
                return
            else:
                answer = self._store("cas", record, data, until, now, found.cas)
            if answer.stored:
                return
        raise self._contention(record.id)

    def leave_tombstone(self, tombstone: Record, now: int) -> None:
        self._store("set", tombstone, pack(tombstone), tombstone.expires, now)

    def leave_tombstones(self, tombstones: Sequence[Record], now: int) -> None:
        for start in range(0, len(tombstones), _AT_ONCE):
            some = {each.id: each for each in tombstones[start : start + _AT_ONCE]}
            commands = {
                each.id: self._nodes.command(
                    "set", each.id, pack(each), _lifetime(each.expires, now)
                )
                for each in some.values()
            }
            for session_id, answer in self._nodes.store_at_once(commands).items():
                if answer != STORED:
                    self.leave_tombstone(some[session_id], now)

    def close(self) -> None:
        self._nodes.close()

    def _end_some(self, session_ids: Sequence[str]) -> list[str]:
        found, commands = self._nodes.items(session_ids), dict[str, bytes]()
        for each, (data, cas) in found.items():
            with suppress(UnreadablePayload):
                record = unpack(each, data)
                if record.state is State.LIVE and self.is_own(record):
                    commands[each] = self._nodes.command("cas", each, b"", _GONE, cas)
        answers = self._nodes.store_at_once(commands)
        # `delete` does what was not done at once.
        return [each for each in found if answers.get(each) == STORED or self.delete(each)]

    # --- Records and items ------------------------------------------------------------------

    def _find(self, session_id: str) -> _Item | None:
        (data, cas), _ = self._nodes.call(session_id, "gets")
        if data is None:
            return None
        if cas == b"0":
            node = self._nodes.node_of(session_id)
            failure = StorageUnavailable(
                f"memcached at {node} (cache alias {self._nodes.alias!r}) was started with -C, "
                "which disables compare-and-set. Start it without -C."
            )
            self._nodes.note(node, failure, "cas")
            raise failure
        return _Item(data, cas)

    def _holds(self, session_id: str, data: bytes) -> bool:
        found = self._find(session_id)
        return found is not None and found.data == data

    def _is_refused(self, copy: Record, found: _Item, now: int) -> bool:
        try:
            return is_refused(copy, unpack(copy.id, found.data), now)
        except UnreadablePayload:
            return False

    def _store(
        self,
        command: str,
        record: Record,
        data: bytes,
        until: int,
        now: int,
        cas: bytes | None = None,
    ) -> _Result:
        arguments = (data,) if cas is None else (data, cas)
        return _Result(
            *self._nodes.call(record.id, command, *arguments, expire=_lifetime(until, now))
        )

    def _add_and_cas(
        self, record: Record, data: bytes, base: Record, end: bytes, end_expires: int, now: int
    ) -> tuple[bool, bool]:
        """Add ``data`` and replace ``base`` by ``end``, in one round trip.

        Return which of the two was done. Raises the exception for the failure of a node. These are
        the effects of such a failure, or of a crash:

        * A connection is not open, as after a known outage: nothing is sent. The rotation in two
          steps begins with the new record.
        * The new session's node fails: the old session is put back, and was superseded until then.
          The new record may still appear later, under a key that nobody knows.
        * The old session's node fails: the new record is removed. Whether the old session is
          superseded is not known, as with a rotation in two steps.
        * This process dies between the sends: the old session is unchanged. That is why the new
          record is sent first.
        * This process dies later: as if it had died before it could answer the login. Only if a
          node fails in that very moment, nothing puts the old session back.
        """
        new, old = self._nodes.node_of(record.id), self._nodes.node_of(base.id)
        lifetime, end_lifetime = _lifetime(record.expires, now), _lifetime(end_expires, now)
        add = self._nodes.command("add", record.id, data, lifetime)
        cas = self._nodes.command("cas", base.id, end, end_lifetime, base.handle)
        commands = {new: [add, cas]} if new == old else {new: [add], old: [cas]}
        added, swapped = self._nodes.call_at_once(commands)
        try:
            created = self._was_done(added, record.id, data)
        except StorageUnavailable:
            if new != old:
                with suppress(StorageUnavailable):
                    if self._was_done(swapped, base.id, end):
                        self._put_back(base, end, now)
            raise
        try:
            superseded = self._was_done(swapped, base.id, end)
        except StorageUnavailable:
            if created and new != old:
                with suppress(StorageUnavailable):
                    self.delete(record.id)
            raise
        return created, superseded

    def _was_done(self, answer: Answer, session_id: str, data: bytes) -> bool:
        """Return whether a command that stores ``data`` was carried out, given the answer to it.

        Raises the exception for the failure of a node.
        """
        if isinstance(answer, BROKEN):
            # Closed while it was idle, most likely; but the answer may have been lost.
            return self._holds(session_id, data)
        if isinstance(answer, Exception):
            node = self._nodes.node_of(session_id)
            failure = translate_error(answer, node, self._nodes.alias, (data,))
            self._nodes.note(node, failure)
            raise failure from answer
        return answer == STORED

    def _put_back(self, base: Record, end: bytes, now: int) -> None:
        """Undo the tombstone of a session that did not get a successor, if it is still there."""
        found = self._find(base.id)
        if found is not None and found.data == end:
            self._store("cas", base, pack(base), base.expires, now, found.cas)

    def _contention(self, session_id: str) -> StorageUnavailable:
        return StorageUnavailable(
            f"memcached at {self._nodes.node_of(session_id)}: other requests changed the item of a "
            f"session {_ROUNDS} times in a row. Try again later."
        )


def _record(session_id: str, found: _Item | None) -> Record | None:
    return None if found is None else unpack(session_id, found.data, found.cas)


def _without_handle(record: Record) -> Record:
    # memcached does not return the token of an item that it has just stored.
    return record if record.handle is None else msgspec.structs.replace(record, handle=None)


def _pad(tombstone: Record, size: int) -> bytes:
    """Return a packed tombstone of ``size`` bytes, the size of the session that succeeds it.

    A node that refuses the session, because it is too large or memory is short, then refuses the
    tombstone as well. It might accept a small one, which would end a session without a successor.
    """
    link = tombstone.payload
    padding, packed = len(link), pack(tombstone)
    for _ in range(2):  # The length of the padding takes some bytes, too.
        padding = max(len(link), padding + size - len(packed))
        packed = pack(msgspec.structs.replace(tombstone, payload=link.ljust(padding, b"\0")))
    return packed


def _lifetime(until: int, now: int) -> int:
    """Return the lifetime as memcached expects it; never too short, because the record decides.

    In seconds from now if that is possible, because the clock of a node may differ.
    """
    seconds = -((now - until) // 1000)
    if seconds <= 0:
        return _GONE
    # memcached counts from its last tick, up to a second ago.
    seconds += 1
    if seconds <= _LONGEST_RELATIVE:
        return seconds
    moment = -(-until // 1000)
    return moment if moment <= _LATEST_ABSOLUTE else _NEVER
