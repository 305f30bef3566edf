"""The Redis server of a Django cache: what is said to it, blocking or awaited."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, NoReturn, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.redis import RedisCache as DjangoRedisCache
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop
from redis import Redis
from redis import asyncio as awaited
from redis import connection as blocking
from redis.asyncio import connection as awaiting
from redis.asyncio.retry import Retry
from redis.cluster import RedisCluster
from redis.exceptions import OutOfMemoryError, RedisClusterException, RedisError
from redis.retry import Retry as BlockingRetry

from ..exceptions import StorageFull, StorageUnavailable, UnreadablePayload
from ..words import Phrase

P = ParamSpec("P")
T = TypeVar("T")

_ERRORS: Final = (RedisError, RedisClusterException, OSError)
_BATCH: Final = 1000

LOOP_TRIAL: Final = 10
"""Commands of an event loop that go through a thread, before it gets connections of its own.

Connections belong to a loop. ``async_to_sync`` makes a loop for a single call, under WSGI for each
request of an async view, and would connect anew each time.
"""
_MOST_CONNECTIONS: Final = 50
"""Of a loop. Each is in use for as long as a command takes, and more commands wait in line."""
_LONGEST_WAIT: Final = 20.0
"""Seconds for that, where the settings say nothing of timeouts."""

_AWAITING: Final[dict[type[Any], type[Any]]] = {
    blocking.Connection: awaiting.Connection,
    blocking.SSLConnection: awaiting.SSLConnection,
    blocking.UnixDomainSocketConnection: awaiting.UnixDomainSocketConnection,
}
_POOLS: Final = (blocking.ConnectionPool, blocking.BlockingConnectionPool)
_OWN_OF_POOLS: Final = re.compile("parser_class|himport_registry|event_dispatcher|maint_.*|orig_.*")
"""What a pool of blocking connections adds to what the settings say."""


@dataclass
class _Loop:
    """What an event loop has of a server."""

    asked: int = 0
    client: awaited.Redis | None = None


class Server:
    """The server that a cache of django-redis or Django talks to, through clients of its kind.

    All commands go to the primary.
    """

    def __init__(self, alias: str, cache: BaseCache) -> None:
        self._alias = alias
        self._cache = cache
        self._client: Any = None
        self.spans_slots = False
        """Whether keys may be on different nodes; known when it has been talked to."""
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()
        self._loops_lock = Lock()

    def describe(self) -> str:
        """Which server, through which adapter."""
        return Phrase(
            gettext_noop("Redis through %(client)s (cache alias %(alias)s)"),
            client="Django's RedisCache" if self._is_djangos else "django-redis",
            alias=repr(self._alias),
        )

    @property
    def is_native(self) -> bool:
        """Whether commands can be awaited without a thread: not with a cluster or sentinels, nor
        with clients, pools or connections of a project's own."""
        try:
            client = self._client or self.connect()
        except (*_ERRORS, ImproperlyConfigured):
            return False
        return _awaiting_pool(client) is not None

    def ask(self, *command: Any) -> Any:
        """The answer to one command.

        Raises `StorageUnavailable`, `StorageFull` when a write finds no memory, and
        `UnreadablePayload` where the key holds no string.
        """
        try:
            client = self._client or self.connect()
            # Not the methods named as the commands, which take longer to arrive here. Nor the
            # connections of the pool, which are faster still: what traces Redis listens here.
            return client.execute_command(*command)
        except _ERRORS as error:
            self._fail(error)

    async def aask(self, *command: Any) -> Any:
        """See `ask`."""
        client = self._of_loop()
        if client is None:
            return await _in_thread(self.ask)(*command)
        try:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]
        except _ERRORS as error:
            self._fail(error)

    def ask_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to several commands that read, in one trip. An answer may be an error."""
        if not commands:
            return []
        try:
            client = self._client or self.connect()
            pipeline = _filled(client.pipeline(transaction=False), commands)
            return self._answers(pipeline.execute(raise_on_error=False))
        except _ERRORS as error:
            self._fail(error)

    async def aask_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """See `ask_all`."""
        if not commands:
            return []
        client = self._of_loop()
        if client is None:
            return await _in_thread(self.ask_all)(commands)
        try:
            pipeline = _filled(client.pipeline(transaction=False), commands)
            return self._answers(await pipeline.execute(raise_on_error=False))
        except _ERRORS as error:
            self._fail(error)

    def scan_keys(self, pattern: str) -> Iterator[bytes]:
        """The keys that match, some of them more than once. As many trips as the server needs."""
        try:
            client = self._client or self.connect()
            yield from client.scan_iter(match=pattern, count=_BATCH)
        except _ERRORS as error:
            self._fail(error)

    def close(self) -> None:
        """Let go of connections."""
        client, self._client = self._client, None
        if isinstance(client, RedisCluster):
            client.close()
        elif client is not None:
            client.connection_pool.disconnect()
        with self._loops_lock:
            loops = list(self._loops.items())
            self._loops.clear()
        for loop, mine in loops:
            if mine.client is not None and loop.is_running():
                asyncio.run_coroutine_threadsafe(mine.client.aclose(True), loop)

    def connect(self) -> Any:
        """The blocking client, which connects when used; a cluster's connects here.

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
        self.spans_slots = isinstance(client, RedisCluster)
        self._client = client
        return client

    @property
    def _is_djangos(self) -> bool:
        return isinstance(self._cache, DjangoRedisCache)

    def _of_loop(self) -> awaited.Redis | None:
        """The client of the running loop; ``None`` where a thread has to do."""
        loop = asyncio.get_running_loop()
        mine = self._loops.get(loop)
        if mine is None:
            with self._loops_lock:
                mine = self._loops[loop] = _Loop()
        # In a thread, too, the blocking client is made, as that of a cluster blocks.
        if mine.client is None and self._client is not None and mine.asked >= LOOP_TRIAL:
            pool = _awaiting_pool(self._client)
            if pool is not None:
                mine.client = awaited.Redis(connection_pool=pool)
        mine.asked += 1
        return mine.client

    def _answers(self, answers: list[Any]) -> list[Any]:
        for answer in answers:
            if isinstance(answer, _ERRORS) and "WRONGTYPE" not in str(answer):
                self._fail(answer)
        return answers

    def _fail(self, error: Exception) -> NoReturn:
        """Raise what an error of the client means, see `ask`."""
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


