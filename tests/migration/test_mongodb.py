"""Sessions are migrated from MongoDB to each engine, and to MongoDB from each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_sessionstores.conf import previous_backend
from django_sessionstores.core.clock import now
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.migration import bulk, sources
from django_sessionstores.migration.sources import OwnSource
from django_sessionstores.operations.checks.options import check_settings
from django_sessionstores.operations.checks.previous_backends import check_previous_backends
from django_sessionstores.operations.doctor import diagnose
from django_sessionstores.testing import DAY, Twin, at, suspicious_messages
from tests.cases import Engine
from tests.management.test_sessions import typed
from tests.migration.previous_backends import OURS, after, before, migrating
from tests.migration.test_bulk import Browsers
from tests.services import MongoDB, shared_service

PATH = f"{OURS}.mongodb"
LISTING = (
    "file",
    "db:sqlite",
    "cache:redis-cache",
    "cached_db:redis-cache+postgresql",
    "cached_db:locmem+mongodb",
    "mongodb:mongodb",
)
SELECTION = (
    *LISTING,
    "memory",
    "cache:memcached",
    "cache:memcached+sqlite",
    "cookie:unregistered",
    "cookie:sqlite",
    "cookie:mongodb",
)
COLLECTION = {"MONGODB_DATABASE": "previous", "MONGODB_COLLECTION": "old"}


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def in_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def mongodb(engine: Engine) -> dict[str, str]:
    """Return the settings of another collection, which is empty, than the engine may use."""
    server = shared_service(MongoDB)
    everything = [{"q": {}, "limit": 0}]
    assert server.ask({"delete": "old", "deletes": everything}, "previous")["ok"]
    return {"MONGODB_URI": server.url(), **COLLECTION}


@contextmanager
def engine_of(path: str, **options: Any) -> Iterator[type[Any]]:
    """Put another engine in force and yield its class."""
    others = getattr(settings, "SESSIONSTORES", {})
    with override_settings(SESSION_ENGINE=path, SESSIONSTORES={**others, **options}):
        yield import_module(path).SessionStore


def make(store: type[Any]) -> Any:
    """Return a session of a user that was saved yesterday."""
    session = store()
    session.update({"cart": {"apples": 1}, "_auth_user_id": "7"})
    with at(now() - DAY):
        session.save()
    return session


def assert_goes_on(store: type[Any], old: Any, in_async: bool) -> Any:
    """Assert that a session of a previous backend is found with all that is known of it."""
    session = Twin(store(old.session_key), in_async)
    assert session.load() == {"cart": {"apples": 1}, "_auth_user_id": "7"}
    record, before = session._current_state.record, old._current_state.record
    assert (record.user_id, record.created, record.expires) == ("7", before.created, before.expires)
    return session


def move(path: str) -> dict[str, Any]:
    code, output = typed("move", "--from", path, "--json", "--batch", "2")
    found = re.search(r"^{.*^}", output, re.DOTALL | re.MULTILINE)
    assert code == 0, output
    assert found is not None, output
    report: dict[str, Any] = json.loads(found[0])
    return report


# By requests --------------------------------------------------------------------------------------


@pytest.mark.engines(*SELECTION)
def test_from_mongodb(engine: Engine, mongodb: dict[str, str], in_async: bool) -> None:
    with engine_of(PATH, **mongodb) as store:
        old, ended = make(store), make(store)
    with migrating((PATH, mongodb)):
        session = assert_goes_on(engine.SessionStore, old, in_async)
        Twin(engine.SessionStore(ended.session_key), in_async).flush()
        with suspicious_messages():
            assert Twin(engine.SessionStore(ended.session_key), in_async).load() == {}
        if engine.name == "cookie":
            session.save()
        session.flush()
        if engine.name != "cookie" or engine.case.registry:
            with suspicious_messages():
                assert engine.SessionStore(old.session_key).load() == {}
    if engine.name != "cookie":
        with engine_of(PATH, **mongodb) as store:
            assert store(old.session_key).load() == {}


@pytest.mark.engines(*SELECTION)
def test_to_mongodb(engine: Engine, mongodb: dict[str, str], in_async: bool) -> None:
    old = make(engine.SessionStore)
    entry = (engine.SessionStore.__module__, now_used(engine))
    with engine_of(PATH, **mongodb, REGISTRY="") as store, migrating(entry):
        session = assert_goes_on(store, old, in_async)
        if engine.name != "cookie":
            assert session.session_key == old.session_key
        assert Inventory().count() == 1
        session.flush()
        assert store(session.session_key).load() == {}
    if engine.name != "cookie":
        assert engine.SessionStore(old.session_key).load() == {}


def now_used(engine: Engine) -> dict[str, str]:
    """Return the settings of an engine that another one replaces."""
    used = {"REGISTRY": engine.case.registry} if engine.case.registry else {}
    if engine.case.other is None:
        return used
    return {"MONGODB_COLLECTION": "django_sessionstores", **settings.SESSIONSTORES, **used}


# By the command -----------------------------------------------------------------------------------


@pytest.mark.engines(*LISTING)
def test_all_from_mongodb(engine: Engine, mongodb: dict[str, str]) -> None:
    with engine_of(PATH, **mongodb) as store:
        old = [make(store) for _ in range(5)]
    with migrating((PATH, mongodb)):
        assert move(PATH)["moved"] == 5
        assert move(PATH)["moved"] == 0
    for each in old:
        assert_goes_on(engine.SessionStore, each, in_async=False)
    assert Inventory().count() == 5
    with engine_of(PATH, **mongodb):
        assert Inventory().count() == 0


@pytest.mark.engines(*LISTING)
def test_all_to_mongodb(engine: Engine, mongodb: dict[str, str]) -> None:
    old = [make(engine.SessionStore) for _ in range(5)]
    path = engine.SessionStore.__module__
    entry = (path, now_used(engine))
    with engine_of(PATH, **mongodb, REGISTRY="") as store:
        with migrating(entry):
            assert move(path)["moved"] == 5
        for each in old:
            assert_goes_on(store, each, in_async=False)
        assert Inventory().count() == 5
    assert Inventory().count() == 0


@pytest.mark.engines("db:sqlite", "cache:redis-cache")
@pytest.mark.parametrize("point", ["scan", "claim"])
@pytest.mark.parametrize("logs_out", [True, False], ids=["logout", "save"])
def test_a_worker_on_mongodb_during_the_move(
    engine: Engine, mongodb: dict[str, str], point: str, logs_out: bool
) -> None:
    """What it does counts, after the session was read as well."""
    with engine_of(PATH, **mongodb) as store:
        key = make(store).session_key

    def work() -> None:
        with engine_of(PATH, **mongodb) as store:
            session = store(key)
            if logs_out:
                session.flush()
            else:
                session["later"] = 1
                session.save()

    source = sources.open_source(previous_backend((PATH, mongodb)))
    hook = after if point == "scan" else before
    with hook(source, point, work):
        outcomes = list(bulk.move(source, engine.storage, 10))
    found = engine.SessionStore(key).load()
    assert source.find(key) is None
    source.close()
    if logs_out:
        assert (outcomes, found) == (["ended"], {})
    else:
        assert (outcomes, found["later"], found["cart"]) == (["moved"], 1, {"apples": 1})


@pytest.mark.engines("db:sqlite")
def test_an_outage_in_the_middle_of_the_move(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command says how far it came, and goes on there when the server is back."""
    with MongoDB(replica_set="") as server:
        entry = {"MONGODB_URI": server.url(), "DATABASE_TIMEOUT": 1, **COLLECTION}
        with engine_of(PATH, **entry) as store:
            old = [make(store) for _ in range(5)]
        find_at, found = OwnSource.find_at, []

        def find_and_kill(source: OwnSource, locator: str) -> Any:
            found.append(locator)
            if len(found) == 4:
                server.kill()
            return find_at(source, locator)

        monkeypatch.setattr(OwnSource, "find_at", find_and_kill)
        del entry["DATABASE_TIMEOUT"]
        with migrating((PATH, entry), DATABASE_TIMEOUT=1):
            code, output = typed("move", "--from", PATH, "--batch", "2")
            assert code == 1
            assert "2 sessions moved so far. Run the command again" in " ".join(output.split())
            with pytest.raises(StorageUnavailable):
                _ = [engine.SessionStore(each.session_key).load() for each in old]
            monkeypatch.undo()
            server.restart()
            assert move(PATH)["moved"] == 3
        for each in old:
            assert_goes_on(engine.SessionStore, each, in_async=False)


