"""Records in Redis, through the connections of a Django cache but not through its API."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import msgspec
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from redis.exceptions import ClusterCrossSlotError, NoScriptError

from ..exceptions import StorageUnavailable, UnreadablePayload
from ..flow import Call, Flow, arun, run
from ..records import (
    START_SIZE,
    Record,
    State,
    is_session_id,
    listed,
    pack,
    pack_times,
    unpack,
    unpack_start,
)
from . import redis_scripts as scripts
from .base import (
    NAMESPACE,
    CacheStorage,
    Conflict,
    Gone,
    Outcome,
    Page,
    Taken,
    Updated,
    in_two_steps,
    no_cursor,
)
from .flows import FlowStorage
from .redis_client import Server
from .redis_scripts import Script

logger: Final = logging.getLogger("django_sessionstores")

_BATCH: Final = 1000
_CURSOR: Final = re.compile(r"(\d{0,18}\.([0-9a-f]{2})+)?", re.ASCII)
_GLOB: Final = re.compile(r"[][*?\\^-]")
_LITTER_AGE: Final = 3_600_000
"""Milliseconds after its expiry, by anybody's clock, when a member of the index is litter."""


def from_cache(alias: str) -> RedisStorage:
    """The storage for sessions in the Redis cache with this alias, django-redis' or Django's."""
    # An instance of our own. Those that Django hands out belong to a thread or task and end with
    # it or with the request, Django's RedisCache with its connections.
    return RedisStorage(alias, caches.create_connection(alias))


class _Moves(NamedTuple):
    """What a write does to the index, in the order in which the scripts take it."""

    removed: bytes = b""
    added: bytes = b""
    expires: int = 0
    litter: int = 0
    """Members that expired before this moment are cleared away, a few at a time."""

    @property
    def lists_anew(self) -> bool:
        return bool(self.added) and self.added != self.removed


class _Member(NamedTuple):
    """A session in the index."""

    id: str
    user_id: str | None
    score: bytes = b""
    """When it expires, in milliseconds as the server writes them; empty where that is not known."""

    @classmethod
    def parse(cls, name: bytes, score: bytes) -> _Member:
        user = name[scripts.ID_SIZE + 1 :].decode() if len(name) > scripts.ID_SIZE else None
        return cls(name[: scripts.ID_SIZE].hex(), user, score)

    @property
    def name(self) -> bytes:
        user = b"" if self.user_id is None else b":" + self.user_id.encode()
        return bytes.fromhex(self.id) + user


