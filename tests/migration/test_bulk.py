"""``manage.py sessions move``: all sessions at once, under a site that goes on."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import islice, pairwise, product
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import caches
from django.db import OperationalError, connections
from django.test import Client, override_settings

from django_sessionstores.conf import PreviousBackend
from django_sessionstores.core.clock import now
from django_sessionstores.core.records import session_id
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.migration import bulk, sources
from django_sessionstores.testing import DAY, at
from tests import ROOT
from tests.cases import CACHE_ALIAS, Engine
from tests.management.test_sessions import Terminal, typed
from tests.migration.previous_backends import (
    DJANGO,
    OURS,
    after,
    at_django,
    before,
    django_store,
    empty_django,
    empty_folder,
    migrating,
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PATIENCE", 0.05)


@pytest.fixture
def old() -> Iterator[None]:
    """Django's database engine, empty, as the source one."""
    with migrating(f"{DJANGO}.db"):
        yield


def move(*arguments: str, source: str = f"{DJANGO}.db") -> tuple[int, Any]:
    """Exit code and report."""
    code, output = typed("move", "--from", source, "--json", *arguments)
    return code, json.loads(re.search(r"^{.*^}", output, re.DOTALL | re.MULTILINE)[0])


def opened(path: str, **options: str) -> Any:
    return sources.open_source(PreviousBackend(path, options))


# What is moved ------------------------------------------------------------------------------------


@pytest.mark.engines(
    "file",
    "db:sqlite",
    "cache:redis-cache",
    "cached_db:redis-cache+postgresql",
    "mongodb:mongodb",
)
@pytest.mark.parametrize("name", ["db", "cached_db", "file"])
def test_all_of_djangos(engine: Engine, name: str) -> None:
    """Keys, data, users and ends; the source is empty then."""
    empty_django()
    django_store(name)
    source = opened(f"{DJANGO}.{name}")
    for entry in source.scan("", 10_000)[0]:
        source.remove(entry.locator)
    keys = [at_django(name, _auth_user_id=str(n), n=n) for n in range(7)]
    code, report = move("--batch", "3", source=f"{DJANGO}.{name}")
    assert (code, report["moved"], report["unreadable"]) == (0, 7, {})
    assert source.count() == 0
    for n, key in enumerate(keys):
        assert engine.SessionStore(key).load()["n"] == n
    assert {each.user_id for each in Inventory().iterate()} == set("0123456")
    if name == "cached_db":
        cached = caches[settings.SESSION_CACHE_ALIAS].get(f"{DJANGO[:-9]}.cached_db{keys[0]}")
        assert cached is None


@pytest.mark.engines("db:sqlite")
def test_between_engines_of_the_package(engine: Engine) -> None:
    """Records stay as they are: id, times, client; also back again."""
    empty_folder()
    session = engine.SessionStore()
    session["_auth_user_id"] = "7"
    with at(now() - DAY):
        session.save()
    before_move = engine.storage.read(session.session_id)
    for old, new in (("db", "file"), ("file", "db")):
        with override_settings(SESSION_ENGINE=f"{OURS}.{new}"), migrating(f"{OURS}.{old}"):
            code, report = move(source=f"{OURS}.{old}")
            assert (code, report["moved"]) == (0, 1)
            assert import_module(f"{OURS}.{old}").SessionStore.storage().count(0, None) == 0
    after_move = engine.storage.read(session.session_id)
    for field in ("payload", "user_id", "created", "last_activity", "expires", "ip"):
        assert getattr(after_move, field) == getattr(before_move, field)


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("dry_run", [True, False])
def test_an_engine_that_is_named_several_times(
    engine: Engine, tmp_path: Path, dry_run: bool
) -> None:
    """With other options each time. The sessions of the others would stay, and expire."""
    entries = [(f"{OURS}.file", {"SESSION_FILE_PATH": str(tmp_path / name)}) for name in "ab"]
    for path, options in entries:
        Path(options["SESSION_FILE_PATH"]).mkdir()
        with override_settings(SESSION_ENGINE=path, **options):
            import_module(path).SessionStore().save()
    with migrating(*entries):
        code, report = move(*["--dry-run"] * dry_run, source=f"{OURS}.file")
    assert (code, report["moved"]) == (0, 2)
    assert Inventory().count() == (0 if dry_run else 2)


