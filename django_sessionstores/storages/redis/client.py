"""The Redis server of a Django cache, and the clients that send it commands."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn

from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.redis import RedisCache as DjangoRedisCache
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop
from redis import Redis
from redis import asyncio as awaited
from redis import connection as blocking
from redis.asyncio import connection as awaiting
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    InvalidResponse,
    MaxConnectionsError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.retry import Retry as BlockingRetry

from ...core.phrases import Phrase
from ...exceptions import StorageFull, StorageUnavailable, UnreadablePayload
from ..base import SHORT_NAMESPACE, has_fixed_keys, place_of_cache
from ..breaker import Breaker, JointBreaker
from ..loops import LoopClients
from ..outage_log import OutageLog
from ..pool_waits import pauses
from ..threads import in_thread
from .faults import QUOTES, UNKNOWN, Fault, fault_of, text_of
from .keys import record_key
from .loops import RedisClients
from .pipelining import PipeliningClient
from .running import ScriptRunner
from .scripts import digest_of
from .threads import ThreadClients, filled

_ERRORS: Final = (RedisError, RedisClusterException, OSError)
_GARBAGE: Final = (AttributeError, LookupError, TypeError, ValueError)
"""What a client raises besides if the answer is not one of Redis, but of a server of another kind.
Only its calls are meant: in the code of this package, they are mistakes."""
_BATCH: Final = 1000
_GLOB: Final = re.compile(rb"[][*?\\^-]")
"""What has a meaning in the patterns of Redis."""

_MAX_CONNECTIONS: Final = 50
"""The connections of a loop. Each is in use for as long as a command takes; more commands wait."""
_LONGEST_WAIT: Final = 20.0
"""Seconds that a command waits for a connection, if the settings have no timeout."""
_OTHER_SLOTS: Final = ("hash to the same slot", "map to the same key slot")
"""What a cluster and its client say of a command whose keys are on different nodes. They carry out
nothing. The texts, because redis-py 5.0 has a class for the first only in its client of a cluster.
"""
_WAITED_IN_VAIN: Final = "No connection available."
"""The error of a pool whose calls wait for a connection, and have done so."""

_Ask = Callable[[], Any]
_Command = tuple[Any, ...]

_AWAITING: Final[dict[type[Any], type[Any]]] = {
    blocking.Connection: awaiting.Connection,
    blocking.SSLConnection: awaiting.SSLConnection,
    blocking.UnixDomainSocketConnection: awaiting.UnixDomainSocketConnection,
}
_POOLS: Final = (blocking.ConnectionPool, blocking.BlockingConnectionPool)
_OWN_OF_POOLS: Final = re.compile("parser_class|himport_registry|event_dispatcher|maint_.*|orig_.*")
"""The arguments that a pool of blocking connections adds to those of the settings."""


@dataclass
class ScanPlace:
    """Where a scan of all keys goes on."""

    node: int = 0
    """The number of the node among those of a cluster, by name."""
    cursor: int = 0
    is_end: bool = False


class Server(ScriptRunner):
    """The server that a cache of django-redis or Django talks to, through clients of its kind.

    All commands go to the primary.
    """

    def __init__(self, alias: str, cache: BaseCache) -> None:
        self._alias = alias
        self._cache = cache
        self._client: Any = None
        self._threads = ThreadClients(None)
        self._prefix = b""
        self.spans_slots = False
        """Whether keys may be on different nodes; known after the first command."""
        self._breaker = Breaker(OutageLog(self.describe))
        self._node_breakers: dict[str, Breaker] = {}
        self._loops = LoopClients(RedisClients(self._connect_loop))

    def describe(self) -> str:
        """Return which server this is, through which adapter."""
        return Phrase(
            gettext_noop("Redis through %(client)s (cache alias %(alias)s)"),
            client="Django's RedisCache" if self._is_djangos else "django-redis",
            alias=repr(self._alias),
        )

    def place(self) -> str:
        """See `Storage.place`."""
        return place_of_cache(self._alias)

    @property
    def is_native(self) -> bool:
        """Whether commands can be awaited without a thread.

        They cannot with a cluster or sentinels, nor with clients, pools or connections of a
        project's own.
        """
        try:
            client = self._client or self.connect()
        except (*_ERRORS, ImproperlyConfigured):
            return False
        return awaiting_pool(client) is not None

    def ask(self, *command: Any) -> Any:
        """Return the answer to one command.

        Raises `StorageUnavailable`, `StorageFull` if there is no memory for a write, and
        `UnreadablePayload` if the key does not hold a string.
        """
        breaker = self._breaker if not self.spans_slots else self._breaker_for(command)
        began = breaker.begin()

        def ask() -> Any:
            if self._client is None:
                self.connect()
            try:
                return self._threads.execute(command)
            except _GARBAGE as error:
                raise _without_text(error) from None

        try:
            answer = self._run(ask, breaker, began, command)
        except BaseException:
            breaker.ended(began)
            raise
        breaker.answered()
        if breaker.log.is_open:
            breaker.log.succeeded(_operation(command))
        return answer

    async def aask(self, *command: Any) -> Any:
        """See `ask`."""
        client = self._loops.client_of_running_loop()
        if client is None:
            return await in_thread(self.ask)(*command)
        began = self._breaker.begin()
        try:
            answer = await client.ask(command)
        except BaseException as error:
            self._end_failed(error, began, command)
            raise
        self._breaker.answered()
        if self._breaker.log.is_open:
            self._breaker.log.succeeded(_operation(command))
        return answer

    def ask_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the answers to several commands in one round trip.

        Raises the exception for the first error, see `ask`. A value that is not a string is not an
        error here, nor is an unknown script: the answer is one of the client's exceptions.
        """
        if not commands:
            return []
        breaker = self._breaker if not self.spans_slots else self._breaker_for_all(commands)
        began = breaker.begin()

        def ask() -> list[Any]:
            if self._client is None:
                self.connect()
            try:
                return self._threads.execute_all(commands)
            except _GARBAGE as error:
                raise _without_text(error) from None

        try:
            answers = self._run(ask, breaker, began, commands[0])
        except BaseException:
            breaker.ended(began)
            raise
        breaker.answered()
        return self._checked(commands, answers, breaker)

    async def aask_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """See `ask_all`."""
        if not commands:
            return []
        client = self._loops.client_of_running_loop()
        if client is None:
            return await in_thread(self.ask_all)(commands)
        began = self._breaker.begin()
        try:
            pipeline = filled(client.pipeline(transaction=False), commands)
            answers = await pipeline.execute(raise_on_error=False)
        except BaseException as error:
            self._end_failed(error, began, commands[0])
            raise
        self._breaker.answered()
        return self._checked(commands, answers, self._breaker)

    @property
    def prefix(self) -> bytes:
        """The beginning of all keys of the package in Redis, for this request."""
        if self._prefix:
            return self._prefix
        # What a KEY_FUNCTION makes of it need not end in it.
        prefix = self._cache.make_key(SHORT_NAMESPACE).encode()
        if has_fixed_keys(self._cache):
            self._prefix = prefix
        return prefix

    def key(self, session_id: str) -> bytes:
        """Return the key in Redis of the record of a session."""
        return record_key(self.prefix, session_id)

    def scan_keys(self, prefix: bytes) -> Iterator[bytes]:
        """Yield the keys that begin with ``prefix``, some of them more than once.

        As many round trips as the server needs.
        """
        for keys in self.scan_pages(prefix):
            yield from keys

    def scan_pages(self, prefix: bytes, place: ScanPlace | None = None) -> Iterator[list[bytes]]:
        """Yield what `scan_keys` yields, a list for each round trip, which may be empty.

        So the caller can do something else from time to time, however few keys match. With
        ``place``, this begins there, and the place moves.
        """
        pattern, place = _GLOB.sub(rb"\\\g<0>", prefix) + b"*", place or ScanPlace()
        try:
            client = self._client or self.connect()
            nodes: list[Any] = [None]
            if isinstance(client, RedisCluster):
                primaries = client.get_primaries()  # type: ignore[no-untyped-call]
                nodes = sorted(primaries, key=lambda node: str(node.name))
            while not place.is_end:
                node = nodes[place.node]
                options = {} if node is None else {"target_nodes": node}
                command = partial(client.scan, place.cursor, match=pattern, count=_BATCH, **options)
                answer, keys = self._run(command, self._breaker, None, ("SCAN",))
                place.cursor = answer if node is None else answer[node.name]
                if not place.cursor:
                    place.node += 1
                    place.is_end = place.node >= len(nodes)
                yield keys
        except _ERRORS as error:
            self._fail(error, self._breaker, command=("SCAN",))

    def client(self) -> Any:
        """Return the blocking client. Raises `StorageUnavailable` if a cluster does not answer."""
        try:
            return self._client or self.connect()
        except _ERRORS as error:
            self._fail(error, self._breaker)

    def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        self._threads = ThreadClients(None)
        if isinstance(client, RedisCluster):
            client.close()
        elif client is not None:
            client.connection_pool.disconnect()
        self._loops.close()

    def connect(self) -> Any:
        """Return the blocking client, which connects when it is used; a cluster's connects here.

        There is no lock, because requests would queue for a cluster that does not answer. If
        several clients are made at the same time, the last one stays.
        """
        client = _client_of(self._alias, self._cache, is_djangos=self._is_djangos)
        self.spans_slots = isinstance(client, RedisCluster)
        if not self.spans_slots:
            _check_options(self._alias, client.connection_pool)
        self._threads = ThreadClients(client)
        self._client = client
        return client

    @property
    def _is_djangos(self) -> bool:
        return isinstance(self._cache, DjangoRedisCache)

    def _connect_loop(self) -> PipeliningClient | None:
        """Return a client for an event loop; ``None`` if a thread must do the work."""
        # The blocking client is made in a thread as well, because that of a cluster blocks.
        pool = awaiting_pool(self._client) if self._client is not None else None
        return None if pool is None else PipeliningClient(pool)

    def _rights_to_give(self) -> str:
        """Return which rights the user of the connections needs on a Redis with access lists."""
        pool = getattr(self._client, "connection_pool", None)
        user = getattr(pool, "connection_kwargs", {}).get("username") or "default"
        return (
            f"At the prompt of redis-cli, run 'ACL SETUSER {user} +@read +@write +@scripting "
            f"+@connection +info ~{self._cache.make_key(SHORT_NAMESPACE)}*'."
        )

    def refusal(self, commands: str) -> str:
        """Return that the user of the connections may not run these commands, and the cure."""
        return f"Its user may not run: {commands}. {self._rights_to_give()}"

    def reject(self, answer: object) -> NoReturn:
        """Raise `StorageUnavailable` because Redis does not give such an answer to a command."""
        self._fail(InvalidResponse(f"an answer of type {type(answer).__name__}"), self._breaker)

    def _message(self, fault: Fault, error: Exception, text: str) -> str:
        """Return what an error says, and what to do about it. It ends in a dot."""
        pool = getattr(self._client, "connection_pool", None)
        values = {
            "entry": f"CACHES[{self._alias!r}]",
            "number": getattr(pool, "connection_kwargs", {}).get("db", ""),
            "rights": self._rights_to_give() if "{rights}" in fault.cure else "",
            "sentinels": "sentinel_manager" if self._is_djangos else "SENTINELS",
        }
        name = fault.code or type(error).__name__
        text = text.removeprefix(f"{name} ")
        return (
            f"{self.describe()}: {fault.meaning.format(**values)} ({name}: {text}). "
            f"{fault.cure.format(**values)}"
        )

    def _checked(
        self, commands: Sequence[tuple[Any, ...]], answers: list[Any], breaker: Breaker
    ) -> list[Any]:
        """Return the answers to several commands. Raises an exception for the first error."""
        for command, answer in zip(commands, answers, strict=True):
            is_error = isinstance(answer, _ERRORS) and not isinstance(answer, NoScriptError)
            if is_error and "WRONGTYPE" not in str(answer):
                self._fail(answer, breaker, None, command)
        if breaker.log.is_open:
            for command in commands:
                breaker.log.succeeded(_operation(command))
        return answers

    def _breaker_for(self, command: tuple[Any, ...]) -> Breaker:
        """Return the breaker of the node of a cluster that has the first key of a command.

        The other nodes go on if that one hangs. Does not ask the cluster.
        """
        first = 3 if command[0] in {"EVALSHA", "EVAL"} else 1
        client = self._client
        if not isinstance(client, RedisCluster) or len(command) <= first:
            return self._breaker
        try:
            node = client.get_node_from_key(command[first])  # type: ignore[no-untyped-call]
        except _ERRORS:  # It knows of no node for the key.
            return self._breaker
        breaker = self._node_breakers.get(node.name)
        if breaker is None:
            log = OutageLog(lambda: f"{self.describe()}, node {node.name}")
            breaker = self._node_breakers.setdefault(node.name, Breaker(log))
        return breaker

    def _breaker_for_all(self, commands: Sequence[tuple[Any, ...]]) -> Breaker:
        """Return the breaker of the node for several commands, or that of several nodes."""
        breakers = {self._breaker_for(each) for each in commands}
        if len(breakers) == 1:
            return breakers.pop()
        return JointBreaker(list(breakers), self._breaker.log)

    def _run(self, ask: _Ask, breaker: Breaker, began: float | None, command: _Command) -> Any:
        """Return what ``ask`` returns, which waits for a connection as long as for an answer.

        If the connection is lost, ``ask`` is called once more, because the commands of the package
        may be sent twice. Raises the exception for an error, see `_fail` for the other arguments.
        """
        try:
            return ask()
        except _ERRORS as error:
            failure = error
        for _ in _further_tries(self._client, failure):
            if _is_used_up(failure):
                breaker.check()
            try:
                return ask()
            except _ERRORS as error:
                failure = error
            if not _is_used_up(failure):
                break
        return self._fail(failure, breaker, began, command)

    def _end_failed(self, error: BaseException, began: float, command: _Command) -> None:
        """End an awaited call, and raise what its error says of the server, if it is about that."""
        self._breaker.ended(began)
        if isinstance(error, _GARBAGE):
            error = _without_text(error)
        if isinstance(error, _ERRORS):
            self._fail(error, self._breaker, began, command)

    def _fail(
        self, error: Exception, breaker: Breaker, began: float | None = None, command: _Command = ()
    ) -> NoReturn:
        """Raise the exception that an error of the client means, see `ask`.

        ``breaker`` is that of the command that failed, and ``began`` is what it has returned, if
        the error tells whether the server answers.
        """
        is_answer = isinstance(error, ResponseError)
        if is_answer:
            breaker.answered()
        text = text_of(error)
        if "WRONGTYPE" in text:
            raise UnreadablePayload("its key in Redis holds something else") from None
        is_of_slots = any(each in text for each in _OTHER_SLOTS)
        self.spans_slots |= is_of_slots
        fault = fault_of(error, text)
        kind = StorageFull if fault.code == "OOM" else StorageUnavailable
        failure = kind(self._message(fault, error, text))
        # A pool that is used up says nothing about the server, nor does a client that sent nothing.
        if began is not None and not (is_answer or is_of_slots or _is_used_up(error)):
            breaker.failed(began, failure)
        # The caller sends something else to a server that does not know a script, or to a cluster.
        if not (is_of_slots or isinstance(error, NoScriptError)):
            operation = _operation(command) if is_answer else None
            # What a server says of the same fault differs from one command to the next.
            reason = "" if fault is UNKNOWN else f"{self.describe()}: {fault.meaning}"
            breaker.log.failed(failure, operation, reason)
        raise failure from (None if QUOTES in str(error) else error)


