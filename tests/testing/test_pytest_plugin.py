"""The fixtures for tests of a site, on engines whose stores need no server."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import connections
from django.test import AsyncClient, Client, override_settings

from django_sessionstores.core import clock
from django_sessionstores.exceptions import CannotList, StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.testing import inner_storages
from django_sessionstores.testing.pytest_plugin import _ended_afterwards
from django_sessionstores.testing.sites import frozen_clock, sign_in, store_down
from tests import ROOT
from tests.projects import run_tests

pytest_plugins = ["django_sessionstores.testing.pytest_plugin"]

ENGINES = (
    *("memory", "file", "db:sqlite", "cache:locmem", "cached_db:locmem+sqlite"),
    "cookie:sqlite",
)

pytestmark = [
    pytest.mark.engines(*ENGINES),
    pytest.mark.usefixtures("engine", "our_middleware"),
]


@pytest.fixture
def our_middleware(engine: Any) -> Any:
    _, *others = settings.MIDDLEWARE
    ours = "django_sessionstores.middleware.SessionMiddleware"
    with override_settings(MIDDLEWARE=[ours, *others]):
        yield


def name_in(client: Any) -> str:
    """Return the name of the user who is signed in, empty if nobody is."""
    if isinstance(client, AsyncClient):
        response: Any = async_to_sync(client.get)("/async/who/")
    else:
        response = client.get("/who/")
    assert response.status_code == 200
    return str(response.content.decode())


@pytest.fixture(params=["sync", "async"])
def make_client(request: Any, signed_in: Any, async_signed_in: Any) -> Callable[..., Any]:
    """Return `signed_in`, or the same with the async fixture."""
    return signed_in if request.param == "sync" else async_to_sync(async_signed_in)


@pytest.fixture(params=["sync", "async"])
def end(request: Any, end_session: Any, async_end_session: Any) -> Callable[[Any], None]:
    """Return `end_session`, or the same with the async fixture."""
    return end_session if request.param == "sync" else async_to_sync(async_end_session)


def status_of(client: Any, path: str) -> int:
    if isinstance(client, AsyncClient):
        return int(async_to_sync(client.get)(f"/async{path}").status_code)
    return int(client.get(path).status_code)


# Clients --------------------------------------------------------------------------------------


def test_each_client_has_a_session_of_its_own(make_client: Any, user: Any) -> None:
    phone, laptop = make_client(user, cart="apple"), make_client(user)
    assert [name_in(phone), name_in(laptop)] == ["ada", "ada"]
    assert Inventory().count(user=user) == 2
    async_path = "/async/read/" if isinstance(phone, AsyncClient) else "/read/"
    get = async_to_sync(phone.get) if isinstance(phone, AsyncClient) else phone.get
    assert get(async_path).json()["cart"] == "apple"


def test_without_a_user_there_is_a_new_one(make_client: Any, user: Any) -> None:
    names = {name_in(make_client()) for _ in range(2)}
    assert len(names) == 2
    assert not names & {"ada", ""}
    found = get_user_model()._default_manager.filter(username__in=names)
    assert [each.has_usable_password() for each in found] == [False, False]


def test_a_session_that_is_split_over_cookies_is_found(
    signed_in: Any, end_session: Any, user: Any, engine: Any
) -> None:
    client = signed_in(user)
    client.get(f"/write/long/{secrets.token_hex(4000)}/")
    assert ("sessionid-1" in client.cookies) is (engine.name == "cookie")
    end_session(client)
    assert name_in(client) == ""


def test_the_sessions_end_with_the_test(user: Any, engine: Any) -> None:
    """The next user with this primary key must not have them. A database is rolled back."""
    with _ended_afterwards() as remember, frozen_clock() as frozen:
        clients = [sign_in(Client(), user) for _ in range(4)]
        for client in clients:
            remember(client)
        clients[0].get("/logout/")
        for _ in range(2):
            clients[1].get("/login/ada/")
        frozen.advance(days=15)
        clients[2].get("/who/")
        clients[3].get("/login/ada/")
    uses_database = engine.name in {"db", "cached_db", "cookie"}
    assert (Inventory().count(user=user) > 0) is uses_database


@pytest.mark.engines("memory")
@pytest.mark.parametrize("is_changed_after", [False, True])
def test_the_sessions_end_if_the_test_changes_the_engine(
    user: Any, engine: Any, is_changed_after: bool
) -> None:
    """And if the settings are put back before the sessions are ended."""
    others = ["django_sessionstores.backends.file", settings.SESSION_ENGINE]
    with _ended_afterwards() as remember:
        with override_settings(SESSION_ENGINE=others[not is_changed_after]):
            remember(client := sign_in(Client(), user))
        with override_settings(SESSION_ENGINE=others[is_changed_after]):
            client.logout()
            client.force_login(user)
    for other in others:
        with override_settings(SESSION_ENGINE=other):
            assert Inventory().count(user=user) == 0


def test_the_end_of_a_test_does_not_ask_a_database(user: Any, django_db_blocker: Any) -> None:
    """pytest-django may have taken it away by then."""
    with _ended_afterwards() as remember:
        remember(sign_in(Client(), user))
        django_db_blocker.block()
    django_db_blocker.restore()


# Ending ---------------------------------------------------------------------------------------


def test_a_session_ends_elsewhere(make_client: Any, end: Any, user: Any) -> None:
    ended, other = make_client(user), make_client(user)
    key = ended.cookies["sessionid"].value
    end(ended)
    assert ended.cookies["sessionid"].value == key
    assert [name_in(ended), name_in(other)] == ["", "ada"]


def test_what_is_not_live_cannot_be_ended(
    make_client: Any, end: Any, user: Any, session_clock: Any
) -> None:
    """A test that ends nothing would prove nothing."""
    expired, ended, signed_out = make_client(user), make_client(user), make_client(user)
    session_clock.advance(days=10)
    end(ended)
    assert status_of(signed_out, "/logout/") == 200
    session_clock.advance(days=5)
    for each in (expired, ended, signed_out, Client()):
        with pytest.raises(LookupError, match="no live session"):
            end(each)


@pytest.mark.engines("memory")
def test_a_session_that_is_still_to_be_migrated_ends(signed_in: Any, end: Any, user: Any) -> None:
    previous = "django.contrib.sessions.backends.db"
    with override_settings(SESSION_ENGINE=previous):
        client = signed_in(user)
    with override_settings(SESSIONSTORES={"MIGRATE_FROM": [previous]}):
        end(client)
        assert name_in(client) == ""


@pytest.mark.engines("cookie:unregistered")
def test_an_engine_that_cannot_end_sessions_says_so(signed_in: Any, end: Any, user: Any) -> None:
    with pytest.raises(LookupError, match=r"Set SESSIONSTORES\['REGISTRY'\]"):
        end(signed_in(user))


@pytest.mark.engines("memory")
def test_an_engine_of_django_is_signed_in_and_not_ended(
    signed_in: Any, end_session: Any, user: Any
) -> None:
    """A project may run its tests on one while it moves."""
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies"):
        client = signed_in(user, cart="apple")
        assert client.get("/read/").json()["cart"] == "apple"
        with pytest.raises(CannotList):
            end_session(client)


# The clock ------------------------------------------------------------------------------------


def test_the_clock_refuses_engines_that_do_not_follow_it(session_clock: Any) -> None:
    """A test would find that a session has not expired, and look for the reason in the site."""
    session_clock.advance(seconds=1)
    with (
        override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db"),
        pytest.raises(LookupError, match="is not an engine of django_sessionstores"),
    ):
        session_clock.advance(seconds=1)


def test_idle_sessions_end(make_client: Any, session_clock: Any, user: Any) -> None:
    with override_settings(SESSIONSTORES={**options(), "IDLE_TIMEOUT": 60}):
        idle, busy = make_client(user), make_client(user)
        session_clock.advance(seconds=40)
        assert name_in(busy) == "ada"
        session_clock.advance(seconds=40)
        assert [name_in(idle), name_in(busy)] == ["", "ada"]


def test_sessions_expire(make_client: Any, session_clock: Any, user: Any) -> None:
    earlier, later = make_client(user), make_client(user)
    session_clock.advance(days=14, minutes=-1)
    assert name_in(earlier) == "ada"
    session_clock.advance(minutes=2)
    assert name_in(later) == ""


@pytest.mark.engines("memory", "file", "db:sqlite", "cache:locmem", "cached_db:locmem+sqlite")
def test_keys_rotate(make_client: Any, session_clock: Any, user: Any) -> None:
    with override_settings(SESSIONSTORES={**options(), "ROTATE_AFTER": 60}):
        client = make_client(user)
        keys = [client.cookies["sessionid"].value]
        for _ in range(2):
            assert name_in(client) == "ada"
            keys.append(client.cookies["sessionid"].value)
            session_clock.advance(seconds=61)
        assert name_in(client) == "ada"
        keys.append(client.cookies["sessionid"].value)
    assert [keys[0] == keys[1], keys[1] == keys[2], keys[2] == keys[3]] == [True, False, False]


@pytest.mark.engines("memory")
def test_the_clock_stands_still_and_is_put_back(engine: Any) -> None:
    before = clock.now()
    with frozen_clock() as frozen:
        start = frozen.now
        assert clock.now() == frozen.milliseconds() >= before
        frozen.advance(days=400, hours=1, minutes=1, seconds=1.5)
        assert (frozen.now - start).total_seconds() == 400 * 86400 + 3661.5
        assert clock.now() == frozen.milliseconds()
        with pytest.raises(ValueError, match="forward"):
            frozen.advance(seconds=-1)
    assert before <= clock.now() < before + 60_000


# The store ------------------------------------------------------------------------------------


@pytest.mark.engines(*ENGINES, "cache:django-redis")  # Which has async calls of its own.
def test_an_outage_is_a_503_and_signs_nobody_out(
    make_client: Any, session_store_down: Any, user: Any
) -> None:
    client = make_client(user)
    with session_store_down():
        for path in ("/read/", "/write/a/1/", "/logout/"):
            assert status_of(client, path) == 503
        with pytest.raises(StorageUnavailable):
            Inventory().count(user=user)
        with pytest.raises(StorageUnavailable):
            Inventory().summarize(100)
    assert name_in(client) == "ada"


def test_an_outage_outside_of_views_is_raised_by_the_client(
    signed_in: Any, session_store_down: Any, user: Any
) -> None:
    """Unless it is told not to. With Django's session middleware, the answer is a 500."""
    client, (ours, *others) = signed_in(user), settings.MIDDLEWARE
    djangos = "django.contrib.sessions.middleware.SessionMiddleware"
    required = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    for middleware, status in (([ours, *others, required], 503), ([djangos, *others], 500)):
        client.handler._middleware_chain = None  # It is made with the first request.
        with override_settings(MIDDLEWARE=middleware), session_store_down():
            client.raise_request_exception = True
            with pytest.raises(StorageUnavailable):
                client.get("/who/")
            client.raise_request_exception = False
            assert status_of(client, "/who/") == status


