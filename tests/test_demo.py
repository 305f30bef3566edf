"""The demo starts from nothing on any engine, keeps its promises, and explains what is wrong."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

import psycopg
import pymysql
import pytest
from django.core.exceptions import ImproperlyConfigured

from django_sessionstores.core.records import session_id
from testproject import engines
from tests import ROOT
from tests.services import (
    HOST,
    MariaDB,
    Memcached,
    MongoDB,
    PostgreSQL,
    Redis,
    free_port,
    refusing_port,
    wait_until,
)

pytestmark = pytest.mark.slow

PASSWORD = "hunter2"


def environment(value: str) -> dict[str, str]:
    """That of a terminal in which only the one variable is set."""
    kept = {name: text for name, text in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    return {**kept, engines.VARIABLE: value, "PYTHONUNBUFFERED": "1"}


def demo(value: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "demo", *arguments],
        cwd=ROOT,
        env=environment(value),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
    )


def sqlite(path: Path) -> str:
    """Return the part of a value that names a file; on Windows a path begins with a drive."""
    return f"sqlite:///{path.as_posix().lstrip('/')}"


def assert_keeps_its_promises(value: str, promises: int = 18) -> str:
    """Assert that the demo passes its own checks, and return its output."""
    done = demo(value, "--check")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("  ok         /") == promises, done.stdout
    return done.stdout


# Engines and stores ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *("cache+locmem", "cache+dbcache", "cached_db+locmem"),
        *("cookie+cache+dbcache", "cookie+cached_db+locmem"),
    ],
)
def test_every_engine_needs_no_server(value: str, tmp_path: Path) -> None:
    """A first try must not end in the installation of something."""
    database = sqlite(tmp_path / "new" / "demo.sqlite3")
    assert_keeps_its_promises(f"{value.format(folder=tmp_path)}+{database}")


def test_a_cookie_without_a_registry_keeps_what_it_can(tmp_path: Path) -> None:
    """Signing out ends no copy, and parallel changes are lost: neither may be shown as kept."""
    output = assert_keeps_its_promises(f"cookie+{sqlite(tmp_path / 'demo.sqlite3')}", promises=12)
    assert "signing out" not in output
    assert "Sessions   0 made" in output


def test_it_can_be_started_again(tmp_path: Path) -> None:
    """The second run finds the folders, tables and users of the first."""
    for _ in range(2):
        assert_keeps_its_promises(f"db+{sqlite(tmp_path / 'demo.sqlite3')}")


@pytest.mark.parametrize("cache", [Redis, Memcached], ids=lambda server: server.name)
@pytest.mark.parametrize("database", [PostgreSQL, MariaDB], ids=lambda server: server.name)
def test_the_variable_moves_the_site_to_servers(cache: Any, database: Any) -> None:
    """The test follows the whole path: URL, settings, tables and requests."""
    with ExitStack() as stack:
        servers = [stack.enter_context(kind()) for kind in (cache, database)]
        in_front, behind = servers
        scheme = "postgres" if database is PostgreSQL else "mysql"
        addresses = {Redis: f"{HOST}:{in_front.port}/3", Memcached: f"{HOST}:{in_front.port}"}
        address = f"{'redis' if cache is Redis else 'memcached'}://{addresses[cache]}"
        url = f"{scheme}://{behind.USER}@{HOST}:{behind.port}/{behind.DATABASE}"
        assert_keeps_its_promises(f"cached_db+{address}+{url}")


def test_sessions_through_django_redis() -> None:
    """The second adapter for Redis has a form of its own."""
    with Redis() as server:
        assert_keeps_its_promises(f"cache+django-redis://{HOST}:{server.port}/0")


def test_the_registry_of_memcached() -> None:
    """Its form is that of the cookie's: the name of the engine, after the cache."""
    with Memcached() as server:
        output = assert_keeps_its_promises(f"cache+memcached://{HOST}:{server.port}+db")
    assert "registered in table" in output


def test_a_registry_on_a_server() -> None:
    """The stores after the name are the registry's."""
    with Redis() as server:
        output = assert_keeps_its_promises(f"cookie+cache+redis://{HOST}:{server.port}/0")
    assert "registered in Redis" in output