def _without_text(error: Exception) -> InvalidResponse:
    """Return an error of the client for one whose text may quote an answer."""
    return InvalidResponse(f"{type(error).__name__} in the client")


def _operation(command: tuple[Any, ...]) -> object:
    """Return what tells commands apart, see `OutageLog.failed`: the name, or that of a script."""
    name, *arguments = command
    if name == "EVAL":
        return digest_of(arguments[0])
    return arguments[0] if name == "EVALSHA" else name


def _client_of(alias: str, cache: Any, *, is_djangos: bool) -> Any:
    """Return the blocking client of a cache. Raises ``ImproperlyConfigured``."""
    try:
        if is_djangos:
            client = cache._cache.get_client(None, write=True)
        else:
            client = cache.client.get_client(write=True)
    except ValueError:
        # The message may quote a part of a password that has a slash in it.
        raise ImproperlyConfigured(
            f"CACHES[{alias!r}]['LOCATION'] is not an address of Redis. Write "
            "'redis://USER:PASSWORD@HOST:PORT/NUMBER', or 'rediss://...' for TLS, and "
            "percent-encode what is special in a URL."
        ) from None
    except NotImplementedError:
        raise ImproperlyConfigured(
            f"CACHES[{alias!r}]['OPTIONS']['CLIENT_CLASS'] spreads its keys over "
            "servers that know nothing of each other. Sessions need a client with one "
            "primary, or a cluster."
        ) from None
    if client.get_encoder().decode_responses:
        raise ImproperlyConfigured(
            f"CACHES[{alias!r}] sets decode_responses, which makes text of all values. "
            "Sessions are bytes: remove it, or name another cache in SESSION_CACHE_ALIAS."
        )
    return client


