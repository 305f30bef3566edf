"""MongoDB: what its commands do, and how many there are."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import bson
import pymongo
import pytest
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.core.management import CommandError, call_command
from django.test import Client, override_settings
from msgspec.structs import replace
from pymongo.server_api import ServerApi

from django_sessionstores.core.records import Record, State, draw_key, make_tombstone, session_id
from django_sessionstores.core.summary import Numbers, UserCount
from django_sessionstores.exceptions import (
    PayloadTooLarge,
    StorageUnavailable,
    UnreadablePayload,
)
from django_sessionstores.inventory import Inventory
from django_sessionstores.inventory.session_info import session_info
from django_sessionstores.operations.doctor.diagnosis import diagnose
from django_sessionstores.storages.base import LITTER_AGE, Conflict, Gone, Taken, Updated
from django_sessionstores.storages.mongodb import storage as storage_module
from django_sessionstores.storages.mongodb.indexes import GRACE, existing, models
from django_sessionstores.storages.mongodb.storage import MongoDBStorage
from django_sessionstores.testing import StorageContract, now, successor
from tests.cases import Engine
from tests.services import MongoDB, shared_service, wait_until
from tests.storages.mongodb.stores import DATABASE, failing, observer, run_in_mongo, storage_at
from tests.storages.records import (
    HOUR,
    ID,
    assert_threads_lose_no_save,
    assert_touch_never_shortens,
    make_record,
)

COLLECTION = "django_sessionstores"
DAY = 24 * HOUR
NAMES = ["sessionstores_expires", "sessionstores_user", "sessionstores_live"]


@pytest.fixture(params=["replica set", "single server"], scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[MongoDB]:
    if request.param == "replica set":
        yield shared_service(MongoDB)
    else:
        with MongoDB(replica_set="") as server:
            yield server


@pytest.fixture
def storage(server: MongoDB) -> Iterator[MongoDBStorage]:
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    with storage_at(server) as storage:
        storage.make_indexes()
        observer.clear()
        yield storage


class Purging(MongoDBStorage):
    """Is held to what a purge has to do, although the server removes what has expired."""

    self_expiring = False


DAMAGES: dict[str, dict[str, Any]] = {
    "no creation": {"created": None},
    "no activity": {"last_activity": "yesterday"},
    "version is text": {"version": "7"},
    "version is not a number": {"version": math.nan},
    "version is infinite": {"version": math.inf},
    "version is a boolean": {"version": True},
    "version is a moment": {"version": DatetimeMS(1)},
    "begun at infinity": {"created": math.inf},
    "origin is text": {"origin": "abc"},
    "origin is a moment": {"origin": DatetimeMS(5)},
    "user is not a number": {"user_id": math.nan},
    "users": {"user_id": ["7", 8]},
    "payload is text": {"payload": "text"},
    "client is a number": {"ip": 7, "user_agent": [7]},
    "client is not UTF-8": {"user_agent": "not UTF-8", "user_id": "7"},
    "begun before the epoch": {"created": DatetimeMS(-(2**62))},
    "begun in the future": {"created": DatetimeMS(2**62)},
}


def damage(storage: Any, session_id: str, change: dict[str, Any]) -> None:
    """Change a document as an editor of the collection may, or a damaged disk."""
    name = {"_id": bytes.fromhex(session_id)}
    document = bson.encode({**collection(storage).find_one(name), **change})
    # What the client does not send.
    document = document.replace(b"not UTF-8", b"\xff" * 9)
    options = collection(storage).codec_options.with_options(document_class=RawBSONDocument)
    collection(storage).replace_one(name, RawBSONDocument(document, options))


def scan_all(storage: Any, limit: int, user_id: str | None) -> list[Record]:
    found, cursor = list[Record](), ""
    for _ in range(100):
        page = storage.scan(cursor, limit, user_id)
        found += page.records
        cursor = page.next
        if not cursor:
            return found
    raise AssertionError("The list does not end.")


class TestContract(StorageContract):
    @pytest.fixture(autouse=True)
    def _ready(self, storage: MongoDBStorage) -> None:
        self.storage = Purging(storage._server, "here")

    def damage(self, session_id: str) -> None:
        damage(self.storage, session_id, {"created": None, "user_agent": 7})


class TestContractAwaited(TestContract):
    awaited = True


def collection(storage: Any) -> Any:
    return storage._server.collection()


# The number of commands ---------------------------------------------------------------------------


def test_each_call_is_one_command(storage: MongoDBStorage) -> None:
    base, new = make_record(), make_record(session_id(draw_key()))
    changed = successor(base)
    tombstone = make_tombstone(ID, State.SUPERSEDED, now=now(), seconds=60, successor=new.id)
    for call, command in (
        (lambda: storage.create(base, now()), "insert"),
        (lambda: storage.read(ID), "find"),
        (lambda: storage.update(changed, base, now()), "update"),
        (lambda: storage.touch(changed, changed.expires + 1, now(), now()), "update"),
        (lambda: storage.rotate(new, changed, tombstone, now()), "update"),
        (lambda: storage.scan("", 200, None), "find"),
        (lambda: storage.lookup_many([ID, new.id]), "find"),
        (lambda: storage.count(now(), "7"), "aggregate"),
        (lambda: storage.delete(new.id), "delete"),
    ):
        observer.clear()
        call()
        assert observer.commands == [command]
    observer.clear()
    storage.numbers(now(), 5)
    assert observer.commands == ["ping", "aggregate"]


def test_a_page_is_one_command_however_long(storage: MongoDBStorage) -> None:
    """The server returns 101 documents at first, unless it is told otherwise."""
    for number in range(250):
        storage.create(make_record(f"{number:040x}"), now())
    observer.clear()
    page = storage.scan("", 249, None)
    assert len(page.records) == 249
    assert page.next
    assert observer.commands == ["find"]


class LostRace(deque[str]):
    """What another thread removes as soon as this one has looked."""

    def __contains__(self, item: object) -> bool:
        is_found = super().__contains__(item)
        self.clear()
        return is_found


def test_threads_end_what_was_not_confirmed(
    storage: MongoDBStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_unconfirmed", LostRace([ID]))
    assert storage.delete(ID)
    assert not storage.delete(ID)


def test_many_sessions_end_in_three_commands(storage: MongoDBStorage) -> None:
    ids = [f"{number:040x}" for number in range(300)]
    for each in ids:
        storage.create(make_record(each), now())
    observer.clear()
    assert set(storage.end_many(ids)) == set(ids)
    assert observer.commands == ["update", "find", "delete"]
    assert collection(storage).count_documents({}) == 0


@pytest.mark.engines("mongodb:mongodb")
@pytest.mark.django_db
def test_the_commands_of_requests(engine: Engine, client: Any, django_user_model: Any) -> None:
    """As the documentation promises: a login takes two, and no request connects anew."""
    from django.contrib.auth import HASH_SESSION_KEY

    user = django_user_model.objects.create_user("anna", password="x")
    store = engine.SessionStore()
    store["seen"] = 1
    store.save()
    observer.clear()

    visitor = engine.SessionStore(store.session_key)
    assert visitor["seen"] == 1
    assert observer.commands == ["find"]
    visitor.cycle_key()
    visitor[SESSION_KEY] = str(user.pk)
    visitor[HASH_SESSION_KEY] = user.get_session_auth_hash()
    visitor.save()
    assert observer.commands == ["find", "update"]

    observer.clear()
    reader = engine.SessionStore(visitor.session_key)
    reader["cart"] = [1]
    reader.save()
    assert observer.commands == ["find", "update"]

    observer.clear()
    engine.SessionStore(visitor.session_key).flush()
    assert len(observer.commands) <= 2
    assert observer.connections == 0


# Compare and set ----------------------------------------------------------------------------------


def test_threads_lose_no_save(storage: MongoDBStorage) -> None:
    assert_threads_lose_no_save(storage, threads=8, saves=10)


def test_a_touch_never_shortens(storage: MongoDBStorage) -> None:
    base = make_record()
    storage.create(base, now())
    assert_touch_never_shortens(storage, base)


def test_a_save_that_was_carried_out_before_is_no_conflict(storage: MongoDBStorage) -> None:
    """Its answer was lost, and the caller, or a client without transactions, sends it again."""
    base = make_record()
    assert isinstance(storage.create(base, now()), Updated)
    assert isinstance(storage.create(base, now()), Updated)
    changed = successor(base, payload=b"changed")
    assert isinstance(storage.update(changed, base, now()), Updated)
    assert isinstance(storage.update(changed, base, now()), Updated)
    other = replace(changed, payload=b"of another request")
    assert storage.update(other, base, now()) == Conflict(storage.read(ID))


def test_another_session_under_the_same_id_is_taken(storage: MongoDBStorage) -> None:
    storage.create(make_record(), now())
    assert isinstance(storage.create(make_record(payload=b"other"), now()), Taken)


@pytest.mark.parametrize("state", [State.ENDED, State.SUPERSEDED, State.ROTATED])
def test_no_write_replaces_a_tombstone(storage: MongoDBStorage, state: State) -> None:
    """Neither a late save, nor a rotation to its id, nor a new session."""
    base = make_record()
    storage.create(base, now())
    tombstone = make_tombstone(ID, state, now=now(), seconds=60, nonce=7)
    storage.update(tombstone, base, now())
    other = make_record("b" * 40)
    storage.create(other, now())

    assert isinstance(storage.update(successor(base), base, now()), Conflict)
    assert not storage.touch(base, base.expires + 1, now(), now())
    assert isinstance(storage.create(make_record(), now()), Taken)
    leads = make_tombstone(other.id, State.SUPERSEDED, now=now(), seconds=60, successor=ID)
    assert isinstance(storage.rotate(make_record(), other, leads, now()), Taken)
    assert not storage.delete(ID)
    assert storage.end_many([ID]) == []
    assert storage.read(ID) == tombstone
    assert storage.read(other.id) == other


def test_a_save_of_a_session_that_is_being_ended_with_others(storage: MongoDBStorage) -> None:
    """Between the commands that mark the sessions and remove them."""
    base = make_record(payload=b"long enough to be taken for the id of a successor")
    storage.create(base, now())
    ask, outcomes = storage._server.ask, []

    def and_save(name: str, *args: Any, **options: Any) -> Any:
        if name == "delete_many":
            storage._server.ask = ask  # type: ignore[method-assign]
            outcomes.append(storage.update(successor(base), base, now()))
            outcomes.append(storage.read(ID))
        return ask(name, *args, **options)

    storage._server.ask = and_save  # type: ignore[method-assign]
    assert storage.end_many([ID]) == [ID]
    conflict, held = outcomes
    assert isinstance(conflict, Conflict)
    assert (held.state, held.successor) == (State.ENDED, "")
    assert storage.read(ID) is None
    assert isinstance(storage.update(successor(base), base, now()), Gone)


# Lost answers -------------------------------------------------------------------------------------


def _failing_after(server: MongoDB, *commands: str, times: int = 1) -> Any:
    """Let commands be carried out, and their answers be lost."""
    return failing(
        server,
        times,
        failCommands=list(commands),
        # It is carried out, and what follows is what a primary says that steps down meanwhile.
        writeConcernError={"code": 91, "errmsg": "down", "errorLabels": ["RetryableWriteError"]},
    )


def test_a_repeated_write_is_no_conflict() -> None:
    """With retryWrites, which is the default, the client sends a write once more."""
    server = shared_service(MongoDB)
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    # Nothing changes on the server that would tell the client that it may go on.
    impatient = f"{server.url()}&heartbeatFrequencyMS=500"
    with storage_at(server, MONGODB_URI=impatient) as storage:
        storage.read(ID)
        base, new = make_record(), make_record("b" * 40)
        changed = successor(base, payload=b"changed")
        tombstone = make_tombstone(ID, State.SUPERSEDED, now=now(), seconds=60, successor=new.id)
        for call, command in (
            (lambda: storage.create(base, now()), "insert"),
            (lambda: storage.update(changed, base, now()), "update"),
            (lambda: storage.rotate(new, changed, tombstone, now()), "update"),
        ):
            observer.clear()
            with _failing_after(server, command):
                assert isinstance(call(), Updated)
            assert observer.commands == [command] * 2
        observer.clear()
        with _failing_after(server, "delete"):
            assert storage.delete(new.id) is True
        assert observer.commands == ["delete"] * 2
        assert storage.read(ID) == tombstone


# Removal ------------------------------------------------------------------------------------------


def test_the_server_removes_what_has_expired() -> None:
    """An hour later, in case its clock is ahead."""
    parameters = {"ttlMonitorEnabled": "true", "ttlMonitorSleepSecs": "1"}
    with MongoDB(**parameters) as server, storage_at(server) as storage:
        storage.make_indexes()
        long_ago = now() - GRACE * 1000 - 1
        records = {
            "a" * 40: make_record("a" * 40, expires=long_ago),
            "b" * 40: make_record("b" * 40, expires=now() - 1),
            "c" * 40: make_record("c" * 40),
            "d" * 40: make_tombstone("d" * 40, State.ENDED, now=long_ago - 1000, seconds=1),
        }
        for each in records.values():
            storage.create(each, each.expires - HOUR)
        wait_until(lambda: storage.read("a" * 40) is None, "the server removes it")
        wait_until(lambda: storage.read("d" * 40) is None, "the server removes the tombstone")
        assert storage.read("b" * 40) is not None
        assert storage.read("c" * 40) is not None


def test_a_purge_removes_what_is_not_a_record(storage: MongoDBStorage) -> None:
    """It has no moment at which the server would remove it."""
    documents = collection(storage)
    documents.insert_many([{"_id": b"x" * 20, "expires": "never"}, {"_id": b"y" * 20}])
    storage.create(make_record(), now())
    assert storage.purge(now(), 10) == 2
    assert documents.count_documents({}) == 1


def test_a_purge_leaves_alone_what_others_store(storage: MongoDBStorage) -> None:
    """By mistake, in the same collection. The doctor says so."""
    storage.create(make_record(expires=now() - 1), now() - HOUR)
    assert not storage.has_other_content()
    ids = ["a" * 20, b"x", b"x" * 21, bson.ObjectId(), 7, {"of": b"x" * 20}]
    for each in ids:
        collection(storage).insert_one({"_id": each, "text": "of another package"})
        assert storage.has_other_content()
    assert storage.purge(now() + LITTER_AGE, 100) == 1
    assert collection(storage).count_documents({}) == len(ids)
    with override_settings(SESSION_ENGINE=ENGINE):
        (said,) = [each for each in diagnose(storage).findings if each.id.endswith("W044")]
    assert "documents that are not sessions" in said.message
    assert said.hint.startswith("Set SESSIONSTORES['MONGODB_COLLECTION'] to")


def test_a_purge_leaves_other_sites_alone_for_a_while(storage: MongoDBStorage) -> None:
    storage.create(make_record(site=77, expires=now() - 1), now() - HOUR)
    assert storage.purge(now(), 10) == 0
    assert storage.purge(now() + LITTER_AGE, 10) == 1


# Documents ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_document_stops_nothing(storage: MongoDBStorage, change: dict[str, Any]) -> None:
    """It is listed with its user, as far as it can be, and can be ended."""
    ids = ["b" * 40, ID, "c" * 40]
    for number, each in enumerate(ids):
        storage.create(make_record(each, user_id="7", expires=now() + HOUR - number * 1000), now())
    damage(storage, ID, change)
    with suppress(UnreadablePayload):
        storage.read(ID)
    for user_id in (None, "7"):
        found = scan_all(storage, 1, user_id)
        is_listed = user_id is None or change != DAMAGES["user is not a number"]
        assert [each.id for each in found] == [each for each in ids if each != ID or is_listed]
        for each in found:
            session_info(each, now())
    assert storage.lookup_many(ids).keys() == set(ids)
    assert storage.summarize(now(), 10).live == 3
    assert storage.count(now(), None) == 3
    assert set(storage.end_many(ids)) == set(ids)
    assert collection(storage).count_documents({}) == 0


@pytest.mark.parametrize(
    "expires",
    [
        *("soon", None, DatetimeMS(2**62)),
        # Of several values, one puts it at the beginning of a list, and another one on each page.
        *([DatetimeMS(2**61), 3], [DatetimeMS(5), DatetimeMS(2**50)]),
    ],
    ids=str,
)
def test_a_damaged_expiry_stops_no_list(storage: MongoDBStorage, expires: Any) -> None:
    damaged = [ID, "d" * 40, "e" * 40]
    ids = ["b" * 40, *damaged, "c" * 40]
    for each in ids:
        storage.create(make_record(each, user_id="7"), now())
    for each in damaged:
        damage(storage, each, {"expires": expires})
    for limit in (1, 2, 5):
        for user_id in ("7", None):
            listed = [each.id for each in scan_all(storage, limit, user_id)]
            assert sorted(listed) == ["b" * 40, "c" * 40]
    assert storage.purge(now(), 2) + storage.purge(now(), 2) + storage.purge(now(), 2) == 3
    storage.end_many(ids)
    assert collection(storage).count_documents({}) == 0


def test_what_is_not_a_session_is_not_listed(storage: MongoDBStorage) -> None:
    storage.create(make_record(user_id="7"), now())
    document = collection(storage).find_one()
    for key in (5.5, "text", b"short", bson.ObjectId()):
        collection(storage).insert_one({**document, "_id": key})
    assert [each.id for each in storage.scan("", 10, None).records] == [ID]
    assert [each.id for each in storage.scan("", 10, "7").records] == [ID]


@pytest.mark.parametrize(
    "change",
    [
        {"payload": 5},
        {"payload": None},
        {"version": "many"},
        {"version": 5.5},
        {"version": -1},
        {"version": True},
        {"version": DatetimeMS(1)},
        {"state": False},
        {"state": DatetimeMS(0)},
        {"site": False},
        {"site": DatetimeMS(0)},
        {"created": DatetimeMS(-1)},
        {"last_activity": -1},
        {"site": 2**40},
        {"state": 9},
        {"expires": "soon"},
        {"expires": 10**15},
        {"user_id": 7},
        {"origin": "x"},
        {"site": None},
    ],
    ids=str,
)
def test_a_damaged_document_is_unreadable(storage: MongoDBStorage, change: dict[str, Any]) -> None:
    storage.create(make_record(), now())
    storage.create(make_record("b" * 40), now())
    damage(storage, ID, change)
    with pytest.raises(UnreadablePayload):
        storage.read(ID)
    assert storage.lookup_many([ID, "b" * 40]).keys() - {ID} == {"b" * 40}


@pytest.mark.engines("mongodb:mongodb")
@pytest.mark.django_db(transaction=True)
def test_a_damaged_session_of_a_user(engine: Engine, django_user_model: Any) -> None:
    """A login, the end of one session by its user, and a change of the password go on."""
    user = django_user_model.objects.create_user("anna", password="x")
    options = {**settings.SESSIONSTORES, "MAX_SESSIONS": 3}
    with override_settings(SESSIONSTORES=options):
        clients = [Client() for _ in range(5)]
        for each in clients[:3]:
            each.force_login(user)
        inventory = Inventory()
        oldest = session_id(clients[0].session.session_key)
        damage(engine.storage, oldest, {"created": None})
        assert inventory.get(oldest) is not None
        clients[3].force_login(user)
        assert inventory.count(user=user) <= 3
        damaged = session_id(clients[3].session.session_key)
        damage(engine.storage, damaged, {"version": "7"})
        assert damaged in {each.id for each in inventory.list(user=user).sessions}
        assert inventory.end(damaged, user=user)
        clients[4].force_login(user)
        damage(engine.storage, session_id(clients[4].session.session_key), {"origin": 5})
        user.set_password("new")
        # Sessions that are still open in this test are kept, as those of a request.
        user.save()
        live = inventory.count(user=user)
        assert live
        assert inventory.end_all(user) == live
        assert inventory.count(user=user) == 0


def test_an_entry_of_a_list_has_the_size_in_place_of_the_payload(storage: MongoDBStorage) -> None:
    storage.create(make_record(payload=b"p" * 5000), now())
    observer.clear()
    (entry,) = storage.scan("", 10, None).records
    assert (entry.payload, entry.size) == (b"", 5000)
    assert storage.lookup_many([ID])[ID].size == 5000


def test_a_session_that_is_too_large(storage: MongoDBStorage) -> None:
    largest = make_record(payload=b"p" * storage.max_payload)
    assert isinstance(storage.create(largest, now()), Updated)
    too_large = successor(largest, payload=b"p" * (17 * 1024 * 1024))
    with pytest.raises(PayloadTooLarge, match="Store less in the session"):
        storage.update(too_large, largest, now())
    with pytest.raises(PayloadTooLarge):
        storage.create(replace(too_large, id="b" * 40), now())
    assert storage.read(ID) == largest


def test_a_login_session_is_small(storage: MongoDBStorage) -> None:
    storage.create(
        make_record(payload=b"", user_id="7", ip="192.0.2.1", origin="b" * 40, created=now()),
        now(),
    )
    assert len(bson.encode(collection(storage).find_one())) <= 250


# Numbers ------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_records(storage: MongoDBStorage) -> None:
    """Of this site, and of users and visitors who are there."""
    assert storage.numbers(now(), 3) == Numbers(live=0, logged_in=0, expired=0, top_users=[])
    users = ["7", "7", "7", "", "", "12", "12", "12", "12", "9", None, None]
    records = [make_record(f"{n:040x}", user_id=user) for n, user in enumerate(users)]
    records += [make_record(f"{n + 20:040x}", user_id="9", expires=now() - n) for n in range(5)]
    records.append(make_record("a" * 40, user_id="7", site=77))
    for each in records:
        storage.create(each, now() - HOUR)
    storage.update(make_tombstone(f"{9:040x}", State.ENDED, now=now(), seconds=60), records[9], 0)
    collection(storage).insert_one({"_id": b"x", "state": 0, "site": 0, "user_id": 7})
    assert storage.numbers(now(), 3) == Numbers(
        live=11,
        logged_in=9,
        expired=6,
        top_users=[UserCount("12", 4), UserCount("7", 3), UserCount("", 2)],
    )


# Indexes ------------------------------------------------------------------------------------------


def plans(server: MongoDB, command: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the stages by which the server carries out the statements of a command."""
    name = next(iter(command))
    known = ("q", "u", "filter", "query", "pipeline", "sort", "hint", "limit", "projection")
    known += ("collation",)
    many = ("updates", "deletes")
    statements = next((command[each] for each in many if each in command), [command])
    found = []
    for each in statements:
        question = {name: command[name]}
        if each is command:
            question |= {key: command[key] for key in known if key in command}
            question |= {"cursor": {}} if name == "aggregate" else {}
        else:
            # Otherwise an update of several documents is one of a single document.
            question |= {next(key for key in many if key in command): [each]}
        said = run_in_mongo(server, {"explain": question, "verbosity": "queryPlanner"}, DATABASE)
        found += _plans_in(said)
    return found


