"""Records in Redis, through the connections of a Django cache but not through its API."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.redis import RedisCache as DjangoRedisCache
from django.core.exceptions import ImproperlyConfigured
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
    HEAD_SIZE,
    TIMES_OFFSET,
    VERSION_OFFSET,
    Record,
    State,
    pack,
    pack_times,
    unpack,
)
from .base import NAMESPACE, CacheStorage, Conflict, Gone, Outcome, Taken, Updated

_STATE_OFFSET: Final = 1
_VERSION_SIZE: Final = 8


class _Script:
    """A Lua script, known to the server by its digest.

    Not redis-py's ``register_script``: that asks the server for each pipeline whether it knows
    the script.
    """

    def __init__(self, text: str) -> None:
        self.text = _PRELUDE + text
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


# Lua counts from 1. Numbers are compared as numbers: Lua compares strings by the server's locale.
# Its doubles are exact up to 2**53, which milliseconds reach in the year 287,396. Written out
# rather than with ``struct.unpack``, which reads four bytes of eight on a 32-bit server.
_PRELUDE: Final = f"""
local function number(bytes, offset)
    local n = 0
    for i = offset + 1, offset + 8 do
        n = n * 256 + string.byte(bytes, i)
    end
    return n
end
local function head(key)
    return redis.call('GETRANGE', key, 0, {HEAD_SIZE - 1})
end
local function version(bytes)
    return string.sub(bytes, {VERSION_OFFSET + 1}, {VERSION_OFFSET + _VERSION_SIZE})
end
local function expired(bytes, now)
    return #bytes == {HEAD_SIZE} and number(bytes, {TIMES_OFFSET + 8}) <= tonumber(now)
end
"""

# Returns 1 where it wrote, nothing where there is no record, and else the current record.
_UPDATE: Final = _Script(
    """
local expected, now, record, ttl = unpack(ARGV)
local current = head(KEYS[1])
if current == '' or expired(current, now) then return false end
if version(current) ~= expected then return redis.call('GET', KEYS[1]) end
redis.call('SET', KEYS[1], record, 'PX', ttl)
return 1
"""
)

# As _UPDATE, with the grave at the old key; returns 0 where the new key is taken. Finding there
# what it would write is no collision: a client that retries may send the command twice.
_ROTATE: Final = _Script(
    """
local expected, now, grave, grave_ttl, record, ttl = unpack(ARGV)
local there = redis.call('GET', KEYS[2])
if there then return there == record and 1 or 0 end
local current = head(KEYS[1])
if current == '' or expired(current, now) then return false end
if version(current) ~= expected then return redis.call('GET', KEYS[1]) end
redis.call('SET', KEYS[2], record, 'PX', ttl)
redis.call('SET', KEYS[1], grave, 'PX', grave_ttl)
return 1
"""
)

# Returns 1 where it wrote. Each time moves only forward. PEXPIRE comes first because a full server
# allows it, and then what else the script writes: reading must not end where memory does.
_TOUCH: Final = _Script(
    f"""
local expected, now, times, ttl = unpack(ARGV)
local current = head(KEYS[1])
if version(current) ~= expected or #current < {HEAD_SIZE} or expired(current, now) then
    return 0
end
local activity, expires = string.sub(times, 1, 8), string.sub(times, 9)
if number(current, {TIMES_OFFSET}) > number(activity, 0) then
    activity = string.sub(current, {TIMES_OFFSET + 1}, {TIMES_OFFSET + 8})
end
if number(current, {TIMES_OFFSET + 8}) > number(expires, 0) then
    expires = string.sub(current, {TIMES_OFFSET + 9}, {TIMES_OFFSET + 16})
else
    redis.call('PEXPIRE', KEYS[1], ttl)
end
redis.call('SETRANGE', KEYS[1], {TIMES_OFFSET}, activity .. expires)
return 1
"""
)

# What is not even a string (pcall gives an error then) is replaced like any other rubbish.
_FILL: Final = _Script(
    f"""
local record, ttl = unpack(ARGV)
local current = redis.pcall('GETRANGE', KEYS[1], 0, {HEAD_SIZE - 1})
if #current == {HEAD_SIZE} and (
    string.byte(current, {_STATE_OFFSET + 1}) ~= {State.LIVE.value}
    or number(current, {VERSION_OFFSET}) > number(record, {VERSION_OFFSET})
) then
    return