def test_an_outage_may_be_anonymous(make_client: Any, session_store_down: Any, user: Any) -> None:
    with override_settings(SESSIONSTORES={**options(), "ON_OUTAGE": "anonymous"}):
        client = make_client(user)
        with session_store_down():
            assert name_in(client) == ""
            assert status_of(client, "/write/a/1/") == 503
        assert name_in(client) == "ada"


def test_reads_alone_may_fail(make_client: Any, session_store_down: Any, user: Any) -> None:
    client = make_client(user)
    with session_store_down("reads"):
        assert status_of(client, "/who/") == 503
        # Without a cookie, there is nothing to read.
        assert status_of(type(client)(), "/write/a/1/") == 200
    assert name_in(client) == "ada"


def test_writes_alone_may_fail(make_client: Any, session_store_down: Any, user: Any) -> None:
    client = make_client(user)
    with session_store_down("writes"):
        assert name_in(client) == "ada"
        assert status_of(client, "/write/a/1/") == 503
        with pytest.raises(StorageUnavailable):
            Inventory().end_all(user)
    assert "a" not in client.session
    assert status_of(client, "/write/a/1/") == 200


@pytest.mark.engines("cached_db:locmem+sqlite")
def test_the_cache_alone_may_fail(
    make_client: Any, session_store_down: Any, user: Any, engine: Any
) -> None:
    reading, writing = make_client(user), make_client(user)
    asked = connections[engine.database]
    with session_store_down("cache"):
        with CountedReads(asked) as reads:
            assert name_in(reading) == "ada"
        assert reads.number == 1
        assert status_of(writing, "/write/a/1/") == 200
    with CountedReads(asked) as reads:
        assert name_in(reading) == "ada"
    # The cache is asked again at once, not after STORE_RETRY.
    assert reads.number == 0
    assert writing.session["a"] == "1"


