"""The buckets of the index: they grow and shrink with the sessions, and take few bytes."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from django.core.cache import caches
from django.test import override_settings
from redis import Redis as Client

from django_sessionstores.core.flow import run
from django_sessionstores.core.records import Record, State, make_tombstone, pack, session_id
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.storages.base import Updated
from django_sessionstores.storages.redis import (
    building,
    index,
    index_scripts,
    measuring,
    rebuilding,
    scripts,
)
from django_sessionstores.storages.redis.bucket_lua import MOST
from django_sessionstores.storages.redis.keys import (
    TAG_TEXTS,
    TAGS,
    Place,
    User,
    id_of,
    ids_in,
    member_of,
    progress_key,
    record_key,
    tag_of,
)
from django_sessionstores.storages.redis.members import arguments_of, keys_of, moves_of
from django_sessionstores.storages.redis.rebuilding import Progress
from django_sessionstores.storages.redis.storage import RedisStorage
from tests.services import HOST, Redis, RedisCluster, shared_service
from tests.storages.redis import test_storage
from tests.storages.redis.test_storage import (
    HOUR,
    INDEX_KEY,
    NOW,
    check_index,
    index_keys,
    listed,
    members,
    raw_client,
    record,
    storage_at,
)

DAY = 24 * HOUR
server = test_storage.server


@pytest.fixture
def storage() -> Iterator[RedisStorage]:
    shared_service(Redis).cli("flushall")
    with storage_at(shared_service(Redis).url()) as storage:
        yield storage


def store_all(storage: RedisStorage, records: list[Record], now: int = NOW) -> None:
    """Store many sessions as single calls do."""
    calls = []
    for each in records:
        moves = moves_of(storage, storage._server.prefix, None, each, now)
        both = [*moves.of_session, *moves.of_user]
        keys = (storage._server.key(each.id), *keys_of(both))
        calls.append((scripts.CREATE, keys, (pack(each), each.expires - now, *arguments_of(both))))
    assert set(run(storage._server.evaluate_all(calls))) == {1}


def sizes(client: Any = None) -> list[int]:
    """Return how many members each bucket has."""
    client = client or raw_client()
    return [client.zcard(key) for key in index_keys(client) if INDEX_KEY.search(key)[2]]


# Keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [2, 3, 6, 10, 40])
def test_a_cluster_has_the_tags_evenly(nodes: int) -> None:
    share = 16_384 / nodes
    found = Counter(int(slot_of(text) / share) for text in TAG_TEXTS)
    assert len(found) == nodes
    assert max(found.values()) <= 1.1 * TAGS / nodes + 1
    assert min(found.values()) >= 0.9 * TAGS / nodes - 1


def slot_of(text: bytes) -> int:
    """Return the slot of a key as Redis computes it (CRC-16, XMODEM)."""
    found = 0
    for byte in text:
        found ^= byte << 8
        for _ in range(8):
            found = (found << 1 ^ 0x1021 if found & 0x8000 else found << 1) & 0xFFFF
    return found % 16_384


def test_an_id_and_its_key_stand_for_each_other() -> None:
    for number in range(2000):
        each = session_id(str(number))
        key = record_key(b":1:dss:", each)
        assert id_of(tag_of(each), member_of(each)) == each
        assert list(ids_in(b":1:dss:", [key])) == [each]
        # Redis keeps no more than this in 32 bytes.
        assert len(key) == 30
        place = Place.of_id(int(each, 16))
        assert place.tag == tag_of(each)
        assert place.first_id <= int(each, 16)
        assert Place.of_id(place.first_id) == place
        assert Place.of_id(place.first_id - 1) < place


def test_keys_of_others_are_not_sessions() -> None:
    each = session_id("1")
    key = record_key(b"p", each)
    other = record_key(b"p", session_id("2"))
    wrong = [key[:-1], key + b"x", b"x" + key, key[:5] + other[5:], b"p{??}" + key[5:], b"p"]
    assert list(ids_in(b"p", wrong)) == []


# Growth -----------------------------------------------------------------------------------------


def of_a_tag(number: int) -> str:
    """Return a session id of the first tag."""
    return "00" + session_id(str(number))[2:3].translate(LOW) + session_id(str(number))[3:]


LOW = str.maketrans("89abcdef", "01234567")
"""Clears the first bit of a hexadecimal digit, which is in the tag."""


def test_buckets_grow_and_shrink_with_the_sessions(storage: RedisStorage) -> None:
    ids = sorted(map(of_a_tag, range(3000)))
    assert {tag_of(each) for each in ids} == {0}
    draw = random.Random(1)
    records = [
        record(each, user_id=draw.choice([None, "7", "8"]), expires=NOW + HOUR + number)
        for number, each in enumerate(ids)
    ]
    store_all(storage, draw.sample(records, len(records)))
    check_index()
    assert max(sizes()) <= MOST
    assert listed(storage, limit=99) == ids
    sevens = [each.id for each in records if each.user_id == "7"]
    assert listed(storage, "7", limit=99) == sevens
    assert (storage.count(NOW, None), storage.count(NOW, "7")) == (3000, len(sevens))
    assert storage.count(NOW + HOUR + 999, None) == 2000
    buckets = len(sizes())

    kept = set(draw.sample(ids, 50))
    gone = [each for each in ids if each not in kept]
    for at in range(0, len(gone), 500):
        assert storage.end_many(gone[at : at + 500]) == gone[at : at + 500]
    check_index()
    assert listed(storage, limit=7) == sorted(kept)
    assert listed(storage, "7") == sorted(kept.intersection(sevens))
    assert len(sizes()) < buckets / 5
    storage.end_many(sorted(kept))
    assert members() == [0, 0]
    check_index()


@pytest.mark.slow
def test_no_key_has_more_than_a_few_hundred_members(storage: RedisStorage) -> None:
    """Also with one user for all of them."""
    store_all(storage, [record(session_id(str(each)), user_id="7") for each in range(10_000)])
    client = raw_client()
    assert max(client.zcard(key) for key in index_keys()) <= 300
    assert storage.count(NOW, "7") == storage.count(NOW, None) == 10_000
    check_index()


def test_pages_go_on_while_buckets_change(storage: RedisStorage) -> None:
    """A page begins behind an id, and each session that stays is on one page."""
    ids = sorted(map(of_a_tag, range(400)))
    store_all(storage, [record(each, user_id="7") for each in ids])
    later = [record(of_a_tag(each), user_id="7") for each in range(400, 1400)]
    for user_id in (None, "7"):
        found, cursor = list[str](), ""
        while True:
            page = storage.scan(cursor, 50, user_id)
            found += [each.id for each in page.records]
            if not (cursor := page.next):
                break
            batch, later = later[:60], later[60:]
            if batch:
                store_all(storage, batch)
        assert found == sorted(set(found))
        assert set(ids) <= set(found)


@pytest.mark.parametrize("user_id", [None, "", "7", "ünï", "x" * 255])
def test_a_logout_removes_both_members(storage: RedisStorage, user_id: str | None) -> None:
    """A script finds the place of the user as this process does."""
    for number in range(50):
        each = record(session_id(str(number)), user_id=user_id and f"{user_id}{number}"[-255:])
        storage.create(each, NOW)
    storage.create(record(user_id=user_id), NOW)
    assert members() == [51, 0 if user_id is None else 51]
    for number in range(50):
        storage.delete(session_id(str(number)))
    storage.delete(record().id)
    assert members() == [0, 0]
    assert index_keys() == []  # Nothing is left of a site without sessions.


def test_a_user_of_another_place_gets_the_session(storage: RedisStorage) -> None:
    storage.create(base := record(user_id="7"), NOW)
    storage.update(record(version=2, user_id="8"), base, NOW)
    assert (listed(storage, "7"), listed(storage, "8")) == ([], [base.id])
    storage.update(record(version=3), record(version=2, user_id="8"), NOW)
    assert listed(storage, "8") == []
    assert members() == [1, 0]


def test_two_users_with_the_same_place_are_told_apart(
    storage: RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(User, "of", classmethod(lambda cls, user_id: cls(5, b"abc")))
    for user_id, letter in (("7", "a"), ("8", "b"), ("7", "c")):
        storage.create(record(letter * 40, user_id=user_id), NOW)
    assert listed(storage, "7", limit=1) == ["a" * 40, "c" * 40]
    assert listed(storage, "8", limit=1) == ["b" * 40]
    assert (storage.count(NOW, "7"), storage.count(NOW, "8")) == (2, 1)


def test_a_session_in_use_for_weeks_stays_that_of_its_user(storage: RedisStorage) -> None:
    """The index of users has the day of the expiry, and follows when a touch goes beyond it."""
    storage.create(base := record(user_id="7", expires=NOW + HOUR), NOW)
    now = NOW
    for _ in range(200):
        now += HOUR // 2
        assert storage.touch(base, now + HOUR, now, now)
        base = storage.read(base.id)
        # Others sign in, and remove what has expired.
        storage.create(record(session_id(str(now)), user_id="7", expires=now + HOUR), now)
        storage.delete(session_id(str(now)))
    # A list would repair what it finds.
    assert members() == [1, 1]
    assert listed(storage, "7") == [base.id]
    check_index()


# Bytes ------------------------------------------------------------------------------------------


def session_data(user: int) -> dict[str, Any]:
    return {
        "_auth_user_id": str(user),
        "_auth_user_backend": "django.contrib.auth.backends.ModelBackend",
        "_auth_user_hash": session_id(str(user)) + "0123456789abcdef01234567",
        "cart": {"17": 2, "2048": 1, "391": 4},
        "_language": "de",
        "last_page": "/shop/garden/tools/?page=3&order=price",
        "seen": [1200, 3991, 23, 4553, 9921],
    }


@pytest.mark.slow
def test_a_login_takes_less_than_in_djangos_engine(server: Redis) -> None:
    """With the index. Redis counts what it has allocated."""
    assert 300 < len(json.dumps(session_data(1), separators=(",", ":"))) < 320
    number, client = 40_000, Client(host=HOST, port=server.port)
    with storage_at(server.url()) as storage:
        codec, cache = storage.codec, caches["default"]
        client.ping()
        storage.reindex()  # While there is nothing: a busy machine would not wait for it later.

        def used() -> int:
            return int(client.info("memory")["used_memory"])

        before = used()
        for first in range(0, number, 2000):
            records = []
            for each in range(first, first + 2000):
                key, user = session_id(str(each)), 100_000 + each // 5
                payload = codec.encrypt(key, codec.serialize(session_data(user)))
                expires = NOW + 14 * DAY + each
                fields = {"payload": payload, "user_id": str(user), "expires": expires}
                records.append(record(key, site=storage.sites()[0], **fields))
            store_all(storage, records)
        ours = (used() - before) / number
        assert storage.count(NOW, None) == number
        client.flushall()
        before = used()
        pipeline = client.pipeline(transaction=False)
        for each in range(number):
            value = cache._cache._serializer.dumps(session_data(100_000 + each // 5))
            name = f"django.contrib.sessions.cache{session_id(str(each))[:32]}"
            pipeline.set(cache.make_key(name), value, ex=14 * DAY // 1000)
        pipeline.execute()
        djangos = (used() - before) / number
    assert ours < 0.9 * djangos
    assert ours < 500


def test_a_write_does_not_hide_that_a_bucket_was_evicted(storage: RedisStorage) -> None:
    """It makes the bucket anew, in which the other sessions are missing."""
    ids = sorted(map(of_a_tag, range(200)))
    store_all(storage, [record(each, user_id="7") for each in ids])
    storage.reindex()
    for name in (rb"i....:[23]", rb"u....:[0-9]+"):
        test_storage.lose(name)
        for number in range(200, 230):
            storage.create(record(of_a_tag(number), user_id="7"), NOW)
            storage.delete(of_a_tag(number))
        assert not storage.index_is_complete()
        assert listed(storage, limit=90) == ids
        assert listed(storage, "7", limit=90) == ids
        check_index()


def test_a_rebuild_lets_other_clients_in(server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server finishes what it has read of one client before it turns to another one."""
    with storage_at(server.url()) as storage:
        store_all(storage, [record(session_id(str(each)), user_id="7") for each in range(900)])
        sent = dict[str, int]()
        evaluate_all = storage._server.evaluate_all

        def note(calls: Any) -> Any:
            name = next(key for key, value in vars(index_scripts).items() if value is calls[0][0])
            sent[name] = max(len(calls), sent.get(name, 0))
            return evaluate_all(calls)

        monkeypatch.setattr(storage._server, "evaluate_all", note)
        monkeypatch.setattr(rebuilding, "_COMPLETED", 900 * 20)
        assert storage.reindex() == 900
    assert sent == {"PREPARE": 32, "LIST_RECORDS": 4, "LIST": 4, "COMPLETE": 20, "NOTE_SITES": 1}