@pytest.mark.slow
@pytest.mark.engines("db:postgresql")
def test_a_site_under_load_moves_to_mongodb_and_on(
    engine: Engine, mongodb: dict[str, str], user: Any
) -> None:
    """From a database to MongoDB, there to another collection, and back."""
    browsers = Browsers(3)
    other = {**mongodb, "MONGODB_DATABASE": "other"}
    steps: list[tuple[str, dict[str, str]]] = [
        (f"{OURS}.db", {}),
        (PATH, mongodb),
        (PATH, other),
        (f"{OURS}.db", {}),
    ]
    with engine_of(PATH, **other):
        Inventory().end_everything()
    browsers.log_in()
    for (old_path, old_options), (new_path, new_options) in pairwise(steps):
        with engine_of(new_path, **new_options), migrating((old_path, old_options)):
            with browsers.busy():
                report = move(old_path)
            assert browsers.problems == []
            assert (report["unreadable"], report["ended"]) == ({}, 0)
            assert browsers.lost() == []
        with engine_of(new_path, **new_options):
            assert Inventory().count() == 3


# Which collection ---------------------------------------------------------------------------------


@pytest.mark.engines("mongodb:mongodb")
@pytest.mark.parametrize(
    "names", [{"MONGODB_COLLECTION": "old"}, {"MONGODB_DATABASE": "previous"}, COLLECTION], ids=str
)
def test_another_collection_of_the_same_server(
    engine: Engine, mongodb: dict[str, str], names: dict[str, str]
) -> None:
    """The other settings are those of the engine in use."""
    with engine_of(PATH, **names) as store:
        Inventory().end_everything()
        old = make(store)
    with migrating((PATH, names)):
        assert check_previous_backends(None) == []
        assert_goes_on(engine.SessionStore, old, in_async=False)


