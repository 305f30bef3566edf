"""Records in Redis, through the connections of a Django cache but not through its API."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple, NoReturn

import msgspec
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.redis import RedisCache as DjangoRedisCache
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop
from redis.cluster import RedisCluster
from redis.exceptions import (
    ClusterCrossSlotError,
    NoScriptError,
    OutOfMemoryError,
    RedisClusterException,
    RedisError,
)

from ..exceptions import StorageFull, StorageUnavailable, UnreadablePayload
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
from ..words import Phrase
from . import redis_scripts as scripts
from .base import NAMESPACE, CacheStorage, Conflict, Gone, Outcome, Page, Taken, Updated
from .redis_scripts import Script

_ERRORS: Final = (RedisError, RedisClusterException, OSError)
logger: Final = logging.getLogger("django_sessionstores")

_BATCH: Final = 1000
_CURSOR: Final = re.compile(r"(\d*\.([0-9a-f]{2})+)?", re.ASCII)
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


class RedisStorage(CacheStorage):
    """Records as strings in their packed form, with a lifetime that Redis ends.

    Lifetimes are sent as time left, not as a moment: the clock of a server may differ.

    All commands go to the primary. Each write is one script that decides on the server and moves
    the index, see `redis_scripts`. On a cluster, where the keys of the two are on different nodes,
    each command has one key, and the index follows in a second one; if that fails, the index is
    behind until the session is next used or listed.
    """

    self_expiring = True
    lists = True
    indexes_users = True

    def __init__(self, alias: str, cache: BaseCache) -> None:
        self._alias = alias
        self._cache = cache
        self._client: Any = None
        self._spans_slots = False
        # In braces, so that a cluster keeps both on one node.
        self._index = (self._key("{index}:all"), self._key("{index}:users"))

    def describe(self) -> str:
        return Phrase(
            gettext_noop("Redis through %(client)s (cache alias %(alias)s)"),
            client="Django's RedisCache" if self._is_djangos else "django-redis",
            alias=repr(self._alias),
        )

    # --- Records ---------------------------------------------------------------------------

    def read(self, session_id: str) -> Record | None:
        packed = self._ask("GET", self._key(session_id))
        return None if packed is None else unpack(session_id, packed)

    def create(self, record: Record, now: int) -> Updated | Taken:
        written = self._write(
            scripts.CREATE,
            (self._key(record.id),),
            (pack(record), _ttl(record.expires, now)),
            _moves(None, record, now),
        )
        return Updated(record) if written else Taken()

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        packed = pack(record)
        answer = self._write(
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

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        answer = self._write(
            scripts.TOUCH,
            (self._key(base.id),),
            (_version(base), now, pack_times(last_activity, expires), _ttl(expires, now)),
            _moves(base, msgspec.structs.replace(base, expires=expires), now),
            index_stays=expires <= base.expires,
        )
        return bool(answer)

    def delete(self, session_id: str) -> bool:
        if not is_session_id(session_id):
            return False  # What has such a key is no session.
        member = self._write(scripts.DELETE, (self._key(session_id),), (bytes.fromhex(session_id),))
        if member is None:
            return False
        if self._spans_slots:
            self._follow(_Moves(removed=member))
        return True

    def purge(self, now: int, batch: int) -> int:
        """See `Storage.purge`. Redis drops the records; what is left are their places in the
        index."""
        while expired := self._evaluate(scripts.EXPIRED, self._index, now, batch):
            members = [_Member.parse(*pair) for pair in _pairs(expired)]
            found = [each if each and each.is_live(now) else None for each in self._find(members)]
            if gone := self._heal(members, found):
                return gone
        return 0

    def rotate(self, record: Record, base: Record, grave: Record, now: int) -> Outcome | Taken:
        # The two keys are hardly ever in the same slot of a cluster.
        if not self._spans_slots:
            try:
                answer = self._evaluate(
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
        return super().rotate(record, base, grave, now)

    def fill(self, record: Record, until: int, now: int) -> None:
        self._evaluate(scripts.FILL, (self._key(record.id),), pack(record), _ttl(until, now))

    def bury(self, grave: Record, now: int) -> None:
        self._ask("SET", self._key(grave.id), pack(grave), "PX", _ttl(grave.expires, now))

    # --- The index -------------------------------------------------------------------------

    def scan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        """See `Storage.scan`. What expires last comes first, but for the sessions of a user."""
        members, following = self._page(cursor, limit, user_id)
        found = self._find(members)
        self._heal(members, found)
        return Page([each for each in found if each and user_id in {None, each.user_id}], following)

    def count(self, now: int, user_id: str | None) -> int:
        if user_id is None:
            return int(self._ask_index(scripts.COUNT, now))
        total, cursor = 0, ""
        while True:
            members, cursor = self._page(cursor, _BATCH, user_id)
            total += sum(bool(each.score) and int(each.score) > now for each in members)
            if not cursor:
                return total

    def reindex(self) -> int:
        """See `Storage.reindex`. Looks at each key of the server once, those of others included.

        Where a KEY_FUNCTION of the cache does not end in the key, sessions cannot be told from
        what else there is. They come into the index when they are next used.
        """
        total = 0
        for ids in self._batches_of_ids():
            records = [each for each in self._records(ids) if each]
            names = [(_Member(each.id, each.user_id).name, each.expires) for each in records]
            self._evaluate(scripts.LIST, self._index, *chain.from_iterable(names))
            total += len(records)
        self._evaluate(scripts.COMPLETE, self._index)
        return total

    def _page(self, cursor: str, limit: int, user_id: str | None) -> tuple[list[_Member], str]:
        """Up to ``limit`` members after a cursor, and the next cursor.

        Raises ``ValueError`` for a cursor that is none.
        """
        if not _CURSOR.fullmatch(cursor) or (
            cursor and cursor.startswith(".") is (user_id is None)
        ):
            raise ValueError(f"{cursor!r} is no cursor that a page of sessions has given.")
        moment, _, last = cursor.partition(".")
        after = bytes.fromhex(last)
        # One more tells whether there is another page.
        if user_id is None:
            answer = self._ask_index(scripts.PAGE, moment or "+inf", after, limit + 1)
        else:
            answer = self._ask_index(scripts.PAGE_OF_USER, user_id, after, limit + 1)
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

    def _ask_index(self, script: Script, *arguments: Any) -> Any:
        """What a script reads from the index, which is made anew where it is not complete."""
        answer = self._evaluate(script, self._index, *arguments)
        if answer is None:
            logger.info("The index of sessions is not complete and is made anew.")
            self.reindex()
            answer = self._evaluate(script, self._index, *arguments)
        return answer

    def _find(self, members: Sequence[_Member]) -> list[Record | None]:
        return self._records([each.id for each in members])

    def _records(self, ids: Sequence[str]) -> list[Record | None]:
        """The live records with these ids, without payloads."""
        keys = [self._key(each) for each in ids]
        starts = [("GETRANGE", key, 0, START_SIZE - 1) for key in keys]
        answers = self._ask_all([*starts, *(("STRLEN", key) for key in keys)])
        return [
            self._record(*each)
            for each in zip(ids, answers[: len(ids)], answers[len(ids) :], strict=True)
        ]

    def _record(self, session_id: str, start: Any, length: Any) -> Record | None:
        try:
            record = unpack_start(session_id, start, length) or self.read(session_id)
        except (UnreadablePayload, TypeError):  # No bytes: another kind of value.
            return None
        return listed(record) if record and record.state is State.LIVE else None

    def _heal(self, members: Sequence[_Member], found: Sequence[Record | None]) -> int:
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
        return self._evaluate(scripts.HEAL, self._index, *arguments) if arguments else 0

    def _batches_of_ids(self) -> Iterator[list[str]]:
        """The ids of all records there are, and perhaps of some that are gone."""
        prefix = self._key("")
        if self._key("a") != f"{prefix}a":
            return
        pattern = _GLOB.sub(r"\\\g<0>", prefix) + "*"
        ids: list[str] = []
        for key in self._scan_keys(pattern):
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
    ) -> Any:
        """Run a script on a record and the index. ``index_stays`` spares a cluster the second."""
        if not self._spans_slots:
            try:
                return self._evaluate(script, (*keys, *self._index), *arguments, *moves)
            except StorageUnavailable as error:
                self._expect_cluster(error)
        answer = self._evaluate(script, keys, *arguments, *moves)
        if answer == 1 and moves and not index_stays:
            self._follow(moves)
        return answer

    def _follow(self, moves: _Moves) -> None:
        try:
            self._evaluate(scripts.MOVE, self._index, *moves)
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
        self._spans_slots |= isinstance(error.__cause__, ClusterCrossSlotError)
        if not self._spans_slots:
            raise error

    def close(self) -> None:
        client, self._client = self._client, None
        if isinstance(client, RedisCluster):
            client.close()
        elif client is not None:
            client.connection_pool.disconnect()

    @property
    def _is_djangos(self) -> bool:
        return isinstance(self._cache, DjangoRedisCache)

    def _key(self, name: str) -> str:
        return self._cache.make_key(NAMESPACE + name)

    def _evaluate(self, script: Script, keys: tuple[str, ...], *arguments: Any) -> Any:
        rest = (len(keys), *keys, *arguments)
        try:
            return self._ask("EVALSHA", script.sha, *rest)
        except StorageUnavailable as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        # The server is new, or was told to forget its scripts. This makes it know the script.
        return self._ask("EVAL", script.text, *rest)

    def _ask(self, *command: Any) -> Any:
        """The answer to one command. Everything that is said to the server goes through here.

        Raises `StorageUnavailable`, `StorageFull` when a write finds no memory, and
        `UnreadablePayload` where the key holds no string.
        """
        try:
            client = self._client or self._connect()
            # Not the methods named as the commands, which take longer to arrive here. Nor the
            # connections of the pool, which are faster still: what traces Redis listens here.
            return client.execute_command(*command)
        except _ERRORS as error:
            self._fail(error)

    def _ask_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to several commands that read, in one trip. An answer may be an error."""
        if not commands:
            return []
        try:
            pipeline = (self._client or self._connect()).pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = pipeline.execute(raise_on_error=False)
        except _ERRORS as error:
            self._fail(error)
        for answer in answers:
            if isinstance(answer, _ERRORS) and "WRONGTYPE" not in str(answer):
                self._fail(answer)
        return answers

    def _scan_keys(self, pattern: str) -> Iterator[bytes]:
        """The keys that match, some of them more than once. As many trips as the server needs."""
        try:
            client = self._client or self._connect()
            yield from client.scan_iter(match=pattern, count=_BATCH)
        except _ERRORS as error:
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        """Raise what an error of the client means, see `_ask`."""
        # What a server does not know it quotes, a password or a payload included.
        said, quotes, _ = str(error).partition(", with args")
        if "WRONGTYPE" in said:
            raise UnreadablePayload("its key in Redis holds something else") from None
        if "HELLO" in said or "NOPROTO" in said:
            said += (
                ". The server is older than Redis 6: add protocol=2 to the options of its "
                "connection pool"
            )
        # Before Redis 7, an error in a script hides its code in the text.
        is_full = isinstance(error, OutOfMemoryError) or "OOM command" in said
        failure = StorageFull if is_full else StorageUnavailable
        message = f"{self.describe()}: {type(error).__name__}: {said}"
        raise failure(message) from (None if quotes else error)

    def _connect(self) -> Any:
        """The client, which connects when used; a cluster's connects here.

        Without a lock, or requests would wait in line for a cluster that does not answer. Of
        clients made at the same time the last one stays.
        """
        cache: Any = self._cache
        try:
            if self._is_djangos:
                client = cache._cache.get_client(None, write=True)
            else:
                client = cache.client.get_client(write=True)
        except NotImplementedError:
            raise ImproperlyConfigured(
                f"CACHES[{self._alias!r}]['OPTIONS']['CLIENT_CLASS'] spreads its keys over "
                "servers that know nothing of each other. Sessions need a client with one "
                "primary, or a cluster."
            ) from None
        if client.get_encoder().decode_responses:
            raise ImproperlyConfigured(
                f"CACHES[{self._alias!r}] sets decode_responses, which makes text of all values. "
                "Sessions are bytes: remove it, or name another cache in SESSION_CACHE_ALIAS."
            )
        self._spans_slots = isinstance(client, RedisCluster)
        self._client = client
        return client


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
