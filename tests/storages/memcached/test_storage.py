"""What is particular to memcached; what it shares with other stores is in the conformance suite."""

import importlib
import itertools
import os
import pickle
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
from django.core.cache import InvalidCacheKey
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_finished
from django.test import override_settings
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheServerError

from django_sessionstores.conf import key_ring
from django_sessionstores.core import clock
from django_sessionstores.core.records import (
    Record,
    State,
    draw_key,
    make_tombstone,
    pack,
    session_id,
    unpack,
)
from django_sessionstores.exceptions import (
    MissingExtra,
    PayloadTooLarge,
    StorageFull,
    StorageUnavailable,
    UnreadablePayload,
)
from django_sessionstores.storages.base import Conflict, Gone, Taken, Updated
from django_sessionstores.storages.memcached import client as memcached_client
from django_sessionstores.storages.memcached import exchange
from django_sessionstores.storages.memcached import storage as memcached
from django_sessionstores.testing import in_threads, now, successor
from tests.services import HOST, Memcached, MemcachedNodes, Service, shared_service
from tests.storages.records import (
    HOUR,
    assert_threads_lose_no_save,
    assert_touch_never_shortens,
    make_record,
)

BACKEND = "django.core.cache.backends.memcached.PyMemcacheCache"
DAY = 24 * 60 * 60 * 1000
# Longer than a healthy server ever takes here, shorter than anybody wants to wait in a test.
PATIENCE = 0.5
DEAD_TIME = 1.0
# What makes a HashClient call a node dead after one failure and leave it alone for `DEAD_TIME`.
QUICK_TO_GIVE_UP = {
    "timeout": PATIENCE,
    "connect_timeout": PATIENCE,
    "retry_attempts": 0,
    "retry_timeout": 0.1,
    "dead_timeout": DEAD_TIME,
    "ignore_exc": True,
}


def stored(storage: memcached.MemcachedStorage, **fields: Any) -> Record:
    """Store a record, and return it as a request reads it."""
    storage.create(make_record(**fields), now())
    record = storage.read("a" * 40)
    assert record is not None
    return record


def numbered(number: int) -> str:
    return f"{number:040x}"


@contextmanager
def storage_at(addresses: list[str], **entry: Any) -> Iterator[memcached.MemcachedStorage]:
    """Yield the storage in a cache with this entry in CACHES, under the alias "default"."""
    entry = {"BACKEND": BACKEND, "LOCATION": addresses, **entry}
    with override_settings(CACHES={"default": entry}):
        storage = memcached.from_cache("default")
        try:
            yield storage
        finally:
            storage.close()


def client_of(service: Service, index: int = 0) -> Client:
    """Return a client past the package, which sees what is on the wire."""
    return Client((HOST, service.ports[index]), timeout=5, default_noreply=False)


@pytest.fixture(params=[Memcached, MemcachedNodes], ids=["one node", "three nodes"])
def service(request: pytest.FixtureRequest) -> Service:
    service: Service = shared_service(request.param)
    for index in range(len(service.ports)):
        with_client = client_of(service, index)
        with_client.flush_all()
        with_client.close()
    return service


@pytest.fixture
def storage(service: Service) -> Iterator[memcached.MemcachedStorage]:
    """Yield an empty storage on shared servers."""
    with storage_at(service.addresses) as storage:
        yield storage


@pytest.fixture
def raw(service: Service) -> Iterator[Client]:
    """Yield a client of the node that keeps the record ``"a" * 40``."""
    with storage_at(service.addresses) as storage:
        address = storage._nodes.node_of("a" * 40)
    client = client_of(service, service.addresses.index(address))
    yield client
    client.close()


KEY = ":1:django_sessionstores:" + "a" * 40


# Trips --------------------------------------------------------------------------------------------


class Meter:
    """Counts what the nodes of a service were asked, by their own statistics."""

    COMMANDS = (b"cmd_get", b"cmd_set", b"cmd_touch", b"delete_hits", b"delete_misses")

    def __init__(self, service: Service) -> None:
        self._clients = [client_of(service, index) for index in range(len(service.ports))]
        self._before = self._counts()

    def _counts(self) -> tuple[int, int]:
        stats = [client.stats() for client in self._clients]
        commands = sum(int(one[name]) for one in stats for name in self.COMMANDS)
        return commands, sum(one[b"total_connections"] for one in stats)

    def read(self) -> tuple[int, int]:
        """Commands and connections since the last time."""
        before, self._before = self._before, self._counts()
        return self._before[0] - before[0], self._before[1] - before[1]

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture
def meter(service: Service) -> Iterator[Meter]:
    meter = Meter(service)
    yield meter
    meter.close()


@pytest.fixture
def session_class(service: Service, django_db_blocker: Any) -> Iterator[Any]:
    """Yield the cache engine on the service, its connections made."""
    from django_sessionstores.backends.cache import SessionStore

    entry = {"BACKEND": BACKEND, "LOCATION": service.addresses}
    with (
        # The end of a request also looks after the database connections of other tests.
        django_db_blocker.unblock(),
        override_settings(CACHES={"default": entry}, SESSION_CACHE_ALIAS="default"),
    ):
        for number in range(30):
            SessionStore.storage().read(numbered(number))
        yield SessionStore


def _read(session: Any) -> None:
    session.get("cart")


def _write(session: Any) -> None:
    session["cart"] = 1
    session.save()


def _read_and_write(session: Any) -> None:
    session["cart"] = session.get("cart", 0) + 1
    session.save()


def _log_in(session: Any) -> None:
    session.get("cart")
    session["_auth_user_id"] = "1"
    session.cycle_key()
    session.save()


def _log_out(session: Any) -> None:
    session.flush()


def _log_out_after_read(session: Any) -> None:
    session.get("cart")
    session.flush()


@pytest.mark.parametrize(
    ("view", "commands"),
    [
        (_read, 1),
        (_read_and_write, 2),
        (_log_in, 3),
        (_log_out, 2),
        (_log_out_after_read, 3),
    ],
)
def test_a_request_costs_its_commands_and_no_connection(
    session_class: Any, meter: Meter, view: Callable[[Any], None], commands: int
) -> None:
    """Reading with the cas token is what makes a save one command, and Django's own cache would
    close its connections with each request. A login is a read, the new record and the tombstone
    of the old one. A logout is a read and a compare-and-set: memcached's delete would take a
    tombstone for a session."""
    first = session_class()
    first["cart"] = 1
    first.save()
    request_finished.send(None)
    meter.read()

    view(session_class(first.session_key))
    request_finished.send(None)

    assert meter.read() == (commands, 0)


