"""Records in Redis, through the connections of a Django cache but not through its API."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache

from ...core.flow import Call, Flow, arun, run
from ...core.records import Record, State, is_session_id, pack, pack_site, pack_times, unpack
from ...core.summary import Summary, summarize
from ...exceptions import StorageFull, StorageUnavailable
from ..base import CacheStorage, Conflict, Gone, Outcome, Page, Taken, Updated, rotate_in_two_steps
from ..flows import FlowStorage
from ..inspection import ManyTries
from . import scripts
from .answers import eviction_policy, find
from .client import Server
from .cluster import ids_of_nodes
from .index import SessionIndex
from .members import Moves
from .scripts import Script
from .waits import many_tries, missing_timeout

logger: Final = logging.getLogger("django_sessionstores")

_NO_SESSION: Final = "0" * 40
"""The id of no session."""


def from_cache(alias: str) -> RedisStorage:
    """Return the storage for sessions in a Redis cache of django-redis or Django."""
    # An instance of its own. Those that Django hands out belong to a thread or task and end with
    # it or with the request, Django's RedisCache with its connections.
    storage = RedisStorage(alias, caches.create_connection(alias))
    if not _may_connect(caches.settings[alias]):
        storage.make_client()  # So that the checks find out whether it can be made.
    return storage


_CONNECTS_LATER: Final = {
    "BACKEND": {
        "django.core.cache.backends.redis.RedisCache",
        "django_redis.cache.RedisCache",
    },
    "CLIENT_CLASS": {"django_redis.client.SentinelClient"},
    "CONNECTION_FACTORY": {"django_redis.pool.SentinelConnectionFactory"},
    "REDIS_CLIENT_CLASS": set[str](),
}
"""The classes that do not connect before the first command, by the names of their settings."""


def _may_connect(entry: dict[str, Any]) -> bool:
    """Return whether the client may connect when it is made, as that of a cluster does."""
    options = {
        "BACKEND": entry["BACKEND"],
        "CONNECTION_FACTORY": getattr(settings, "DJANGO_REDIS_CONNECTION_FACTORY", None),
        **(entry.get("OPTIONS") or {}),
    }
    return any(options.get(name) not in {None, *known} for name, known in _CONNECTS_LATER.items())


class RedisStorage(FlowStorage, CacheStorage):
    """Records as strings in their packed form, with a lifetime that Redis ends.

    Lifetimes are sent as time left, not as a moment: the clock of a server may differ.

    Each write is one script that decides on the server and moves the index, see `scripts`. On a
    cluster, where the keys of records and index are on different nodes, each command has one key,
    and the index follows in a second command; if that fails, the index is behind until the session
    is next used or listed.
    """

    tells_eviction = True
    asks_for_rights = True
    self_expiring = True
    lists = True
    indexes_users = True
    indexes_counts = True

    def __init__(self, alias: str, cache: BaseCache) -> None:
        self._server = Server(alias, cache)
        self._index = SessionIndex(self._server, self)

    def make_client(self) -> None:
        """Make the blocking client. Raises ``ImproperlyConfigured``."""
        self._server.connect()

    def describe(self) -> str:
        return self._server.describe()

    def place(self) -> str:
        return self._server.place()

    def namespace(self) -> str:
        return self._server.key("")

    def nodes(self) -> dict[str, str]:
        return ids_of_nodes(self._server.client(), self._server.key)

    @property
    def native_async(self) -> bool:
        return self._server.is_native

    # --- Records ---------------------------------------------------------------------------

    def _read(self, session_id: str) -> Flow[Record | None]:
        packed = yield Call(self._server, "ask", ("GET", self._server.key(session_id)))
        return self._record(session_id, packed)

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        answer = yield from self._write(
            scripts.CREATE,
            (self._server.key(record.id),),
            (pack(record), _ttl(record.expires, now)),
            self._index.moves_of(None, record, now),
        )
        return Updated(record) if self._is_done(answer) else Taken()

    def _update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        packed = pack(record)
        answer = yield from self._write(
            scripts.UPDATE,
            (self._server.key(base.id),),
            (_version(base), now, packed, _ttl(record.expires, now)),
            self._index.moves_of(base, record, now),
            index_stays=(base.expires, base.user_id, base.state, base.site)
            == (record.expires, record.user_id, record.state, record.site),
        )
        if answer == packed and record.state is State.LIVE:
            # A client that retries may send the command twice. No other payload is encrypted to the
            # same bytes, but two tombstones may be equal.
            return Updated(record)
        return self._outcome(answer, record, base)

    def _touch(self, base: Record, expires: int, last_activity: int, now: int) -> Flow[bool]:
        answer = yield from self._write(
            scripts.TOUCH,
            (self._server.key(base.id),),
            (_version(base), now, pack_times(last_activity, expires), _ttl(expires, now)),
            self._index.moves_of(base, msgspec.structs.replace(base, expires=expires), now),
            index_stays=expires <= base.expires,
        )
        return self._is_done(answer)

    def _delete(self, session_id: str) -> Flow[bool]:
        if not is_session_id(session_id):
            return False  # A value with such a key is not a session.
        sites = self.sites()
        answer = yield from self._write(
            scripts.DELETE,
            (self._server.key(session_id),),
            _arguments_to_delete((session_id,), sites),
            sites=sites,
        )
        (member,) = self._members(answer, 1)
        if member and self._server.spans_slots:
            for site in sites:
                yield from self._index.move(Moves(removed=member, site=site))
        return bool(member)

    def _end_many(self, session_ids: Sequence[str]) -> Flow[Collection[str]]:
        # The keys are hardly ever in the same slot of a cluster.
        if not self._server.spans_slots:
            sites, keys = self.sites(), map(self._server.key, session_ids)
            try:
                answer = yield from self._server.evaluate(
                    scripts.DELETE,
                    (*keys, *self._index.keys_of(*sites)),
                    *_arguments_to_delete(session_ids, sites),
                )
                members = self._members(answer, len(session_ids))
                return [each for each, member in zip(session_ids, members, strict=True) if member]
            except StorageUnavailable as error:
                self._expect_cluster(error)
        return (yield from super()._end_many(session_ids))

    def _purge(self, now: int, batch: int) -> Flow[int]:
        # Redis drops the records; what is left are their members of the index.
        return self._index.purge(now, batch)

    def _rotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        # The two keys are hardly ever in the same slot of a cluster.
        if not self._server.spans_slots:
            moves = self._index.moves_of(base, record, now)
            keys = (self._server.key(base.id), self._server.key(record.id))
            try:
                answer = yield from self._server.evaluate(
                    scripts.ROTATE,
                    (*keys, *self._index.keys_for(moves)),
                    _version(base),
                    now,
                    pack(tombstone),
                    _ttl(tombstone.expires, now),
                    pack(record),
                    _ttl(record.expires, now),
                    *moves.arguments,
                )
                return Taken() if answer == 0 else self._outcome(answer, record, base)
            except StorageUnavailable as error:
                self._expect_cluster(error)
        return (yield from rotate_in_two_steps(self, record, base, tombstone, now))

    def fill(self, record: Record, until: int, now: int) -> None:
        run(self._fill(record, until, now))

    async def afill(self, record: Record, until: int, now: int) -> None:
        await arun(self._fill(record, until, now))

    def leave_tombstone(self, tombstone: Record, now: int) -> None:
        run(self._leave_tombstone(tombstone, now))

    async def aleave_tombstone(self, tombstone: Record, now: int) -> None:
        await arun(self._leave_tombstone(tombstone, now))

    def _fill(self, record: Record, until: int, now: int) -> Flow[None]:
        key = self._server.key(record.id)
        yield from self._server.evaluate(scripts.FILL, (key,), pack(record), _ttl(until, now))

    def leave_tombstones(self, tombstones: Sequence[Record], now: int) -> None:
        run(self._leave_tombstones(tombstones, now))

    async def aleave_tombstones(self, tombstones: Sequence[Record], now: int) -> None:
        await arun(self._leave_tombstones(tombstones, now))

    def _leave_tombstone(self, tombstone: Record, now: int) -> Flow[None]:
        yield Call(self._server, "ask", self._command_to_leave(tombstone, now))

    def _leave_tombstones(self, tombstones: Sequence[Record], now: int) -> Flow[None]:
        commands = [self._command_to_leave(each, now) for each in tombstones]
        yield Call(self._server, "ask_all", (commands,))

    def _command_to_leave(self, tombstone: Record, now: int) -> tuple[Any, ...]:
        lifetime = ("PX", _ttl(tombstone.expires, now))
        return ("SET", self._server.key(tombstone.id), pack(tombstone), *lifetime)

    # --- The index -------------------------------------------------------------------------

    def lookup(self, session_id: str) -> Record | None:
        return self.read(session_id)

    async def alookup(self, session_id: str) -> Record | None:
        return await self.aread(session_id)

    def lookup_many(self, session_ids: Sequence[str]) -> Mapping[str, Record]:
        return run(find(self._server, session_ids))

    async def alookup_many(self, session_ids: Sequence[str]) -> Mapping[str, Record]:
        return await arun(find(self._server, session_ids))

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        """See `Storage.scan`. The last to expire comes first, unless ``user_id`` is given."""
        return run(self._index.scan(cursor, limit, user_id, live_at))

    async def ascan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        return await arun(self._index.scan(cursor, limit, user_id, live_at))

    def count(self, now: int, user_id: str | None) -> int:
        return run(self._index.count(now, user_id))

    async def acount(self, now: int, user_id: str | None) -> int:
        return await arun(self._index.count(now, user_id))

    def summarize(self, now: int, limit: int) -> Summary:
        try:
            records, is_whole = run(self._index.sample(now, limit))
        except StorageFull:
            return super().summarize(now, limit)
        return summarize(records, now, is_whole=is_whole)

    def index_is_complete(self) -> bool:
        return self._index.builder.is_complete()

    def write_obstacle(self) -> str:
        """See `Storage.write_obstacle`. Asks the server, and changes nothing."""
        unknown, index = self._server.key(_NO_SESSION), self._index.keys_of(self.sites()[0])
        probe = self._server.key("{index}:probe")
        try:
            self._server.ask("EVAL", "return 1", 0)
            refused = run(self._server.evaluate(scripts.MAY_WRITE_RECORD, (unknown,)))
            refused += run(self._server.evaluate(scripts.MAY_WRITE_INDEX, (*index, probe)))
            if refused:
                names = dict.fromkeys(each.decode().lower() for each in refused)
                return self._server.refusal(", ".join(names))
            if not self._server.spans_slots:  # Only to rebuild the index.
                self._server.ask("SCAN", 0, "COUNT", 1)
        except StorageUnavailable as error:
            return str(error).removeprefix(f"{self.describe()}: ")
        return ""

    def eviction_policy(self) -> str:
        """See `Storage.eviction_policy`. The nodes of a cluster are not asked.

        Sessions have a lifetime, so that each policy but one may drop them.
        """
        if self._server.spans_slots:
            return ""
        return eviction_policy(self._server.ask("INFO", "memory"))

    def missing_timeout(self) -> str:
        return missing_timeout(self._server)

    def many_tries(self) -> ManyTries | None:
        return many_tries(self._server)

    def reindex(self, builder: str = "") -> int:
        """See `Storage.reindex`, and `IndexBuilder.rebuild` for ``builder``."""
        return self._index.builder.rebuild(builder)

    async def areindex(self, builder: str = "") -> int:
        return await self._in_thread(self.reindex)(builder)

    # --- What scripts return ----------------------------------------------------------------

    # Another server that speaks the same protocol may answer anything. What it has not stored must
    # not count as stored.

    def _is_done(self, answer: Any) -> bool:
        if answer not in (0, 1):
            self._server.reject(answer)
        return bool(answer)

    def _outcome(self, answer: Any, record: Record, base: Record) -> Outcome:
        if answer == 1:
            return Updated(record)
        current = self._record(base.id, answer)
        return Gone() if current is None else Conflict(current)

    def _record(self, session_id: str, answer: Any) -> Record | None:
        if answer is None:
            return None
        if not isinstance(answer, bytes):
            self._server.reject(answer)
        return unpack(session_id, answer)

    def _members(self, answer: Any, number: int) -> Sequence[bytes]:
        """Return the members that so many records had."""
        if not isinstance(answer, list) or len(answer) != number:
            self._server.reject(answer)
        return answer

    # --- The server ------------------------------------------------------------------------

    def _write(
        self,
        script: Script,
        keys: tuple[str],
        arguments: tuple[Any, ...],
        moves: Moves | None = None,
        index_stays: bool = False,
        sites: tuple[int, ...] = (),
    ) -> Flow[Any]:
        """Run a script on a record and the index.

        With ``index_stays``, the index is left out on a cluster. Without ``moves``, the script
        gets the indexes of ``sites``.
        """
        if moves is not None:
            arguments += moves.arguments
        if not self._server.spans_slots:
            index = self._index.keys_of(*sites) if moves is None else self._index.keys_for(moves)
            try:
                return (yield from self._server.evaluate(script, (*keys, *index), *arguments))
            except StorageUnavailable as error:
                self._expect_cluster(error)
        answer = yield from self._server.evaluate(script, keys, *arguments)
        if answer == 1 and moves and not index_stays:
            yield from self._index.move(moves)
        return answer

    def _expect_cluster(self, error: StorageUnavailable) -> None:
        """Remember that keys are on different nodes if an error says so; raise any other error.

        Nothing was written: this was the first call, or the project uses a client of one server
        for a cluster.
        """
        # The text of the server, because redis-py 5.0 has a class for it only in its client of
        # a cluster.
        self._server.spans_slots |= "hash to the same slot" in str(error)
        if not self._server.spans_slots:
            raise error

    def close(self) -> None:
        self._server.close()


def _arguments_to_delete(session_ids: Sequence[str], sites: Sequence[int]) -> tuple[Any, ...]:
    marks = map(pack_site, (0, *sites))
    return (len(session_ids), *map(bytes.fromhex, session_ids), *marks)


def _version(record: Record) -> bytes:
    return record.version.to_bytes(scripts.VERSION_SIZE, "big")


def _ttl(expires: int, now: int) -> int:
    # Redis refuses a lifetime of 0.
    return max(1, expires - now)