def test_mongodb_behind_something_else() -> None:
    """A registry, and the authority behind a cache."""
    with MongoDB(replica_set="") as server:
        output = assert_keeps_its_promises(f"cookie+mongodb+{server.url()}demo")
        assert f"registered in MongoDB {HOST}:" in output
        output = assert_keeps_its_promises(f"cached_db+locmem+{server.url()}demo")
        assert f"in front of MongoDB {HOST}:" in output


# The commands of README.rst ---------------------------------------------------------------------

README = (ROOT / "README.rst").read_text(encoding="utf-8")
STORES = README.partition(".. stores-begin")[2].partition(".. stores-end")[0]
COMMANDS = dict(
    re.findall(
        rf"^   \* - (.+)\n     - ``{engines.VARIABLE}=(\S+) uv run manage.py demo --check``$",
        STORES,
        re.MULTILINE,
    )
)
PLACES = {
    "Memory": "memory of this process",
    "Cookie": "the cookie 'sessionid' of the browser",
    "Cookie, with a registry": "registered in table",
    "Files": "files in ",
    "SQLite": "(sqlite)",
    "PostgreSQL": "(postgresql)",
    "MySQL or MariaDB": "(mysql)",
    "Redis": "Redis through",
    "memcached": "memcached at",
    "MongoDB": "(collection 'django_sessionstores' of the database 'demo')",
}
"""What the command says of each store."""
SERVERS: dict[str, Any] = {
    "PostgreSQL": PostgreSQL,
    # An anonymous user of this machine counts before those of any host, if names are looked up.
    "MySQL or MariaDB": partial(MariaDB, "--skip-name-resolve=0"),
    "Redis": Redis,
    "memcached": Memcached,
    "MongoDB": partial(MongoDB, replica_set=""),
}


def test_there_is_a_command_for_each_store() -> None:
    assert len(COMMANDS) == STORES.count("   * - ") - 1
    assert set(COMMANDS) == set(PLACES)


@pytest.mark.parametrize("store", COMMANDS)
def test_the_command_of_a_store_shows_that_it_works(store: str, tmp_path: Path) -> None:
    """As it stands, but for ports, and for files that no other test uses."""
    value = COMMANDS[store]
    database = sqlite(tmp_path / "demo.sqlite3")
    if store not in SERVERS:
        folder = f"+{tmp_path}/sessions" if value == "file" else ""
        promises = 12 if value == "cookie" else 18
        output = assert_keeps_its_promises(f"{value}{folder}+{database}", promises)
        assert PLACES[store] in output
        return
    with SERVERS[store]() as server:
        make_database(server)
        value = re.sub(rf"{HOST}:\d+", server.addresses[0], value)
        output = assert_keeps_its_promises(
            value if "@" in value else f"{value}+{database}",
            16 if store == "memcached" else 18,
        )
    assert PLACES[store] in output


def make_database(server: Any) -> None:
    """Make the user and the database as the page says."""
    if isinstance(server, PostgreSQL):
        with closing(psycopg.connect(server.url(), autocommit=True)) as connection:
            for statement in re.findall('-c "(.+?)"', STORES):
                connection.execute(statement)
    if isinstance(server, MariaDB):
        options = {"host": HOST, "port": server.port, "user": server.USER}
        with closing(pymysql.connect(**options)) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE USER IF NOT EXISTS ''@localhost")
            for statement in re.findall('-e "(.+?)"', STORES)[0].split(";"):
                cursor.execute(statement)


@pytest.mark.parametrize("scheme", ["postgres", "mysql"])
def test_a_server_without_the_user_is_not_to_be_started(scheme: str) -> None:
    """What helps is to make the user and the database, by the command of README.rst."""
    with {"postgres": PostgreSQL, "mysql": MariaDB}[scheme]() as server:
        value = f"{scheme}://demo:demo@{server.addresses[0]}"
        mistakes = [demo(f"db+{value}/demo", "--check")]
        make_database(server)
        mistakes.append(demo(f"db+{value}/other", "--check"))
    commands = [line.strip() for line in STORES.splitlines() if line.startswith("    sudo ")]
    for done, name in zip(mistakes, ("demo", "other"), strict=True):
        assert done.returncode == 1
        (made,) = re.findall("make them: (.+)", done.stdout)
        made = re.sub(rf"(DATABASE |ON ){name}\b", r"\1demo", made)
        assert made in commands
        assert "if it does not run" not in done.stdout


