"""What the doctor asks each store and node, what it says of their faults, and what it leaves."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest import mock

import msgspec
import pytest
from django.conf import settings
from django.db import connections, transaction
from django.test import override_settings
from django.utils import translation
from pymemcache.client.base import Client as MemcachedClient

from django_sessionstores.core.phrases import Phrase
from django_sessionstores.core.records import Record
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.models import SessionStatistics, StoredSession
from django_sessionstores.operations.checks.configuration import parts
from django_sessionstores.operations.doctor import Diagnosis, ask_stores, diagnose, summary
from django_sessionstores.operations.doctor import probe as probes
from django_sessionstores.operations.doctor import stores as asking
from django_sessionstores.operations.doctor.tasks import Tasks
from django_sessionstores.storages.base import Storage
from django_sessionstores.storages.files.storage import FileStorage
from django_sessionstores.storages.memory import MemoryStorage
from django_sessionstores.testing import DAY, at, observed
from tests.cases import Engine
from tests.services import Redis

REDIS_CACHE: Final = "django.core.cache.backends.redis.RedisCache"
OURS: Final = "django_sessionstores.middleware.SessionMiddleware"
SECONDS: Final = 0.4
"""The timeout of clients."""


@pytest.fixture(autouse=True)
def _no_other_findings() -> Iterator[None]:
    with override_settings(SESSION_COOKIE_SECURE=True, SESSION_COOKIE_AGE=3600, MIDDLEWARE=[OURS]):
        yield


def examine(engine: Engine) -> Diagnosis:
    """Return what the command finds."""
    return diagnose(engine.storage, writes=True)


def make_folders(engine: Engine) -> None:
    """Make the folders of sessions, which the doctor does not do."""
    for part in parts(engine.storage):
        if isinstance(part, FileStorage):
            os.makedirs(part._folder.path, mode=0o700, exist_ok=True)


# How each store is asked --------------------------------------------------------------------------


@pytest.mark.engines("memory", "db:sqlite")
def test_opening_a_connection_is_not_measured(engine: Any) -> None:
    """It takes longer than a round trip, and sessions keep their connections."""
    events: list[str] = []

    def clock() -> float:
        events.append("clock")
        return events.count("lookup") * 0.250125

    with (
        observed(engine.storage, before=events.append),
        mock.patch.object(time, "perf_counter", clock),
    ):
        (store,) = ask_stores(engine.storage)
    assert events == ["lookup", "clock", "lookup", "clock"]
    assert store.milliseconds == 250.125


def test_a_sound_store_is_written_and_left_as_it_was(engine: Engine) -> None:
    """Each of its nodes. Nothing is stored in the memory of this process, which only it can see."""
    make_folders(engine)
    found = examine(engine)
    assert found.problems == 0, found.findings
    for store in found.stores:
        assert (store.error, store.write_obstacle, store.size_obstacle) == ("", "", "")
        assert store.is_probed is (
            "memory of" not in store.description and "LocMem" not in store.description
        )
    redis = engine.servers.get(Redis)
    if isinstance(redis, Redis):
        assert redis.cli("--scan", "--pattern", "*sessionstores*") == ""
    if engine.name == "file":
        assert [each for each in engine.file_path.rglob("*") if len(each.name) == 40] == []
    if engine.case.database is not None:
        assert list(StoredSession._base_manager.using(engine.database)) == []
    if engine.storage.lists:
        assert Inventory().count() == 0


def test_the_page_in_the_admin_writes_nothing(engine: Engine) -> None:
    """It is read with GET, and as often as somebody likes."""
    with observed(*parts(engine.storage)) as calls:
        found = diagnose(engine.storage)
    assert set(calls) <= {"lookup"}
    assert not any(store.is_probed for store in found.stores)


@pytest.mark.engines("cache:memcached-nodes")
def test_each_node_is_written(engine: Engine) -> None:
    """A key is drawn for each of them, because the node follows from the key."""
    before = [_stores_of_node(address) for address in engine.server().addresses]
    stores = ask_stores(engine.storage, writes=True)
    after = [_stores_of_node(address) for address in engine.server().addresses]
    # Added, changed, touched, changed, touched, ended.
    assert [each - other for each, other in zip(after, before, strict=True)] == [6, 6, 6]
    assert sorted(store.node for store in stores) == sorted(engine.server().addresses)
    assert all(store.is_probed for store in stores)


def _stores_of_node(address: str) -> int:
    host, _, port = address.partition(":")
    with closing(MemcachedClient((host, int(port)))) as client:
        return int(client.stats()[b"cmd_set"])


class Nodes(MemoryStorage):
    """A store of several nodes, each of which answers when a test lets it."""

    shared = True

    def __init__(self, *names: str, answer: Callable[[str], object]) -> None:
        super().__init__(1000)
        self._names = names
        self._answer = answer

    def nodes(self) -> dict[str, str]:
        return {name: f"{number:040x}" for number, name in enumerate(self._names)}

    def lookup(self, session_id: str) -> Record | None:
        self._answer(self._names[int(session_id, 16)])
        return super().lookup(session_id)


def test_all_nodes_are_asked_at_the_same_time() -> None:
    """So it takes as long as the slowest one, and not as all of them together."""
    together = threading.Barrier(5)
    storage = Nodes(*"abcde", answer=lambda node: together.wait(30))
    assert [store.node for store in ask_stores(storage) if not store.error] == [*"abcde"]


def test_a_node_that_never_answers_does_not_hold_up_the_doctor() -> None:
    """Its client may have no timeout. The others are shown as they are."""
    end = threading.Event()
    storage = Nodes(*"abc", answer=lambda node: node != "b" or end.wait(60))
    with mock.patch.object(asking, "_MARGIN", 9.0), mock.patch.object(asking, "SECONDS", 10.0):
        a, b, c = ask_stores(storage, writes=True)
    assert (a.is_probed, b.is_probed, c.is_probed) == (True, False, True)
    assert "not answered within 10 seconds" in b.error
    assert "timeout in CACHES or DATABASES" in b.error
    assert not end.is_set()
    end.set()


def test_the_threads_know_the_tenant_and_the_language() -> None:
    """A KEY_FUNCTION may look into a variable of the context, and pages have a language."""
    tenant, seen = ContextVar[str]("tenant"), list[str]()

    def answer(node: str) -> None:
        seen.append(tenant.get())
        if node == "b":
            raise StorageUnavailable(Phrase("Load more"))

    tenant.set("shop")
    with translation.override("de"):
        a, b = ask_stores(Nodes("a", "b", answer=answer))
    assert {*seen} == {"shop"}
    assert a.error == ""
    assert b.error == "Weiter suchen"
    assert a.description.startswith("Arbeitsspeicher")


def test_a_process_can_end_while_a_store_does_not_answer() -> None:
    """The threads of an executor would keep it from ending."""
    with Tasks(30) as tasks:
        running = tasks.result(tasks.start(threading.current_thread))
    assert running is not None
    assert running.daemon


# Databases ----------------------------------------------------------------------------------------


@pytest.mark.engines("db:sqlite", "db:postgresql", "db:mariadb")
def test_it_uses_the_connection_of_its_caller(engine: Engine) -> None:
    """A transaction may be open on it, and a project may have told it which tenant it is for."""
    alias = engine.database
    with transaction.atomic(alias):
        StoredSession._base_manager.using(alias).create(
            id=b"0" * 20,
            payload=b"",
            version=1,
            state=0,
            created=0,
            last_activity=0,
            expires=0,
            site=1,
        )
        driver, seen = connections[alias].connection, list[Any]()
        with observed(engine.storage, before=lambda _: seen.append(connections[alias].connection)):
            (store,) = ask_stores(engine.storage)
        assert seen == [driver, driver]
        assert examine(engine).problems == 0
        assert StoredSession._base_manager.using(alias).count() == 1
        assert not connections[alias].allow_thread_sharing
        transaction.set_rollback(True, alias)
    assert store.milliseconds is not None


@pytest.mark.engines("db:postgresql")
def test_a_connection_that_waits_is_not_used_again(engine: Engine) -> None:
    """Otherwise the next query of this thread would wait as well, or get the other's answer."""
    engine.storage.read("0" * 40)
    left, end = connections[engine.database], threading.Event()
    with (
        mock.patch.object(asking, "SECONDS", 0.2),
        observed(engine.storage, before=lambda _: end.wait(60)),
    ):
        (store,) = ask_stores(engine.storage)
    assert store.error
    assert connections[engine.database] is not left
    assert engine.storage.read("0" * 40) is None
    end.set()