@pytest.mark.parametrize(
    ("view", "round_trips"),
    [
        (_read, 1),
        (_read_and_write, 2),
        (_log_in, 2),
        (_log_out, 2),
        (_log_out_after_read, 3),
    ],
)
def test_a_request_waits_for_its_node_no_more_often_than_it_must(
    view: Callable[[Any], None], round_trips: int
) -> None:
    """A login sends its two writes at once: it is the wait that costs, not the command."""
    from django_sessionstores.backends.cache import SessionStore

    with Proxy(shared_service(Memcached).port) as proxy:
        entry = {"BACKEND": BACKEND, "LOCATION": proxy.address}
        with override_settings(CACHES={"default": entry}, SESSION_CACHE_ALIAS="default"):
            first = SessionStore()
            first["cart"] = 1
            first.save()
            proxy.wire.round_trips = 0

            view(SessionStore(first.session_key))

            assert proxy.wire.round_trips == round_trips
        SessionStore.storage().close()


def test_a_login_between_two_nodes_waits_no_more_often() -> None:
    """Each node gets its write before either is waited for. With three nodes, two logins of three
    are such."""
    from django_sessionstores.backends.cache import SessionStore

    with two_proxies() as (old, new):
        entry = {"BACKEND": BACKEND, "LOCATION": [old.address, new.address]}
        with override_settings(CACHES={"default": entry}, SESSION_CACHE_ALIAS="default"):
            storage = SessionStore.storage()
            for proxy in (old, new):
                storage.read(on_node(storage, proxy.address))  # Connects, which is no part of it.
            key = next(
                key
                for key in iter(draw_key, "")
                if storage._nodes.node_of(session_id(key)) == old.address
            )
            nonce = next(
                nonce
                for nonce in itertools.count()
                for successor_key in itertools.islice(key_ring().successors(key, nonce << 1), 1)
                if storage._nodes.node_of(session_id(successor_key)) == new.address
            )
            with (
                mock.patch("django_sessionstores.sessions.flows.draw_key", return_value=key),
                mock.patch(
                    "django_sessionstores.sessions.rotation.secrets.randbits", return_value=nonce
                ),
            ):
                first = SessionStore()
                first["cart"] = 1
                first.save()
                old.wire.round_trips, old.wire.together = 0, threading.Barrier(2)

                _log_in(SessionStore(first.session_key))

            assert old.wire.round_trips == 2
            assert (old.commands[-2:], new.commands[-1:]) == ([b"gets", b"cas"], [b"add"])
            storage.close()


def test_the_first_write_is_one_round_trip(session_class: Any, meter: Meter) -> None:
    """Whether the key is free is found out by writing, not by asking first."""
    _write(session_class())

    assert meter.read() == (1, 0)


def test_a_second_save_in_a_request_reads_the_token_once(
    storage: memcached.MemcachedStorage, meter: Meter
) -> None:
    """memcached does not tell the token of what it stores, so this save needs one read. More
    would mean that the save first ran into a conflict with itself."""
    base = make_record()
    storage.create(base, now())
    meter.read()

    storage.update(successor(base), base, now())

    commands, _ = meter.read()
    assert commands == 2


def test_a_touch_is_one_round_trip(storage: memcached.MemcachedStorage, meter: Meter) -> None:
    """Moving the expiry rides on the token of the read, as a save does."""
    base = stored(storage)
    meter.read()

    assert storage.touch(base, base.expires + HOUR, base.last_activity + 1, now())

    commands, _ = meter.read()
    assert commands == 1


# Compare-and-set ----------------------------------------------------------------------------------


def test_a_save_goes_through_after_someone_has_only_touched(
    storage: memcached.MemcachedStorage,
) -> None:
    """A touch changes the token but not the version: taken for a conflict, the session would be
    merged with itself, or the save be refused."""
    base = stored(storage)
    storage.touch(base, base.expires + HOUR, base.last_activity, now())

    assert isinstance(storage.update(successor(base), base, now()), Updated)


def test_a_stale_token_does_not_save(storage: memcached.MemcachedStorage) -> None:
    """The token stands for the version read; a save that went by the key alone would be lost."""
    base = stored(storage)
    storage.update(successor(base, payload=b"winner"), base, now())

    outcome = storage.update(successor(base, payload=b"loser"), base, now())

    assert isinstance(outcome, Conflict)
    assert outcome.current.payload == b"winner"


def test_a_touch_never_shortens(storage: memcached.MemcachedStorage) -> None:
    """Two requests touch at once: the one with the earlier clock must not undo the other."""
    assert_touch_never_shortens(storage, stored(storage))


def test_a_touch_that_comes_after_a_save_does_nothing(
    storage: memcached.MemcachedStorage,
) -> None:
    """It would put the payload that it has read in place of the one saved since."""
    base = stored(storage)
    storage.update(successor(base, payload=b"saved"), base, now())

    assert not storage.touch(base, base.expires + HOUR, base.last_activity, now())
    held = storage.read("a" * 40)
    assert held is not None
    assert held.payload == b"saved"


def test_nothing_is_lost_by_sixteen_threads(storage: memcached.MemcachedStorage) -> None:
    """Every answer "updated" is a version of its own, through the shared connections."""
    assert_threads_lose_no_save(storage)


def test_a_server_without_cas_is_refused() -> None:
    """With -C every save would end in a conflict, after fifty tries and without a reason."""
    with Memcached("-C") as server, storage_at(server.addresses) as storage:
        storage.create(make_record(), now())

        with pytest.raises(StorageUnavailable, match="-C"):
            storage.read("a" * 40)


# Copies -------------------------------------------------------------------------------------------


def test_a_damaged_copy_is_replaced(storage: memcached.MemcachedStorage, raw: Client) -> None:
    """It would otherwise stay in the way of every copy until it expires."""
    raw.set(KEY, b"garbage")

    storage.fill(make_record(), now() + HOUR, now())

    held = storage.read("a" * 40)
    assert held is not None
    assert held.payload == b"encrypted"


def test_a_copy_ends_with_its_lease(storage: memcached.MemcachedStorage, raw: Client) -> None:
    """A lease is what bounds how long a logout goes unnoticed; the session's lifetime is not."""
    storage.fill(make_record(), now() + 60_000, now())

    assert 60 <= ttl(raw) <= 61


def test_a_tombstone_that_has_expired_takes_a_copy(storage: memcached.MemcachedStorage) -> None:
    """memcached keeps it for up to two seconds too long, which must not count."""
    storage.leave_tombstone(make_tombstone("a" * 40, State.ENDED, now=now(), seconds=60), now())

    storage.fill(make_record(), now() + 2 * HOUR, now() + HOUR)

    held = storage.read("a" * 40)
    assert held is not None
    assert held.state is State.LIVE


# Lifetimes ----------------------------------------------------------------------------------------


def ttl(client: Client, key: str = KEY) -> int:
    """Return the seconds that the server still gives an item; -1 for ever, 0 where it has none."""
    _, _, said = client.raw_command(f"mg {key} t").partition(b" t")
    return int(said or 0)