class RedisStorage(FlowStorage, CacheStorage):
    """Records as strings in their packed form, with a lifetime that Redis ends.

    Lifetimes are sent as time left, not as a moment: the clock of a server may differ.

    Each write is one script that decides on the server and moves
    the index, see `redis_scripts`. On a cluster, where the keys of the two are on different nodes,
    each command has one key, and the index follows in a second one; if that fails, the index is
    behind until the session is next used or listed.
    """

    self_expiring = True
    lists = True
    indexes_users = True

    def __init__(self, alias: str, cache: BaseCache) -> None:
        self._cache = cache
        self._server = Server(alias, cache)
        # In braces, so that a cluster keeps both on one node.
        self._index = (self._key("{index}:all"), self._key("{index}:users"))

    def describe(self) -> str:
        return self._server.describe()

    @property
    def native_async(self) -> bool:
        return self._server.is_native

    # --- Records ---------------------------------------------------------------------------

    def _read(self, session_id: str) -> Flow[Record | None]:
        packed = yield Call(self._server, "ask", ("GET", self._key(session_id)))
        return None if packed is None else unpack(session_id, packed)

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        written = yield from self._write(
            scripts.CREATE,
            (self._key(record.id),),
            (pack(record), _ttl(record.expires, now)),
            _moves(None, record, now),
        )
        return Updated(record) if written else Taken()

    def _update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        packed = pack(record)
        answer = yield from self._write(
            scripts.UPDATE,
            (self._key(base.id),),
            (_version(base), now, packed, _ttl(record.expires, now)),
            _moves(base, record, now),
            index_stays=(base.expires, base.user_id, base.state)
            == (record.expires, record.user_id, record.state),
        )
        if answer == packed and record.state is State.LIVE:
            # A client that retries may send the command twice. No other payload is sealed to the
            # same bytes, but two tombstones may be equal.
            return Updated(record)
        return _outcome(answer, record, base)

    def _touch(self, base: Record, expires: int, last_activity: int, now: int) -> Flow[bool]:
        answer = yield from self._write(
            scripts.TOUCH,
            (self._key(base.id),),
            (_version(base), now, pack_times(last_activity, expires), _ttl(expires, now)),
            _moves(base, msgspec.structs.replace(base, expires=expires), now),
            index_stays=expires <= base.expires,
        )
        return bool(answer)

    def _delete(self, session_id: str) -> Flow[bool]:
        if not is_session_id(session_id):
            return False  # What has such a key is no session.
        member = yield from self._write(
            scripts.DELETE, (self._key(session_id),), (bytes.fromhex(session_id),)
        )
        if member is None:
            return False
        if self._server.spans_slots:
            yield from self._follow(_Moves(removed=member))
        return True

    def _purge(self, now: int, batch: int) -> Flow[int]:
        """Redis drops the records; what is left are their places in the index."""
        while expired := (yield from self._evaluate(scripts.EXPIRED, self._index, now, batch)):
            members = [_Member.parse(*pair) for pair in _pairs(expired)]
            records = yield from self._find(members)
            found = [each if each and each.is_live(now) else None for each in records]
            if gone := (yield from self._heal(members, found)):
                return gone
        return 0

    def _rotate(
        self, record: Record, base: Record, grave: Record, now: int
    ) -> Flow[Outcome | Taken]:
        # The two keys are hardly ever in the same slot of a cluster.
        if not self._server.spans_slots:
            try:
                answer = yield from self._evaluate(
                    scripts.ROTATE,
                    (self._key(base.id), self._key(record.id), *self._index),
                    _version(base),
                    now,
                    pack(grave),
                    _ttl(grave.expires, now),
                    pack(record),
                    _ttl(record.expires, now),
                    *_moves(base, record, now),
                )
                return Taken() if answer == 0 else _outcome(answer, record, base)
            except StorageUnavailable as error:
                self._expect_cluster(error)
        return (yield from in_two_steps(self, record, base, grave, now))

    def fill(self, record: Record, until: int, now: int) -> None:
        run(self._fill(record, until, now))

    async def afill(self, record: Record, until: int, now: int) -> None:
        await arun(self._fill(record, until, now))

    def bury(self, grave: Record, now: int) -> None:
        run(self._bury(grave, now))

    async def abury(self, grave: Record, now: int) -> None:
        await arun(self._bury(grave, now))

    def _fill(self, record: Record, until: int, now: int) -> Flow[None]:
        key = self._key(record.id)
        yield from self._evaluate(scripts.FILL, (key,), pack(record), _ttl(until, now))

    def _bury(self, grave: Record, now: int) -> Flow[None]:
        lifetime = ("PX", _ttl(grave.expires, now))
        yield Call(self._server, "ask", ("SET", self._key(grave.id), pack(grave), *lifetime))

    # --- The index -------------------------------------------------------------------------

    def lookup(self, session_id: str) -> Record | None:
        return self.read(session_id)

    async def alookup(self, session_id: str) -> Record | None:
        return await self.aread(session_id)

    def scan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        """See `Storage.scan`. What expires last comes first, but for the sessions of a user."""
        return run(self._scan(cursor, limit, user_id))

    async def ascan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        return await arun(self._scan(cursor, limit, user_id))

    def count(self, now: int, user_id: str | None) -> int:
        return run(self._count(now, user_id))

    async def acount(self, now: int, user_id: str | None) -> int:
        return await arun(self._count(now, user_id))

    def _scan(self, cursor: str, limit: int, user_id: str | None) -> Flow[Page]:
        members, following = yield from self._page(cursor, limit, user_id)
        found = yield from self._find(members)
        yield from self._heal(members, found)
        return Page([each for each in found if each and user_id in {None, each.user_id}], following)

    def _count(self, now: int, user_id: str | None) -> Flow[int]:
        if user_id is None:
            return int((yield from self._ask_index(scripts.COUNT, now)))
        total, cursor = 0, ""
        while True:
            members, cursor = yield from self._page(cursor, _BATCH, user_id)
            total += sum(bool(each.score) and int(each.score) > now for each in members)
            if not cursor:
                return total

    def index_is_complete(self) -> bool:
        """See `Storage.index_is_complete`. The empty member of each set says so."""
        return all(self._server.ask("ZSCORE", name, "") is not None for name in self._index)

    def eviction_policy(self) -> str:
        """See `Storage.eviction_policy`. Sessions have a lifetime, so that each policy but one may
        drop them. Of a cluster's nodes none is asked."""
        if self._server.spans_slots:
            return ""
        memory: dict[str, Any] = self._server.ask("INFO", "memory")
        policy = str(memory.get("maxmemory_policy", ""))
        return policy if memory.get("maxmemory") and policy != "noeviction" else ""

    def reindex(self) -> int:
        """See `Storage.reindex`. Looks at each key of the server once, those of others included.

        Where a KEY_FUNCTION of the cache does not end in the key, sessions cannot be told from
        what else there is. They come into the index when they are next used.
        """
        total = 0
        for ids in self._batches_of_ids():
            records = [each for each in run(self._records(ids)) if each]
            names = [(_Member(each.id, each.user_id).name, each.expires) for each in records]
            run(self._evaluate(scripts.LIST, self._index, *chain.from_iterable(names)))
            total += len(records)
        run(self._evaluate(scripts.COMPLETE, self._index))
        return total

    def _page(
        self, cursor: str, limit: int, user_id: str | None
    ) -> Flow[tuple[list[_Member], str]]:
        """Up to ``limit`` members after a cursor, and the next cursor.

        Raises ``ValueError`` for a cursor that is none.
        """
        if not _CURSOR.fullmatch(cursor) or (
            cursor and cursor.startswith(".") is (user_id is None)
        ):
            raise no_cursor(cursor)
        moment, _, last = cursor.partition(".")
        after = bytes.fromhex(last)
        # One more tells whether there is another page.
        if user_id is None:
            asked = (scripts.PAGE, moment or "+inf", after, limit + 1)
        else:
            asked = (scripts.PAGE_OF_USER, user_id, after, limit + 1)
        answer = yield from self._ask_index(*asked)
        pairs, following = _pairs(answer), ""
        if len(pairs) > limit:
            pairs = pairs[:limit]
            name, score = pairs[-1]
            following = f".{name.hex()}"
            if user_id is None:
                following = f"{int(score)}.{name[: scripts.ID_SIZE].hex()}"
        if user_id is None:
            return [_Member.parse(*pair) for pair in pairs], following
        return [
            _Member(name.hex(), user_id, score)
            for name, score in pairs
            if len(name) == scripts.ID_SIZE
        ], following

    def _ask_index(self, script: Script, *arguments: Any) -> Flow[Any]:
        """What a script reads from the index, which is made anew where it is not complete."""
        answer = yield from self._evaluate(script, self._index, *arguments)
        if answer is None:
            logger.info("The index of sessions is not complete and is made anew.")
            yield Call(self, "reindex", ())
            answer = yield from self._evaluate(script, self._index, *arguments)
        return answer

    def _find(self, members: Sequence[_Member]) -> Flow[list[Record | None]]:
        return (yield from self._records([each.id for each in members]))

    def _records(self, ids: Sequence[str]) -> Flow[list[Record | None]]:
        """The live records with these ids, without payloads."""
        keys = [self._key(each) for each in ids]
        starts = [("GETRANGE", key, 0, START_SIZE - 1) for key in keys]
        lengths = [("STRLEN", key) for key in keys]
        answers = yield Call(self._server, "ask_all", ([*starts, *lengths],))
        records: list[Record | None] = []
        for each in zip(ids, answers[: len(ids)], answers[len(ids) :], strict=True):
            record = yield from self._record(*each)
            records.append(record)
        return records

    def _record(self, session_id: str, start: Any, length: Any) -> Flow[Record | None]:
        try:
            record = unpack_start(session_id, start, length)
            if record is None:
                record = yield from self._read(session_id)
        except (UnreadablePayload, TypeError):  # No bytes: another kind of value.
            return None
        return listed(record) if record and record.state is State.LIVE else None

    def _heal(self, members: Sequence[_Member], found: Sequence[Record | None]) -> Flow[int]:
        """Bring members of the index up to date with their records; how many are gone."""
        arguments: list[Any] = []
        for member, record in zip(members, found, strict=True):
            if record is None or record.user_id != member.user_id:
                arguments += (member.name, member.score, b"")
            if record is not None:
                true = _Member(record.id, record.user_id, b"%d" % record.expires)
                if true != member:
                    seen = member.score if record.user_id == member.user_id else b""
                    arguments += (true.name, seen, record.expires)
        if not arguments:
            return 0
        gone: int = yield from self._evaluate(scripts.HEAL, self._index, *arguments)
        return gone

    def _batches_of_ids(self) -> Iterator[list[str]]:
        """The ids of all records there are, and perhaps of some that are gone."""
        prefix = self._key("")
        if self._key("a") != f"{prefix}a":
            return
        pattern = _GLOB.sub(r"\\\g<0>", prefix) + "*"
        ids: list[str] = []
        for key in self._server.scan_keys(pattern):
            session_id = key[len(prefix.encode()) :].decode(errors="replace")
            if is_session_id(session_id):
                ids.append(session_id)
            if len(ids) == _BATCH:
                yield ids
                ids = []
        if ids:
            yield ids

    # --- The server ------------------------------------------------------------------------

    def _write(
        self,
        script: Script,
        keys: tuple[str],
        arguments: tuple[Any, ...],
        moves: _Moves | tuple[()] = (),
        index_stays: bool = False,
    ) -> Flow[Any]:
        """Run a script on a record and the index. ``index_stays`` spares a cluster the second."""
        if not self._server.spans_slots:
            try:
                return (
                    yield from self._evaluate(script, (*keys, *self._index), *arguments, *moves)
                )
            except StorageUnavailable as error:
                self._expect_cluster(error)
        answer = yield from self._evaluate(script, keys, *arguments, *moves)
        if answer == 1 and moves and not index_stays:
            yield from self._follow(moves)
        return answer

    def _follow(self, moves: _Moves) -> Flow[None]:
        try:
            yield from self._evaluate(scripts.MOVE, self._index, *moves)
        except StorageUnavailable as error:
            # A new session that nobody can find must not begin. The others heal.
            if moves.lists_anew:
                raise
            logger.warning("The index of sessions is behind until it heals: %s", error)

    def _expect_cluster(self, error: StorageUnavailable) -> None:
        """Go on where keys are on different nodes; raise any other error again.

        Nothing was written: this was the first call, or a cluster is talked to as if it were one
        server.
        """
        self._server.spans_slots |= isinstance(error.__cause__, ClusterCrossSlotError)
        if not self._server.spans_slots:
            raise error

    def close(self) -> None:
        self._server.close()

    def _key(self, name: str) -> str:
        return self._cache.make_key(NAMESPACE + name)

    def _evaluate(self, script: Script, keys: tuple[str, ...], *arguments: Any) -> Flow[Any]:
        rest = (len(keys), *keys, *arguments)
        try:
            return (yield Call(self._server, "ask", ("EVALSHA", script.sha, *rest)))
        except StorageUnavailable as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        # The server is new, or was told to forget its scripts. This makes it know the script.
        return (yield Call(self._server, "ask", ("EVAL", script.text, *rest)))


def _pairs(answer: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Names and scores, from a list in which they take turns."""
    return list(zip(answer[::2], answer[1::2], strict=True))


def _version(record: Record) -> bytes:
    return record.version.to_bytes(scripts.VERSION_SIZE, "big")


def _moves(base: Record | None, record: Record, now: int) -> _Moves:
    """What the index has to do when ``record`` takes the place of ``base``."""
    removed = _Member(base.id, base.user_id).name if base else b""
    added = _Member(record.id, record.user_id).name if record.state is State.LIVE else b""
    return _Moves(removed, added, record.expires, max(0, now - _LITTER_AGE))


def _ttl(expires: int, now: int) -> int:
    # Redis refuses a lifetime of nothing.
    return max(1, expires - now)


def _outcome(answer: Any, record: Record, base: Record) -> Outcome:
    if answer is None:
        return Gone()
    if answer == 1:
        return Updated(record)
    return Conflict(unpack(base.id, answer))