def _check_options(alias: str, pool: Any) -> None:
    """Raise ``ImproperlyConfigured`` if connections do not know an option. Does not connect."""
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        _, _, name = str(error).rpartition("unexpected keyword argument ")
        raise ImproperlyConfigured(
            f"CACHES[{alias!r}]['OPTIONS'] has an option that connections to Redis do "
            f"not know: {name}. Correct its name, or remove it."
        ) from None


def _is_used_up(error: Exception) -> bool:
    """Return whether all connections of a pool are in use. Nothing was sent then."""
    # The pools that wait raise a plain error, and the others do so before redis-py 6.
    return isinstance(error, MaxConnectionsError) or str(error) in {
        "Too many connections",
        _WAITED_IN_VAIN,
    }


def _further_tries(client: Any, error: Exception) -> Iterator[None]:
    """Yield for each further try of a command whose first one has failed."""
    if _is_used_up(error) and str(error) != _WAITED_IN_VAIN:
        yield from pauses(_timeout_of(client))
    elif _is_lost(error) and not isinstance(client, RedisCluster):  # Which tries by itself.
        yield


def _is_lost(error: Exception) -> bool:
    """Return whether a connection that was open is lost. A command may have been carried out."""
    # The subclasses are answers of the server, or of a pool.
    is_plain = type(error) is RedisConnectionError and not _is_used_up(error)
    return is_plain and "connecting to" not in str(error)


def _timeout_of(client: Any) -> float:
    """Return for how many seconds a blocking client waits for an answer."""
    if isinstance(client, RedisCluster):
        options = client.get_connection_kwargs()  # type: ignore[no-untyped-call]
    else:
        options = client.connection_pool.connection_kwargs
    return float(options.get("socket_timeout") or _LONGEST_WAIT)


def awaiting_pool(client: Any) -> awaited.ConnectionPool | None:
    """Return a pool for a loop that connects like the pool of a blocking client.

    Return ``None`` if that has anything which cannot be awaited.
    """
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
    if arguments.get("retry") is None:
        # A connection that the server has closed while it was idle must not fail a request. Unlike
        # that for threads, this pool does not always notice. The scripts may be run twice.
        arguments["retry"] = Retry(NoBackoff(), 1, (RedisConnectionError,))
    return awaited.BlockingConnectionPool(
        connection_class=connection_class,
        max_connections=min(pool.max_connections, _MAX_CONNECTIONS),
        timeout=arguments.get("socket_timeout") or _LONGEST_WAIT,
        **arguments,
    )