@pytest.mark.engines("cached_db:redis-cache+postgresql")
def test_a_thread_closes_the_connections_that_it_opened(engine: Engine) -> None:
    del connections[engine.database]
    with Tasks(30) as tasks:
        opened = tasks.result(tasks.start(lambda: _open(engine.database)))
        assert opened is not None
        wait_for = tasks.start(lambda: None)
        tasks.result(wait_for)
    assert opened.connection is None


def _open(alias: str) -> Any:
    connections[alias].ensure_connection()
    return connections[alias]


# What is stored for the test ----------------------------------------------------------------------


@contextmanager
def killed_in_between() -> Iterator[None]:
    """Leave the record where it is, as the doctor does if it is killed."""

    @contextmanager
    def left(storage: Storage, session_id: str) -> Iterator[Storage]:
        yield storage.with_mark(probes.MARK)

    with mock.patch.object(probes, "_removed", left):
        yield


@pytest.mark.authoritative
def test_nobody_sees_the_record(engine: Engine) -> None:
    """It is that of no site, so no list, count, limit or end of a site includes it, even if it is
    still there."""
    make_folders(engine)
    session = engine.SessionStore()
    session["_auth_user_id"] = "7"
    session.save()
    with (
        killed_in_between(),
        mock.patch.object(probes, "_draw_record", partial(_of_user, probes._draw_record)),
    ):
        assert examine(engine).problems == 0
    if not engine.storage.lists:
        return
    inventory = Inventory()
    assert [each.id for each in inventory.list().sessions] == [session.session_id]
    assert [each.id for each in inventory.list(user=7).sessions] == [session.session_id]
    assert inventory.count() == inventory.count(user=7) == 1
    assert inventory.summarize(100).live == 1
    assert inventory.end_all(7) == 1
    assert inventory.end_everything() == 0