class CountedReads:
    """Counts the statements that read sessions from a database."""

    def __init__(self, connection: Any) -> None:
        self.number = 0
        self._wrapper = connection.execute_wrapper(self._execute)

    def _execute(self, execute: Any, sql: str, *args: Any) -> Any:
        self.number += sql.startswith("SELECT") and "django_sessionstores" in sql
        return execute(sql, *args)

    def __enter__(self) -> CountedReads:
        self._wrapper.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._wrapper.__exit__(*error)


@pytest.mark.engines("memory")
def test_an_async_view_that_blocks_meets_the_outage(session_store_down: Any, engine: Any) -> None:
    """On this engine alone, nothing else tells its author."""

    async def read() -> None:
        engine.SessionStore("a" * 32).load()

    with session_store_down(), pytest.raises(StorageUnavailable):
        async_to_sync(read)()


def test_the_store_is_as_before(engine: Any) -> None:
    storages = [engine.storage, *inner_storages(engine.storage)]
    before = [set(vars(each)) for each in storages]
    for part in ("everything", "reads", "writes"):
        with suppress(RuntimeError), store_down(part):  # type: ignore[arg-type]
            raise RuntimeError
        with store_down(part):  # type: ignore[arg-type]
            pass
    assert [set(vars(each)) for each in storages] == before