def _plans_in(said: Any) -> Iterator[dict[str, Any]]:
    if isinstance(said, list):
        for each in said:
            yield from _plans_in(each)
    elif isinstance(said, dict):
        if "winningPlan" in said:
            yield said["winningPlan"]
        else:
            yield from _plans_in(list(said.values()))


def test_all_that_requests_and_lists_do_uses_indexes(
    server: MongoDB, storage: MongoDBStorage
) -> None:
    records = []
    for number in range(400):
        fields = {"user_id": str(number % 5), "expires": now() + HOUR + number}
        record = make_record(session_id(draw_key()), **fields)
        records.append(record)
        storage.create(record, now())
    expired = make_record(expires=now() - 1)
    storage.create(expired, now() - HOUR)
    base, ids = records[0], [each.id for each in records]
    tombstone = make_tombstone(base.id, State.SUPERSEDED, now=now(), seconds=60, successor=ID)
    page = storage.scan("", 3, None)
    for call in (
        lambda: storage.read(base.id),
        lambda: storage.update(successor(base), base, now()),
        lambda: storage.touch(base, now() + DAY, now(), now()),
        lambda: storage.rotate(make_record("b" * 40), base, tombstone, now()),
        lambda: storage.delete(ids[1]),
        lambda: storage.lookup_many(ids[2:]),
        lambda: storage.end_many(ids[2:300]),
        lambda: storage.scan(page.next, 3, None, now()),
        lambda: storage.scan("", 3, "3", now()),
        lambda: storage.count(now(), None),
        lambda: storage.count(now(), "3"),
        lambda: storage.purge(now(), 10),
        lambda: storage.summarize(now(), 3),
        lambda: storage.has_other_content(),
    ):
        observer.clear()
        call()
        assert observer.events
        for event in observer.events:
            for plan in plans(server, event.command):
                assert "COLLSCAN" not in str(plan)
                assert "'SORT'" not in str(plan)  # It would read all of them for each page.