end
redis.call('SET', KEYS[1], record, 'PX', ttl)
"""
)


def from_cache(alias: str) -> RedisStorage:
    """The storage for sessions in the Redis cache with this alias, django-redis' or Django's."""
    # An instance of our own. Those that Django hands out belong to a thread or task and end with
    # it or with the request, Django's RedisCache with its connections.
    return RedisStorage(alias, caches.create_connection(alias))


class RedisStorage(CacheStorage):
    """Records as strings in their packed form, with a lifetime that Redis ends.

    Lifetimes are sent as time left, not as a moment: the clock of a server may differ.

    All commands go to the primary. Each has one key, but for `rotate`, so that a cluster takes
    them. Each write is one command that decides on the server; the moves of an index belong
    into the same script where all keys are on one node, and after it elsewhere.
    """

    self_expiring = True

    def __init__(self, alias: str, cache: BaseCache) -> None:
        self._alias = alias
        self._cache = cache
        self._client: Any = None
        self._spans_slots = False

    def describe(self) -> str:
        through = "Django's RedisCache" if self._is_djangos else "django-redis"
        return f"Redis through {through} (cache alias {self._alias!r})"

    def read(self, session_id: str) -> Record | None:
        packed = self._ask("GET", self._key(session_id))
        return None if packed is None else unpack(session_id, packed)

    def create(self, record: Record, now: int) -> Updated | Taken:
        written = self._ask(
            "SET", self._key(record.id), pack(record), "PX", _ttl(record.expires, now), "NX"
        )
        return Updated(record) if written else Taken()

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        packed = pack(record)
        answer = self._evaluate(
            _UPDATE,
            (self._key(base.id),),
            _version(base),
            now,
            packed,
            _ttl(record.expires, now),
        )
        if answer == packed and record.state is State.LIVE:
            # A client that retries may send the command twice. No other payload is sealed to the
            # same bytes, but two tombstones may be equal.
            return Updated(record)
        return _outcome(answer, record, base)

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        answer = self._evaluate(
            _TOUCH,
            (self._key(base.id),),
            _version(base),
            now,
            pack_times(last_activity, expires),
            _ttl(expires, now),
        )
        return bool(answer)

    def delete(self, session_id: str) -> None:
        self._ask("DEL", self._key(session_id))

    def purge(self, now: int, batch: int) -> int:
        return 0

    def rotate(self, record: Record, base: Record, grave: Record, now: int) -> Outcome | Taken:
        # The two keys are hardly ever in the same slot of a cluster.
        if not self._spans_slots:
            try:
                answer = self._evaluate(
                    _ROTATE,
                    (self._key(base.id), self._key(record.id)),
                    _version(base),
                    now,
                    pack(grave),
                    _ttl(grave.expires, now),
                    pack(record),
                    _ttl(record.expires, now),
                )
                return Taken() if answer == 0 else _outcome(answer, record, base)
            except StorageUnavailable as error:
                # Nothing was written: this was the first call, or a cluster is talked to as if it
                # were one server.
                self._spans_slots |= isinstance(error.__cause__, ClusterCrossSlotError)
                if not self._spans_slots:
                    raise
        return super().rotate(record, base, grave, now)

    def fill(self, record: Record, until: int, now: int) -> None:
        self._evaluate(_FILL, (self._key(record.id),), pack(record), _ttl(until, now))

    def bury(self, grave: Record, now: int) -> None:
        self._ask("SET", self._key(grave.id), pack(grave), "PX", _ttl(grave.expires, now))

    def close(self) -> None:
        client, self._client = self._client, None
        if isinstance(client, RedisCluster):
            client.close()
        elif client is not None:
            client.connection_pool.disconnect()

    @property
    def _is_djangos(self) -> bool:
        return isinstance(self._cache, DjangoRedisCache)

    def _key(self, session_id: str) -> str:
        return self._cache.make_key(NAMESPACE + session_id)

    def _evaluate(self, script: _Script, keys: tuple[str, ...], *arguments: Any) -> Any:
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
        except (RedisError, RedisClusterException, OSError) as error:
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


def _version(record: Record) -> bytes:
    return record.version.to_bytes(_VERSION_SIZE, "big")


def _ttl(expires: int, now: int) -> int:
    # Redis refuses a lifetime of nothing.
    return max(1, expires - now)


def _outcome(answer: Any, record: Record, base: Record) -> Outcome:
    if answer is None:
        return Gone()
    if answer == 1:
        return Updated(record)
    return Conflict(unpack(base.id, answer))