@pytest.mark.engines("memory")
def test_outages_may_end_in_any_order(session_store_down: Any, engine: Any) -> None:
    first, last = session_store_down("reads"), session_store_down()
    first.__enter__()
    last.__enter__()
    first.__exit__(None, None, None)
    with pytest.raises(StorageUnavailable):
        engine.SessionStore("a" * 32).load()
    last.__exit__(None, None, None)
    assert engine.SessionStore("a" * 32).load() == {}
    assert not {"read", "aread"} & set(vars(engine.storage))


@pytest.fixture
def left_down(engine: Any) -> Any:
    yield
    # The outage has ended with its fixture.
    assert engine.SessionStore("a" * 32).load() == {}


@pytest.mark.engines("memory")
def test_an_outage_ends_with_the_test(left_down: Any, session_store_down: Any, engine: Any) -> None:
    session_store_down().__enter__()
    with pytest.raises(StorageUnavailable):
        engine.SessionStore("a" * 32).load()


@pytest.mark.engines("memory")
def test_a_part_that_does_not_exist_is_refused(session_store_down: Any) -> None:
    """A test would believe that everything is down, and pass."""
    with pytest.raises(ValueError, match="Did you mean 'writes'"), session_store_down("wrtes"):
        pass
    with pytest.raises(ValueError, match="Use one of"), session_store_down("x"):
        pass