def test_a_password_that_is_not_of_the_page_is_not_shown() -> None:
    with MariaDB() as server:
        done = demo(f"db+mysql://demo:{PASSWORD}@{server.addresses[0]}/demo", "--check")
    assert "IDENTIFIED BY '***'" in done.stdout
    assert PASSWORD not in done.stdout


# What is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nonsense", "'nonsense' is not an engine"),
        ("cache", "needs a cache"),
        ("cached_db+postgres://u@h/n", "Part 2: no cache"),
        ("db+redis://h", "Part 2: no database"),
        ("db+postgres://h", "name of the database is missing"),
        ("db+postgres://h:port/n", "port must be a number"),
        ("db+sqlite://relative.sqlite3", "has to begin with a slash"),
        ("cache+memcached://h", "takes host:port"),
        ("db+mysql://h/n+mysql://h/n", "more than one database"),
        ("file+relative/folder", "Part 2: no database"),
        ("cookie+cached_db", "The engine 'cached_db' needs a cache"),
        ("cookie+memory", "Part 2: no database"),
        ("cookie+db+db", "Part 3: no database"),
        ("db+db", "Part 2: no database"),
        ("cache+redis://h+db", "Part 3: no database"),
        ("mongodb", "needs the address of MongoDB"),
        ("mongodb+mongodb://h", "name of the database is missing"),
        ("cookie+mongodb+redis://h", "Part 3: no address of MongoDB"),
    ],
)
def test_a_wrong_value_names_the_variable_and_what_it_may_be(value: str, reason: str) -> None:
    """The reader has just typed it and has no documentation open."""
    with pytest.raises(ImproperlyConfigured) as caught:
        engines.parse(value, ROOT)
    message = str(caught.value)
    assert message.startswith(f"{engines.VARIABLE} is ")
    assert reason in message
    assert engines.FORMS in message


@pytest.mark.parametrize(
    "value",
    [
        f"db+postgres://u:{PASSWORD}@h:port/n",
        f"db+postgres://u:a@{PASSWORD}@h/",
        f"db+postgres://u:a+{PASSWORD}@h/n",
        f"cached_db+redis://:{PASSWORD}@h/0+mysql://u:{PASSWORD}@h/",
        f"cached_db+redis://:{PASSWORD}@h/0+nonsense",
    ],
)
def test_no_password_is_shown(value: str) -> None:
    """Terminals are recorded and shared. An unquoted @ or + in it is a likely mistake."""
    with pytest.raises(ImproperlyConfigured) as caught:
        engines.parse(value, ROOT)
    assert PASSWORD not in str(caught.value)


def test_quoted_characters_in_a_password_arrive() -> None:
    """Signs that mean something in a URL are common in generated passwords."""
    choice = engines.parse("db+postgres://us%40er:p%2Bw%2F%3A@h:1/n", ROOT)
    assert (choice.database["USER"], choice.database["PASSWORD"]) == ("us@er", "p+w/:")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nonsense", "not an engine"),
        (f"db+postgres://u:{PASSWORD}@{HOST}:{{port}}/n", "Start PostgreSQL at {address}"),
        (f"db+mysql://u:{PASSWORD}@{HOST}:{{port}}/n", "Start MySQL or MariaDB at {address}"),
        (f"cache+redis://:{PASSWORD}@{HOST}:{{port}}/0", "run: redis-server --port {port}\n"),
        (f"cache+memcached://{HOST}:{{port}}", "run: memcached -u nobody -p {port}\n"),
        (f"cookie+cache+redis://{HOST}:{{port}}/0", "The store for sessions cannot be used"),
        (f"mongodb+mongodb://{HOST}:{{port}}/n", "Start MongoDB at {address}, if it does not run"),
        (f"cookie+cache+memcached://{HOST}:{{port}}", "which forgets what it has no room for"),
        (f"file+{Path(__file__).as_posix()}/below", "A folder cannot be made"),
    ],
)
def test_a_store_that_cannot_be_used_is_told_in_a_sentence(value: str, reason: str) -> None:
    """A traceback looks like a fault of the package, and hides the one line that helps."""
    port = free_port()
    done = demo(value.format(port=port), "--check")
    assert done.returncode == 1
    assert reason.format(port=port, address=f"{HOST}:{port}") in done.stdout
    assert engines.VARIABLE in done.stdout
    assert "Traceback" not in done.stdout
    assert PASSWORD not in done.stdout
    # The log is on the same screen.
    assert "outage begins" not in done.stdout
    assert "indexes" not in done.stdout


