"""What is particular to Redis; what it shares with other stores is in the conformance suite."""

import asyncio
import logging
import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import cycle
from typing import Any
from unittest import mock

import msgspec
import pytest
from django.core.cache import caches
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_finished
from django.test import override_settings
from django_redis.pool import ConnectionFactory
from redis import Redis as Client
from redis import RedisCluster as ClusterClient
from redis.exceptions import BusyLoadingError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import Sentinel as SentinelManager

from django_sessionstores.core.records import Record, State, make_tombstone, session_id
from django_sessionstores.exceptions import (
    SessionEnded,
    StorageFull,
    StorageUnavailable,
    UnreadablePayload,
)
from django_sessionstores.storages import breaker
from django_sessionstores.storages.base import LITTER_AGE, Conflict, Gone, Taken, Updated
from django_sessionstores.storages.redis import building as redis_building
from django_sessionstores.storages.redis import index_scripts
from django_sessionstores.storages.redis import scripts as redis_scripts
from django_sessionstores.storages.redis import storage as redis
from django_sessionstores.storages.redis.client import Server, _operation
from django_sessionstores.storages.redis.rebuilding import Rebuild
from django_sessionstores.testing import StorageContract, successor, suspicious_messages
from tests import cases
from tests.dumps import contents
from tests.services import (
    HOST,
    Redis,
    RedisCluster,
    RedisSentinel,
    Sentinel,
    answer,
    refusing_port,
    shared_service,
    wait_until,
)

NOW = 1_800_000_000_000
HOUR = 3_600_000
DJANGO_REDIS = "django_redis.cache.RedisCache"
REDIS_CACHE = "django.core.cache.backends.redis.RedisCache"
BOTH = pytest.mark.parametrize("backend", [DJANGO_REDIS, REDIS_CACHE])


# A cluster needs a few lines of the project's own, with either adapter ---------------------------


class ClusterFactory(ConnectionFactory):
    """As a project makes django-redis talk to a cluster."""

    def connect(self, url: str) -> ClusterClient:
        return ClusterClient.from_url(url)


class _ClusterCacheClient(RedisCacheClient):
    _cluster: ClusterClient | None = None

    def get_client(self, key: Any = None, *, write: bool = False) -> ClusterClient:
        if self._cluster is None:
            self._cluster = ClusterClient.from_url(self._servers[0])
        return self._cluster


class ClusterCache(RedisCache):
    """As a project makes Django's RedisCache talk to a cluster."""

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = _ClusterCacheClient


def record(record_id: str = "a" * 40, **fields: Any) -> Record:
    values = {"payload": b"encrypted", "created": NOW, "last_activity": NOW, "expires": NOW + HOUR}
    return Record(id=record_id, **{**values, **fields})


@contextmanager
def storage_at(
    location: str | Sequence[str], backend: str = REDIS_CACHE, **entry: Any
) -> Iterator[redis.RedisStorage]:
    """Yield the storage in a cache with this entry in CACHES, under the alias "default"."""
    entry = {"BACKEND": backend, "LOCATION": location, **entry}
    with override_settings(CACHES={"default": entry}):
        storage = redis.from_cache("default")
        try:
            yield storage
        finally:
            storage.close()


def short_timeouts(backend: str) -> dict[str, Any]:
    """Return the OPTIONS of a backend whose client waits 0.2 seconds for the server."""
    options = {"socket_timeout": 0.2, "socket_connect_timeout": 0.2}
    if backend == DJANGO_REDIS:
        return {name.upper(): value for name, value in options.items()}
    return options


@pytest.fixture(params=[DJANGO_REDIS, REDIS_CACHE], ids=["django-redis", "redis-cache"])
def storage(request: pytest.FixtureRequest) -> Iterator[redis.RedisStorage]:
    """Yield an empty storage through either adapter."""
    shared_service(Redis).cli("flushall")
    with storage_at(shared_service(Redis).url(), request.param) as storage:
        yield storage


@pytest.fixture
def server() -> Iterator[Redis]:
    """Yield a server of the test's own, whose data survives a kill."""
    with Redis(appendonly="yes", appendfsync="always") as server:
        yield server


INDEX_KEY = re.compile(rb"\{..\}(?:([iu])....(:\d+)?|sites|lock....|progress....)$", re.DOTALL)
"""Directories, buckets, and what there is once."""


def raw_client(server: Any = None) -> Client:
    return Client(host=HOST, port=(server or shared_service(Redis)).port)


def the_record() -> bytes:
    """Return the key of the one record that the server holds."""
    (key,) = (key for key in raw_client().keys("*") if not INDEX_KEY.search(key))
    return key


@contextmanager
def commands(server: Any = None) -> Iterator[list[str]]:
    """Yield a list that gets the names of all commands in the block, when the block ends.

    What scripts call is not on the wire and not in the list; what a new connection says is.
    """
    seen: list[str] = []
    herald = raw_client(server)
    herald.ping()  # Connected before anybody listens.
    with raw_client(server).monitor() as monitor:
        yield seen
        herald.echo("the end")
        for _ in range(10_000):
            # Not next_command(), which loses scripts that hold a quote in redis-py 5.0.
            line = monitor.connection.read_response().decode()
            match = re.match(r'\S+ \[\d+ (\S+)\] "(\w+)"(?: "the end")?', line)
            assert match is not None, line
            client, command = match.groups()
            if match[0].endswith('"ECHO" "the end"'):
                break
            if client != "lua":
                seen.append(command.upper())
    herald.close()


def connections_made(server: Any = None) -> int:
    """Return how many connections the server has accepted so far."""
    line = re.search(r"total_connections_received:(\d+)", _info(server))
    assert line is not None
    return int(line[1])


def _info(server: Any = None) -> str:
    # Through one connection that stays, which does not count itself. Tests of closed connections
    # have the server close it, too.
    port = (server or shared_service(Redis)).port
    while True:
        connection = _info_clients.pop(port, None) or socket.create_connection((HOST, port), 5)
        with suppress(ConnectionError):
            connection.sendall(b"INFO stats\r\n")
            said = b""
            while piece := connection.recv(65_536):
                said += piece
                if b"total_error_replies" in said:
                    _info_clients[port] = connection
                    return said.decode()
        connection.close()


_info_clients: dict[int, socket.socket] = {}


# Behind a sentinel, in a cluster -----------------------------------------------------------------


def _sentinel_django_redis() -> Any:
    sentinel = shared_service(RedisSentinel)
    options = {
        "CLIENT_CLASS": "django_redis.client.SentinelClient",
        "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
        "SENTINELS": sentinel.sentinel_addresses,
    }
    return storage_at(sentinel.url(), DJANGO_REDIS, OPTIONS=options)


def _sentinel_redis_cache() -> Any:
    sentinel = shared_service(RedisSentinel)
    options = {
        "pool_class": "redis.sentinel.SentinelConnectionPool",
        "service_name": Sentinel.MASTER,
        "sentinel_manager": SentinelManager(sentinel.sentinel_addresses),
    }
    return storage_at(sentinel.url(), OPTIONS=options)


def _cluster_django_redis() -> Any:
    options = {"CONNECTION_FACTORY": f"{__name__}.ClusterFactory"}
    return storage_at(shared_service(RedisCluster).url(), DJANGO_REDIS, OPTIONS=options)


def _cluster_redis_cache() -> Any:
    return storage_at(shared_service(RedisCluster).url(), f"{__name__}.ClusterCache")


class TestDeployments(StorageContract):
    """The contract holds where writes need to find the primary, or the node of a slot."""

    @pytest.fixture(
        autouse=True,
        params=[
            _sentinel_django_redis,
            _sentinel_redis_cache,
            _cluster_django_redis,
            _cluster_redis_cache,
        ],
        ids=lambda deployment: deployment.__name__.strip("_"),
    )
    def _deployed(self, request: pytest.FixtureRequest) -> Iterator[None]:
        with request.param() as self.storage:
            self.storage._server.connect().flushall()
            yield

    def test_no_right_to_write_is_missing(self) -> None:
        assert self.storage.write_obstacle() == ""