@pytest.mark.engines("mongodb:mongodb")
def test_an_address_replaces_a_client_and_its_database(
    engine: Engine, mongodb: dict[str, str]
) -> None:
    """``MONGODB_DATABASE`` of now would silently win over the database of the old address."""
    options = settings.SESSIONSTORES
    server = shared_service(MongoDB)
    address = server.url().replace("/?", "/previous?")
    entry = {"MONGODB_URI": address, "MONGODB_COLLECTION": "old"}
    with engine_of(PATH, **mongodb) as store:
        old = make(store)
    client = {"MONGODB_URI": "", "MONGODB_CLIENT": f"{__name__}.client_of_now"}
    with engine_of(PATH, **{**options, **client}) as store, migrating((PATH, entry)):
        assert settings.SESSIONSTORES["MONGODB_DATABASE"]
        assert check_previous_backends(None) == []
        assert_goes_on(store, old, in_async=False)


def client_of_now() -> Any:
    from pymongo import MongoClient

    return MongoClient(shared_service(MongoDB).url())


@pytest.mark.engines("memory")
def test_copies_of_another_store(engine: Engine, mongodb: dict[str, str]) -> None:
    """``CACHED_STORE`` of the previous backend is another one than that of now."""
    path = f"{OURS}.cached_db"
    with engine_of(path, **mongodb, CACHED_STORE="mongodb") as store:
        old = make(store)
    with migrating((path, {**mongodb, "CACHED_STORE": "mongodb"})):
        assert_goes_on(engine.SessionStore, old, in_async=False)