def test_the_sessions_of_a_batch_are_found_by_their_ids(storage: MongoDBStorage) -> None:
    """Among very many, the server would read the index of all that have expired for each batch."""
    expired, live = make_record(expires=now() - 1), make_record("b" * 40)
    for each in (expired, live):
        storage.create(each, now() - HOUR)
    observer.clear()
    assert storage.purge(now(), 10) == 1
    assert len(storage.end_many([live.id])) == 1
    first, second, third = [each.command for each in observer.events if each.command_name != "find"]
    assert first["deletes"][0]["hint"] == second["updates"][0]["hint"] == {"_id": 1}
    assert third["deletes"][0]["q"].keys() == {"_id", "ended_by"}  # No other index has these.


def test_sessions_in_a_clustered_collection(server: MongoDB) -> None:
    """Its only index by the id has the name that its makers gave it."""
    clustered = {"key": {"_id": 1}, "unique": True, "name": "by_id"}
    name = "clustered"
    run_in_mongo(server, {"create": name, "clusteredIndex": clustered}, DATABASE)
    with storage_at(server, MONGODB_COLLECTION=name) as storage:
        storage.make_indexes()
        storage.create(make_record(), now())
        storage.create(make_record("b" * 40), now())
        assert storage.summarize(now(), 10).live == 2
        assert storage.end_many([ID]) == [ID]
        assert storage.purge(now() + 2 * HOUR, 10) == 1
    run_in_mongo(server, {"drop": name}, DATABASE)