@pytest.mark.parametrize("days", [1, 30, 31, 400])
def test_long_lifetimes_are_kept_in_full(
    storage: memcached.MemcachedStorage, raw: Client, days: int
) -> None:
    """memcached takes more than 30 days for a moment in 1970: the session would be gone at once."""
    storage.create(make_record(expires=now() + days * DAY), now())

    # Its clock ticks in seconds, and late on a machine that has much to do.
    assert days * 86_400 - 5 <= ttl(raw) <= days * 86_400 + 5


def test_a_session_does_not_end_before_its_last_second(
    storage: memcached.MemcachedStorage, raw: Client
) -> None:
    """memcached's seconds start at its tick: told "one second", it may keep an item for a few
    milliseconds."""
    for _ in range(10):
        storage.delete("a" * 40)
        moment = now()
        storage.create(make_record(expires=moment + 1), moment)
        left = ttl(raw)
        if now() - moment < 300:  # Or the second was over before it was asked for.
            break

    assert left >= 1


def test_an_expired_record_is_not_kept(storage: memcached.MemcachedStorage) -> None:
    """memcached takes 0 for "for ever"."""
    storage.create(make_record(expires=now()), now())

    assert storage.read("a" * 40) is None


# Keys ---------------------------------------------------------------------------------------------


def test_keys_are_those_of_the_cache(service: Service) -> None:
    """Two sites on one server tell their sessions apart by KEY_PREFIX, as they do their caches."""
    with storage_at(service.addresses[:1], KEY_PREFIX="site", VERSION=3) as storage:
        storage.create(make_record(), now())

    client = client_of(service)
    assert client.get("site:3:django_sessionstores:" + "a" * 40) is not None
    client.close()


def test_a_prefix_that_memcached_does_not_take_is_found_out_at_once(service: Service) -> None:
    """Else each request would report an outage of a server that is well."""
    with pytest.raises(InvalidCacheKey), storage_at(service.addresses, KEY_PREFIX="my site"):
        pass


# Size and memory ----------------------------------------------------------------------------------


def test_a_session_over_the_item_size_is_refused(storage: memcached.MemcachedStorage) -> None:
    """The message has to name the remedy, or a visitor with a large cart is a riddle."""
    with pytest.raises(PayloadTooLarge, match=r"takes \d{7} bytes.* -I "):
        storage.create(make_record(payload=bytes(1024 * 1024)), now())


@pytest.mark.parametrize("size", [1024 * 1024, 20 * 1024 * 1024])
def test_a_session_that_grows_too_large_stays_as_it_was(
    storage: memcached.MemcachedStorage, size: int
) -> None:
    """memcached's ``set`` drops the old item first, and Django deletes it: a logout."""
    base = stored(storage)

    with pytest.raises(PayloadTooLarge):
        storage.update(successor(base, payload=bytes(size)), base, now())

    assert storage.read("a" * 40) == base


def test_a_server_without_memory_says_so() -> None:
    """It is no outage: what is stored can still be read, and the caller may delete."""
    with Memcached("-m", "2", "-M") as server, storage_at(server.addresses) as storage:
        storage.create(make_record(), now())

        def fill_up() -> None:
            for number in range(1000):
                storage.create(make_record(numbered(number), payload=bytes(100_000)), now())

        with pytest.raises(StorageFull, match="-m"):
            fill_up()
        assert storage.read("a" * 40) is not None


# What others put there ----------------------------------------------------------------------------

executed: list[str] = []


class Exploit:
    def __reduce__(self) -> Any:
        return executed.append, ("pickle",)


@pytest.mark.parametrize("flags", range(32))
def test_a_pickle_in_the_store_is_not_executed(
    storage: memcached.MemcachedStorage, raw: Client, flags: int
) -> None:
    """pymemcache unpickles by the flags of an item, which whoever writes the item chooses."""
    raw.set(KEY, pickle.dumps(Exploit()), flags=flags)

    with pytest.raises(UnreadablePayload):
        storage.read("a" * 40)
    assert executed == []


def test_a_session_of_garbage_reads_as_empty(session_class: Any, service: Service) -> None:
    """Bytes that a stranger wrote cause neither an error page nor a logout: the key stays."""
    session = session_class()
    session["cart"] = 1
    session.save()
    storage = session_class.storage()
    record_id = session_id(session.session_key)
    node = service.addresses.index(storage._nodes.node_of(record_id))
    client = client_of(service, node)
    client.set(f":1:django_sessionstores:{record_id}", b"\x80\x04garbage")
    client.close()

    again = session_class(session.session_key)

    assert dict(again.items()) == {}
    assert again.session_key == session.session_key


def test_an_option_that_pymemcache_does_not_know_is_named() -> None:
    """It would have no effect, and nobody would notice that a time limit is misspelled."""
    with (
        pytest.raises(ImproperlyConfigured, match=r"does not know: 'time_out'\."),
        storage_at([f"{HOST}:1"], OPTIONS={"timeout": 1, "time_out": 1}),
    ):
        pass


# Outages ------------------------------------------------------------------------------------------


@contextmanager
def private(
    service: Service, **options: Any
) -> Iterator[tuple[Service, memcached.MemcachedStorage]]:
    options = {**QUICK_TO_GIVE_UP, **options}
    with service, storage_at(service.addresses, OPTIONS=options) as storage:
        yield service, storage