def _awaiting_pool(client: Any) -> awaited.ConnectionPool | None:
    """A pool that connects as the one of a blocking client does, for a loop; ``None`` where that
    has something which cannot be awaited."""
    pool: Any = getattr(client, "connection_pool", None)
    if type(client) is not Redis or type(pool) not in _POOLS:
        return None
    connection_class = _AWAITING.get(pool.connection_class)
    if connection_class is None:
        return None
    initializers = [vars(base).get("__init__") for base in connection_class.__mro__[:-1]]
    known = {name for each in initializers if each for name in inspect.signature(each).parameters}
    arguments: dict[str, Any] = {}
    for name, value in pool.connection_kwargs.items():
        if _OWN_OF_POOLS.fullmatch(name):
            continue
        if name not in known or name == "redis_connect_func":
            if value is not None:
                return None
        elif isinstance(value, BlockingRetry):
            arguments[name] = Retry(value._backoff, value._retries)
        else:
            arguments[name] = value
    return awaited.BlockingConnectionPool(
        connection_class=connection_class,
        max_connections=min(pool.max_connections, _MOST_CONNECTIONS),
        timeout=arguments.get("socket_timeout") or _LONGEST_WAIT,
        **arguments,
    )


def _filled(pipeline: Any, commands: Sequence[tuple[Any, ...]]) -> Any:
    for command in commands:
        pipeline.execute_command(*command)
    return pipeline


def _in_thread(method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    return sync_to_async(method, thread_sensitive=False)