def test_all_sessions_are_counted_without_reading_them(
    server: MongoDB, storage: MongoDBStorage
) -> None:
    for number in range(30):
        storage.create(make_record(f"{number:040x}", expires=now() + HOUR), now())
    observer.clear()
    assert storage.count(now(), None) == 30
    for event in observer.events:
        for plan in plans(server, event.command):
            assert "COUNT_SCAN" in str(plan)
            assert "FETCH" not in str(plan)


def test_a_save_that_does_not_move_the_expiry_leaves_the_indexes_alone(
    storage: MongoDBStorage,
) -> None:
    fields = {
        name for keys in collection(storage).index_information().values() for name, _ in keys["key"]
    }
    assert fields == {"_id", "expires", "user_id", "state", "site"}


def test_migrate_makes_the_indexes(server: MongoDB, db: None) -> None:
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    with storage_at(server) as storage, override_settings(SESSION_ENGINE=ENGINE):
        assert len(storage.missing_indexes()) == 3
        call_command("migrate", verbosity=0)
        assert storage.missing_indexes() == []
        made = collection(storage).index_information()["sessionstores_expires"]
        assert made["expireAfterSeconds"] == GRACE


ENGINE = "django_sessionstores.backends.mongodb"


def test_reindex_makes_the_indexes(server: MongoDB, capsys: Any) -> None:
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    with storage_at(server) as storage, override_settings(SESSION_ENGINE=ENGINE):
        storage.create(make_record(), now())
        call_command("sessions", "reindex")
        assert storage.missing_indexes() == []
        said = capsys.readouterr().out
        assert "Made these indexes: sessionstores_expires, sessionstores_user, " in said
        assert "1 session in the index" in said
        call_command("sessions", "reindex")
        assert "Made" not in capsys.readouterr().out