@pytest.mark.parametrize("deployment", [_cluster_django_redis, _cluster_redis_cache])
def test_the_first_call_to_a_cluster_may_be_a_login(
    deployment: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Its two keys are on two nodes; that this is a cluster is known only when connected. A
    worker's first request would fail, or be logged as an outage."""
    with deployment() as storage:
        storage._server.connect().flushall()
        storage.create(base := record("b" * 40), NOW)
    with deployment() as storage:
        tombstone = make_tombstone(base.id, State.SUPERSEDED, now=NOW, seconds=60)

        assert isinstance(storage.rotate(record("c" * 40), base, tombstone, NOW), Updated)
        assert storage.read(base.id).state is State.SUPERSEDED
    assert caplog.messages == []


@pytest.mark.parametrize("deployment", [_cluster_django_redis, _cluster_redis_cache])
def test_a_first_login_on_a_slow_cluster_does_not_open_a_breaker(
    deployment: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client takes long to connect, and then refuses the script, which is not a failure."""
    monkeypatch.setattr(breaker, "SLOW", 0.0)
    with deployment() as storage:
        storage._server.connect().flushall()
        storage.create(base := record("b" * 40), NOW)
    with deployment() as storage:
        tombstone = make_tombstone(base.id, State.SUPERSEDED, now=NOW, seconds=60)
        storage.rotate(record("c" * 40), base, tombstone, NOW)

        assert not storage._server._breaker.is_open


def test_a_cluster_that_is_taken_for_one_server_serves_logins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Managed offerings with one shard are often used with a plain client. Every login would be
    an error, as its script names keys of two slots; and the refusal must cost one round trip,
    once, and no line in the log."""
    with Redis(cluster_enabled="yes") as server:
        server.cli("cluster", "addslotsrange", "0", "16383")
        wait_until(lambda: "cluster_state:ok" in server.cli("cluster", "info"), "one node is it")
        with storage_at(server.url()) as storage:
            for old, new in (("b", "c"), ("d", "e")):
                storage.create(base := record(old * 40), NOW)
                tombstone = make_tombstone(base.id, State.SUPERSEDED, now=NOW, seconds=60)
                with commands(server) as sent:
                    assert isinstance(
                        storage.rotate(record(new * 40), base, tombstone, NOW), Updated
                    )
                assert storage.read(base.id).state is State.SUPERSEDED

            storage.create(record("f" * 40, user_id="7"), NOW)
        with storage_at(server.url()) as storage:
            assert storage.delete("f" * 40)
            assert storage.read("f" * 40) is None
            assert listed(storage, "7") == []

    # The new record and the old one, each with its index.
    assert sent == ["EVALSHA"] * 2
    assert caplog.messages == []


def test_reads_go_to_the_primary() -> None:
    """Both adapters read from a random one of several LOCATIONs. A replica that lags would show
    a session as it was before a logout; here, the replica is not even there."""
    shared_service(Redis).cli("flushall")
    for backend in (DJANGO_REDIS, REDIS_CACHE):
        locations = [shared_service(Redis).url(), f"redis://{HOST}:{refusing_port()}/0"]
        with storage_at(locations, backend) as storage:
            for _ in range(10):
                storage.read("a" * 40)


# What is on the wire -----------------------------------------------------------------------------

REDIS_ENGINES = pytest.mark.engines("cache:django-redis", "cache:redis-cache")


@REDIS_ENGINES
def test_each_operation_is_one_command(engine: cases.Engine) -> None:
    """A probe before the insert, a fetch before the delete, a script looked for before it is run:
    each would double what the request costs."""
    store = engine.SessionStore
    warm = store()
    warm["x"] = 1
    warm.save()
    warm["x"] = 2
    warm.save()
    warm.cycle_key()
    warm.save()
    warm.flush()

    session = store()
    session["color"] = "blue"
    with commands() as first_write:
        session.save()
    key = session.session_key
    with commands() as reading:
        assert store(key)["color"] == "blue"
    session = store(key)
    with commands() as writing:
        session["color"] = "red"
        session.save()
    session = store(key)
    with commands() as login:
        session["color"] = "green"
        session.cycle_key()
        session.save()
    with commands() as logout:
        session.flush()

    assert first_write == ["EVALSHA"]
    assert reading == ["GET"]
    assert writing == ["GET", "EVALSHA"]
    assert login == ["GET", "EVALSHA"]
    assert logout == ["EVALSHA"]


def test_a_touch_is_one_command(storage: redis.RedisStorage) -> None:
    """It comes with reads, which are most requests; it must not send the payload again either."""
    storage.create(record(payload=b"p" * 100_000), NOW)
    storage.touch(record(), NOW + HOUR, NOW, NOW)
    before = re.search(r"total_net_input_bytes:(\d+)", _info())
    with commands() as sent:
        storage.touch(record(), NOW + 2 * HOUR, NOW + 1, NOW)
    after = re.search(r"total_net_input_bytes:(\d+)", _info())

    assert sent == ["EVALSHA"]
    assert before is not None
    assert after is not None
    assert int(after[1]) - int(before[1]) < 2_000


def test_a_conflict_brings_the_current_record_in_the_same_round_trip(
    storage: redis.RedisStorage,
) -> None:
    """Contested saves would cost three round trips for each try instead of one."""
    storage.create(record(), NOW)
    storage.update(record(version=2, payload=b"winner"), record(), NOW)
    with commands() as sent:
        outcome = storage.update(record(version=2, payload=b"loser"), record(), NOW)

    assert isinstance(outcome, Conflict)
    assert outcome.current.payload == b"winner"
    assert sent == ["EVALSHA"]


def test_a_server_that_forgets_its_scripts_is_told_again(storage: redis.RedisStorage) -> None:
    """A restart or a failover forgets them: all saves would fail from then on. Told with the
    write itself, not before, and not more than once."""
    storage.create(record(), NOW)
    raw_client().script_flush()
    with commands() as sent:
        first = storage.update(record(version=2), record(), NOW)
        second = storage.update(record(version=3), record(version=2), NOW)

    assert isinstance(first, Updated)
    assert isinstance(second, Updated)
    assert sent == ["EVALSHA", "EVAL", "EVALSHA"]


def test_a_script_is_one_operation_however_it_is_sent() -> None:
    """An outage of it is over when it succeeds, also on a server that is told it anew."""
    script = redis_scripts.UPDATE
    operations = {_operation(("EVALSHA", script.sha, 1)), _operation(("EVAL", script.text, 1))}
    assert operations == {script.sha}


# Connections -------------------------------------------------------------------------------------


@REDIS_ENGINES
def test_requests_make_no_connections(engine: cases.Engine) -> None:
    """Django drops the caches of a request when it ends; what hangs on them is connected anew by
    each request."""
    session = engine.SessionStore()
    session["x"] = 1
    session.save()
    before = connections_made()
    for _ in range(5):
        engine.SessionStore(session.session_key).load()
        request_finished.send(type(engine))

    assert connections_made() == before


@REDIS_ENGINES
def test_event_loops_make_no_connections(engine: cases.Engine) -> None:
    """Under ASGI each request is a task of its own, and gets caches of its own from Django."""
    session = engine.SessionStore()
    session["x"] = 1
    session.save()
    before = connections_made()
    for _ in range(5):
        asyncio.run(engine.SessionStore(session.session_key).aload())

    assert connections_made() == before


@pytest.mark.django_db  # At the end of a request Django looks at its databases, too.
def test_connections_outlive_requests_that_close_theirs() -> None:
    """django-redis can be told to disconnect what a request used, at its end. What sessions use
    belongs to no request."""
    options = {"CLOSE_CONNECTION": True}
    with storage_at(shared_service(Redis).url(), DJANGO_REDIS, OPTIONS=options) as storage:
        storage.read("a" * 40)
        before = connections_made()
        for _ in range(3):
            request_finished.send(type(storage))
            storage.read("a" * 40)

        assert connections_made() == before


def test_threads_share_the_connections(storage: redis.RedisStorage) -> None:
    """Four threads at a time need four connections, not one for each of 200 reads; and answers
    must not get mixed up between them."""
    for number in range(4):
        storage.create(record(str(number) * 40, user_id=str(number)), NOW)
    before = connections_made()

    def read(number: int) -> str | None:
        found = storage.read(str(number % 4) * 40)
        return found and found.user_id

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(read, range(200)))

    assert answers == [str(number % 4) for number in range(200)]
    assert connections_made() - before <= 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_gets_a_connection_of_its_own(storage: redis.RedisStorage) -> None:
    """Servers such as gunicorn may load the site before they fork. Two processes on one socket
    read each other's answers: one visitor's session for another."""
    for name in "fc":
        storage.create(record(name * 40, user_id=name), NOW)
    before = connections_made()
    child = os.fork()
    if child == 0:
        right = False
        try:
            right = all(storage.read("c" * 40).user_id == "c" for _ in range(200))
        finally:
            os._exit(0 if right else 1)
    answers = {storage.read("f" * 40).user_id for _ in range(200)}
    _, status = os.waitpid(child, 0)

    assert status == 0
    assert answers == {"f"}
    assert connections_made() - before == 1


# What is stored ----------------------------------------------------------------------------------


@REDIS_ENGINES
def test_a_dump_shows_neither_key_nor_data(engine: cases.Engine) -> None:
    """Backups and consoles would hand out sessions that work."""
    session = engine.SessionStore()
    session["color"] = "aubergine"
    session.save()
    client = raw_client()
    dump = b"".join(each for key in client.keys("*") for each in (key, *contents(client, key)))

    assert bytes.fromhex(session.session_id)[1:] in dump
    assert session.session_key.encode() not in dump
    assert b"aubergine" not in dump
    assert b"color" not in dump


def test_sessions_and_cached_values_do_not_meet(storage: redis.RedisStorage) -> None:
    """A site may cache something under any name, an id that a log shows included."""
    storage.create(record(), NOW)
    caches["default"].set("a" * 40, "cached")

    assert storage.read("a" * 40) == record()
    assert caches["default"].get("a" * 40) == "cached"


@BOTH
def test_prefix_and_version_of_the_cache_keep_sessions_apart(backend: str) -> None:
    """Two sites on one server would read and end each other's sessions. A prefix is a name, not
    a pattern: its characters must not reach beyond it."""
    url = shared_service(Redis).url()
    with storage_at(url, backend, KEY_PREFIX="x*[a]?") as first:
        first.delete("a" * 40)
        first.create(record(user_id="first"), NOW)
    with storage_at(url, backend, KEY_PREFIX="xxa?", VERSION=2) as second:
        second.delete("a" * 40)
        second.create(record(user_id="second"), NOW)
    with storage_at(url, backend, KEY_PREFIX="x*[a]?") as first:
        first.delete("a" * 40)
        assert first.read("a" * 40) is None
    with storage_at(url, backend, KEY_PREFIX="xxa?", VERSION=2) as second:
        assert second.read("a" * 40).user_id == "second"


def test_redis_drops_what_expired(storage: redis.RedisStorage) -> None:
    """There is no purge: a record without a lifetime would stay for ever. As time left, since
    the clocks of the worker and of the server may differ by more than a tombstone lives."""
    past = 1_000_000_000_000
    tombstone = make_tombstone("d" * 40, State.ENDED, now=past, seconds=60)
    storage.create(record("b" * 40, expires=past + HOUR), past)
    storage.create(base := record("c" * 40, expires=past + HOUR), past)
    storage.update(record("c" * 40, version=2, expires=past + 2 * HOUR), base, past)
    storage.leave_tombstone(tombstone, past)
    storage.fill(record("e" * 40, expires=past + HOUR), past + 5000, past)
    lifetimes = {each: raw_client().pttl(storage._server.key(each * 40)) for each in "bcde"}

    assert 0 <= HOUR - lifetimes["b"] < 30_000
    assert 0 <= 2 * HOUR - lifetimes["c"] < 30_000
    assert 0 < lifetimes["d"] <= 60_000
    assert 0 < lifetimes["e"] <= 5000


def test_a_tombstone_that_is_not_kept_frees_the_id_at_once(storage: redis.RedisStorage) -> None:
    """A rotation on a cluster withdraws a record in this way, and may create it again."""
    made = record()
    storage.create(made, NOW)
    over = make_tombstone(made.id, State.ENDED, now=0, seconds=0, of=made)
    assert isinstance(storage.update(over, made, NOW), Updated)
    assert isinstance(storage.create(made, NOW), Updated)


def test_a_touch_moves_the_lifetime_and_never_shortens_it(storage: redis.RedisStorage) -> None:
    """Redis would drop a session that is in use; of two requests that touch at once, the one that
    began earlier may come last. 2**47 is where the seventh byte gets beyond 127: compared as
    text, as Lua compares by the server's locale, more could be less."""
    storage.create(record(), NOW)
    key = the_record()

    assert storage.touch(record(), later := 2**47, NOW + 9, NOW)
    assert storage.touch(record(), NOW + 2 * HOUR, NOW + 5, NOW)

    found = storage.read("a" * 40)
    assert found == record(expires=later, last_activity=NOW + 9)
    assert raw_client().pttl(key) > later - NOW - 30_000


@pytest.mark.parametrize(("older", "newer"), [(1, 2), (127, 128), (255, 256), (66, 97), (9, 10)])
def test_a_copy_of_an_older_version_is_refused(
    storage: redis.RedisStorage, older: int, newer: int
) -> None:
    """A reader that stalled would put a session back to what it was; a newer copy must win, in
    any locale: in most of them "a" sorts before "B"."""
    storage.fill(record(version=older), NOW + HOUR, NOW)
    storage.fill(record(version=newer), NOW + HOUR, NOW)
    storage.fill(record(version=older), NOW + HOUR, NOW)

    assert storage.read("a" * 40) == record(version=newer)


# Commands that arrive twice ----------------------------------------------------------------------


@pytest.fixture
def retrying(storage: redis.RedisStorage, monkeypatch: pytest.MonkeyPatch) -> redis.RedisStorage:
    """Return a storage with a record of version 2, whose client gets each answer at the second
    try."""
    storage.create(record(), NOW)
    storage.update(record(version=2), record(), NOW)
    once = storage._server._client.execute_command

    def twice(*command: Any) -> Any:
        once(*command)
        return once(*command)

    monkeypatch.setattr(storage._server._client, "execute_command", twice)
    return storage


class Relay:
    """Stands between client and server, and can close connections that are waiting for an answer.

    One connection at a time is enough for a storage that is used by one thread.
    """

    def __init__(self, server: Redis) -> None:
        self._server = (HOST, server.port)
        self._listener = socket.create_server((HOST, 0))
        self.url = f"redis://{HOST}:{self._listener.getsockname()[1]}"
        self.breaks = ""
        """Close the connection of the next command "before" or "after" the server has it."""
        self.connections = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                with client, socket.create_connection(self._server) as server:
                    self._relay(client, server)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            for source in select.select([client, server], [], [])[0]:
                if not (data := source.recv(65_536)):
                    return
                breaks, self.breaks = self.breaks, ""
                if breaks == "after":
                    server.sendall(data)
                    server.recv(65_536)
                if breaks:
                    return
                (server if source is client else client).sendall(data)


@BOTH
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_command_is_sent_again_if_its_connection_is_lost(backend: str, moment: str) -> None:
    """A firewall has forgotten the connection, or the server closes it before it answers. The pool
    finds only connections that were closed before it gives them away."""
    server = shared_service(Redis)
    server.cli("flushall")
    with Relay(server) as relay, storage_at(relay.url, backend) as storage:
        assert isinstance(storage.create(record(), NOW), Updated)
        calls = [
            lambda: storage.read("a" * 40) == record(),
            lambda: isinstance(storage.create(record("b" * 40), NOW), Updated),
            lambda: isinstance(storage.update(record(version=2), record(), NOW), Updated),
            lambda: storage.lookup_many(["c" * 40]) == {},
        ]
        for number, call in enumerate(calls, start=2):
            relay.breaks = moment
            assert call()
            assert (relay.breaks, relay.connections) == ("", number)


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("Error 111 connecting to 127.0.0.1:1. Connection refused."),
        RedisTimeoutError("Timeout reading from socket"),
        BusyLoadingError("Redis is loading the dataset in memory"),
        ResponseError("ERR"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_command_is_not_sent_again_after_an_answer_or_a_timeout(
    storage: redis.RedisStorage, error: Exception
) -> None:
    """The second try would cost as much, and end in the same way."""
    client = storage._server.connect()
    with (
        mock.patch.object(client, "execute_command", side_effect=error) as sent,
        pytest.raises(StorageUnavailable),
    ):
        storage.read("a" * 40)
    assert sent.call_count == 1


def test_an_update_sent_twice_is_no_conflict(retrying: redis.RedisStorage) -> None:
    """The client of a cluster retries by itself. Merging with oneself would count twice where a
    merge function adds."""
    outcome = retrying.update(record(version=3, payload=b"mine"), record(version=2), NOW)

    assert isinstance(outcome, Updated)


def test_a_login_sent_twice_is_no_collision(retrying: redis.RedisStorage) -> None:
    """The second would find the new key taken and the old session superseded, and a login that
    was done would be answered with an error."""
    tombstone = make_tombstone("a" * 40, State.SUPERSEDED, now=NOW, seconds=60)
    outcome = retrying.rotate(record("b" * 40), record(version=2), tombstone, NOW)

    assert isinstance(outcome, Updated)


def test_of_two_rotations_with_equal_tombstones_one_succeeds(storage: redis.RedisStorage) -> None:
    """Two requests in the same millisecond are not one that was sent twice: a session would
    become two."""
    storage.create(record(), NOW)
    tombstone = make_tombstone("a" * 40, State.SUPERSEDED, now=NOW, seconds=60)

    assert isinstance(storage.rotate(record("b" * 40), record(), tombstone, NOW), Updated)
    assert isinstance(storage.rotate(record("c" * 40), record(), tombstone, NOW), Conflict)
    assert isinstance(storage.update(tombstone, record(), NOW), Conflict)
    assert storage.read("c" * 40) is None


def test_a_rotation_to_a_taken_key_leaves_both_sessions_alone(storage: redis.RedisStorage) -> None:
    """Superseding the old one all the same would log its user out."""
    storage.create(record(), NOW)
    storage.create(record("b" * 40, payload=b"another's"), NOW)
    tombstone = make_tombstone("a" * 40, State.SUPERSEDED, now=NOW, seconds=60)

    assert isinstance(storage.rotate(record("b" * 40), record(), tombstone, NOW), Taken)
    assert storage.read("a" * 40) == record()
    assert storage.read("b" * 40) == record("b" * 40, payload=b"another's")


def test_a_rotation_of_a_deleted_session_stores_nothing(storage: redis.RedisStorage) -> None:
    """A logout between a request's read and its change of key would be undone."""
    storage.create(record(), NOW)
    storage.delete("a" * 40)
    tombstone = make_tombstone("a" * 40, State.SUPERSEDED, now=NOW, seconds=60)

    assert isinstance(storage.rotate(record("b" * 40), record(), tombstone, NOW), Gone)
    assert storage.read("a" * 40) is None
    assert storage.read("b" * 40) is None


# Foreign values ----------------------------------------------------------------------------------


@pytest.fixture
def foreign(storage: redis.RedisStorage) -> redis.RedisStorage:
    """Return a storage that holds a list in place of the record."""
    storage.create(record(), NOW)
    key = the_record()
    raw_client().delete(key)
    raw_client().lpush(key, "x")
    return storage


def test_a_value_of_another_type_is_unreadable(foreign: redis.RedisStorage) -> None:
    """It is no outage: the server works, and one bad key must not be a 503 for ever."""
    with pytest.raises(UnreadablePayload):
        foreign.read("a" * 40)
    with pytest.raises(UnreadablePayload):
        foreign.update(record(version=2), record(), NOW)
    with pytest.raises(UnreadablePayload):
        foreign.touch(record(), NOW + HOUR, NOW, NOW)


def test_a_value_of_another_type_can_be_replaced_by_a_copy(foreign: redis.RedisStorage) -> None:
    """In front of a database the truth is at hand; the bad key must not stay."""
    foreign.fill(record(), NOW + HOUR, NOW)

    assert foreign.read("a" * 40) == record()


@REDIS_ENGINES
@pytest.mark.parametrize("rubbish", [b"", b"\x01", b"\x01" * 20, b"\x80\x04\x95pickle" * 9])
def test_rubbish_reads_as_an_empty_session(engine: cases.Engine, rubbish: bytes) -> None:
    """A value cut short or written by somebody else must be neither an error for as long as the
    cookie lives nor executed."""
    session = engine.SessionStore()
    session["x"] = 1
    session.save()
    key = the_record()
    raw_client().set(key, rubbish)

    with suspicious_messages() as messages:
        assert engine.SessionStore(session.session_key).load() == {}
    assert len(messages) == 1
    session["x"] = 2
    with pytest.raises(SessionEnded):
        session.save()


# Outages -----------------------------------------------------------------------------------------


def assert_says_nothing(error: pytest.ExceptionInfo[StorageUnavailable], *secrets: str) -> None:
    said = str(error.value)
    assert "'default'" in said
    for secret in ("a" * 40, "encrypted", *secrets):
        assert secret not in said


@BOTH
def test_a_refused_connection_is_an_outage_and_ends(backend: str, server: Redis) -> None:
    """Reading nothing from a server that is away would log everybody out; and after a restart the
    broken connections must not fail a request each."""
    options = {"IGNORE_EXCEPTIONS": True} if backend == DJANGO_REDIS else {}
    with storage_at(server.url(), backend, OPTIONS=options) as storage:
        storage.create(record(), NOW)
        server.kill()
        for operation in (
            partial(storage.read, "a" * 40),
            partial(storage.create, record("b" * 40), NOW),
            partial(storage.update, record(version=2), record(), NOW),
            partial(storage.touch, record(), NOW + HOUR, NOW, NOW),
            partial(storage.delete, "a" * 40),
        ):
            with pytest.raises(StorageUnavailable) as caught:
                operation()
            assert_says_nothing(caught)
        server.restart()

        assert storage.read("a" * 40) == record()


@BOTH
def test_a_stalled_server_is_an_outage_and_ends(backend: str, server: Redis) -> None:
    """It accepts and says nothing: without the timeout of the settings a worker would hang. The
    answer that comes late must not be taken for that of the next command."""
    with storage_at(server.url(), backend, OPTIONS=short_timeouts(backend)) as storage:
        storage.create(record(), NOW)
        storage.create(record("b" * 40, user_id="b"), NOW)
        server.pause()
        with pytest.raises(StorageUnavailable, match="Timeout"):
            storage.read("b" * 40)
        server.resume()

        assert storage.read("a" * 40) == record()


def test_a_cluster_that_is_unreachable_when_the_site_starts_is_an_outage() -> None:
    """Its client connects when it is made: the worker must start, answer with an outage, and work
    when the cluster is back."""
    with storage_at(f"redis://{HOST}:{refusing_port()}", f"{__name__}.ClusterCache") as storage:
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                storage.read("a" * 40)


@BOTH
def test_a_full_server_keeps_the_old_session_and_lets_it_be_deleted(
    backend: str, server: Redis
) -> None:
    """A save that was not done must not look done, half a login would be none, and logging out
    has to work."""
    options = {"IGNORE_EXCEPTIONS": True} if backend == DJANGO_REDIS else {}
    with storage_at(server.url(), backend, OPTIONS=options) as storage:
        storage.create(record(), NOW)
        server.cli("config", "set", "maxmemory-policy", "noeviction")
        server.cli("config", "set", "maxmemory", "1")
        tombstone = make_tombstone("a" * 40, State.SUPERSEDED, now=NOW, seconds=60)
        for operation in (
            partial(storage.create, record("b" * 40), NOW),
            partial(storage.update, record(version=2), record(), NOW),
            partial(storage.rotate, record("b" * 40), record(), tombstone, NOW),
            partial(storage.fill, record(version=2), NOW + HOUR, NOW),
            partial(storage.leave_tombstone, tombstone, NOW),
        ):
            with pytest.raises(StorageFull) as caught:
                operation()
            assert_says_nothing(caught)
        assert storage.read("a" * 40) == record()
        assert storage.read("b" * 40) is None
        # Takes no memory, and comes with reads, which must go on.
        assert storage.touch(record(), NOW + 2 * HOUR, NOW, NOW)
        assert storage.read("a" * 40) == record(expires=NOW + 2 * HOUR)
        storage.delete("a" * 40)
        assert storage.read("a" * 40) is None
        server.cli("config", "set", "maxmemory", "0")

        assert isinstance(storage.create(record(), NOW), Updated)


def test_a_full_server_before_redis_7_is_told_from_an_outage(
    storage: redis.RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wraps the errors of scripts, so that the client does not know them."""
    storage.create(record(), NOW)
    said = "Error running script (call to f_0): @user_script:9: @user_script: 9: -OOM command not"
    monkeypatch.setattr(
        storage._server._client, "execute_command", mock.Mock(side_effect=ResponseError(said))
    )

    with pytest.raises(StorageFull):
        storage.update(record(version=2), record(), NOW)


def test_a_replica_refuses_writes_as_an_outage() -> None:
    """After a failover the address may be that of a replica. "Not done" must not be "gone"."""
    sentinel = shared_service(RedisSentinel)
    with storage_at(sentinel.master.url()) as primary:
        primary.leave_tombstone(record(), NOW)
    with storage_at(sentinel.replica.url()) as storage:
        wait_until(lambda: storage.read("a" * 40) == record(), "the replica has followed")
        for write in (
            partial(storage.create, record("f" * 40), NOW),
            partial(storage.update, record(version=2), record(), NOW),
            partial(storage.touch, record(), NOW + 2 * HOUR, NOW, NOW),
            partial(storage.delete, "f" * 40),
        ):
            with pytest.raises(StorageUnavailable):
                write()


def test_the_question_about_rights_changes_nothing(storage: redis.RedisStorage) -> None:
    def contents() -> dict[str, Any]:
        ask = storage._server.ask
        return {key: ask("DUMP", key) for key in ask("KEYS", "*")}

    assert storage.write_obstacle() == ""
    assert contents() == {}
    storage.create(record("e" * 40, user_id="7"), NOW)
    assert storage.count(NOW, None) == 1
    before = contents()
    assert storage.write_obstacle() == ""
    assert contents() == before


def test_a_wrong_password_is_an_outage_that_does_not_tell_it(server: Redis) -> None:
    """It is a mistake in the settings of a worker, not a reason to log people out; and errors are
    logged."""
    server.cli("config", "set", "requirepass", "right")
    with storage_at(f"redis://:guessed@{HOST}:{server.port}/0") as storage:
        with pytest.raises(StorageUnavailable) as caught:
            storage.read("a" * 40)
        assert_says_nothing(caught, "guessed")
        assert "guessed" not in storage.describe()


class _OldRedis(Redis):
    """Does not know the command HELLO."""

    def prepare(self) -> None:
        (self.folder / "old.conf").write_text('rename-command HELLO ""\nrequirepass right\n')

    def command(self) -> list[str]:
        program, *flags = super().command()
        return [program, "old.conf", *flags]

    def answers(self) -> bool:
        return answer(self.port, b"PING\r\n").startswith(b"-NOAUTH")


def test_a_server_from_before_redis_6_is_told_from_an_outage() -> None:
    """It does not know the protocol that new clients begin with, and quotes the password it was
    sent: the message must have the cure and not the password, and nor may its cause."""
    with ExitStack() as stack:
        server = stack.enter_context(_OldRedis())
        url = f"redis://:guessed@{HOST}:{server.port}/0"
        storage = stack.enter_context(storage_at(url, OPTIONS={"protocol": 3}))
        with pytest.raises(StorageUnavailable, match="protocol=2") as caught:
            storage.read("a" * 40)
        assert_says_nothing(caught, "guessed")
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


# Settings that cannot work -----------------------------------------------------------------------


@BOTH
def test_decoded_answers_are_refused(backend: str) -> None:
    """Encrypted bytes are no text: each read would fail with an error about UTF-8."""
    decoding = {"decode_responses": True}
    options = {"CONNECTION_POOL_KWARGS": decoding} if backend == DJANGO_REDIS else decoding
    # A database of its own: django-redis keeps one pool for each address, whatever its options.
    url = shared_service(Redis).url(database=12)
    with (
        pytest.raises(ImproperlyConfigured, match="decode_responses"),
        storage_at(url, backend, OPTIONS=options) as storage,
    ):
        storage.read("a" * 40)


def test_keys_spread_by_the_client_are_refused() -> None:
    """With a server down, django-redis' ShardClient finds its keys elsewhere: logins would come
    and go."""
    options = {"CLIENT_CLASS": "django_redis.client.ShardClient"}
    with (
        storage_at([shared_service(Redis).url()], DJANGO_REDIS, OPTIONS=options) as storage,
        pytest.raises(ImproperlyConfigured, match="CLIENT_CLASS"),
    ):
        storage.read("a" * 40)


def test_the_storage_says_which_adapter_it_uses(storage: redis.RedisStorage) -> None:
    """The two behave differently with the same server; who reads a report needs to know."""
    adapter = {
        DJANGO_REDIS: "Redis through django-redis (cache alias 'default')",
        REDIS_CACHE: "Redis through Django's RedisCache (cache alias 'default')",
    }

    assert storage.describe() == adapter[caches.settings["default"]["BACKEND"]]


def test_a_save_after_a_logout_does_nothing(storage: redis.RedisStorage) -> None:
    """Every request that was under way during a logout would undo it."""
    storage.create(record(), NOW)
    storage.delete("a" * 40)

    assert isinstance(storage.update(record(version=2), record(), NOW), Gone)
    assert not storage.touch(record(), NOW + HOUR, NOW, NOW)
    assert storage.read("a" * 40) is None
    assert isinstance(storage.create(successor(record()), NOW), Updated)
    assert msgspec.structs.replace(record(), version=2) == storage.read("a" * 40)


# The index ---------------------------------------------------------------------------------------


def listed(storage: redis.RedisStorage, user_id: str | None = None, limit: int = 2) -> list[str]:
    """Return the ids of all sessions, from pages of this size."""
    ids: list[str] = []
    cursor = ""
    while True:
        page = storage.scan(cursor, limit, user_id)
        ids += [each.id for each in page.records]
        cursor = page.next
        if not cursor:
            return ids


def index_keys(client: Any = None) -> list[bytes]:
    """Return the keys of directories and buckets."""
    client = client or raw_client()
    found = ((key, INDEX_KEY.search(key)) for key in sorted(client.keys("*")))
    return [key for key, match in found if match and match[1]]


def members(client: Any = None) -> list[int]:
    """Return how many members the indexes of sessions and of users have in all buckets."""
    client, counts = client or raw_client(), {b"i": 0, b"u": 0}
    for key in client.keys("*"):
        match = INDEX_KEY.search(key)
        if match and match[2]:
            counts[match[1]] += client.zcard(key)
    return list(counts.values())


def check_index(client: Any = None, *, may_have_others: bool = False) -> None:
    """Assert that each directory says of its buckets what they are."""
    client = client or raw_client()
    buckets = {key for key in index_keys(client) if INDEX_KEY.search(key)[2]}
    for directory in set(index_keys(client)) - buckets:
        scores = dict(client.zrange(directory, 0, -1, withscores=True))
        total, _ = -scores.pop(b"c"), scores.pop(b"s")
        for name, score in scores.items():
            bucket = directory + b":" + name
            first = client.zrange(bucket, 0, 0, withscores=True)
            assert score <= (first[0][1] if first else float("inf"))
            assert bool(first) == (score < float("inf"))
            total -= client.zcard(bucket)
            buckets.discard(bucket)
        assert total == 0
    assert may_have_others or buckets == set()


def test_sessions_are_listed_by_their_ids(storage: redis.RedisStorage) -> None:
    """So that a page begins where the one before it ends, however the buckets have changed."""
    for number in (3, 1, 2):
        storage.create(record(f"{number}" * 40, expires=NOW + HOUR * (9 - number)), NOW)

    assert listed(storage) == [f"{number}" * 40 for number in (1, 2, 3)]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_sessions_of_the_same_moment_are_each_listed_once(
    storage: redis.RedisStorage, limit: int
) -> None:
    """set_expiry() with a date gives many the same. Ids hold every byte: a comparison by the
    server's locale would skip some."""
    ids = [f"{number:02x}" * 20 for number in range(0, 256, 15)]
    for each in ids:
        storage.create(record(each), NOW)
    storage.create(record("a1" * 20, expires=NOW + 2 * HOUR), NOW)

    assert sorted(listed(storage, limit=limit)) == sorted([*ids, "a1" * 20])


def test_a_page_may_begin_after_a_session_that_is_gone(storage: redis.RedisStorage) -> None:
    """It was ended while somebody looked at the page before."""
    for number in range(1, 6):
        storage.create(record(f"{number}" * 40), NOW)
    first = storage.scan("", 2, None)
    storage.delete(first.records[-1].id)

    rest = storage.scan(first.next, 10, None)

    assert [each.id for each in rest.records] == ["3" * 40, "4" * 40, "5" * 40]


@pytest.mark.parametrize("user_id", ["", "7", "7\0", "a:b", "*[?]", "ünï", "x" * 300])
def test_any_user_id_finds_that_users_sessions_only(
    storage: redis.RedisStorage, user_id: str
) -> None:
    """A primary key may be any text, and one may be the beginning of another."""
    others = ["8", "7", "7\0", "7\0\1", "77", "", "*", "ünïx", "x" * 299]
    for number, each in enumerate(sorted({user_id, *others})):
        storage.create(record(f"{number:040x}", user_id=each), NOW)
    storage.create(record("f" * 40), NOW)
    (wanted,) = (
        f"{number:040x}"
        for number, each in enumerate(sorted({user_id, *others}))
        if each == user_id
    )

    assert listed(storage, user_id, limit=1) == [wanted]
    assert storage.count(NOW, user_id) == 1
    storage.delete(wanted)
    assert listed(storage, user_id) == []
    assert storage.count(NOW, user_id) == 0


def test_a_session_that_redis_dropped_leaves_the_index_when_looked_for(
    storage: redis.RedisStorage,
) -> None:
    """It expired there, or was evicted."""
    for each in "abc":
        storage.create(record(each * 40, user_id="7"), NOW)
    raw_client().delete(storage._server.key("b" * 40))

    assert listed(storage) == ["a" * 40, "c" * 40]
    assert members() == [2, 3]
    raw_client().delete(storage._server.key("a" * 40))
    assert listed(storage, "7") == ["c" * 40]
    assert members() == [2, 1]
    assert listed(storage) == ["c" * 40]
    assert members() == [1, 1]
    check_index()


@pytest.mark.parametrize("limit", [0, 10])
def test_a_sample_does_not_read_an_index_without_live_sessions(
    storage: redis.RedisStorage, limit: int
) -> None:
    """There may be many that have expired, as under a secret key that is no longer used."""
    for each in "abc":
        storage.create(record(each * 40), NOW)
    assert storage.summarize(NOW, 10).live == 3  # The first one makes the index.
    with commands() as seen:
        assert storage.summarize(NOW + HOUR, limit).live == 0
    assert set(seen) == {"EVALSHA"}


def lose(name: bytes, client: Any = None) -> None:
    """Remove what an index has under such names, as a server does that evicts keys."""
    client = client or raw_client()
    pattern = re.compile(rb"\}" + name + b"$", re.DOTALL)
    if found := [key for key in index_keys(client) if pattern.search(key)]:
        for key in found:
            client.delete(key)


def test_an_index_that_is_not_there_is_made_anew(storage: redis.RedisStorage) -> None:
    """Evicted, deleted by hand, or never made by an earlier version. Nobody must be out of reach
    of who ends all sessions of a user."""
    for each in "abc":
        storage.create(record(each * 40, user_id="7"), NOW)
    storage.create(make_tombstone("d" * 40, State.SUPERSEDED, now=NOW, seconds=60), NOW)
    raw_client().set(storage._server.key("e" * 40), b"rubbish")
    raw_client().set("something else", "x")
    for name in (rb"i....", rb"i....:1", rb"u....", rb"u....:1", rb"[iu]....", rb"[iu]....:1"):
        storage.create(record("f" * 40), NOW)
        lose(name)
        storage.create(record("f" * 40), NOW)

        assert listed(storage, "7") == ["a" * 40, "b" * 40, "c" * 40]
        assert sorted(listed(storage)) == [each * 40 for each in "abcf"]
        assert storage.count(NOW, None) == 4
        lose(name)
        assert storage.count(NOW, None) == 4
        lose(name)
        assert storage.count(NOW, "7") == 3
        storage.delete("f" * 40)
        assert storage.reindex() == 3
        check_index()


def test_a_complete_index_is_not_made_again(storage: redis.RedisStorage) -> None:
    """Rebuilding it reads each key of the server."""
    storage.create(record(), NOW)
    listed(storage)
    with commands() as sent:
        listed(storage)
        listed(storage, "7")

    assert "SCAN" not in sent


def own(storage: redis.RedisStorage, letter: str, **fields: Any) -> Record:
    """Return a record as the site stores it, with its mark."""
    return record(letter * 40, site=storage.sites()[0], **fields)


@pytest.mark.parametrize(
    "ring", [("new", "tests only"), ("tests only", "new"), ("newer", "new", "tests only")], ids=str
)
def test_a_new_key_makes_no_index_anew(storage: redis.RedisStorage, ring: tuple[str, ...]) -> None:
    """Records that have the mark of the new key were written with an index, so no index is
    rebuilt."""
    storage.create(record("0" * 40), NOW)  # By a version without marks.
    storage.create(own(storage, "a", user_id="7"), NOW)
    assert len(listed(storage)) == 2
    with override_settings(SECRET_KEY=ring[0], SECRET_KEY_FALLBACKS=ring[1:]):
        storage.create(own(storage, "b", user_id="7"), NOW)
        with commands() as sent:
            assert storage.index_is_complete()
            assert sorted(listed(storage, "7")) == ["a" * 40, "b" * 40]
            assert sorted(listed(storage)) == ["0" * 40, "a" * 40, "b" * 40]
            assert storage.count(NOW, None) == 3
            assert storage.index_is_complete()
        assert "SCAN" not in sent

        # From then on it is an index like any other, which a server may drop.
        raw_client().delete(*storage._index.builder.directories(storage.sites()[0]))
        storage.create(own(storage, "c", user_id="7"), NOW)
        assert not storage.index_is_complete()
        assert sorted(listed(storage, "7")) == ["a" * 40, "b" * 40, "c" * 40]
        assert storage.index_is_complete()


def test_a_new_site_makes_no_index_anew(storage: redis.RedisStorage) -> None:
    """Another site, or a tenant, in the same store."""
    storage.create(own(storage, "a"), NOW)
    assert listed(storage) == ["a" * 40]
    with override_settings(SECRET_KEY="of another site"):
        storage.create(own(storage, "b"), NOW)
        with commands() as sent:
            assert listed(storage) == ["b" * 40]
        assert "SCAN" not in sent
    assert listed(storage) == ["a" * 40]


def test_an_index_of_another_site_is_not_new(storage: redis.RedisStorage) -> None:
    """If a server has dropped all indexes, the first site that makes its own tells the others."""
    storage.create(own(storage, "a"), NOW)
    with override_settings(SECRET_KEY="of another site"):
        storage.create(own(storage, "b"), NOW)
    raw_client().delete(*index_keys(), storage._index.builder.sites_key)
    assert not storage.index_is_complete()
    assert listed(storage) == ["a" * 40]
    with override_settings(SECRET_KEY="of another site"):
        assert not storage.index_is_complete()
        assert listed(storage) == ["b" * 40]


# One builder of the index -------------------------------------------------------------------------


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When each pass over all keys began. A pass takes half a second, or more on a busy machine."""
    monkeypatch.setattr(redis_building, "WAIT_SECONDS", 60)
    begun: list[float] = []
    scan_pages = Server.scan_pages

    def slowly(self: Server, *arguments: Any) -> Iterator[list[bytes]]:
        begun.append(time.monotonic())
        for _ in range(5):
            time.sleep(0.1)
            yield []
        yield from scan_pages(self, *arguments)

    monkeypatch.setattr(Server, "scan_pages", slowly)
    return begun


def _lose_index(storage: redis.RedisStorage) -> None:
    client = storage._server.connect()
    for name in (*index_keys(client), storage._index.builder.lock):
        client.delete(name)


def _store_without_index(storage: redis.RedisStorage) -> None:
    """Store a session of a user, and lose the index that leads to it."""
    storage.create(record(user_id="7"), NOW)
    _lose_index(storage)


def _at_once(count: int, call: Callable[[], Any]) -> list[Any]:
    """Return what some threads get that make the same call; an exception is what they get, too."""
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(call) for _ in range(count)]
        return [future.exception() or future.result() for future in futures]


BUILDS_IN = pytest.mark.parametrize(
    "deployment",
    [
        lambda: storage_at(shared_service(Redis).url(), DJANGO_REDIS),
        lambda: storage_at(shared_service(Redis).url()),
        _cluster_django_redis,
        _cluster_redis_cache,
    ],
    ids=["django-redis", "redis-cache", "cluster-django-redis", "cluster-redis-cache"],
)


@BUILDS_IN
def test_of_many_requests_one_makes_the_index(
    deployment: Callable[[], Any], builds: list[float]
) -> None:
    """Each looks at all keys of the server: together they would keep it from everything else."""
    with deployment() as storage, deployment() as of_another_process:
        storage._server.connect().flushall()
        for each in "ab":
            storage.create(record(each * 40, user_id="7"), NOW)
        _lose_index(storage)
        stores = cycle([storage, of_another_process])

        found = _at_once(8, lambda: listed(next(stores), "7"))
        assert found == [["a" * 40, "b" * 40]] * 8
        assert len(builds) == 1
        assert storage._server.connect().exists(storage._index.builder.lock) == 0


@BOTH
def test_of_many_tasks_one_makes_the_index(backend: str, builds: list[float]) -> None:
    shared_service(Redis).cli("flushall")
    with storage_at(shared_service(Redis).url(), backend) as storage:
        _store_without_index(storage)

        async def count_at_once() -> list[int]:
            return await asyncio.gather(*(storage.acount(NOW, None) for _ in range(8)))

        assert asyncio.run(count_at_once()) == [1] * 8
    assert len(builds) == 1


@BUILDS_IN
def test_a_request_does_not_wait_for_ever_for_an_index(
    deployment: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, builds: list[float]
) -> None:
    """The request does not return a part of the list, either, because ending all sessions of a user
    would miss some."""
    monkeypatch.setattr(redis_building, "WAIT_SECONDS", 0.3)
    with deployment() as storage:
        storage._server.connect().flushall()
        _store_without_index(storage)
        storage._server.connect().set(storage._index.builder.lock, "another", px=60_000)

        for ask in (lambda: listed(storage, "7"), lambda: storage.count(NOW, None)):
            with pytest.raises(StorageUnavailable, match="makes the index of sessions anew"):
                ask()
        assert builds == []
        assert storage._server.connect().get(storage._index.builder.lock) == b"another"
        assert storage.read("a" * 40) is not None


@BUILDS_IN
def test_the_work_of_a_killed_builder_is_taken_over(
    deployment: Callable[[], Any], builds: list[float]
) -> None:
    with deployment() as storage:
        storage._server.connect().flushall()
        _store_without_index(storage)
        storage._server.connect().set(storage._index.builder.lock, "killed", px=400)
        began = time.monotonic()

        assert _at_once(4, lambda: listed(storage, "7")) == [["a" * 40]] * 4
    (built,) = builds
    assert built - began >= 0.35


def test_a_builder_that_takes_long_keeps_its_lock(
    storage: redis.RedisStorage, monkeypatch: pytest.MonkeyPatch, builds: list[float]
) -> None:
    monkeypatch.setattr(redis_building, "BUILDER_SECONDS", 0.45)
    monkeypatch.setattr(redis_building, "_BUILDER_TTL", 450)
    _store_without_index(storage)

    assert _at_once(4, lambda: listed(storage, "7")) == [["a" * 40]] * 4
    assert len(builds) == 1


def test_a_builder_that_fails_gives_the_lock_back(
    storage: redis.RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request need not wait until it ends."""
    _store_without_index(storage)
    with monkeypatch.context() as patch:
        patch.setattr(Rebuild, "_list", mock.Mock(side_effect=StorageUnavailable("away")))
        with pytest.raises(StorageUnavailable, match="away"):
            listed(storage, "7")
    assert raw_client().exists(storage._index.builder.lock) == 0
    assert listed(storage, "7") == ["a" * 40]


def test_a_command_makes_the_index_whoever_else_does(
    storage: redis.RedisStorage, builds: list[float]
) -> None:
    """An operator has asked for it. Requests wait for the command, then."""
    _store_without_index(storage)
    raw_client().set(storage._index.builder.lock, "another", px=60_000)

    assert storage.reindex() == 1
    assert raw_client().exists(storage._index.builder.lock) == 0
    assert listed(storage, "7") == ["a" * 40]
    assert len(builds) == 1


def test_each_command_that_makes_the_index_has_a_lock_of_its_own(
    storage: redis.RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ends must not take the lock from another."""
    locks: list[Any] = []

    def look(self: Rebuild, ids: Sequence[list[str]]) -> None:
        locks.append(raw_client().get(storage._index.builder.lock))
        self._progress.total += len(ids)

    storage.create(record(), NOW)
    monkeypatch.setattr(Rebuild, "_list", look)
    assert [storage.reindex(), storage.reindex()] == [1, 1]
    assert len(set(locks)) == 2


def test_an_index_that_is_dropped_while_it_is_made(
    storage: redis.RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server without memory drops it. A list that leaves out sessions must not count as
    complete."""
    _store_without_index(storage)
    monkeypatch.setattr(index_scripts, "COMPLETE", redis_scripts.Script("return 1"))
    with pytest.raises(StorageUnavailable, match="dropped the index"):
        listed(storage, "7")


@pytest.mark.parametrize("number", [0, 1, 50, 2000])
def test_pages_take_two_round_trips(storage: redis.RedisStorage, number: int) -> None:
    """However many sessions there are, one round trip gets the members and one gets the beginnings
    of their records. That is so for a process that knows about how many there are."""
    for each in range(number):
        storage.create(record(session_id(str(each)), user_id="7"), NOW)
    for user_id in (None, "7"):
        storage.scan("", 20, user_id)  # The server knows the script from here on.
    assert storage.count(NOW, None) == number
    for user_id in (None, "7"):
        with (
            mock.patch.object(storage._server, "ask_all", wraps=storage._server.ask_all) as many,
            mock.patch.object(storage._server, "ask", wraps=storage._server.ask) as one,
        ):
            page = storage.scan("", 20, user_id)
        assert len(page.records) == min(20, number)
        assert many.call_count + one.call_count <= 2


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "noeviction"])
def test_the_index_of_a_new_mark_may_have_been_evicted(server: Redis, policy: str) -> None:
    """It is complete because writes have made it, unless the server has dropped it since. Only a
    server that drops keys without a lifetime may have done so."""
    server.cli("config", "set", "maxmemory-policy", policy)
    server.cli("config", "set", "maxmemory", "1gb")
    with storage_at(server.url(), REDIS_CACHE) as storage:
        storage.create(record(user_id="7", site=storage.sites()[0]), NOW)
        storage.reindex()
        with override_settings(SECRET_KEY="of another site"):
            storage.create(record("b" * 40, user_id="7", site=storage.sites()[0]), NOW)
            if policy == "allkeys-lru":
                raw_client(server).delete(*storage._index.builder.directories())
            with commands(server) as sent:
                assert listed(storage, "7") == ["b" * 40]
                assert storage.count(NOW, None) == 1
            assert ("SCAN" in sent) == (policy == "allkeys-lru")


@pytest.mark.parametrize("prefix", ["*", "[ab]?", "a\\b", "^-"])
@BOTH
def test_glob_characters_in_the_prefix_are_no_globs(backend: str, prefix: str) -> None:
    """Sessions of the neighbours in the same database would be listed here."""
    shared_service(Redis).cli("flushall")
    url = shared_service(Redis).url()
    with storage_at(url, backend, KEY_PREFIX="ab") as neighbour:
        neighbour.create(record("b" * 40), NOW)
        with storage_at(url, backend, KEY_PREFIX=prefix) as storage:
            storage.create(record("a" * 40), NOW)
            raw_client().delete(*storage._index.builder.directories())

            assert storage.reindex() == 1
            assert listed(storage) == ["a" * 40]
            assert listed(neighbour) == ["b" * 40]


def key_function(key: str, prefix: str, version: int) -> str:
    """As of a project that wants keys of one length."""
    return f"{key[:-1]}-{prefix}-{key[-1:]}"


@BOTH
def test_an_index_works_with_a_key_function_that_cannot_be_reversed(backend: str) -> None:
    shared_service(Redis).cli("flushall")
    with storage_at(
        shared_service(Redis).url(), backend, KEY_FUNCTION=f"{__name__}.key_function"
    ) as storage:
        storage.create(record(user_id="7"), NOW)

        assert listed(storage) == listed(storage, "7") == ["a" * 40]
        storage.delete("a" * 40)
        assert listed(storage) == []


def test_a_purge_clears_the_index_of_what_expired(storage: redis.RedisStorage) -> None:
    for number in range(1, 8):
        storage.create(record(f"{number}" * 40, user_id="7", expires=NOW + number * HOUR), NOW)
    assert storage.count(NOW, None) == 7

    assert sum(storage.purge(NOW + 5 * HOUR, 2) for _ in range(3)) == 5
    assert storage.purge(NOW + 5 * HOUR, 2) == 0
    assert storage.count(NOW, None) == 2
    assert listed(storage) == ["6" * 40, "7" * 40]
    # The index of users knows the day.
    assert members() == [2, 7]
    assert storage.count(NOW + 5 * HOUR, "7") == 2
    assert [storage.purge(NOW + 48 * HOUR, 10) for _ in range(2)] == [2, 0]
    assert members() == [0, 0]
    check_index()


def test_nobody_need_ever_purge(storage: redis.RedisStorage) -> None:
    """An index that only grows fills a server in which everything else expires."""
    listed(storage)
    for number in range(300):
        later = NOW + 2 * HOUR * number
        storage.create(record(f"{number:040x}", user_id="7", expires=later + 10), later)

    sessions, users = members()
    # One of four sessions that are added removes those that have expired. The index of users keeps
    # those of a day and an hour.
    assert sessions <= 4
    assert users <= 16
    check_index()


def test_the_index_is_no_session(storage: redis.RedisStorage) -> None:
    """An id from a form must not be able to end the index."""
    storage.create(record(user_id="7"), NOW)
    for each in (*map(repr, index_keys()), "{aa}sites", "", "*", "a" * 39, "A" * 40):
        storage.delete(each)

    assert listed(storage, "7") == ["a" * 40]
    assert members() == [1, 1]


@pytest.mark.parametrize("cursor", ["x", ".", "1", "0/", "z" * 40, "a" * 39, "A" * 40])
@pytest.mark.parametrize("user_id", [None, "7"])
def test_a_cursor_that_no_page_gave_is_an_error(
    storage: redis.RedisStorage, cursor: str, user_id: str | None
) -> None:
    with pytest.raises(ValueError, match="is not the cursor of a page of sessions"):
        storage.scan(cursor, 10, user_id)


def test_a_payload_is_not_read_for_a_list(storage: redis.RedisStorage) -> None:
    """A page of sessions of a megabyte would be a hundred megabytes."""
    for each in "abc":
        storage.create(record(each * 40, payload=b"p" * 1_000_000, user_agent="u" * 2000), NOW)
    listed(storage)
    before = re.search(r"total_net_output_bytes:(\d+)", _info())
    found = storage.scan("", 10, None).records
    after = re.search(r"total_net_output_bytes:(\d+)", _info())

    assert [len(each.user_agent) for each in found] == [2000] * 3
    assert before is not None
    assert after is not None
    assert int(after[1]) - int(before[1]) < 100_000


def test_a_cluster_whose_index_is_unreachable_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Sessions on other nodes must not fail with it. But none begins that nobody could find."""
    caplog.set_level("DEBUG", "django_sessionstores")
    with storage_at(shared_service(RedisCluster).url(), f"{__name__}.ClusterCache") as storage:
        storage._server.connect().flushall()
        storage.create(base := record(user_id="7"), NOW)
        failing = redis_scripts.Script("return redis.call('NOSUCH')")
        with mock.patch.object(index_scripts, "MOVE", failing):
            assert storage.touch(base, NOW + 2 * HOUR, NOW, NOW)
            # The index of users has the day, which a touch does not leave behind.
            assert not storage.touch(base, NOW + 48 * HOUR, NOW, NOW)
            saved = storage.update(successor(base, expires=NOW + 48 * HOUR), base, NOW)
            assert isinstance(saved, Updated)
            storage.delete(base.id)
            assert storage.read(base.id) is None
            with pytest.raises(StorageUnavailable):
                storage.create(record("c" * 40, user_id="7"), NOW)

        assert listed(storage, "7") == []
        assert listed(storage) == []
    assert "The index of sessions is behind" in caplog.text
    # The writes that go on without the index do not fill the log.
    lines = [each.getMessage() for each in caplog.records if each.levelno > logging.INFO]
    assert [each.partition(":")[0] for each in lines] == ["Session store outage begins"]


def test_the_index_of_a_site_that_is_gone_is_cleared(storage: redis.RedisStorage) -> None:
    """After a new SECRET_KEY, nobody writes to the index of the old one any more."""
    with override_settings(SECRET_KEY="old"):
        storage.create(record(user_id="7"), NOW)
        assert storage.count(NOW, None) == 1
    raw_client().delete(storage._server.key(record().id))
    expired = NOW + HOUR
    assert storage.purge(expired, 10) == 0
    assert members() == [1, 1]
    assert storage.purge(expired + LITTER_AGE, 10) == 1
    assert members() == [0, 1]
    assert storage.purge(expired + LITTER_AGE + 24 * HOUR, 10) == 0
    assert members() == [0, 0]