OPERATIONS: dict[str, Callable[[memcached.MemcachedStorage, Record], object]] = {
    "read": lambda storage, base: storage.read(base.id),
    "create": lambda storage, base: storage.create(base, now()),
    "update": lambda storage, base: storage.update(successor(base), base, now()),
    "touch": lambda storage, base: storage.touch(base, base.expires + HOUR, now(), now()),
    "delete": lambda storage, base: storage.delete(base.id),
    "fill": lambda storage, base: storage.fill(base, now() + HOUR, now()),
    "leave_tombstone": lambda storage, base: storage.leave_tombstone(
        make_tombstone(base.id, State.ENDED, now=now(), seconds=60), now()
    ),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_server_that_is_down_is_an_outage_every_time(operation: str) -> None:
    """HashClient answers "no such key" for a node that it takes for dead: everyone would be
    logged out. Asked again and again for longer than its dead time."""
    with private(Memcached()) as (server, storage):
        base = stored(storage)
        server.kill()

        until = time.monotonic() + 1.2 * DEAD_TIME
        while time.monotonic() < until:
            with pytest.raises(StorageUnavailable):
                OPERATIONS[operation](storage, base)
            time.sleep(0.05)


def test_a_server_that_is_back_is_used_at_once() -> None:
    """HashClient leaves a node that was down alone for a minute."""
    with private(Memcached(), dead_timeout=60) as (server, storage):
        storage.read("a" * 40)
        server.kill()
        with pytest.raises(StorageUnavailable):
            storage.read("a" * 40)
        server.restart()

        assert isinstance(storage.create(make_record(), now()), Updated)


def test_a_restart_fails_no_request() -> None:
    """The server has closed all connections that stand ready; each is found out by a request."""
    with private(Memcached()) as (server, storage):
        barrier = threading.Barrier(8)

        def read_together(_: Any = None) -> None:
            pool = storage._nodes.clients[server.addresses[0]].client_pool
            with pool.get_and_release() as client:
                client.version()
                barrier.wait()

        in_threads([read_together] * 8)
        server.restart()

        assert [storage.read(numbered(n)) for n in range(16)] == [None] * 16


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_server_that_hangs_is_an_outage(operation: str) -> None:
    """It accepts connections and answers nothing. Without a timeout every worker would wait."""
    with private(Memcached()) as (server, storage):
        base = stored(storage)
        server.pause()

        with pytest.raises(StorageUnavailable):
            OPERATIONS[operation](storage, base)


def test_an_answer_that_comes_too_late_is_not_taken_for_another() -> None:
    """A connection on which an answer is still due would give it to the next who asks: one
    visitor's session to another."""
    with private(Memcached()) as (server, storage):
        for number in (1, 2):
            storage.create(make_record(numbered(number), payload=b"%d" % number), now())
        server.pause()
        with pytest.raises(StorageUnavailable):
            storage.read(numbered(1))
        server.resume()

        second = storage.read(numbered(2))

        assert second is not None
        assert second.payload == b"2"


def test_timeouts_are_there_without_being_asked_for(service: Service) -> None:
    """pymemcache has none, and Django gives it none."""
    with storage_at(service.addresses) as storage:
        for node in storage._nodes.clients.values():
            assert (node.timeout, node.connect_timeout) == (2, 2)


def test_options_of_a_single_client_are_honoured(service: Service) -> None:
    """The connection options in CACHES apply to sessions, too. Options that only HashClient knows
    cause no error."""
    options = {"timeout": 7, "no_delay": False, "max_pool_size": 3, "use_pooling": True}
    with storage_at(service.addresses, OPTIONS={**QUICK_TO_GIVE_UP, **options}) as storage:
        for node in storage._nodes.clients.values():
            assert (node.timeout, node.no_delay, node.client_pool.max_size) == (7, False, 3)


def test_a_pool_that_is_used_up_is_an_outage(service: Service) -> None:
    """Callers do not expect the ``RuntimeError`` of the client."""
    options = {"max_pool_size": 1}
    with storage_at(service.addresses, OPTIONS=options) as storage, ExitStack() as stack:
        for node in storage._nodes.clients.values():
            stack.enter_context(node.client_pool.get_and_release())

        with pytest.raises(StorageUnavailable):
            storage.read("a" * 40)


# Nodes --------------------------------------------------------------------------------------------


def test_an_outage_uses_up_no_place_in_the_pool() -> None:
    """A connection that failed and is still counted leaves one less, until the site is down."""
    server = Memcached()
    with private(server, max_pool_size=1) as (_, storage):
        storage.create(make_record(), now())
        server.kill()
        with pytest.raises(StorageUnavailable):
            storage.read("a" * 40)
        server.restart()

        assert storage.read("a" * 40) is None


def on_node(storage: memcached.MemcachedStorage, address: str, skip: int = 0) -> str:
    """Return the id of a session that belongs to the node."""
    ids = (numbered(n) for n in range(10_000))
    return [i for i in ids if storage._nodes.node_of(i) == address][skip]


def test_all_nodes_share_the_sessions() -> None:
    """A third each, or so: a node without sessions is money spent for nothing."""
    with storage_at(["10.0.0.1:11211", "10.0.0.2:11211", "10.0.0.3:11211"]) as storage:
        nodes = [storage._nodes.node_of(numbered(n)) for n in range(3000)]

    assert all(900 < nodes.count(node) < 1100 for node in set(nodes))
    assert len(set(nodes)) == 3


def test_a_new_node_takes_only_its_own_share() -> None:
    """Sessions that move are sessions that are lost: with one node more, a quarter of them."""
    addresses = [f"10.0.0.{n}" for n in range(1, 5)]
    with storage_at(addresses[:3]) as storage:
        before = [storage._nodes.node_of(numbered(n)) for n in range(3000)]
    with storage_at(addresses[::-1]) as storage:
        after = [storage._nodes.node_of(numbered(n)) for n in range(3000)]

    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"10.0.0.4:11211"}


def test_other_nodes_go_on_without_the_one_that_is_down() -> None:
    """One node of three is one third of an outage."""
    with private(MemcachedNodes()) as (nodes, storage):
        down, up = nodes.addresses[:2]
        nodes.members[0].kill()  # type: ignore[attr-defined]

        assert isinstance(storage.create(make_record(on_node(storage, up)), now()), Updated)
        with pytest.raises(StorageUnavailable):
            storage.create(make_record(on_node(storage, down)), now())


def test_who_logs_out_during_an_outage_is_not_logged_in_after_it() -> None:
    """HashClient would carry out the logout on another node, and the session be there again when
    its own node returns. Here it is refused until then, and holds from then on."""
    with private(MemcachedNodes()) as (nodes, storage):
        record_id = on_node(storage, nodes.addresses[0])
        storage.create(make_record(record_id), now())
        nodes.members[0].pause()  # type: ignore[attr-defined]
        with pytest.raises(StorageUnavailable):
            storage.delete(record_id)
        with pytest.raises(StorageUnavailable):
            storage.read(record_id)
        nodes.members[0].resume()  # type: ignore[attr-defined]

        # The node is tried again after some seconds.
        with clock.use(monotonic=lambda: time.monotonic() + 60):
            storage.delete(record_id)
            assert storage.read(record_id) is None


def test_who_logged_out_stays_so_when_another_node_returns() -> None:
    """While a node is away, no session of it may live elsewhere, nor one come back with it."""
    with private(MemcachedNodes()) as (nodes, storage):
        ids = [on_node(storage, address) for address in nodes.addresses]
        for record_id in ids:
            storage.create(make_record(record_id), now())
        nodes.members[0].pause()  # type: ignore[attr-defined]
        for record_id in ids[1:]:
            storage.delete(record_id)
        nodes.members[0].resume()  # type: ignore[attr-defined]

        assert [storage.read(record_id) for record_id in ids[1:]] == [None, None]


# Commands that are sent twice ---------------------------------------------------------------------


STORED = b"STORED\r\n"


class Wire:
    """Counts how often a client waits for its nodes, however many proxies it goes through."""

    def __init__(self) -> None:
        self.round_trips = 0
        self.together: threading.Barrier | None = None
        """How many commands that store have to be there before one of them is answered. Who sends
        the second only after the answer to the first gets none."""
        self._unanswered = 0
        self._lock = threading.Lock()

    def asked(self) -> None:
        with self._lock:
            self.round_trips += self._unanswered == 0
            self._unanswered += 1

    def answering(self) -> None:
        with self._lock:
            self._unanswered -= 1