def test_the_doctor_misses_indexes(server: MongoDB) -> None:
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    with storage_at(server) as storage, override_settings(SESSION_ENGINE=ENGINE):
        (said,) = [each for each in diagnose(storage).findings if each.id.endswith("W041")]
        assert "sessionstores_expires, sessionstores_user, sessionstores_live" in said.message
        assert said.hint == "Run: python manage.py sessions reindex"
        storage.make_indexes()
        # One on the same field that removes nothing does not do.
        collection(storage).drop_index("sessionstores_expires")
        collection(storage).create_index("expires")
        assert storage.missing_indexes() == ["sessionstores_expires"]


@pytest.mark.parametrize(
    ("name", "keys", "options"),
    [
        ("x", "expires", {"expireAfterSeconds": 0}),
        ("x", "expires", {"expireAfterSeconds": 10 * 365 * 24 * 3600}),
        ("sessionstores_expires", "expires", {"expireAfterSeconds": 60}),
        ("x", "expires", {"expireAfterSeconds": GRACE, "hidden": True}),
        ("x", "live", {"hidden": True}),
        ("sessionstores_user", "user", {}),
        ("sessionstores_live", "", {}),
    ],
    ids=str,
)
def test_an_index_in_the_way_is_named(
    server: MongoDB, name: str, keys: str, options: dict[str, Any], caplog: Any
) -> None:
    """The others are made, and it is no outage of the store."""
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    with storage_at(server) as storage:
        known = {model.document["name"]: model.document["key"] for model in models(NAMES)}
        key = list(known[f"sessionstores_{keys}"].items()) if keys else "user_id"
        collection(storage).create_index(key, name=name, **options)
        assert len(storage.missing_indexes()) == 3
        with pytest.raises(StorageUnavailable, match=rf"sessions need: {name}\. Drop") as caught:
            storage.make_indexes()
        assert "dropIndex" in str(caught.value)
        with (
            override_settings(SESSION_ENGINE=ENGINE),
            pytest.raises(CommandError, match=r"^The store of sessions could not do this: MongoDB"),
        ):
            call_command("sessions", "reindex")
        assert len(storage.missing_indexes()) == 1
        assert caplog.records == []
        collection(storage).drop_index(name)
        assert len(storage.make_indexes()) == 1
        assert storage.missing_indexes() == []