def test_a_count_of_many_lets_other_clients_in(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage_at(server.url()) as storage:
        store_all(storage, [record(session_id(str(each)), user_id="7") for each in range(1024)])
        storage.reindex()
        sent = list[int]()
        evaluate_all = storage._server.evaluate_all

        def note(calls: Any) -> Any:
            sent.append(len(calls))
            return evaluate_all(calls)

        monkeypatch.setattr(storage._server, "evaluate_all", note)
        assert storage.count(NOW, None) == 1024
        monkeypatch.setattr(index, "_MANY", 2)
        assert storage.count(NOW, None) == 1024
    assert sent == [512, *[32] * 16]


def test_what_memory_usage_leaves_out_of_a_record(server: Redis) -> None:
    """As many as make the hash tables three quarters full."""
    client, number = Client(host=HOST, port=server.port), 3 * 2**14
    before = client.info("memory")["used_memory"]
    store = "for n = 1, ARGV[1] do redis.call('SET', 'k' .. n, ARGV[2], 'PX', 1e9) end"
    client.eval(store, 0, number, "x" * 250)
    taken = client.info("memory")["used_memory"] - before
    left_out = taken / number - client.memory_usage("k10000")
    assert abs(left_out - measuring._LIFETIME) < 8


@pytest.mark.parametrize("rights", ["+@all", pytest.param("+@all -memory", marks=pytest.mark.slow)])
def test_the_doctor_says_what_a_session_takes(server: Redis, rights: str) -> None:
    client = Client(host=HOST, port=server.port)
    with storage_at(server.url()) as storage:
        few = [record(session_id(str(each)), user_id=str(each // 5)) for each in range(5000)]
        store_all(storage, few[:900])
        assert storage.index_report().bytes_per_session is None
        store_all(storage, few[900:])
        storage.reindex()
        client.acl_setuser("default", True, nopass=True, keys=["*"], commands=rights.split())
        report = storage.index_report()
        client.acl_setuser("default", True, nopass=True, keys=["*"], commands=["+@all"])
        buckets = len(sizes(client))
        true = sum(map(client.memory_usage, client.keys("*"))) / 5000 + measuring._LIFETIME
    assert (report.sessions, report.incomplete, report.evicted) == (5000, 0, 0)
    assert report.buckets == buckets
    if "-memory" in rights:
        assert report.bytes_per_session is None
    else:
        assert abs(report.bytes_per_session - true) < 0.1 * true


# On a cluster -----------------------------------------------------------------------------------


class Wire:
    """Counts the commands that a storage sends, and the round trips."""

    def __init__(self, storage: RedisStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[str] = []
        ask, ask_all = storage._server.ask, storage._server.ask_all

        def one(*command: Any) -> Any:
            self.commands.append(command[0])
            return ask(*command)

        def many(commands: Any) -> Any:
            self.commands += [each[0] for each in commands]
            return ask_all(commands)

        monkeypatch.setattr(storage._server, "ask", one)
        monkeypatch.setattr(storage._server, "ask_all", many)

    def take(self) -> int:
        number, self.commands = len(self.commands), []
        return number


def use(storage: RedisStorage, wire: Wire) -> dict[str, int]:
    """Return how many commands each operation takes. Servers know the scripts."""
    found = dict[str, int]()
    for _ in range(2):
        for number in range(300):
            storage.create(record(session_id(str(number))), NOW)
        wire.take()
        base = record(session_id("base"))
        storage.create(base, NOW)
        found["first write"] = wire.take()
        storage.read(base.id)
        found["read"] = wire.take()
        storage.update(changed := record(base.id, version=2, payload=b"new"), base, NOW)
        found["write"] = wire.take()
        storage.touch(changed, NOW + 2 * HOUR, NOW, NOW)
        found["touch"] = wire.take()
        tombstone = make_tombstone(base.id, State.SUPERSEDED, now=NOW, seconds=60)
        new = record(session_id("new"), user_id="7", version=2)
        assert isinstance(storage.rotate(new, changed, tombstone, NOW), Updated)
        found["login"] = wire.take()
        assert listed(storage, "7") == [new.id]
        found["list of a user"] = wire.take()
        assert storage.count(NOW, "7") == 1
        found["count of a user"] = wire.take()
        assert storage.count(NOW, None) == 301
        found["count"] = wire.take()
        assert len(storage.scan("", 100, None).records) == 100
        found["page"] = wire.take()
        storage.delete(new.id)
        found["logout"] = wire.take()
        assert len(storage.end_many([session_id(str(each)) for each in range(300)])) == 300
        found["end of 300"] = wire.take()
        storage.delete(base.id)
        storage._server.connect().flushall()
        storage.reindex()
    return found


@pytest.mark.slow
def test_a_cluster_takes_as_many_commands_as_one_server(
    storage: RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_one = use(storage, Wire(storage, monkeypatch))
    with storage_at(
        shared_service(RedisCluster).url(), f"{test_storage.__name__}.ClusterCache"
    ) as clustered:
        clustered._server.connect().flushall()
        on_many = use(clustered, Wire(clustered, monkeypatch))
    # Two sessions and a user may be on three nodes.
    assert (on_one.pop("login"), on_many.pop("login")) == (1, 3)
    assert on_many == on_one
    assert {name: on_one[name] for name in ("first write", "read", "write", "touch", "logout")} == {
        "first write": 1,
        "read": 1,
        "write": 1,
        "touch": 1,
        "logout": 1,
    }


def test_what_some_nodes_have_done_is_not_done_again() -> None:
    """The others do not know the script, and are sent it. A session that has ended would count as
    one that was not there."""
    with storage_at(
        shared_service(RedisCluster).url(), f"{test_storage.__name__}.ClusterCache"
    ) as storage:
        storage._server.connect().flushall()
        ids = [session_id(str(number)) for number in range(100)]
        for turn in range(2):
            for each in ids:
                storage.create(record(each), NOW)
            if turn:
                shared_service(RedisCluster).members[0].cli("script", "flush")
            assert storage.end_many(ids) == ids


def test_a_list_of_a_user_on_a_cluster_has_no_ended_session() -> None:
    """The index of users is not told of an end, and finds out when it is asked."""
    with storage_at(
        shared_service(RedisCluster).url(), f"{test_storage.__name__}.ClusterCache"
    ) as storage:
        storage._server.connect().flushall()
        ids = sorted(session_id(str(number)) for number in range(30))
        for each in ids:
            storage.create(record(each, user_id="7"), NOW)
        for each in ids[::2]:
            storage.delete(each)
        assert storage.count(NOW, "7") == 15
        assert listed(storage, "7", limit=4) == ids[1::2]
        directory = next(
            each
            for each in storage._index.builder.directories()
            if storage._server.ask("ZSCORE", each, "c") == -15 and b"}u" in each
        )
        assert storage._server.ask("ZCARD", directory + b":1") == 15


# Eviction ---------------------------------------------------------------------------------------


POLICIES = [
    "allkeys-random",
    pytest.param("allkeys-lru", marks=pytest.mark.slow),
    pytest.param("volatile-random", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_lists_are_right_on_a_server_that_evicts_keys(server: Redis, policy: str) -> None:
    client = Client(host=HOST, port=server.port)
    with storage_at(server.url()) as storage:
        store_all(storage, [record(session_id(str(n)), user_id=str(n % 50)) for n in range(4000)])
        assert storage.count(NOW, None) == 4000
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", used - 300_000)
        client.ping()
        client.config_set("maxmemory", 2 * used)
        kept = sorted(ids_in(storage._server.prefix, client.keys("*")))
        assert 1000 < len(kept) < 4000
        assert listed(storage, limit=300) == kept
        assert storage.count(NOW, None) == len(kept)
        users = {each: storage.read(each).user_id for each in kept}
        for user in map(str, range(50)):
            assert listed(storage, user, limit=9) == [one for one in kept if users[one] == user]
        assert storage.index_is_complete()
        assert storage.reindex() == len(kept)
        # Nothing leads to what is left of an evicted directory. It is evicted in turn.
        check_index(client, may_have_others=True)


# Rebuilds in parts --------------------------------------------------------------------------------

DEPLOYMENTS = pytest.mark.parametrize(
    "deployment",
    [
        pytest.param(lambda: storage_at(shared_service(Redis).url()), id="one server"),
        pytest.param(
            lambda: storage_at(
                shared_service(RedisCluster).url(), f"{test_storage.__name__}.ClusterCache"
            ),
            id="cluster",
            marks=pytest.mark.slow,
        ),
    ],
)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request looks at a thousand keys, and at those of one node of a cluster at most."""
    monkeypatch.setattr(building, "BUILD_SECONDS", 0.0)


def ask_until_built(ask: Callable[[], Any]) -> tuple[Any, int]:
    """Return the answer, and how many requests have gone without one."""
    reasons = list[str]()
    for _ in range(100):
        try:
            found = ask()
        except StorageUnavailable as error:
            reasons.append(str(error))
        else:
            assert all("the next request goes on with it" in each for each in reasons)
            return found, len(reasons)
    raise AssertionError(reasons[-1])


@DEPLOYMENTS
@pytest.mark.usefixtures("impatient")
def test_a_rebuild_is_shared_by_requests(deployment: Callable[[], Any]) -> None:
    """None takes so long that its worker is killed, after which the next would begin anew."""
    with deployment() as storage:
        client = storage._server.connect()
        client.flushall()
        ids = sorted(session_id(str(number)) for number in range(3500))
        for each in ids:
            storage.create(record(each, user_id="7"), NOW)
        # There is none yet that says it is complete.
        found, tries = ask_until_built(lambda: storage.count(NOW, "7"))
        assert (found, storage.count(NOW, None)) == (3500, 3500)
        assert 2 <= tries < 20
        assert listed(storage, limit=500) == ids
        assert storage.index_is_complete()
        assert client.exists(progress_key(storage._server.prefix, storage.sites()[0])) == 0


@pytest.mark.usefixtures("impatient")
def test_a_rebuild_begins_anew_on_a_server_that_was_restarted(storage: RedisStorage) -> None:
    """It goes through its keys in another order."""
    store_all(storage, [record(session_id(str(n)), site=storage.sites()[0]) for n in range(2500)])
    test_storage.lose(rb"[iu]....(:\d+)?")
    key = progress_key(storage._server.prefix, storage.sites()[0])
    with pytest.raises(StorageUnavailable):
        storage.count(NOW, None)
    progress = msgspec.msgpack.decode(raw_client().get(key), type=Progress)
    assert progress.total < 2500
    progress.servers, progress.place.cursor = ["another"], 12345
    raw_client().set(key, msgspec.msgpack.encode(progress))
    assert ask_until_built(lambda: storage.count(NOW, None))[0] == 2500
    assert storage.reindex() == 2500


@pytest.mark.usefixtures("impatient")
def test_a_rebuild_that_cannot_be_shared_is_done_at_once(
    server: Redis,
) -> None:
    """There is no memory to note how far it has come."""
    with storage_at(server.url()) as storage:
        store_all(storage, [record(session_id(str(n))) for n in range(2500)])
        server.cli("config", "set", "maxmemory-policy", "noeviction")
        server.cli("config", "set", "maxmemory", "1")
        assert storage.count(NOW, None) == 2500


def test_other_sites_have_buckets_of_their_own(storage: RedisStorage) -> None:
    ours = sorted(of_a_tag(n) for n in range(300))
    store_all(storage, [record(each, site=storage.sites()[0]) for each in ours])
    with override_settings(SECRET_KEY="of another site"):
        theirs = sorted(of_a_tag(n) for n in range(300, 600))
        store_all(storage, [record(each, site=storage.sites()[0]) for each in theirs])
        assert listed(storage, limit=100) == theirs
        assert storage.end_many(ours[:2]) == []
    with override_settings(SECRET_KEY="of another site", SECRET_KEY_FALLBACKS=["tests only"]):
        assert listed(storage, limit=77) == sorted(ours + theirs)
        assert storage.count(NOW, None) == 600