class Proxy:
    """Stands between client and server, counts, and can keep an answer to itself or change it.

    One connection at a time is enough for a storage that is used by one thread.
    """

    def __init__(self, port: int, wire: Wire | None = None) -> None:
        self._server = (HOST, port)
        self.wire = wire or Wire()
        self._listener = socket.create_server((HOST, 0))
        self.address = f"{HOST}:{self._listener.getsockname()[1]}"
        self.commands: list[bytes] = []
        self.connections = 0
        self.break_after: bytes | None = None
        """Close the connection instead of passing on the answer to the next such command."""
        self.before_breaking: Callable[[], object] = lambda: None
        self.change: Callable[[bytes], bytes] | None = None
        """What becomes of the next answer to commands that store, which are carried out by then."""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> "Proxy":
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
        # Questions and answers are small here: each is one piece, but for the answer to two.
        while question := client.recv(65_536):
            names = re.findall(rb"(?:^|\n)(add|cas|delete|gets|set|version) ", question)
            self.commands += names
            self.wire.asked()
            server.sendall(question)
            answer = server.recv(65_536)
            while answer.count(b"\n") < len(names):
                answer += server.recv(65_536)
            stores = not {b"add", b"cas"}.isdisjoint(names)
            if stores and self.wire.together:
                self.wire.together.wait(5)
            self.wire.answering()
            if self.break_after in names:
                self.break_after = None
                self.before_breaking()
                return
            if stores and self.change:
                answer = self.change(answer)
                self.change = None
            client.sendall(answer)


@contextmanager
def two_proxies() -> Iterator[tuple[Proxy, Proxy]]:
    """Proxies before two nodes, which are empty, on one wire."""
    nodes, wire = shared_service(MemcachedNodes), Wire()
    for index in range(2):
        with closing(client_of(nodes, index)) as client:
            client.flush_all()
    with Proxy(nodes.ports[0], wire) as first, Proxy(nodes.ports[1], wire) as second:
        yield first, second


@pytest.fixture
def relayed() -> Iterator[tuple[Proxy, memcached.MemcachedStorage]]:
    """Yield a storage behind a proxy, connected, and empty."""
    server = shared_service(Memcached)
    client = client_of(server)
    client.flush_all()
    client.close()
    options = {"timeout": PATIENCE}
    with Proxy(server.port) as proxy, storage_at([proxy.address], OPTIONS=options) as storage:
        storage.read("a" * 40)
        proxy.commands.clear()
        yield proxy, storage


@pytest.fixture
def other() -> Iterator[Client]:
    """Yield a client of the server behind the proxy, which passes by both the proxy and the
    package."""
    client = client_of(shared_service(Memcached))
    yield client
    client.close()


def test_a_save_whose_answer_was_lost_is_no_conflict_with_itself(
    relayed: tuple[Proxy, memcached.MemcachedStorage],
) -> None:
    """Sent again, it finds the item changed: by itself. As a conflict it would be merged into its
    own result, and a counter be raised twice."""
    proxy, storage = relayed
    base = stored(storage)
    proxy.break_after = b"cas"

    outcome = storage.update(successor(base, payload=b"saved"), base, now())

    assert isinstance(outcome, Updated)
    assert proxy.commands[-3:] == [b"cas", b"cas", b"gets"]
    held = storage.read("a" * 40)
    assert held is not None
    assert (held.version, held.payload) == (2, b"saved")


def test_a_save_that_was_overtaken_while_sent_again_is_a_conflict(
    relayed: tuple[Proxy, memcached.MemcachedStorage], other: Client
) -> None:
    """Only the very same bytes are one's own: another's save in between must be merged."""
    proxy, storage = relayed
    base = stored(storage)
    proxy.break_after = b"cas"
    proxy.before_breaking = lambda: other.set(
        KEY, pack(successor(base, version=3, payload=b"theirs"))
    )

    outcome = storage.update(successor(base, payload=b"mine"), base, now())

    assert isinstance(outcome, Conflict)
    assert outcome.current.payload == b"theirs"


def test_a_tombstone_of_someone_else_is_not_taken_for_ones_own(
    relayed: tuple[Proxy, memcached.MemcachedStorage],
) -> None:
    """Two requests that rotate a session in the same millisecond write equal tombstones. Only one
    of them has superseded it; the other one must not get a session as well."""
    _, storage = relayed
    base = stored(storage)
    tombstone = make_tombstone("a" * 40, State.SUPERSEDED, now=now(), seconds=60)
    assert isinstance(storage.update(tombstone, base, now()), Updated)

    assert isinstance(storage.update(tombstone, base, now()), Conflict)


def test_a_session_that_ended_while_its_save_was_sent_again_is_gone(
    relayed: tuple[Proxy, memcached.MemcachedStorage], other: Client
) -> None:
    """The save was done and then undone by a logout, which must hold."""
    proxy, storage = relayed
    base = stored(storage)
    proxy.break_after = b"cas"
    proxy.before_breaking = lambda: other.delete(KEY)

    outcome = storage.update(successor(base), base, now())

    assert isinstance(outcome, Gone)


def test_a_new_session_whose_answer_was_lost_is_not_taken(
    relayed: tuple[Proxy, memcached.MemcachedStorage],
) -> None:
    """Sent again, it finds its own record; under another key the first would be left behind."""
    proxy, storage = relayed
    proxy.break_after = b"add"

    assert isinstance(storage.create(make_record(), now()), Updated)
    assert proxy.commands == [b"add", b"add", b"gets"]


def test_an_id_that_someone_else_has_is_taken_also_when_sent_again(
    relayed: tuple[Proxy, memcached.MemcachedStorage],
) -> None:
    """Otherwise one visitor would get the session of another."""
    proxy, storage = relayed
    storage.create(make_record(payload=b"theirs"), now())
    proxy.break_after = b"add"

    assert isinstance(storage.create(make_record(payload=b"mine"), now()), Taken)


def test_a_connection_that_breaks_when_new_is_an_outage() -> None:
    """Sent again and again, a command would double the load on a server in trouble."""
    with Proxy(shared_service(Memcached).port) as proxy, storage_at([proxy.address]) as storage:
        proxy.break_after = b"gets"

        with pytest.raises(StorageUnavailable):
            storage.read("a" * 40)
        assert proxy.commands == [b"gets"]


# Two writes in one round trip ---------------------------------------------------------------------

NEW = "b" * 40
NEW_KEY = ":1:django_sessionstores:" + NEW


def tombstone_of(base: Record) -> Record:
    return make_tombstone(base.id, State.SUPERSEDED, now=now(), seconds=60)


@pytest.fixture
def rotating(
    relayed: tuple[Proxy, memcached.MemcachedStorage],
) -> Iterator[tuple[Proxy, memcached.MemcachedStorage, Record, Client]]:
    """Yield a storage behind a proxy, a record that it has read, and a client past the proxy."""
    proxy, storage = relayed
    base = stored(storage)
    proxy.commands.clear()
    proxy.wire.round_trips = 0
    other = client_of(shared_service(Memcached))
    yield proxy, storage, base, other
    other.close()