@pytest.mark.parametrize(
    "options",
    [
        {"expireAfterSeconds": GRACE, "partialFilterExpression": {"state": 2}},
        {"expireAfterSeconds": GRACE, "sparse": True},
        {"expireAfterSeconds": GRACE, "unique": True},
        {},
    ],
    ids=str,
)
def test_an_index_with_other_options_does_not_do(server: MongoDB, options: dict[str, Any]) -> None:
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    with storage_at(server) as storage:
        collection(storage).create_index("expires", name="x", **options)
        assert "sessionstores_expires" in storage.missing_indexes()


def test_an_index_with_a_longer_grace_does(server: MongoDB) -> None:
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    with storage_at(server) as storage:
        collection(storage).create_index("expires", name="x", expireAfterSeconds=2 * GRACE)
        assert storage.make_indexes() == ["sessionstores_user", "sessionstores_live"]
        assert storage.missing_indexes() == []


def test_users_differ_by_case_whatever_the_collection_says(server: MongoDB) -> None:
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    with storage_at(server) as storage:
        database = collection(storage).database
        database.create_collection(COLLECTION, collation={"locale": "en", "strength": 1})
        storage.make_indexes()
        assert storage.missing_indexes() == []
        for number, user_id in enumerate(("aBc", "AbC", "abc")):
            storage.create(make_record(f"{number:040x}", user_id=user_id), now())
        collection(storage).drop_index("sessionstores_live")
        observer.clear()
        assert len(storage.scan("", 10, "aBc").records) == 1
        assert storage.count(now(), "AbC") == 1
        for event in observer.events:
            assert "sessionstores_user" in str(plans(server, event.command))
        assert storage.numbers(now(), 5).top_users == [
            UserCount(each, 1) for each in ("AbC", "aBc", "abc")
        ]
        # An index that compares as the collection does is another one.
        collection(storage).drop_index("sessionstores_user")
        key = [("user_id", 1), ("expires", -1), ("_id", -1)]
        partial = {"state": 0, "user_id": {"$exists": True}}
        collection(storage).create_index(key, name="y", partialFilterExpression=partial)
        assert storage.make_indexes() == ["sessionstores_user", "sessionstores_live"]