@pytest.mark.engines("file")
def test_what_is_counted(engine: Engine, old: None) -> None:
    """Nothing is lost in silence: what stays where it was has a reason, and an exit code."""
    from django.contrib.sessions.models import Session

    empty_django()
    good, dead, odd, there = (at_django("db") for _ in range(4))
    Session.objects.filter(pk=dead).update(expire_date="2020-01-01T00:00Z")
    Session.objects.filter(pk=odd).update(session_data="abc")
    engine.SessionStore(there).load()
    Session.objects.create(pk=there, session_data="x", expire_date="2090-01-01T00:00Z")
    Session.objects.filter(pk=there).update(session_data=Session.objects.get(pk=good).session_data)
    expected = {
        "moved": 1,
        "already_there": 1,
        "expired": 1,
        "ended": 0,
        "unreadable": {"its signature is of another SECRET_KEY, or it was altered": 1},
    }
    assert move("--dry-run") == (1, expected)
    assert Session.objects.count() == 4
    code, output = typed("move", "--from", f"{DJANGO}.db")
    assert code == 1
    assert re.search(r"^Moved +1$", output, re.MULTILINE), output
    assert re.search(r"^  its signature is .+ +1$", output, re.MULTILINE), output
    assert "CommandError: 1 session cannot be moved." in output
    assert {row.pk for row in Session.objects.all()} == {dead, odd}
    assert good not in output
    assert odd not in output
    assert move() == (1, {**expected, "moved": 0, "already_there": 0})