Rotating = tuple[Proxy, memcached.MemcachedStorage, Record, Client]


def test_a_rotation_creates_and_supersedes_at_once(rotating: Rotating) -> None:
    """Half of it would be a session under two keys, or under none."""
    proxy, storage, base, _ = rotating

    outcome = storage.rotate(make_record(NEW, payload=b"new"), base, tombstone_of(base), now())

    assert isinstance(outcome, Updated)
    assert (proxy.commands, proxy.wire.round_trips) == ([b"add", b"cas"], 1)
    created, superseded = storage.read(NEW), storage.read(base.id)
    assert created is not None
    assert created.payload == b"new"
    assert superseded is not None
    assert superseded.state is State.SUPERSEDED


def test_a_rotation_over_a_connection_not_yet_made_connects(rotating: Rotating) -> None:
    """A worker's first request to a node may be a login whose session it got from elsewhere."""
    _, storage, base, _ = rotating
    storage.close()

    assert isinstance(storage.rotate(make_record(NEW), base, tombstone_of(base), now()), Updated)


def test_a_rotation_of_a_session_that_has_just_been_touched_goes_through(
    rotating: Rotating,
) -> None:
    """A touch changes the token and not the version: a parallel request that only reads must not
    make a login fail."""
    _, storage, base, _ = rotating
    storage.touch(base, base.expires + HOUR, base.last_activity, now())

    assert isinstance(storage.rotate(make_record(NEW), base, tombstone_of(base), now()), Updated)
    superseded = storage.read(base.id)
    assert superseded is not None
    assert superseded.state is State.SUPERSEDED


def test_a_rotation_that_meets_a_save_leaves_nothing(rotating: Rotating) -> None:
    """The new session is there by the time the old one turns out to have changed. Left behind, it
    is a logged-in session that nobody holds; and the change must be merged, not lost."""
    _, storage, base, other = rotating
    storage.update(successor(base, payload=b"theirs"), base, now())

    outcome = storage.rotate(make_record(NEW), base, tombstone_of(base), now())

    assert isinstance(outcome, Conflict)
    assert outcome.current.payload == b"theirs"
    assert other.get(NEW_KEY) is None
    held = storage.read(base.id)
    assert held is not None
    assert (held.state, held.payload) == (State.LIVE, b"theirs")


def test_a_rotation_that_meets_a_logout_leaves_nothing(rotating: Rotating) -> None:
    """It would log in again, under another key, who has just logged out."""
    _, storage, base, other = rotating
    storage.delete(base.id)

    assert isinstance(storage.rotate(make_record(NEW), base, tombstone_of(base), now()), Gone)
    assert other.get(NEW_KEY) is None
    assert other.get(KEY) is None


def test_an_expired_session_does_not_rotate(rotating: Rotating) -> None:
    """Its item may still be there, with the token that was read."""
    _, storage, base, other = rotating
    late = base.expires + 1

    assert isinstance(storage.rotate(make_record(NEW), base, tombstone_of(base), late), Gone)
    assert other.get(NEW_KEY) is None


def test_a_rotation_to_a_taken_key_leaves_both_as_they_were(rotating: Rotating) -> None:
    """The old session is superseded by the time the new key turns out to be taken: its user would
    be logged out, or get the session of another."""
    _, storage, base, _ = rotating
    storage.create(make_record(NEW, payload=b"another's"), now())

    assert isinstance(storage.rotate(make_record(NEW), base, tombstone_of(base), now()), Taken)
    assert pack(storage.read(base.id)) == pack(base)
    taken = storage.read(NEW)
    assert taken is not None
    assert taken.payload == b"another's"


def test_a_rotation_to_more_than_an_item_holds_leaves_the_session(
    storage: memcached.MemcachedStorage,
) -> None:
    """The node would refuse the large new item and take a small tombstone."""
    old = numbered(1)
    new = next(n for n in map(numbered, range(2, 999)) if beside(storage, n, old))
    storage.create(make_record(old), now())
    base = storage.read(old)
    assert base is not None

    with pytest.raises(PayloadTooLarge, match=r"takes \d{7} bytes"):
        storage.rotate(
            make_record(new, payload=bytes(1024 * 1024)), base, tombstone_of(base), now()
        )

    assert storage.read(new) is None
    assert pack(storage.read(old)) == pack(base)


@pytest.mark.parametrize("size", [100, 1000, 100_000])
def test_a_rotation_on_a_full_node_leaves_the_session(size: int) -> None:
    """A node started with -M has no room for the new session, but might have for the tombstone.
    The session could not even be put back: what is read often keeps its memory for a while."""
    with Memcached("-m", "2", "-M") as server, storage_at(server.addresses) as storage:
        storage.create(make_record(payload=bytes(size)), now())
        # The room for one tombstone is that for a thousand.
        storage.leave_tombstone(tombstone_of(make_record("c" * 40)), now())
        with suppress(StorageFull):
            for number in range(50_000):
                storage.create(make_record(numbered(number), payload=bytes(size)), now())
        storage.read("a" * 40)
        base = storage.read("a" * 40)
        assert base is not None

        with pytest.raises(StorageFull):
            storage.rotate(make_record(NEW, payload=bytes(size)), base, tombstone_of(base), now())

        assert storage.read(NEW) is None
        assert pack(storage.read("a" * 40)) == pack(base)


@pytest.mark.parametrize("size", [90, 200, 330, 345, 1000, 65_000, 66_000, 1_000_000])
def test_a_tombstone_is_padded_to_the_byte(size: int) -> None:
    """memcached has memory for each range of sizes. In another range there may be room."""
    tombstone = make_tombstone("a" * 40, State.SUPERSEDED, now=now(), seconds=60, successor=NEW)
    packed = memcached._pad(tombstone, size)
    assert len(packed) == size
    assert unpack("a" * 40, packed).successor == NEW


def beside(storage: memcached.MemcachedStorage, one: str, other: str) -> bool:
    """Return whether both ids belong to one node."""
    return storage._nodes.node_of(one) == storage._nodes.node_of(other)


def test_a_session_that_is_put_back_does_not_undo_a_logout(rotating: Rotating) -> None:
    """Between the refused login and the undoing of its tombstone, the user signs out."""
    proxy, storage, base, other = rotating
    storage.create(make_record(NEW), now())

    def log_out(answer: bytes) -> bytes:
        other.delete(KEY)
        return answer

    proxy.change = log_out

    assert isinstance(storage.rotate(make_record(NEW), base, tombstone_of(base), now()), Taken)
    assert other.get(KEY) is None