def test_a_unique_index_of_others_is_named(storage: MongoDBStorage) -> None:
    """As another package makes it. Each document without the field has the same value."""
    collection(storage).create_index("session_key", unique=True)
    record = make_record()
    storage.create(record, now())
    assert isinstance(storage.create(make_record(payload=b"other"), now()), Taken)
    new = make_record("b" * 40)
    tombstone = make_tombstone(ID, State.SUPERSEDED, now=now(), seconds=60, successor=new.id)
    for call in (
        lambda: storage.create(new, now()),
        lambda: storage.rotate(new, record, tombstone, now()),
    ):
        with pytest.raises(StorageUnavailable, match="Drop the index session_key_1, or name"):
            call()


def test_an_index_that_is_being_built_is_missing() -> None:
    server = shared_service(MongoDB)
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    point = {"configureFailPoint": "hangAfterStartingIndexBuild"}
    with storage_at(server) as storage, storage_at(server) as other, ThreadPoolExecutor(1) as pool:
        storage.create(make_record(), now())
        run_in_mongo(server, {**point, "mode": "alwaysOn"})
        try:
            making = pool.submit(storage.make_indexes)
            wait_until(lambda: len(existing(other._server)) == 4, "the server builds them")
            assert len(collection(other).index_information()) == 4
            assert len(other.missing_indexes()) == 3
        finally:
            run_in_mongo(server, {**point, "mode": "off"})
        assert len(making.result()) == 3
        assert other.missing_indexes() == []