def test_a_cache_that_is_unreachable_fails_the_check() -> None:
    """Requests go on without it, so they alone would say that all is well."""
    done = demo(f"cached_db+redis://{HOST}:{refusing_port()}/0", "--check")
    assert done.returncode == 1
    assert "FAILED     Redis through Django's RedisCache" in done.stdout
    assert "ok         table django_sessionstores_storedsession" in done.stdout
    assert done.stdout.count("FAILED") == 1
    assert done.stdout.count("refuses connections") == 1


@pytest.mark.parametrize(
    ("value", "registry"),
    [
        ("cookie", ""),
        ("cookie+db+sqlite:///elsewhere.sqlite3", "db"),
        ("cookie+cache+locmem", "cache"),
        ("cookie+cached_db+locmem+sqlite:///elsewhere.sqlite3", "cached_db"),
        ("cache+memcached://h:1+db+sqlite:///elsewhere.sqlite3", "db"),
        ("cache+memcached://h:1+sqlite:///elsewhere.sqlite3", ""),
    ],
)
def test_the_name_of_a_second_engine_is_the_registry(value: str, registry: str) -> None:
    """Every combination of the forms leads where it says, the users' database included."""
    choice = engines.parse(value, ROOT)
    assert choice.registry == registry
    assert ("elsewhere" in str(choice.database["NAME"])) == ("elsewhere" in value)


# The page -------------------------------------------------------------------------------------