def test_a_rotation_whose_answer_was_lost_is_no_conflict_with_itself(rotating: Rotating) -> None:
    """Both were done: taken for a conflict, the user would be told that the session has ended."""
    proxy, storage, base, other = rotating
    proxy.break_after = b"add"

    assert isinstance(storage.rotate(make_record(NEW), base, tombstone_of(base), now()), Updated)
    assert other.get(NEW_KEY) is not None
    assert proxy.commands == [b"add", b"cas", b"gets", b"gets"]


def test_a_conflict_whose_answer_was_lost_is_one_all_the_same(rotating: Rotating) -> None:
    """The new session is there, but not because the old one was superseded."""
    proxy, storage, base, other = rotating
    storage.update(successor(base, payload=b"theirs"), base, now())
    proxy.break_after = b"add"

    assert isinstance(storage.rotate(make_record(NEW), base, tombstone_of(base), now()), Conflict)
    assert other.get(NEW_KEY) is None


def test_a_node_that_was_restarted_since_it_was_read_has_no_session() -> None:
    """The idle connection is closed and the node empty: an answer, and no error."""
    server = Memcached()
    with private(server) as (_, storage):
        base = stored(storage)
        server.kill()
        server.restart()

        assert isinstance(storage.rotate(make_record(NEW), base, tombstone_of(base), now()), Gone)
        assert storage.read(NEW) is None


def test_a_node_that_falls_silent_between_two_answers_is_an_outage(rotating: Rotating) -> None:
    """The second answer may still come. Whoever uses the connection next would take it for the
    answer to something else."""
    proxy, storage, base, _ = rotating
    proxy.change = lambda answer: STORED

    with pytest.raises(StorageUnavailable):
        storage.rotate(make_record(NEW), base, tombstone_of(base), now())

    assert proxy.connections == 1
    created = storage.read(NEW)
    assert created is not None
    assert proxy.connections == 2


@pytest.mark.parametrize("answer", [b"ERROR\r\n" + STORED, STORED * 3])
def test_a_connection_that_said_what_nobody_asked_is_not_used_again(
    rotating: Rotating, answer: bytes
) -> None:
    """There may be more to come, and the next visitor would get it for a session."""
    proxy, storage, base, _ = rotating
    proxy.change = lambda _: answer

    with suppress(StorageUnavailable):
        storage.rotate(make_record(NEW), base, tombstone_of(base), now())
    storage.read(base.id)

    assert proxy.connections == 2


class InPieces:
    """A connection on which answers arrive in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    def recv(self, size: int) -> bytes:
        return self._pieces.pop(0)


@pytest.mark.parametrize(
    "pieces",
    [[b"STORED\r\n", b"EXISTS\r\n"], [b"STO", b"RED\r", b"\nEXISTS", b"\r", b"\n"]],
)
def test_two_answers_may_arrive_in_pieces(pieces: list[bytes]) -> None:
    """The network cuts where it likes. What is left unread is the next command's answer."""
    assert exchange.read_lines(InPieces(*pieces), 2) == [b"STORED", b"EXISTS"]


# Two writes to two nodes --------------------------------------------------------------------------


@dataclass(frozen=True)
class Between:
    """A session on one node, read by a storage, that is to go on under an id on another node."""

    storage: memcached.MemcachedStorage
    old: Proxy
    new: Proxy
    base: Record
    record: Record
    clients: dict[str, Client]
    """Past the proxies, by the id of the session that the node has."""

    def rotate(self) -> object:
        return self.storage.rotate(self.record, self.base, tombstone_of(self.base), now())

    def log_out(self) -> None:
        self.clients[self.base.id].delete(f":1:django_sessionstores:{self.base.id}")

    def held(self, record: Record) -> bytes | None:
        data: bytes | None = self.clients[record.id].get(f":1:django_sessionstores:{record.id}")
        return data

    @property
    def is_as_before(self) -> bool:
        return self.held(self.record) is None and self.held(self.base) == pack(self.base)

    @property
    def is_done(self) -> bool:
        superseded = self.storage.read(self.base.id)
        return (
            self.held(self.record) == pack(self.record)
            and superseded is not None
            and superseded.state is State.SUPERSEDED
        )


@pytest.fixture
def between() -> Iterator[Between]:
    nodes = shared_service(MemcachedNodes)
    with two_proxies() as (old, new), ExitStack() as stack:
        options = {"timeout": PATIENCE, "max_pool_size": 1}
        storage = stack.enter_context(storage_at([old.address, new.address], OPTIONS=options))
        ids = [on_node(storage, proxy.address) for proxy in (old, new)]
        clients = {
            record_id: stack.enter_context(closing(client_of(nodes, index)))
            for index, record_id in enumerate(ids)
        }
        storage.create(make_record(ids[0]), now())
        base = storage.read(ids[0])
        assert base is not None
        storage.read(ids[1])
        for proxy in (old, new):
            proxy.commands.clear()
        old.wire.round_trips = 0
        yield Between(storage, old, new, base, make_record(ids[1], payload=b"new"), clients)


def test_a_rotation_between_two_nodes_asks_both_and_then_waits(between: Between) -> None:
    """The proxies answer nothing before both have been asked."""
    between.old.wire.together = threading.Barrier(2)

    assert isinstance(between.rotate(), Updated)

    assert between.old.wire.round_trips == 1
    assert (between.old.commands, between.new.commands) == ([b"cas"], [b"add"])
    assert between.is_done


def test_a_save_meanwhile_on_the_other_node_leaves_no_successor(between: Between) -> None:
    """The new session is on its node by the time the old one's refuses."""
    other = successor(between.base, payload=b"theirs")
    between.storage.update(other, between.base, now())

    outcome = between.rotate()

    assert isinstance(outcome, Conflict)
    assert between.held(between.record) is None
    assert between.held(between.base) == pack(other)


def test_a_logout_meanwhile_on_the_other_node_leaves_no_successor(between: Between) -> None:
    """A user who has signed out is not signed in again under another key."""
    between.log_out()

    assert isinstance(between.rotate(), Gone)
    assert between.held(between.record) is None
    assert between.held(between.base) is None


def test_a_touch_meanwhile_on_the_other_node_fails_no_rotation(between: Between) -> None:
    """It changes the token and not the version."""
    between.storage.touch(between.base, between.base.expires + HOUR, now(), now())

    assert isinstance(between.rotate(), Updated)
    assert between.is_done


def test_a_key_taken_on_the_other_node_leaves_the_session(between: Between) -> None:
    """Its tombstone is written by the time the other node refuses."""
    between.storage.create(between.record, now())

    assert isinstance(between.rotate(), Taken)
    assert between.held(between.base) == pack(between.base)


def test_a_logout_before_the_session_is_put_back_holds(between: Between) -> None:
    """The tombstone that it has removed must not become a session again."""
    between.storage.create(between.record, now())

    def log_out(answer: bytes) -> bytes:
        between.log_out()
        return answer

    between.old.change = log_out

    assert isinstance(between.rotate(), Taken)
    assert between.held(between.base) is None