@pytest.mark.engines("memory")
def test_a_user_that_cannot_be_made_is_said(
    signed_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(self: Any, *args: Any, **kwargs: Any) -> None:
        raise ValueError("no tax number")

    monkeypatch.setattr(get_user_model(), "save", save)
    with pytest.raises(LookupError, match=r"auth\.User .*no tax number.* pass it"):
        signed_in()


@pytest.mark.engines("memory", "cookie:unregistered")
def test_what_does_not_exist_cannot_be_down(session_store_down: Any, engine: Any) -> None:
    """A test would believe in an outage that nobody notices."""
    with pytest.raises(LookupError, match="no cache"), session_store_down("cache"):
        pass
    if engine.name == "cookie":
        with pytest.raises(LookupError, match="no store"), session_store_down():
            pass


def options() -> dict[str, Any]:
    return getattr(settings, "SESSIONSTORES", {})


# Projects -------------------------------------------------------------------------------------

SETTINGS = """
    SECRET_KEY = "tests only"
    INSTALLED_APPS = [
        "django.contrib.contenttypes", "django.contrib.auth", "django_sessionstores"
    ]
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    MIDDLEWARE = [
        "django_sessionstores.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ]
    ROOT_URLCONF = "urls"
    SESSION_ENGINE = "django_sessionstores.backends.memory"
"""
URLS = """
    from django.http import HttpResponse
    from django.urls import path

    urlpatterns = [path("", lambda request: HttpResponse(request.user.get_username()))]
"""
TESTS = """
    from asgiref.sync import async_to_sync
    from django_sessionstores.inventory import Inventory

    def test_one(signed_in, async_signed_in, end_session, session_clock, session_store_down):
        client = signed_in()
        assert b"@" in client.get("/").content
        with session_store_down():
            assert client.get("/").status_code == 503
        session_clock.advance(days=15)
        assert client.get("/").content == b""
        client = signed_in()
        end_session(client)
        assert client.get("/").content == b""
        signed_in()
        async_to_sync(async_signed_in)()

    def test_two():
        assert Inventory().count() == 0
"""
WITHOUT_A_PLUGIN = """
    import os
    import django
    import pytest

    pytest_plugins = ["django_sessionstores.testing.pytest_plugin"]

    def pytest_configure():
        os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
        django.setup()

    @pytest.fixture(scope="session", autouse=True)
    def tables():
        from django.core.management import call_command
        call_command("migrate", verbosity=0)
"""
WITH_PYTEST_DJANGO = """
    import pytest

    pytest_plugins = ["django_sessionstores.testing.pytest_plugin"]

    @pytest.fixture(autouse=True)
    def _database(db):
        pass
"""


@pytest.mark.engines("memory")
def test_the_functions_do_not_need_pytest() -> None:
    """Those of a site that uses unittest."""
    code = "import sys, django_sessionstores.testing.sites; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.engines("memory")
@pytest.mark.parametrize(
    ("conftest", "arguments"),
    [
        pytest.param(WITHOUT_A_PLUGIN, ["-p", "no:django", "-p", "no:xdist"], id="alone"),
        pytest.param(
            *(WITH_PYTEST_DJANGO, ["--ds=settings", "-n2"]),
            id="pytest-django and xdist",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_project_can_use_it(conftest: str, arguments: list[str], tmp_path: Path) -> None:
    """Its conftest.py is imported before the apps are ready, if it has no pytest-django."""
    files = {
        "settings.py": SETTINGS,
        "urls.py": URLS,
        "test_it.py": TESTS,
        "conftest.py": conftest,
        "pytest.ini": "[pytest]",
    }
    assert "2 passed" in run_tests(tmp_path, files, *arguments)