@pytest.mark.engines("file")
def test_a_session_too_large_for_the_target(
    engine: Engine, old: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays, and is counted."""
    empty_django()
    key = at_django("db", text=secrets.token_hex(200))
    monkeypatch.setattr(engine.storage, "max_payload", 100)
    assert move()[1]["unreadable"] == {"it is too large": 1}
    monkeypatch.undo()
    assert engine.SessionStore(key).load() != {}


@pytest.mark.engines("file")
def test_the_source_is_read_a_batch_at_a_time(engine: Engine, old: None) -> None:
    """100,000 sessions do not fit into memory, nor into one transaction."""
    empty_django()
    for _ in range(5):
        at_django("db")
    source = opened(f"{DJANGO}.db")
    limits: list[int] = []
    scan = source.scan
    source.scan = lambda cursor, limit: (limits.append(limit), scan(cursor, limit))[1]
    outcomes = bulk.move(source, engine.storage, 2)
    assert list(islice(outcomes, 2)) == ["moved", "moved"]
    assert limits == [2]
    assert list(outcomes) == ["moved"] * 3
    assert limits == [2, 2, 2]


@pytest.mark.engines("file")
def test_progress_on_a_terminal(engine: Engine, old: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe does not get any."""
    empty_django()
    for _ in range(3):
        at_django("db")
    monkeypatch.setattr("django_sessionstores.management.reports._PATIENCE", 0)
    code, output = typed("move", "--from", f"{DJANGO}.db", screen=Terminal())
    assert code == 0
    assert "] 3 of 3" in output
    at_django("db")
    assert "] 1 of" not in typed("move", "--from", f"{DJANGO}.db")[1]


# Under a site that goes on ------------------------------------------------------------------------


def moved_while(engine: Engine, hook: Any, name: str, action: Any) -> dict[str, int]:
    """Return the outcomes of a move during which something happens around a call of the source."""
    source = opened(f"{DJANGO}.db")
    with hook(source, name, action):
        outcomes = list(bulk.move(source, engine.storage, 10))
    return {outcome: outcomes.count(outcome) for outcome in outcomes}


@pytest.fixture(
    params=product(["old", "new"], ["scan", "claim"], [before, after]),
    ids=lambda param: f"{param[0]}-{param[1]}-{param[2].__name__}",
)
def move_during(
    request: pytest.FixtureRequest, engine: Engine, old: None
) -> Callable[[Callable[[Any], object]], str]:
    """Return a function that moves a session while a view uses it, and returns its key.

    The view is called at each point of the move, in a worker with either backend.
    """
    worker, point, hook = request.param
    if (worker, point, hook) == ("old", "claim", after):
        pytest.skip("The session is not there any more for a worker with the previous backend")
    empty_django()
    key = at_django("db", _auth_user_id="7")
    store = django_store("db") if worker == "old" else engine.SessionStore

    def move(view: Callable[[Any], object]) -> str:
        moved_while(engine, hook, point, lambda: view(store(key)))
        return key

    return move


@pytest.mark.engines("file", "cache:redis-cache", "cached_db:locmem+sqlite", "mongodb:mongodb")
def test_a_logout_during_the_move_wins(engine: Engine, move_during: Any) -> None:
    """Whichever engine the worker is on, and wherever the move is."""

    def log_out(session: Any) -> None:
        assert session.load() != {}
        session.flush()

    key = move_during(log_out)
    assert engine.SessionStore(key).load() == {}
    assert opened(f"{DJANGO}.db").find(key) is None


@pytest.mark.engines("file", "db:sqlite")
@pytest.mark.parametrize("is_damaged", [True, False], ids=["damaged", "too large"])
def test_a_save_during_the_move_that_the_target_cannot_keep(
    engine: Engine, old: None, is_damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session stays where it was, and is counted with the reason."""
    from django.contrib.sessions.models import Session

    empty_django()
    key = at_django("db", _auth_user_id="7")
    monkeypatch.setattr(engine.storage, "max_payload", 1000)

    def save() -> None:
        if is_damaged:
            Session.objects.filter(pk=key).update(session_data="abc")
            return
        session = django_store("db")(key)
        session["text"] = "".join(map(str, range(1000)))
        session.save()

    (reason,) = moved_while(engine, before, "claim", save)
    assert ("it was altered" if is_damaged else "it is too large") in reason
    assert Session.objects.filter(pk=key).exists()
    assert engine.storage.read(session_id(key)) is None


@pytest.mark.engines(
    *("file", "cache:redis-cache", "cache:memcached+sqlite"),
    *("cached_db:locmem+sqlite", "mongodb:mongodb"),
)
def test_a_save_during_the_move_is_not_lost(engine: Engine, move_during: Any) -> None:
    """The save does not log out its user, either."""

    def save(session: Any) -> None:
        session["saved"] = True
        session.save()

    key = move_during(save)
    session = engine.SessionStore(key)
    assert (session.load().get("_auth_user_id"), session.get("saved")) == ("7", True)
    assert opened(f"{DJANGO}.db").find(key) is None


@pytest.mark.engines("db:sqlite")
def test_a_save_during_the_move_keeps_the_lineage(engine: Engine, old: None) -> None:
    """The entry of a registry has it, and may stay as it is while the data is replaced."""
    empty_django()
    key = at_django("db", _auth_user_id="7")
    lineages: list[str] = []

    def save() -> None:
        lineages.append(engine.storage.read(session_id(key)).lineage)
        session = django_store("db")(key)
        session["saved"] = True
        session.save()

    moved_while(engine, before, "claim", save)
    moved = engine.storage.read(session_id(key))
    assert engine.SessionStore(key).load()["saved"]
    assert lineages[0] == moved.lineage != moved.id


@pytest.mark.engines("file")
def test_a_request_that_migrates_at_the_same_time(engine: Engine, old: None) -> None:
    """It has stored the session and not yet removed it: the move leaves that to it."""
    empty_django()
    key = at_django("db")
    with before(opened_source(), "remove", lambda: list_moved(engine)):
        assert engine.SessionStore(key).load() != {}
    assert engine.SessionStore(key).load() != {}


def opened_source() -> Any:
    from django_sessionstores.migration import lazy

    return lazy.sources()[0]


def list_moved(engine: Engine) -> None:
    assert list(bulk.move(opened(f"{DJANGO}.db"), engine.storage, 10)) == ["already_there"]


@pytest.mark.engines("db:sqlite")
def test_a_request_while_a_session_of_the_package_is_being_removed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the session was there is a tombstone then, for a moment. It is not of a logout."""
    session = engine.SessionStore()
    session["x"] = 1
    session.save()
    empty_folder()
    old_storage = engine.storage
    with override_settings(SESSION_ENGINE=f"{OURS}.file"), migrating(f"{OURS}.db"):
        store = import_module(f"{OURS}.file").SessionStore
        monkeypatch.setattr(type(old_storage), "delete", lambda *args: None)

        def move_all() -> None:
            list(bulk.move(opened(f"{OURS}.db"), store.storage(), 10))

        with before(opened_source(), "find", move_all):
            assert store(session.session_key).load() == {"x": 1}


@pytest.mark.engines("file")
def test_two_moves_at_once(engine: Engine, old: None) -> None:
    """Neither of them treats the work of the other as a logout."""
    empty_django()
    keys = [at_django("db") for _ in range(20)]
    first = bulk.move(opened(f"{DJANGO}.db"), engine.storage, 5)
    second = bulk.move(opened(f"{DJANGO}.db"), engine.storage, 7)
    for _ in first:
        next(second, None)
    list(second)
    assert all(engine.SessionStore(key).load() for key in keys)


@pytest.mark.engines("file")
def test_a_move_while_another_one_is_removing(engine: Engine, old: None) -> None:
    """Between store and removal the session is in both; it is the first one's to remove."""
    empty_django()
    key = at_django("db")
    second = bulk.move(opened(f"{DJANGO}.db"), engine.storage, 10)
    assert moved_while(engine, before, "claim", lambda: next(second)) == {"moved": 1}
    assert list(second) == []
    assert engine.SessionStore(key).load() != {}


# Killed -------------------------------------------------------------------------------------------

KILLED = """
import os, signal
from tests.cases import attach
with attach({case!r}):
    from django.test import override_settings
    from django_sessionstores.conf import PreviousBackend
    from django_sessionstores.migration.sources import open_source
    from django_sessionstores.migration import bulk
    from django_sessionstores.backends.{engine} import SessionStore
    source, calls = open_source(PreviousBackend({path!r}, {{}})), []
    claim = source.claim
    def killed(*args):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return claim(*args)
    source.claim = killed
    list(bulk.move(source, SessionStore.storage(), 2))
"""


@pytest.mark.engines("file", "cache:redis-cache")
@pytest.mark.parametrize("name", ["db", "file"])
def test_a_killed_move_is_run_again(engine: Engine, name: str) -> None:
    """Killed between the store and the removal of a session, by a signal that nothing handles."""
    empty_django()
    django_store(name)
    path = f"{DJANGO}.{name}"
    source = opened(path)
    for entry in source.scan("", 10_000)[0]:
        source.remove(entry.locator)
    keys = [at_django(name, n=n) for n in range(9)]
    code = KILLED.format(case=engine.id, engine=engine.name, path=path)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert source.count() == 9 - 3
    assert sum(engine.storage.lookup(session_id(key)) is not None for key in keys) == 4
    code_, report = move(source=path)
    assert (code_, report["moved"], report["already_there"]) == (0, 5, 1)
    assert source.count() == 0
    assert [engine.SessionStore(key).load()["n"] for key in keys] == list(range(9))


@pytest.mark.engines("file")
def test_an_outage_in_the_middle(
    engine: Engine, old: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how far it came, and that it can be run again."""
    empty_django()
    for _ in range(4):
        at_django("db")
    create, calls = engine.storage.create, []

    def fail(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise StorageUnavailable("away")
        return create(*args)

    monkeypatch.setattr(engine.storage, "create", fail)
    code, output = typed("move", "--from", f"{DJANGO}.db")
    assert code == 1
    assert "away 2 sessions moved so far. Run the command again" in output
    monkeypatch.undo()
    assert move()[1]["moved"] == 2
    monkeypatch.setattr(
        "django.db.models.query.QuerySet._fetch_all",
        lambda *args: (_ for _ in ()).throw(OperationalError("secret")),
    )
    code, output = typed("move", "--from", f"{DJANGO}.db")
    assert code == 1
    assert "A previous backend" in output
    assert "secret" not in output


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.engines("file")
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "--from"),
        (["--from", "nothing.there"], 1, "--from nothing.there cannot be used"),
        (["--from", "tests.cases"], 1, "neither a session backend of Django nor"),
        (["--from", f"{DJANGO}.cache"], 1, "cannot list its sessions"),
        (["--from", f"{DJANGO}.signed_cookies"], 1, "MIGRATE_FROM"),
        (["--from", f"{OURS}.cookie"], 1, "cannot list its sessions"),
        (["--from", f"{OURS}.file"], 1, "would log their users out"),
        (["--from", f"{OURS}.memory"], 1, "are in the memory of each process"),
        (["--from", f"{DJANGO}.db", "--to", f"{DJANGO}.cache"], 1, "digests of the session keys"),
        (["--from", f"{DJANGO}.db", "--to", f"{OURS}.cookie"], 1, "only a request can store one"),
        (
            ["--from", f"{DJANGO}.db", "--to", f"{OURS}.memory"],
            1,
            "are in the memory of each process",
        ),
        (["--from", f"{DJANGO}.db", "--to", "nothing.there"], 1, "--to nothing.there"),
        (["--from", f"{OURS}.db", "--to", f"{OURS}.cached_db"], 1, "nothing to move"),
        (["--from", f"{DJANGO}.cached_db", "--from-cache", "none"], 1, "CACHES does not have"),
        (["--from", f"{DJANGO}.db", "--batch", "0"], 2, "whole number of 1 or more"),
    ],
    ids=[
        *("no source", "unknown source", "no engine", "djangos cache", "signed cookies"),
        *("cookie", "in use", "memory", "back to djangos", "to cookie", "to memory"),
        *("unknown target", "same table", "unknown alias", "batch"),
    ],
)
def test_what_cannot_be_moved(
    engine: Engine, arguments: list[str], code: int, says: str, capsys: Any
) -> None:
    """Nothing was touched, and the text says what to do instead."""
    empty_django()
    key = at_django("db")
    session = engine.SessionStore()
    session["x"] = 1
    session.save()
    found, output = typed("move", *arguments)
    assert (found, says in " ".join((output + capsys.readouterr().err).split())) == (code, True)
    assert opened(f"{DJANGO}.db").find(key) is not None
    assert engine.SessionStore(session.session_key).load() == {"x": 1}


# A site under load --------------------------------------------------------------------------------


class Browsers:
    """Threads that use a site without a pause, each with a session of its own."""

    def __init__(self, number: int) -> None:
        self._stop = threading.Event()
        self.problems: list[str] = []
        self.clients = [Client() for _ in range(number)]
        self.counts = [0] * number

    def log_in(self) -> None:
        for client in self.clients:
            client.get("/login/ada/")

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Requests all the while, and two of each after the end."""
        self._stop.clear()
        # A client keeps the engine that it was made with, as a worker does.
        clients = []
        for client in self.clients:
            clients.append(Client())
            clients[-1].cookies = client.cookies
        self.clients = clients
        threads = [
            threading.Thread(target=self._use, args=(number,)) for number in range(len(clients))
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _use(self, number: int) -> None:
        client, rest = self.clients[number], 2
        try:
            while rest:
                rest -= self._stop.is_set()
                self.counts[number] += 1
                key = f"k{self.counts[number]}"
                client.get(f"/write/{key}/1/")
                if client.get("/who/").content != b"ada":
                    self.problems.append(f"browser {number} is logged out")
                    return
        except Exception as error:  # noqa: BLE001
            self.problems.append(repr(error))
        finally:
            connections.close_all()

    def lost(self) -> list[str]:
        """Which of the written keys are in no session any more."""
        return [
            f"{number}: {key}"
            for number, client in enumerate(self.clients)
            for key in (f"k{n + 1}" for n in range(self.counts[number]))
            if key not in client.get("/read/").json()
        ]


@pytest.mark.engines("cached_db:redis-cache+postgresql")
def test_a_site_under_load_moves_and_nobody_notices(engine: Engine, user: Any) -> None:
    """The site moves from Django's ``cached_db`` to ``cache`` on Redis, then to ``cached_db``, and
    back."""
    from django.contrib.sessions.models import Session

    empty_django()
    entry = settings.CACHES[CACHE_ALIAS]
    aliases = {
        **settings.CACHES,
        **{name: {**entry, "KEY_PREFIX": name} for name in ("for_cache", "for_copies")},
    }
    browsers = Browsers(4)
    steps = [
        (f"{DJANGO}.cached_db", CACHE_ALIAS),
        (f"{OURS}.cache", "for_cache"),
        (f"{OURS}.cached_db", "for_copies"),
        (f"{OURS}.cache", "for_cache"),
    ]
    with override_settings(CACHES=aliases):
        with override_settings(SESSION_ENGINE=steps[0][0]):
            browsers.log_in()
            idle = [at_django("cached_db", _auth_user_id="8") for _ in range(10)]
        for (old_engine, old_alias), (new_engine, new_alias) in pairwise(steps):
            source = (old_engine, {"SESSION_CACHE_ALIAS": old_alias})
            with (
                override_settings(SESSION_ENGINE=new_engine, SESSION_CACHE_ALIAS=new_alias),
                migrating(source),
            ):
                with browsers.busy():
                    code, report = move("--batch", "5", source=old_engine)
                assert browsers.problems == []
                assert (code, report["unreadable"], report["ended"]) == (0, {}, 0)
                assert browsers.lost() == []
            # The previous backend is not needed any more.
            with override_settings(SESSION_ENGINE=new_engine, SESSION_CACHE_ALIAS=new_alias):
                store = import_module(new_engine).SessionStore
                assert [key for key in idle if not store(key).load()] == []
                assert Inventory().count() == 4 + len(idle)
        assert Session.objects.count() == 0
    assert all(count >= 6 for count in browsers.counts)


@pytest.mark.engines("cache:redis-cache", "mongodb:mongodb")
def test_one_server_under_two_names(engine: Engine) -> None:
    """No setting says so. Each session would be taken for what a killed run had left behind."""
    session = engine.SessionStore()
    session["cart"] = ["apple"]
    session.save()
    path = engine.SessionStore.__module__
    entry = settings.CACHES.get(CACHE_ALIAS, {})
    old = {**entry, "LOCATION": str(entry.get("LOCATION")).replace("127.0.0.1", "localhost")}
    address = {"MONGODB_DATABASE": "sessions", "MONGODB_URI": ""}
    if engine.name == "mongodb":
        address["MONGODB_URI"] = settings.SESSIONSTORES["MONGODB_URI"].replace(
            "127.0.0.1", "localhost"
        )
    named = address if engine.name == "mongodb" else {"SESSION_CACHE_ALIAS": "old"}
    with override_settings(CACHES={**settings.CACHES, "old": old}), migrating((path, named)):
        code, output = typed("move", "--from", path)
        assert (code, "there is nothing to move" in " ".join(output.split())) == (1, True), output
        assert engine.SessionStore(session.session_key).load() == {"cart": ["apple"]}
        assert Inventory().count() == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"MIGRATE_FROM": [f"{OURS}.file"]}, "there is nothing to move"),
        ({}, "Name the previous backend"),
    ],
)
def test_to_the_cookie_engine_only_requests_move(options: dict[str, Any], says: str) -> None:
    """The command says what to do, which is nothing if the settings are right."""
    with override_settings(SESSION_ENGINE=f"{OURS}.cookie", SESSIONSTORES=options):
        code, output = typed("move", "--from", f"{OURS}.file")
    assert code == 1
    assert says in " ".join(output.split())