def test_a_session_that_is_ended_while_it_is_put_back_stays_so(between: Between) -> None:
    """Between the look at the tombstone and the write over it: the token has to be in the way."""
    between.storage.create(between.record, now())
    find = between.storage._find

    def find_and_log_out(record_id: str) -> Any:
        found = find(record_id)
        between.log_out()
        return found

    with mock.patch.object(between.storage, "_find", find_and_log_out):
        assert isinstance(between.rotate(), Taken)

    assert between.held(between.base) is None


@pytest.mark.parametrize("which", ["old", "new"])
def test_a_lost_answer_of_one_node_is_looked_up(between: Between, which: str) -> None:
    """Both were done: taken for refused, the user would be told that the session has ended."""
    getattr(between, which).break_after = {"old": b"cas", "new": b"add"}[which]

    assert isinstance(between.rotate(), Updated)
    assert between.is_done


@pytest.mark.parametrize("which", ["old", "new"])
def test_a_node_that_falls_silent_leaves_half_a_rotation_to_nobody(
    between: Between, which: str
) -> None:
    """The other node has carried out its half."""
    proxy: Proxy = getattr(between, which)
    proxy.change = lambda _: b""

    with pytest.raises(StorageUnavailable):
        between.rotate()

    if which == "new":
        # What became of the new record is not known, and neither is its key to anybody.
        assert between.held(between.base) == pack(between.base)
    else:
        assert between.held(between.record) is None
    between.storage.read(between.record.id)
    between.storage.read(between.base.id)
    assert proxy.connections == 2  # Its answer may still come on the first.


def test_a_node_whose_connection_is_closed_is_asked_before_the_session_is_superseded(
    between: Between,
) -> None:
    """Connections are closed after an outage. If the login fails, the session stays as it was."""
    between.storage._nodes.clients[between.new.address].close()
    between.new.change = lambda _: b""

    with pytest.raises(StorageUnavailable):
        between.rotate()

    assert between.old.commands == []


def test_a_node_without_a_free_connection_leaves_the_session(between: Between) -> None:
    """Each node has a pool of its own."""
    pool = between.storage._nodes.clients[between.new.address].client_pool
    with pool.get_and_release(), pytest.raises(StorageUnavailable):
        between.rotate()

    assert between.is_as_before
    assert isinstance(between.rotate(), Updated)


@contextmanager
def full_node() -> Iterator[memcached.MemcachedStorage]:
    """Yield the storage on a node without memory, which has three sessions."""
    with Memcached("-M", "-m", "2") as server, storage_at(server.addresses) as storage:
        for each in "abc":
            storage.create(make_record(each * 40), now())
        with closing(client_of(server)) as client:
            for size in (5000, *range(1000, 0, -8)):
                with suppress(MemcacheServerError):
                    for number in range(100_000):
                        client.set(f"{size}-{number}", b"x" * size)
        yield storage


def test_sessions_end_on_a_full_node() -> None:
    """An empty item in their place would be one too many."""
    with full_node() as storage:
        with pytest.raises(StorageFull):
            storage.create(make_record("d" * 40), now())
        assert storage.delete("a" * 40)
        assert storage.read("a" * 40) is None
        assert not storage.delete("a" * 40)
        assert storage.end_many(["b" * 40, "c" * 40, "d" * 40]) == ["b" * 40, "c" * 40]
        assert storage.lookup_many(["b" * 40, "c" * 40]) == {}


def test_a_tombstone_is_left_out_on_a_full_node() -> None:
    """The session of a user with a new password ends. If it has a successor, the tombstone is what
    leads to that."""
    with full_node() as storage:
        for each, successor, ends in (("b", "e" * 40, False), ("a", "", True)):
            base = storage.read(each * 40)
            assert base is not None
            tombstone = make_tombstone(
                base.id, State.SUPERSEDED, now=now(), seconds=60, successor=successor
            )
            if ends:
                assert isinstance(storage.update(tombstone, base, now()), Updated)
                assert storage.read(base.id) is None
            else:
                with pytest.raises(StorageFull):
                    storage.update(tombstone, base, now())
                assert storage.read(base.id) == base


@pytest.mark.parametrize("full", ["old", "new", "both", "new, old but for one"])
def test_a_full_node_of_two_does_no_half_of_a_rotation(full: str) -> None:
    """Of the two nodes, one may have room for the tombstone, or the record, and the other none."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(Memcached("-m", "2", "-M")) for _ in range(2)]
        storage = stack.enter_context(storage_at([node.addresses[0] for node in nodes]))
        old, new = (on_node(storage, node.addresses[0]) for node in nodes)
        storage.create(make_record(old, payload=bytes(1000)), now())
        for name, record_id in {"old": old, "new": new}.items():
            # The room for one tombstone is that for a thousand.
            on_it = [
                i for i in map(numbered, range(10_000, 30_000)) if beside(storage, i, record_id)
            ]
            storage.leave_tombstone(tombstone_of(make_record(on_it.pop())), now())
            if name in full or full == "both":
                with suppress(StorageFull):
                    for other in on_it:
                        storage.create(make_record(other, payload=bytes(1000)), now())
                        last = other
                if f"{name} but" in full:
                    storage.delete(last)
        storage.read(old)
        base = storage.read(old)
        assert base is not None
        wanted = make_record(new, payload=bytes(1000))

        if full == "old":
            # A small tombstone is taken, the long way.
            assert isinstance(storage.rotate(wanted, base, tombstone_of(base), now()), Updated)
            return
        with pytest.raises(StorageFull):
            storage.rotate(wanted, base, tombstone_of(base), now())
        assert storage.read(new) is None
        assert pack(storage.read(old)) == pack(base)


# Processes and packages ---------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_makes_its_own_connections(
    storage: memcached.MemcachedStorage, meter: Meter
) -> None:
    """On a shared one, parent and child would read each other's answers: sessions of strangers."""
    storage.create(make_record(), now())
    meter.read()

    child = os.fork()
    if not child:
        try:
            held = storage.read("a" * 40)
            os._exit(0 if held is not None and held.payload == b"encrypted" else 1)
        finally:
            os._exit(2)

    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 0
    assert meter.read() == (1, 1)
    assert storage.read("a" * 40) is not None
    assert meter.read() == (1, 0)


def test_a_missing_client_names_what_to_install() -> None:
    """Whoever sees it has chosen memcached in CACHES and knows nothing of our extras."""
    name = memcached_client.__name__
    with mock.patch.dict(sys.modules, {"pymemcache.client.base": None}):
        del sys.modules[name]
        with pytest.raises(MissingExtra, match=r"django-sessionstores\[memcached\]"):
            importlib.import_module(name)


def test_it_says_where_it_is(storage: memcached.MemcachedStorage, service: Service) -> None:
    """An operator has to see which servers hold the sessions."""
    assert all(address in storage.describe() for address in service.addresses)