@contextmanager
def served(value: str) -> Iterator[tuple[str, OpenerDirector, CookieJar]]:
    """Yield the address of a demo that runs, and a simple browser."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "demo", "--port", str(port)],
        cwd=ROOT,
        env=environment(value),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    cookies = CookieJar()
    browser = build_opener(HTTPCookieProcessor(cookies))
    address = f"http://{HOST}:{port}/"

    def answers() -> bool:
        assert process.poll() is None, process.stdout and process.stdout.read()
        try:
            browser.open(address, timeout=10)
        except URLError:
            return False
        return True

    try:
        wait_until(answers, "the demo answers")
        yield address, browser, cookies
    finally:
        process.terminate()
        process.communicate(timeout=20)


def read(browser: OpenerDirector, address: str, **form: str) -> str:
    data = urlencode(form).encode() if form else None
    text: str = browser.open(address, data, timeout=20).read().decode()
    return text


def test_the_page_shows_ids_and_no_key() -> None:
    """It is for showing around: whoever sees the key has the session."""
    with served("memory") as (address, browser, cookies):
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', read(browser, address))
        assert token is not None
        page = read(browser, f"{address}cart/", csrfmiddlewaretoken=token[1], fruit="apples")
        key = next(str(cookie.value) for cookie in cookies if cookie.name == "sessionid")
        assert session_id(key) in page
        assert key not in page
        assert '<span class="count">1</span> apples' in page


@pytest.mark.parametrize("port", ["taken", "70000"])
def test_a_port_that_cannot_be_used_is_told_first(port: str) -> None:
    """The error comes before any address is printed, and names the option that helps."""
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        number = str(other.getsockname()[1]) if port == "taken" else port
        done = demo("memory", "--port", number)
    assert done.returncode == 1
    assert f"Port {number} cannot be used" in done.stdout
    assert "--port" in done.stdout
    assert "Open" not in done.stdout


def test_the_page_says_what_is_so(tmp_path: Path) -> None:
    """The cart of who signs in came along only if there was something in it."""
    with served("memory") as (address, browser, _):
        page = read(browser, address)
        assert 'href="/admin/"' in page
        for fruit, said in (("", False), ("apples", True)):
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
            assert token is not None
            form = {"csrfmiddlewaretoken": token[1]}
            if fruit:
                read(browser, f"{address}cart/", fruit=fruit, **form)
            page = read(browser, f"{address}sign-in/", username="demo", password="demo", **form)
            assert "Signed in as" in page
            assert ("Your cart came along" in page) is said
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
            assert token is not None
            page = read(browser, f"{address}sign-out/", csrfmiddlewaretoken=token[1])


def test_the_admin_shows_a_crowd() -> None:
    """Pages of sessions with nobody in them show nothing. Who may enter is printed."""
    with served("memory") as (address, browser, _):
        page = read(browser, f"{address}admin/login/?next=/admin/django_sessionstores/session/")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
        assert token is not None
        form = {"csrfmiddlewaretoken": token[1], "username": "staff", "password": "staff"}
        page = read(
            browser, f"{address}admin/login/", next="/admin/django_sessionstores/session/", **form
        )
        assert "Safari on iPhone" in page
        assert 'rel="next"' in page


def test_the_devices_of_a_user(tmp_path: Path) -> None:
    """A visitor is sent to sign in and back. The user has some devices from the beginning."""
    with served("memory") as (address, browser, _):
        page = read(browser, f"{address}devices/")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
        target = re.search(r'name="next" value="([^"]+)"', page)
        assert token is not None
        assert target is not None
        form = {"csrfmiddlewaretoken": token[1], "username": "demo", "password": "demo"}
        page = read(browser, f"{address}sign-in/", next=target[1], **form)
        assert "This device" in page
        assert "Safari on iPhone" in page
        assert f'href="{target[1]}"' in read(browser, address)


@pytest.mark.parametrize("value", ["memory", "cookie+db", "cached_db+locmem"])
def test_the_tour_needs_no_script_and_no_account(value: str, tmp_path: Path) -> None:
    """One browser signs the other out, which says so; the session survives a new key and an
    outage."""
    database = sqlite(tmp_path / "demo.sqlite3")
    with served(f"{value}+{database}") as (address, browser, cookies):
        page = read(browser, f"{address}tour/")
        assert "<script" not in page
        assert "Nobody is signed in." in page

        def step(page: str, path: str, **form: str) -> str:
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
            assert token is not None
            return read(browser, f"{address}tour/{path}/", csrfmiddlewaretoken=token[1], **form)

        page = step(page, "sign-in")
        page = step(page, "phone")
        assert page.count("Signed in as <strong>demo</strong>") == 2
        assert "Safari on iPhone" in read(browser, f"{address}devices/")
        page = step(step(page, "end-others"), "phone", again="yes")
        assert page.count("Signed in as <strong>demo</strong>") == 1
        assert "You signed out this device on another device." in page
        page = step(page, "rotate")
        assert ", a tombstone now" in page
        with pytest.raises(HTTPError) as caught:
            browser.open(f"{address}tour/outage/", timeout=20)
        assert caught.value.code == 503
        page = read(browser, f"{address}tour/")
        assert page.count("Signed in as <strong>demo</strong>") == 1
        for cookie in cookies:
            assert cookie.name == "csrftoken" or str(cookie.value) not in page


def test_every_page_is_linked() -> None:
    """From the tour, and from the first page."""
    with served("memory") as (address, browser, _):
        for path in ("", "async/", "tour/"):
            links = set(re.findall(r'href="(/[^"#]*)"', read(browser, address + path)))
            assert {"/", "/async/", "/tour/", "/devices/", "/admin/"} <= links
            for link in links - {"/tour/outage/"}:
                assert browser.open(address + link[1:], timeout=20).status == 200


def test_the_page_of_a_cookie_says_what_it_is(tmp_path: Path) -> None:
    """A page that claims an encrypted record in a store would be wrong about the one thing that
    is different here."""
    database = sqlite(tmp_path / "demo.sqlite3")
    for value, told in (("cookie+db", "The registry knows"), ("cookie", "There is no registry")):
        with served(f"{value}+{database}") as (address, browser, _):
            page = read(browser, address)
            assert "The session itself is in your cookie" in page
            assert told in page


def test_the_page_needs_no_exception_from_a_content_security_policy() -> None:
    """Browsers refuse inline code under the policy that the page is sent with: its files have to
    be there, and all of it has to be in them."""
    with served("memory") as (address, browser, _):
        response = browser.open(address, timeout=20)
        assert response.headers["Content-Security-Policy"].startswith("default-src 'self'")
        page = response.read().decode()
        assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\s(style|on\w+)=", page)
        files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
        assert {Path(file).suffix for file in files} == {".css", ".js", ".svg"}
        for file in files:
            assert browser.open(address + file[1:], timeout=20).status == 200