def _of_user(draw: Callable[[str], Record], session_id: str) -> Record:
    return msgspec.structs.replace(draw(session_id), user_id="7")


@pytest.mark.engines("db:sqlite", "file", "cache:redis-cache", "cache:memcached")
def test_a_record_that_was_left_expires(engine: Engine) -> None:
    """Stores that expire records drop it after a minute, and a purge removes it from the others
    with the litter of other sites."""
    make_folders(engine)
    (unused,) = engine.storage.nodes().values()
    with killed_in_between():
        probes.probe(engine.storage, unused)
    record = engine.storage.read(unused)
    assert record.expires - record.created <= probes.LIFETIME + 10
    if isinstance(engine.servers.get(Redis), Redis):
        key = engine.storage._server.key(unused)
        assert 0 < int(engine.server().cli("pttl", key)) <= probes.LIFETIME + 10
    if not engine.storage.self_expiring:
        with at(record.expires + 8 * DAY):
            engine.SessionStore.clear_expired()
        assert engine.storage.read(unused) is None


def test_no_signal_and_no_statistics(engine: Engine) -> None:
    """They are of sessions, and the doctor works with their storage."""
    with override_settings(SESSIONSTORES={**_options(), "STATISTICS": True}):
        examine(engine)
        assert SessionStatistics._base_manager.count() == 0


def _options() -> dict[str, Any]:

    return getattr(settings, "SESSIONSTORES", {})


@pytest.mark.engines("file", "cache:file-cache")
def test_nothing_is_stored_as_another_user(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may run the command as root. The site could not write into the folders and lock
    files that it would make then."""
    session = engine.SessionStore()
    session["a"] = 1
    session.save()
    folder = Path(engine.storage._folder.path)
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    found = examine(engine)
    assert [each.id for each in found.findings if "another user" in each.message] == [
        "sessionstores.I004"
    ]
    assert (found.problems, found.stores[0].is_probed) == (0, False)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.engines("file")
def test_no_folder_is_made(engine: Engine) -> None:
    """It would belong to whoever runs the command."""
    found = examine(engine)
    ids = {each.id for each in found.findings}
    assert ids >= {"sessionstores.W035", "sessionstores.I004"} or not found.problems
    assert list(engine.file_path.iterdir()) in ([], [engine.file_path / "django_sessionstores"])
    if found.problems:
        assert summary(found)["Stores"].endswith(": not tried, see the findings")


# What is shown ------------------------------------------------------------------------------------


@pytest.mark.engines("mongodb", "db:sqlite")
def test_only_what_there_is_has_a_line(engine: Engine) -> None:
    """An empty one would read as if sessions could not do anything, or everything."""
    found = examine(engine)
    for able in (False, True):
        fields = summary(
            msgspec.structs.replace(found, capabilities=dict.fromkeys(found.capabilities, able))
        )
        assert ("Sessions can" in fields, "Sessions cannot" in fields) == (able, not able)


@pytest.mark.engines("db:sqlite")
def test_the_policy_is_shown_as_it_is_set(engine: Engine) -> None:
    django = "django.contrib.sessions.backends"
    entries = [f"{django}.db", (f"{django}.cache", {"SESSION_CACHE_ALIAS": "default"})]
    with override_settings(SESSIONSTORES={**_options(), "MIGRATE_FROM": entries}):
        assert f"MIGRATE_FROM = {entries}" in summary(examine(engine))["Policy"].splitlines()
