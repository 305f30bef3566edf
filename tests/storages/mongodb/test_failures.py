"""MongoDB while it hangs, changes its primary, is full, or refuses what is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import pymongo
import pytest
from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from pymongo.errors import ServerSelectionTimeoutError

from django_sessionstores.core import clock
from django_sessionstores.core.records import State, make_tombstone
from django_sessionstores.exceptions import StorageFull, StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.operations.checks.engine import check_engine
from django_sessionstores.operations.checks.stores import check_cache_timeouts
from django_sessionstores.operations.doctor.diagnosis import diagnose
from django_sessionstores.signals import session_ended
from django_sessionstores.storages.base import Conflict, Updated
from django_sessionstores.storages.inspection import Members
from django_sessionstores.storages.mongodb import indexes
from django_sessionstores.storages.mongodb.client import timeout_for
from django_sessionstores.storages.mongodb.faults import fault_of
from django_sessionstores.storages.mongodb.storage import from_settings
from django_sessionstores.testing import in_threads, now, successor
from tests.cases import activate, select
from tests.services import HOST, MongoDB, MongoReplicaSet, refusing_port, shared_service, wait_until
from tests.storages.mongodb.stores import DATABASE, failing, impatient, run_in_mongo, storage_at
from tests.storages.records import ID, make_record

ENGINE = "django_sessionstores.backends.mongodb"


@contextmanager
def paused(server: Any) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


# Timeouts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "awaited"])
def test_a_request_waits_no_longer_than_the_timeout(awaited: bool) -> None:
    with (
        MongoDB() as server,
        storage_at(server, STORE_RETRY=60) as storage,
        asyncio.Runner() as runner,
    ):

        def read() -> Any:
            return runner.run(storage.aread(ID)) if awaited else storage.read(ID)

        for _ in range(12):  # More than it takes to get connections of its own.
            read()
        with paused(server), impatient(storage):
            for at_least in (0.3, 0.3, 0):  # The breaker is open from then on.
                started = time.monotonic()
                with pytest.raises(StorageUnavailable, match=r"did not answer in time|in vain"):
                    read()
                assert at_least <= time.monotonic() - started < timeout_for(server.url()) / 2
            for _ in range(10):
                with pytest.raises(StorageUnavailable, match="did not wait"):
                    read()


def test_nobody_listens() -> None:
    uri = f"mongodb://{HOST}:{refusing_port()}/"
    with (
        storage_at(None, MONGODB_URI=uri, DATABASE_TIMEOUT=0.5) as storage,
        pytest.raises(StorageUnavailable, match=r"refuses connections.*the server runs"),
    ):
        storage.read(ID)


def test_a_server_that_is_back_is_used_again() -> None:
    with MongoDB() as server, storage_at(server, STORE_RETRY=0.1) as storage:
        storage.create(make_record(), now())
        server.kill()
        with impatient(storage), pytest.raises(StorageUnavailable):
            storage.read(ID)
        server.restart()
        wait_until(lambda: _answers(storage), "the storage answers", 10)
        assert storage.read(ID) is not None


@pytest.mark.parametrize("replica_set", ["sessions", ""], ids=["replica set", "single server"])
def test_a_server_that_was_restarted_fails_no_request(replica_set: str) -> None:
    """Its connections are closed, which the client finds out."""
    with MongoDB(replica_set=replica_set) as server, storage_at(server) as storage:
        record = make_record()
        storage.create(record, now())
        for _ in range(3):
            server.restart()
            changed = successor(record)
            assert isinstance(storage.update(changed, record, now()), Updated)
            server.restart()
            record = storage.read(ID)
            assert record == changed


def _answers(storage: Any) -> bool:
    try:
        storage.read(ID)
    except StorageUnavailable:
        return False
    return True


@pytest.mark.parametrize(
    ("uri", "seconds"),
    [
        ("mongodb://h/", 10),
        ("mongodb://h/?replicaSet=rs0", 15),
        ("mongodb://h:1,h:2/", 15),
        ("mongodb+srv://h.example/", 15),
    ],
)
def test_requests_wait_for_an_election_unless_told_otherwise(uri: str, seconds: float) -> None:
    """Members begin it after 10 seconds by default."""
    with override_settings(SESSIONSTORES={}):
        assert timeout_for(uri) == seconds
    for stated in (0, 3, 10):
        with override_settings(SESSIONSTORES={"DATABASE_TIMEOUT": stated}):
            assert timeout_for(uri) == stated
    if "+srv" not in uri:
        with storage_at(None, MONGODB_URI=uri) as storage:
            client = storage._server._clients.blocking()
            assert client.options.server_selection_timeout == seconds


@pytest.mark.filterwarnings("ignore:timeoutms must be")
def test_what_the_address_says_of_timeouts_counts() -> None:
    server = shared_service(MongoDB)
    for option in ("timeoutMS=0", "socketTimeoutMS=0", "timeoutMS=-1", "timeoutMS=10s"):
        uri = f"{server.url()}&{option}"
        for timeout, setting in ((3, ""), (0, "SESSIONSTORES['DATABASE_TIMEOUT']")):
            with storage_at(server, MONGODB_URI=uri, DATABASE_TIMEOUT=timeout) as storage:
                assert storage.missing_timeout() == setting
                limited = storage._server._limit(0).__class__.__name__ != "nullcontext"
                assert limited is bool(timeout)
    for option in ("timeoutMS=700", "socketTimeoutMS=700"):
        with storage_at(server, MONGODB_URI=f"{server.url()}&{option}") as storage:
            assert storage._server._limit(None).__class__.__name__ == "nullcontext"
            assert storage.missing_timeout() == ""
    uri = f"{server.url()}&connecttimeoutms=700"
    with storage_at(server, MONGODB_URI=uri, DATABASE_TIMEOUT=3) as storage:
        options = storage._server._clients.blocking().options
        assert options.pool_options.connect_timeout == 0.7
        assert options.server_selection_timeout == 3
        assert options.pool_options.wait_queue_timeout == 3


@pytest.mark.filterwarnings("ignore:Overriding setting DATABASES")
def test_a_check_says_that_there_is_no_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.core import mail

    monkeypatch.delattr(mail, "outbox", raising=False)
    server = shared_service(MongoDB)
    for timeout, ids in ((10, []), (0, ["sessionstores.W037"])):
        with (
            storage_at(server, DATABASE_TIMEOUT=timeout),
            override_settings(SESSION_ENGINE=ENGINE, DEBUG=False),
        ):
            found = check_cache_timeouts(None)
            assert [each.id for each in found] == ids
            assert all("DATABASE_TIMEOUT" in str(each.hint) for each in found)


# A replica set ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def members() -> Iterator[MongoReplicaSet]:
    # On a busy machine, members that wait for one second take each other for lost again and again.
    with MongoReplicaSet(patience=4) as servers:
        yield servers


@pytest.fixture
def replica_set(members: MongoReplicaSet) -> MongoReplicaSet:
    """Return a replica set that is empty: a record with the same id would be taken for another."""
    run_in_mongo(members.primary, {"dropDatabase": 1}, DATABASE)
    return members


def test_a_primary_that_steps_down_fails_no_request(replica_set: MongoReplicaSet) -> None:
    with storage_at(replica_set) as storage:
        storage.create(make_record(), now())
        first = replica_set.primary
        stepped = []

        def save_all() -> None:
            for _ in range(200):
                base = storage.read(ID)
                assert base is not None
                outcome = storage.update(successor(base), base, now())
                assert isinstance(outcome, Updated), outcome
                stepped.append(outcome.record.version)

        def step_down() -> None:
            wait_until(lambda: len(stepped) > 20, "saves have begun")
            run_in_mongo(first, {"replSetStepDown": 30, "secondaryCatchUpPeriodSecs": 20})

        in_threads([save_all, step_down])
        held = storage.read(ID)
        assert held is not None
        assert held.version == 201
        assert replica_set.primary is not first


def test_a_primary_that_is_lost(replica_set: MongoReplicaSet) -> None:
    """What was acknowledged is there, and nobody is signed out meanwhile."""
    with storage_at(replica_set, DATABASE_TIMEOUT=60) as storage:
        record = make_record("b" * 40)
        assert isinstance(storage.create(record, now()), Updated)
        lost = replica_set.primary
        lost.kill()
        try:
            assert storage.read(record.id) == record
            changed = successor(record)
            assert isinstance(storage.update(changed, record, now()), Updated)
            assert storage.read(record.id) == changed
        finally:
            lost.restart()
            replica_set.wait_until_whole()


def test_a_majority_that_is_missing(replica_set: MongoReplicaSet) -> None:
    """A write is not taken for done that another primary would not know of."""
    with storage_at(replica_set) as storage:
        record = make_record("c" * 40)
        storage.create(record, now())
        primary = replica_set.primary
        others = [each for each in replica_set.members if each is not primary]
        for each in others:
            each.pause()
        try:
            with impatient(storage, 1), pytest.raises(StorageUnavailable):
                storage.update(successor(record), record, now())
        finally:
            for each in others:
                each.resume()
            replica_set.wait_until_whole()


@pytest.mark.parametrize("is_dead", [True, False], ids=["dead", "hanging"])
def test_the_doctor_names_members_that_do_not_answer(
    replica_set: MongoReplicaSet, is_dead: bool
) -> None:
    """Nothing fails, and without the warning the next one would take all sessions with it."""

    def warnings() -> list[str]:
        with storage_at(replica_set) as storage:
            found = diagnose(storage, writes=True)
        assert [each.message for each in found.findings if each.breaks] == []
        return [each.message for each in found.findings if each.id == "sessionstores.W045"]

    assert warnings() == []
    down = next(each for each in replica_set.members if each is not replica_set.primary)
    if is_dead:
        down.kill()
    else:
        down.pause()
    try:
        (said,) = warnings()
    finally:
        if is_dead:
            down.restart()
        else:
            down.resume()
        replica_set.wait_until_whole()
    assert f"do not answer or do not have the data: {down.addresses[0]}. Sessions need" in said
    assert "the majority, which is 2 of 3 members" in said


def test_only_a_replica_set_has_members() -> None:
    primary = shared_service(MongoDB)
    with storage_at(primary) as storage:
        storage.read(ID)
        assert storage.members() == Members(1, [])
    direct = f"mongodb://{HOST}:{primary.port}/?directConnection=true"
    with storage_at(None, MONGODB_URI=direct) as storage:
        storage.read(ID)
        assert storage.members() is None
    with MongoDB(replica_set="") as server, storage_at(server) as storage:
        storage.read(ID)
        assert storage.members() is None


def test_indexes_are_made_while_a_member_is_down(
    replica_set: MongoReplicaSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "BUILD_SECONDS", 60)
    with storage_at(replica_set) as storage:
        storage.create(make_record(), now())
        down = next(each for each in replica_set.members if each is not replica_set.primary)
        down.kill()
        try:
            assert len(storage.make_indexes()) == 3
        finally:
            down.restart()
            replica_set.wait_until_whole()


def test_indexes_are_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "BUILD_SECONDS", 0.5)
    point = {"configureFailPoint": "hangAfterStartingIndexBuild"}
    with MongoDB() as server, storage_at(server) as storage:
        storage.create(make_record(), now())
        run_in_mongo(server, {**point, "mode": "alwaysOn"})
        with pytest.raises(StorageUnavailable, match=r"did not answer in time|Too few members"):
            storage.make_indexes()
        run_in_mongo(server, {**point, "mode": "off"})


@pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "awaited"])
def test_a_secondary_is_not_asked(replica_set: MongoReplicaSet, awaited: bool) -> None:
    """Also if the address leads to it directly. It may have sessions that have ended."""
    primary = replica_set.primary
    secondary = next(each for each in replica_set.members if each is not primary)
    with storage_at(replica_set) as storage:
        storage.create(make_record(), now())
    for server in (primary, secondary):
        uri = f"mongodb://{HOST}:{server.port}/?directConnection=true"
        with storage_at(None, MONGODB_URI=uri) as storage, asyncio.Runner() as runner:
            for _ in range(2):
                reading = nullcontext() if server is primary else pytest.raises(StorageUnavailable)
                with reading as caught:
                    if awaited:
                        runner.run(storage.aread(ID))
                    else:
                        storage.read(ID)
                if server is secondary:
                    assert "Remove directConnection from SESSIONSTORES['MONGODB_URI']" in str(
                        caught.value
                    )


def test_members_without_a_primary_are_not_taken_for_a_refusal() -> None:
    """Although one of them refuses connections, the others answer."""
    texts = {
        "server_type: Unknown": "refuses connections",
        "server_type: RSSecondary": "The replica set has no primary",
    }
    for known, meaning in texts.items():
        error = ServerSelectionTimeoutError(
            "h:1: [Errno 111] Connection refused, Timeout: 2.0s, Topology Description: <Topology"
            f"Description id: 1, servers: [<ServerDescription ('h', 2) {known}, rtt: 0.1>]>"
        )
        assert meaning in fault_of(error).meaning


def test_a_purge_waits_no_longer_than_a_request() -> None:
    with MongoDB() as server, storage_at(server) as storage:
        storage.create(make_record(expires=now() - 1), now() - 10)
        with mock.patch.object(storage._server, "_limit", wraps=storage._server._limit) as limit:
            assert storage.purge(now(), 10) == 1
        assert limit.call_args_list == [mock.call(0)] * 2  # As for all commands of requests.
        storage.create(make_record(expires=now() - 1), now() - 10)
        run_in_mongo(server, {"fsync": 1, "lock": True})
        try:
            with (
                impatient(storage),
                pytest.raises(StorageUnavailable, match="did not answer in time"),
            ):
                storage.purge(now(), 10)
        finally:
            run_in_mongo(server, {"fsyncUnlock": 1})
        with paused(server), impatient(storage), pytest.raises(StorageUnavailable):
            storage.purge(now(), 10)


def test_counting_waits_no_longer_than_a_request_for_a_server_that_is_down() -> None:
    """Counting itself may take a minute."""
    with MongoDB() as server, storage_at(server) as storage:
        storage.create(make_record(), now())
        server.kill()
        with (
            impatient(storage),
            mock.patch.object(storage._server, "_limit", wraps=storage._server._limit) as limit,
            pytest.raises(StorageUnavailable),
        ):
            storage.numbers(now(), 3)
        assert limit.call_args_list == [mock.call(0)]


# Between the two statements of a rotation ---------------------------------------------------------


@contextmanager
def killed_between_statements(server: MongoDB) -> Iterator[None]:
    """Kill a server when the first statement of an update is on its disk, before the second."""
    point = "hangDuringBatchUpdate"
    run_in_mongo(server, {"configureFailPoint": point, "mode": {"skip": 1}})

    def hangs() -> bool:
        running = server.ask({"currentOp": 1}).get("inprog", [])
        return any(each.get("failpointMsg") == point for each in running)

    def kill() -> None:
        wait_until(hangs, "the server has carried out the first statement")
        # What another client waits for is on the disk, and all that was written before.
        concern = {"w": "majority", "j": True}
        run_in_mongo(server, {"insert": "x", "documents": [{}], "writeConcern": concern}, "x")
        server.kill()

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        yield
        killed.result()


def test_a_rotation_that_its_primary_did_not_finish(replica_set: MongoReplicaSet) -> None:
    """The client sends it once more, and the next primary carries out the rest."""
    with storage_at(replica_set) as storage:
        run_in_mongo(replica_set.primary, {"dropDatabase": 1}, DATABASE)
        storage.make_indexes()
        base, new = make_record(), make_record("b" * 40)
        storage.create(base, now())
        tombstone = make_tombstone(ID, State.ROTATED, now=now(), seconds=60, successor=new.id)
        primary = replica_set.primary
        try:
            with killed_between_statements(primary):
                outcome = storage.rotate(new, base, tombstone, now())
            assert isinstance(outcome, Updated)
            assert replica_set.primary is not primary
            assert (storage.read(ID), storage.read(new.id)) == (tombstone, new)
            assert storage.count(now(), None) == 1
        finally:
            primary.restart()
            replica_set.wait_until_whole()


@pytest.mark.django_db
def test_what_is_left_of_a_login_that_nobody_finished() -> None:
    """The visitor stays, and can sign in. Nobody has the key of the session that is left."""
    (case,) = select("mongodb:mongodb")
    with activate(case, private=True) as engine:
        options = {**settings.SESSIONSTORES, "STORE_RETRY": 0}
        with override_settings(SESSIONSTORES=options):
            visitor = engine.SessionStore()
            visitor["cart"] = [1]
            visitor.save()
            key = visitor.session_key
            server = engine.server(MongoDB)
            with (
                # Long enough for the first of the statements.
                impatient(engine.storage, 5),
                killed_between_statements(server),
                pytest.raises(StorageUnavailable),
            ):
                _log_in(engine.SessionStore(key))
            server.restart()

            inventory = Inventory()
            wait_until(lambda: _answers(engine.storage), "the storage answers", 10)
            (left,) = inventory.list(user="7").sessions
            assert engine.SessionStore(key)["cart"] == [1]
            signed_in = engine.SessionStore(key)
            _log_in(signed_in)
            assert engine.SessionStore(signed_in.session_key)["cart"] == [1]
            assert inventory.count(user="7") == 2
            assert inventory.end(left.id)
            assert inventory.count(user="7") == 1
            assert engine.SessionStore(signed_in.session_key)[SESSION_KEY] == "7"


def _log_in(session: Any) -> None:
    session.cycle_key()
    session[SESSION_KEY] = "7"
    session[HASH_SESSION_KEY] = "x"
    session.save()


# What was sent ------------------------------------------------------------------------------------


def test_what_waited_for_a_server_in_vain_was_not_sent() -> None:
    """Then it is certain that nothing has changed."""
    uri = f"mongodb://{HOST}:{refusing_port()}/"
    with (
        storage_at(None, MONGODB_URI=uri, DATABASE_TIMEOUT=0.3) as storage,
        asyncio.Runner() as runner,
    ):
        base = make_record()
        tombstone = make_tombstone(ID, State.ENDED, now=now(), seconds=60)
        for call in (
            lambda: storage.update(successor(base), base, now()),
            lambda: storage.rotate(make_record("b" * 40), base, tombstone, now()),
            lambda: storage.end_many([ID]),
            lambda: storage.delete(ID),  # The breaker is open, and nobody waits.
            lambda: runner.run(storage.adelete(ID)),
        ):
            with pytest.raises(StorageUnavailable) as caught:
                call()
            assert not caught.value.was_sent


@pytest.mark.parametrize("retries", ["true", "false"])
def test_what_was_not_answered_was_sent(retries: str) -> None:
    """Although the client waits for another primary, to send it again."""
    server = shared_service(MongoDB)
    uri = f"{server.url()}&retryWrites={retries}&heartbeatFrequencyMS=500"
    with storage_at(server, MONGODB_URI=uri) as storage:
        storage.delete(ID)
        for lost in ({"closeConnection": True}, {"errorCode": 91}):
            with (
                impatient(storage, 1),
                failing(server, 100, failCommands=["delete"], **lost),
                pytest.raises(StorageUnavailable) as caught,
            ):
                storage.delete(ID)
            assert caught.value.was_sent


def test_a_server_that_is_lost_after_a_command_was_sent() -> None:
    with MongoDB() as server, storage_at(server) as storage:
        storage.create(make_record(), now())
        hang = {"failCommands": ["delete"], "blockConnection": True, "blockTimeMS": 60_000}
        point = {"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": hang}
        run_in_mongo(server, point)

        def delete() -> None:
            # Long enough for the other thread to see it at the server.
            with impatient(storage, 5), pytest.raises(StorageUnavailable) as caught:
                storage.delete(ID)
            assert caught.value.was_sent
            with impatient(storage), pytest.raises(StorageUnavailable) as caught:
                storage.delete(ID)
            assert not caught.value.was_sent

        def kill() -> None:
            wait_until(lambda: _runs(server, "delete"), "the command was sent")
            server.kill()

        in_threads([delete, kill])


def _runs(server: MongoDB, command: str) -> bool:
    """Return whether the server carries out a command of this name."""
    running = run_in_mongo(server, {"currentOp": 1})["inprog"]
    return any(command in each.get("command", {}) for each in running)


@pytest.mark.parametrize("refused", ["find_one", "find", "delete_one"])
def test_a_refusal_after_a_write_does_not_say_that_nothing_was_sent(refused: str) -> None:
    server = shared_service(MongoDB)
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    uri = f"{server.url()}&retryWrites=false"
    with storage_at(server, MONGODB_URI=uri) as storage:
        base = make_record()
        storage.create(base, now())
        ask = storage._server.ask

        def refuse(name: str, *args: Any, **options: Any) -> Any:
            if name == refused:
                refusal = StorageUnavailable("The server is not asked.")
                refusal.was_sent = False
                raise refusal
            return ask(name, *args, **options)

        storage._server.ask = refuse  # type: ignore[method-assign]
        tombstone = make_tombstone(ID, State.ENDED, now=now(), seconds=60)
        new = make_record("b" * 40)
        calls = {
            "find": lambda: storage.end_many([ID]),
            # Another request has saved the session.
            "delete_one": lambda: storage.rotate(new, successor(base), tombstone, now()),
            # Its answer is lost.
            "find_one": lambda: storage.rotate(new, base, tombstone, now()),
        }
        lost = {"failCommands": ["update"], "closeConnection": True}
        losing = failing(server, 1, **lost) if refused == "find_one" else nullcontext()
        with losing, pytest.raises(StorageUnavailable) as caught:
            calls[refused]()
        assert caught.value.was_sent


@pytest.mark.django_db
def test_a_cached_session_is_read_while_the_server_is_away() -> None:
    """Also after a save that failed, if it was not sent."""
    (case,) = select("cached_db:locmem+mongodb")
    with activate(case, private=True) as engine:
        stores = [engine.SessionStore() for _ in range(2)]
        for each in stores:
            each["seen"] = 1
            each.save()
        engine.server(MongoDB).kill()
        unknown, kept = (engine.SessionStore(each.session_key) for each in stores)
        for each in (unknown, kept):
            each["seen"] += 1
            with impatient(engine.storage.authority), pytest.raises(StorageUnavailable) as caught:
                each.save()
        assert not caught.value.was_sent
        with impatient(engine.storage.authority):
            assert engine.SessionStore(kept.session_key)["seen"] == 1


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (14031, StorageFull, "no space left on its disk (error 14031 OutOfDiskSpace). Make room"),
        (100, StorageUnavailable, "Too few members"),
        (
            13,
            StorageUnavailable,
            "rights that sessions need (error 13 Unauthorized). Give the user",
        ),
        (1, StorageUnavailable, "refuses a command (error 1 InternalError). Look at the log"),
        (13435, StorageUnavailable, "has changed its primary"),
    ],
)
def test_an_error_has_the_code_and_the_cure(
    code: int, kind: type[Exception], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = shared_service(MongoDB)
    with (
        # Else the client tries until another primary answers, or in vain.
        storage_at(server, MONGODB_URI=f"{server.url()}&retryWrites=false") as storage,
        failing(server, 1, failCommands=["insert"], errorCode=code),
        pytest.raises(StorageUnavailable) as caught,
    ):
        storage.create(make_record("d" * 40, payload=b"hush"), now())
    assert type(caught.value) is kind
    assert says in str(caught.value)
    assert "hush" not in caplog.text
    assert "d" * 8 not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "refused", "says"),
    [
        (
            {"viewOn": "others", "pipeline": []},
            {"create", "update", "delete", "end_many", "purge", "reindex"},
            "is a view, capped or a time series",
        ),
        (
            {"timeseries": {"timeField": "moment"}},
            {"create", "update", "delete", "end_many", "purge", "reindex"},
            "is a view, capped or a time series",
        ),
        # It drops sessions when it is full, so ``migrate`` must say so.
        ({"capped": True, "size": 100_000}, {"reindex"}, "is a view, capped or a time series"),
        ({"validator": {"name": {"$type": "string"}}}, {"create"}, "Remove the validator"),
    ],
    ids=["view", "time series", "capped", "validator"],
)
def test_a_collection_that_cannot_hold_sessions(
    options: dict[str, Any], refused: set[str], says: str
) -> None:
    server, record = shared_service(MongoDB), make_record()
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    run_in_mongo(server, {"create": "django_sessionstores", **options}, DATABASE)
    with storage_at(server) as storage:
        calls: dict[str, Callable[[], object]] = {
            "create": lambda: storage.create(record, now()),
            "update": lambda: storage.update(successor(record), record, now()),
            "delete": lambda: storage.delete(ID),
            "end_many": lambda: storage.end_many([ID]),
            "purge": lambda: storage.purge(now(), 100),
            "reindex": storage.reindex,
        }
        said = {}
        for name, call in calls.items():
            try:
                call()
            except StorageUnavailable as error:
                said[name] = str(error)
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    assert said.keys() == refused
    assert all(says in text and "MONGODB_COLLECTION" in text for text in said.values()), said


@pytest.mark.django_db
@pytest.mark.parametrize("refused", ["update_many", "find", "delete_many"])
def test_ends_are_told_although_a_command_fails(refused: str) -> None:
    """Once, by the first call that knows which sessions they were."""
    (case,) = select("mongodb:mongodb")
    ends = list[str]()

    def note(sender: Any, session_id: str, **facts: Any) -> None:
        ends.append(session_id)

    session_ended.connect(note)
    with activate(case) as engine:
        stores = [engine.SessionStore() for _ in range(2)]
        for each in stores:
            each["seen"] = 1
            each.save()
        ids, inventory = [each.session_id for each in stores], Inventory()
        storage = engine.storage
        ask = storage._server.ask

        def refuse(name: str, *args: Any, **options: Any) -> Any:
            if name == refused and "ended_by" in str(args):
                if name == "update_many":
                    ask(name, *args, **options)
                raise StorageUnavailable("The connection is lost.")
            return ask(name, *args, **options)

        with mock.patch.object(storage._server, "ask", refuse):
            if refused == "find":
                with pytest.raises(StorageUnavailable):
                    inventory.end_many(ids)
                assert ends == []
            else:
                assert len(inventory.end_many(ids)) == 2
        # Another call may be about to tell.
        assert inventory.end_many(ids) == []
        with clock.use(now=lambda: time.time_ns() // 10**6 + 6000):
            # They have ended, so no list has them.
            assert inventory.end_everything() == 0
            again = inventory.end_many(ids)
            assert len(again) == (2 if refused == "find" else 0)
            assert inventory.end_many(ids) == []
        assert sorted(ends) == sorted(ids)
        assert storage.purge(now() + 100 * 24 * 3_600_000, 100) == (
            2 if refused == "delete_many" else 0
        )


@pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "awaited"])
def test_an_end_that_too_few_members_confirm(awaited: bool) -> None:
    """It is not certain before they do. Then the next call says that it ended the session."""
    server = shared_service(MongoDB)
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    with storage_at(server) as storage, asyncio.Runner() as runner:
        storage.create(make_record(), now())

        def delete() -> bool:
            return runner.run(storage.adelete(ID)) if awaited else storage.delete(ID)

        lost = {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}}
        for ended in (True, False):
            with (
                failing(server, 1, failCommands=["delete"], **lost),
                pytest.raises(StorageUnavailable, match="Too few members"),
            ):
                delete()
            assert delete() is ended


def test_a_full_server_is_still_read() -> None:
    server = shared_service(MongoDB)
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    with storage_at(server) as storage:
        record = make_record()
        storage.create(record, now())
        with failing(server, 1, failCommands=["update"], errorCode=14031):
            with pytest.raises(StorageFull):
                storage.update(successor(record), record, now())
            assert storage.read(ID) == record


def test_a_rotation_whose_answer_is_lost() -> None:
    """Without retryable writes: what was stored is kept if the session has moved, or removed."""
    server = shared_service(MongoDB)
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    uri = f"{server.url()}&retryWrites=false&heartbeatFrequencyMS=500"
    with storage_at(server, MONGODB_URI=uri) as storage:
        base, new = make_record(), make_record("b" * 40)
        storage.create(base, now())
        tombstone = make_tombstone(ID, State.SUPERSEDED, now=now(), seconds=60, successor=new.id)
        lost = {"failCommands": ["update"], "writeConcernError": {"code": 91, "errmsg": "down"}}
        with failing(server, 1, **lost):
            assert isinstance(storage.rotate(new, base, tombstone, now()), Updated)
        assert (storage.read(ID), storage.read(new.id)) == (tombstone, new)

        # Another request has saved the session meanwhile, so that half of it was stored.
        other, saved = make_record("c" * 40), successor(new)
        storage.update(saved, new, now())
        with failing(server, 1, **lost), pytest.raises(StorageUnavailable):
            storage.rotate(other, new, tombstone, now())
        assert storage.read(other.id) is None
        assert storage.read(new.id) == saved

        with (
            failing(server, 1, failCommands=["update"], closeConnection=True),
            pytest.raises(StorageUnavailable),
        ):
            storage.rotate(other, saved, tombstone, now())
        assert storage.read(other.id) is None
        assert storage.read(new.id) == saved


# Rights -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[Any]:
    """A server with users. Returns a function that makes the address for one of them."""
    with MongoDB("--auth", replica_set="") as server:
        name, port = "admin", server.port
        admin = {"createUser": name, "pwd": "hush-hush", "roles": ["root"]}
        run_in_mongo(server, admin)  # Allowed from this machine as long as there are no users.
        with pymongo.MongoClient(f"mongodb://{name}:hush-hush@{HOST}:{port}/admin") as client:
            shop = client[DATABASE]
            actions = ["find", "insert", "update", "remove", "listIndexes", "createIndex"]
            where = {"db": DATABASE, "collection": "django_sessionstores"}
            shop.command(
                "createRole",
                "sessions",
                privileges=[{"resource": where, "actions": actions}],
                roles=[],
            )
            for user, roles in (
                ("few", ["sessions"]),
                ("reader", ["read"]),
                ("all", ["readWrite"]),
            ):
                shop.command("createUser", user, pwd="hush-hush", roles=roles)
        yield (
            lambda user, password="hush-hush": (
                f"mongodb://{user}:{password}@{HOST}:{port}/{DATABASE}"
            )
        )


@pytest.mark.parametrize("user", ["few", "all"])
def test_the_rights_in_the_documentation_do(guarded: Any, user: str) -> None:
    with storage_at(None, MONGODB_URI=guarded(user), MONGODB_DATABASE="") as storage:
        storage.make_indexes()
        assert storage.missing_indexes() == []
        record = make_record()
        storage.delete(ID)
        storage.create(record, now())
        changed = successor(record)
        storage.update(changed, record, now())
        storage.touch(changed, changed.expires + 1, now(), now())
        assert isinstance(storage.update(changed, record, now()), Updated | Conflict)
        assert storage.count(now(), None) == len(storage.scan("", 10, None).records) == 1
        new = make_record("b" * 40)
        tombstone = make_tombstone(ID, State.SUPERSEDED, now=now(), seconds=60, successor=new.id)
        storage.rotate(new, changed, tombstone, now())
        assert storage.end_many([new.id]) == [new.id]
        storage.purge(now() + 10**9, 10)


def test_a_missing_right_is_named(guarded: Any) -> None:
    with storage_at(None, MONGODB_URI=guarded("reader"), MONGODB_DATABASE="") as storage:
        assert storage.read(ID) is None
        with pytest.raises(StorageUnavailable) as caught:
            storage.create(make_record(), now())
    assert (
        "error 13 Unauthorized). Give the user its rights in MongoDB: db.grantRolesToUser(USER, "
        "[{role: 'readWrite', db: 'sessions'}])"
    ) in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_wrong_password_is_not_shown(guarded: Any) -> None:
    uri = guarded("all", "top-secret")
    with storage_at(None, MONGODB_URI=uri, MONGODB_DATABASE="") as storage:
        with pytest.raises(StorageUnavailable, match="refuses the user name or the pass") as caught:
            storage.read(ID)
        assert "top-secret" not in f"{caught.value}{caught.value.__cause__}{storage.describe()}"
        assert "SESSIONSTORES['MONGODB_URI']" in str(caught.value)


# Settings -----------------------------------------------------------------------------------------

NOT_A_CLIENT = object()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "Set either SESSIONSTORES['MONGODB_URI'], such as"),
        ({"MONGODB_URI": "mongodb://h/d", "MONGODB_CLIENT": "a.b"}, "and not both"),
        ({"MONGODB_URI": "http://user:hush@host/"}, "is not an address of MongoDB"),
        ({"MONGODB_URI": "mongodb://user:hu/sh@host/d"}, "is not an address of MongoDB"),
        ({"MONGODB_URI": "mongodb://user:hush@host:hush/d"}, "percent-encode"),
        ({"MONGODB_URI": "mongodb://user:h@hush/hush@h.example/d"}, "is not an address of MongoDB"),
        ({"MONGODB_URI": "mongodb://user:hush[@host/d"}, "percent-encode"),
        ({"MONGODB_URI": "mongodb://user:hush\u2100@host/d"}, "percent-encode"),
        ({"MONGODB_URI": "mongodb://user:hush@[host]/d"}, "is not an address of MongoDB"),
        ({"MONGODB_URI": "mongodb://user:hush@host/"}, "Set SESSIONSTORES['MONGODB_DATABASE']"),
        (
            {"MONGODB_URI": "mongodb://user:hush@h/d?minPoolSize=5&maxPoolSize=2"},
            "has an option that pymongo refuses: maxpoolsize, minpoolsize",
        ),
        (
            {"MONGODB_URI": "mongodb://user:hush@h/d?tls=true&tlsCAFile=/nowhere/ca.pem"},
            "names a file that cannot be used: tlscafile=/nowhere/ca.pem. Correct the path",
        ),
        (
            {"MONGODB_URI": f"mongodb://user:hush@h/d?tls=true&tlsCAFile={__file__}"},
            f"names a file that cannot be used: tlscafile={__file__}",
        ),
        ({"MONGODB_URI": "mongodb://h/d", "MONGODB_COLLECTION": "a..b"}, "MONGODB_COLLECTION"),
        ({"MONGODB_URI": "mongodb://h/d", "MONGODB_DATABASE": "a b"}, "MONGODB_DATABASE"),
        ({"MONGODB_CLIENT": "nowhere.client"}, "names something that cannot be imported"),
        ({"MONGODB_CLIENT": f"{__name__}.NOT_A_CLIENT"}, "must name a pymongo.MongoClient"),
    ],
)
@pytest.mark.filterwarnings("ignore:Unknown option")
def test_a_wrong_option_is_told(options: dict[str, Any], says: str) -> None:
    with override_settings(SESSIONSTORES=options, SESSION_ENGINE=ENGINE):
        with pytest.raises(ImproperlyConfigured) as caught:
            from_settings()
        (said,) = check_engine(None)
    assert says in str(caught.value)
    assert said.id == "sessionstores.E005"
    assert says in said.msg
    assert "hush" not in f"{caught.value}{said.msg}{said.hint}"


def test_nothing_connects_before_it_is_needed() -> None:
    """Checks and commands make the storage, also where the server is not reachable."""
    uri = f"mongodb://{HOST}:{refusing_port()}/shop"
    with override_settings(SESSIONSTORES={"MONGODB_URI": uri}, SESSION_ENGINE=ENGINE):
        started = time.monotonic()
        storage = from_settings()
        assert storage.native_async
        host = uri.split("/")[2]
        what = "collection 'django_sessionstores' of the database 'shop'"
        assert storage.describe() == f"MongoDB {host} ({what})"
        assert check_engine(None) == []
        assert time.monotonic() - started < 1
        storage.close()