@pytest.mark.engines("mongodb:mongodb", "cookie:mongodb", "cached_db:locmem+mongodb")
def test_the_same_collection_in_other_words(engine: Engine) -> None:
    """A move within one collection would remove what it has just stored."""
    server = shared_service(MongoDB)
    used = settings.SESSIONSTORES["MONGODB_DATABASE"]
    address = server.url().replace("mongodb://127", "mongodb://user:secret@127")
    for entry in (
        {},
        {"MONGODB_URI": address, "MONGODB_DATABASE": used},
        {"MONGODB_URI": address.replace("/?", f"/{used}?")},
    ):
        with migrating((PATH, entry)):
            found = [each for each in check_previous_backends(None) if each.id.endswith("E016")]
            (message,) = found
            assert message.hint is not None
            assert f"('{PATH}', {{'MONGODB_COLLECTION': 'old'}})" in message.hint


# What is wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"REGISTRY": "nonsense"}, "must be one of: '', 'db', 'cached_db', 'cache', 'mongodb'."),
        ({"CACHED_STORE": "file"}, "must be one of: 'db', 'mongodb'."),
        ({"MONGODB_URL": "mongodb://user:secret@h"}, "MONGODB_URI, MONGODB_CLIENT"),
        ({"MONGODB_URI": "mongodb://user:secret@h", "REGISTRY": 1}, "MONGODB_URI, MONGODB_CLIENT"),
    ],
)
def test_wrong_entries(options: dict[str, Any], says: str) -> None:
    """Nothing that is shown has a password."""
    with override_settings(SESSIONSTORES={"MIGRATE_FROM": [(PATH, options)]}):
        (message,) = check_settings(None)
    assert message.id == "sessionstores.E003"
    assert says in message.msg
    assert "secret" not in message.msg


def test_an_address_is_shown_nowhere() -> None:
    entry = (PATH, {"MONGODB_URI": "mongodb://user:secret@127.0.0.1:1/old"})
    assert "secret" not in repr(previous_backend(entry))
    with pytest.raises(ImproperlyConfigured) as caught:
        previous_backend([*entry, 3])
    assert "secret" not in str(caught.value)
    path = f"{OURS}.memory"
    with override_settings(SESSION_ENGINE=path, SESSIONSTORES={"MIGRATE_FROM": [entry]}):
        diagnosis = diagnose(import_module(path).SessionStore.own_storage())
    assert "mongodb" in str(diagnosis.policy["MIGRATE_FROM"])
    assert "secret" not in str(diagnosis)


@pytest.mark.parametrize(
    "options",
    [
        {"MONGODB_URI": "nonsense"},
        {"MONGODB_URI": "mongodb://127.0.0.1:1/a", "MONGODB_CLIENT": "a.b"},
        {"MONGODB_CLIENT": "nowhere.to_be_found"},
        {"MONGODB_CLIENT": "os.getcwd"},
        {"MONGODB_URI": "mongodb://127.0.0.1:1"},
        {"MONGODB_URI": "mongodb://127.0.0.1:1/a", "MONGODB_COLLECTION": "$"},
    ],
)
def test_what_is_wrong_with_a_previous_backend_names_its_entry(options: dict[str, str]) -> None:
    """That of the engine in use may be right."""
    now = {"MONGODB_URI": "mongodb://127.0.0.1:1/now"}
    with (
        override_settings(SESSIONSTORES={"MIGRATE_FROM": [(PATH, options)]} | now),
        pytest.raises(ImproperlyConfigured) as caught,
    ):
        sources.open_source(previous_backend((PATH, options)))
    assert f" of {PATH} in SESSIONSTORES['MIGRATE_FROM']" in str(caught.value)
    assert "SESSIONSTORES['MONGODB" not in str(caught.value)


def test_an_address_without_a_database() -> None:
    """That of the engine in use is not taken for it."""
    entry = (PATH, {"MONGODB_URI": "mongodb://127.0.0.1:1"})
    with (
        override_settings(SESSIONSTORES={"MIGRATE_FROM": [entry], "MONGODB_DATABASE": "shop"}),
        pytest.raises(ImproperlyConfigured, match="No database for sessions is named"),
    ):
        sources.open_source(previous_backend(entry))