def test_indexes_are_made_with_the_strict_api(
    server: MongoDB, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Which has no field for indexes that are being built."""
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    api = ServerApi("1", strict=True, deprecation_errors=True)
    with pymongo.MongoClient(server.url(), server_api=api) as client:
        monkeypatch.setattr(storage_module, "strict_client", client, raising=False)
        path = f"{storage_module.__name__}.strict_client"
        with storage_at(None, MONGODB_URI="", MONGODB_CLIENT=path) as storage:
            storage.create(make_record(), now())
            assert len(storage.make_indexes()) == 3
            assert storage.missing_indexes() == []
    assert caplog.records == []


def test_migrate_goes_on_without_the_server(db: None, caplog: pytest.LogCaptureFixture) -> None:
    """The migrations are done, and a deployment must not stop for this."""
    with (
        MongoDB() as server,
        storage_at(server, DATABASE_TIMEOUT=0.3),
        override_settings(SESSION_ENGINE=ENGINE),
    ):
        server.kill()
        call_command("migrate", verbosity=0)
    assert "manage.py sessions reindex" in caplog.text


def test_a_summary_counts_all_sessions(storage: MongoDBStorage) -> None:
    for number in range(20):
        storage.create(make_record(session_id(draw_key()), user_id=str(number % 2)), now())
    assert storage.summarize(now(), 100).live == 20
    assert not storage.summarize(now(), 5).is_whole
