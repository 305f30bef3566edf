"""Records in Redis, through the connections of a Django cache but not through its API."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache

from ... import conf
from ...core import clock
from ...core.flow import Call, Flow, arun, run
from ...core.records import Record, State, is_session_id, pack, pack_site, pack_times, unpack
from ...core.summary import IndexReport
from ...exceptions import StorageUnavailable
from ..base import CacheStorage, Conflict, Gone, Outcome, Page, Taken, Updated, rotate_in_two_steps
from ..flows import FlowStorage
from ..inspection import ManyTries
from . import ends, index_scripts, scripts
from .answers import eviction_policy, find
from .client import Server
from .cluster import ids_of_nodes
from .index import SessionIndex
from .keys import sessions_key, tag_of
from .measuring import measure
from .members import Move, Moves, arguments_of, keys_of, moves_of
from .running import Evaluation
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
    cluster, a session and its user may be on different nodes, so the index of users gets a command
    of its own if a session comes to a user. It is not told that a session has ended: a list looks.
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
        return self._server.prefix.decode()

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
            moves_of(self, self._server.prefix, None, record, now),
        )
        return Updated(record) if self._is_done(answer) else Taken()

    def _update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        packed = pack(record)
        answer = yield from self._write(
            scripts.UPDATE,
            (self._server.key(base.id),),
            (_version(base), now, packed, _ttl(record.expires, now)),
            moves_of(self, self._server.prefix, base, record, now),
        )
        if answer == packed and record.state is State.LIVE:
            # A client that retries may send the command twice. No other payload is encrypted to the
            # same bytes, but two tombstones may be equal.
            return Updated(record)
        return self._outcome(answer, record, base)

    def _touch(self, base: Record, expires: int, last_activity: int, now: int) -> Flow[bool]:
        record = msgspec.structs.replace(base, expires=expires)
        answer = yield from self._write(
            scripts.TOUCH,
            (self._server.key(base.id),),
            (_version(base), now, pack_times(last_activity, expires), _ttl(expires, now)),
            moves_of(self, self._server.prefix, base, record, now),
        )
        return self._is_done(answer)

    def _delete(self, session_id: str) -> Flow[bool]:
        if not is_session_id(session_id):
            return False  # A value with such a key is not a session.
        script, keys, arguments = self._deletion(session_id)
        return self._is_done((yield from self._server.evaluate(script, keys, *arguments)))

    def _end_many(self, session_ids: Sequence[str]) -> Flow[Collection[str]]:
        calls = [self._deletion(each) for each in session_ids]
        answers = (yield from self._server.evaluate_all(calls)) if calls else []
        return [
            each for each, answer in zip(session_ids, answers, strict=True) if self._is_done(answer)
        ]

    def _deletion(self, session_id: str) -> Evaluation:
        prefix, sites, tag = self._server.prefix, self.sites(), tag_of(session_id)
        keys = (self._server.key(session_id), *(sessions_key(prefix, each, tag) for each in sites))
        has_users = int(not self._server.spans_slots)
        channel = ends.channel_of(prefix) if conf.settings.TELL_ENDS else b""
        head = (bytes.fromhex(session_id), prefix, has_users, clock.now(), channel)
        arguments = (*head, *map(pack_site, sites))
        return scripts.DELETE, keys, arguments

    def _purge(self, now: int, batch: int) -> Flow[int]:
        # Redis drops the records; what is left are their members of the index.
        return self._index.purge(now, batch)

    def _rotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        # The two keys are hardly ever in the same slot of a cluster.
        if not self._server.spans_slots:
            moves = moves_of(self, self._server.prefix, base, record, now)
            try:
                answer = yield from self._evaluate(
                    scripts.ROTATE,
                    (self._server.key(base.id), self._server.key(record.id)),
                    (
                        *(_version(base), now, pack(tombstone), _ttl(tombstone.expires, now)),
                        *(pack(record), _ttl(record.expires, now)),
                    ),
                    [*moves.of_session, *moves.of_user],
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

    async def hear_ends(self, tell: Callable[[str], object]) -> None:
        if conf.settings.TELL_ENDS:
            await ends.hear(self._server, tell)

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        """See `Storage.scan`. Sessions come in the order of their ids."""
        return run(self._index.scan(cursor, limit, user_id, live_at))

    async def ascan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        return await arun(self._index.scan(cursor, limit, user_id, live_at))

    def count(self, now: int, user_id: str | None) -> int:
        return run(self._index.count(now, user_id))

    async def acount(self, now: int, user_id: str | None) -> int:
        return await arun(self._index.count(now, user_id))

    def index_is_complete(self) -> bool:
        return self._index.builder.is_complete()

    def index_report(self) -> IndexReport:
        return measure(self._server, self)

    def write_obstacle(self) -> str:
        """See `Storage.write_obstacle`. Asks the server, and changes nothing."""
        prefix, unknown = self._server.prefix, self._server.key(_NO_SESSION)
        index = sessions_key(prefix, self.sites()[0], tag_of(_NO_SESSION))
        noted = self._index.builder.sites_key
        try:
            self._server.ask("EVAL", "return 1", 0)
            refused = list[bytes]()
            for script, keys in (
                (scripts.MAY_WRITE_RECORD, (unknown,)),
                (scripts.MAY_WRITE_INDEX, (index, index + b"probe")),
                (scripts.MAY_NOTE_SITES, (noted, noted + b"probe")),
            ):
                refused += run(self._server.evaluate(script, keys))
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

    # --- The server ------------------------------------------------------------------------

    def _write(
        self, script: Script, keys: tuple[bytes], arguments: tuple[Any, ...], moves: Moves
    ) -> Flow[Any]:
        """Run a script on a record and the index."""
        if not self._server.spans_slots:
            try:
                return (
                    yield from self._evaluate(
                        script, keys, arguments, [*moves.of_session, *moves.of_user]
                    )
                )
            except StorageUnavailable as error:
                self._expect_cluster(error)
        if announced := moves.announcements:
            try:
                # First, because a session that its user cannot find must not begin.
                yield from self._evaluate(index_scripts.MOVE, (), (), announced)
            except StorageUnavailable as error:
                if moves.is_new_to_user:
                    raise
                if script is scripts.TOUCH:
                    return 0  # A later request touches it.
                level = logging.DEBUG if error.was_logged else logging.WARNING
                logger.log(level, "The index of sessions is behind until it heals: %s", error)
        return (yield from self._evaluate(script, keys, arguments, moves.of_session))

    def _evaluate(
        self,
        script: Script,
        keys: tuple[bytes, ...],
        arguments: tuple[Any, ...],
        moves: Sequence[Move],
    ) -> Flow[Any]:
        """Return what a script returns that also moves the index."""
        keys, arguments = keys + keys_of(moves), arguments + arguments_of(moves)
        return (yield from self._server.evaluate(script, keys, *arguments))

    def _expect_cluster(self, error: StorageUnavailable) -> None:
        """Raise an error again unless it has shown that keys are on different nodes.

        Nothing was written then: this was the first call, or the project uses a client of one
        server for a cluster.
        """
        if not self._server.spans_slots:
            raise error

    def close(self) -> None:
        self._server.close()


def _version(record: Record) -> bytes:
    return record.version.to_bytes(scripts.VERSION_SIZE, "big")


def _ttl(expires: int, now: int) -> int:
    # Redis refuses a lifetime of 0.
    return max(1, expires - now)
