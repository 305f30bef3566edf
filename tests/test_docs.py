"""The documentation says what the package does: its code runs, its lists are complete."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
import logging.config
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
import types
import unittest
from argparse import SUPPRESS, ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ValidationError
from django.core.handlers.base import BaseHandler
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.dispatch import Signal
from django.test import RequestFactory, override_settings

from django_sessionstores import conf, exceptions, signals
from django_sessionstores.backends import db, memory
from django_sessionstores.logs import IgnoreOutages
from django_sessionstores.operations import checks, doctor, telemetry
from django_sessionstores.operations.checks.engine import check_engine
from django_sessionstores.operations.checks.options import check_merge_functions, check_settings
from django_sessionstores.operations.checks.registry import check_limit_and_rotation
from django_sessionstores.testing import observed
from django_sessionstores.testing.conformance.neutral_settings import KEPT
from tests import ROOT
from tests.deployments.sites import KINDS
from tests.packages.table import page_with_table
from tests.projects import run_tests
from tests.services import skip_or_fail
from tests.upstream import EXPECTED_FAILURES

DOCS = ROOT / "docs"
ENGINES = {path.stem for path in (ROOT / "django_sessionstores/backends").glob("*.py")} - {
    "__init__",
    "signed_cookies",  # Which says what to name instead.
}
PAGES = sorted([ROOT / "README.rst", *DOCS.rglob("*.rst")])
BLOCK = re.compile(r"^( *)\.\. code-block:: python\n\n((?:\1 {3,}.*\n|\n)+)", re.MULTILINE)
FILE_NAME = re.compile(r"# (\S+)\.py\n")


def read(*parts: str) -> str:
    return DOCS.joinpath(*parts).read_text(encoding="utf-8")


def blocks(page: Path) -> list[str]:
    """Return the Python code of a page, block by block."""
    text = page.read_text(encoding="utf-8")
    return [textwrap.dedent(code) for _indent, code in BLOCK.findall(text)]


# Code -----------------------------------------------------------------------------------------


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Yield the names that code in the documentation finds, on the memory engine."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "shop", types.ModuleType("shop"))
    (tmp_path / "sessions").mkdir()
    receivers = {
        name: signal.receivers[:]
        for name, signal in vars(signals).items()
        if isinstance(signal, Signal)
    }
    with override_settings(SESSION_ENGINE="django_sessionstores.backends.memory"):
        yield {"BASE_DIR": tmp_path}
    telemetry.uninstrument()
    for name, heard in receivers.items():
        getattr(signals, name).receivers = heard
        getattr(signals, name).sender_receivers_cache.clear()
    for name in [name for name in sys.modules if name.startswith("shop.")]:
        del sys.modules[name]


def execute(code: str, names: dict[str, Any]) -> None:
    """Run a block. One that begins with a file name becomes that module as well."""
    exec(compile(code, "<documentation>", "exec"), names)
    if found := FILE_NAME.match(code):
        module = types.ModuleType(found[1].replace("/", "."))
        # The same objects: what a class refers to has to be in the module of the class.
        module.__dict__.update(names)
        sys.modules[module.__name__] = module
        setattr(sys.modules["shop"], module.__name__.rpartition(".")[2], module)


def assigned_settings(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a block assigns at its top."""
    targets = [
        target.id
        for statement in ast.parse(code).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]
    return {name: names[name] for name in targets if name.isupper()}


def run(page: Path, names: dict[str, Any]) -> dict[str, Any]:
    """Run the blocks of a page in order; the names they define. Settings hold for what follows."""
    settings: dict[str, Any] = {}
    for code in blocks(page):
        with override_settings(**settings):
            execute(code, names)
        settings |= assigned_settings(code, names)
        # Pages show databases and engines whose servers do not run here.
        settings.pop("DATABASES", None)
        with override_settings(**settings):
            for check in (check_settings, check_merge_functions, check_engine):
                assert check(None) == [], code
        settings.pop("SESSION_ENGINE", None)
    return names


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem
)
def test_code_runs(page: Path, workshop: dict[str, Any]) -> None:
    """A reader pastes it: what raises in the documentation raises at the reader's, and settings
    that the package's checks refuse are refused there."""
    run(page, workshop)


def test_every_block_is_run() -> None:
    """A block that is indented otherwise than the others would silently not be run."""
    for page in PAGES:
        written = page.read_text(encoding="utf-8").count("code-block:: python")
        assert len(blocks(page)) == written, page


@pytest.mark.parametrize("name", ["INSTALLED_APPS", "MIDDLEWARE"])
def test_lists_of_settings_say_that_there_is_more(name: str) -> None:
    """Pasted as they stand, they would remove what the reader's project has."""
    found = 0
    for page in PAGES:
        for code in blocks(page):
            for entries in re.findall(rf"^{name} = \[\n((?: {{4}}.*\n)+)\]", code, re.MULTILINE):
                found += 1
                assert "    # ..." in entries, page
                if "django_sessionstores" in entries and name == "INSTALLED_APPS":
                    assert re.search('"django_sessionstores",  # before', entries), page
    assert found > 2


def test_views_of_the_quick_start_work(workshop: dict[str, Any]) -> None:
    """The first code that a reader tries has to do what the text says."""
    names = run(DOCS / "quickstart.rst", workshop)
    session = memory.SessionStore()
    session["cart"] = {"apples": 1}
    session.save()
    request = RequestFactory().get("/")
    request.session = memory.SessionStore(session.session_key)
    names["add_apple"](request)
    asyncio.run(names["count_visit"](request))
    request.session.save()
    stored = memory.SessionStore(session.session_key)
    assert (stored["cart"], stored["visits"]) == ({"apples": 2}, 1)


def test_merge_functions_of_the_guide_work(workshop: dict[str, Any]) -> None:
    """They are copied as they stand, into code that handles what people buy."""
    names = run(DOCS / "howto" / "merging.rst", workshop)
    join, missing = names["join_carts"], names["MISSING"]
    assert join({"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 3}) == {"a": 4}
    assert join(missing, {"a": 1}, {"b": 1}) == {"a": 1, "b": 1}
    assert join({"a": 1}, missing, {"a": 2}) is missing


def test_the_log_of_the_guide_has_a_line_for_each_event(
    workshop: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A program reads it: each line is an object, and none of them has a key."""
    names = run(DOCS / "howto" / "observing.rst", workshop)
    with restored_logging():
        logging.config.dictConfig(names["LOGGING"])
        session = memory.SessionStore()
        session["_auth_user_id"] = "7"
        session.save()
        keys = [session.session_key]
        session.cycle_key()
        session.save()
        keys.append(session.session_key)
        assert memory.SessionStore(keys[0]).load() == {}
        session.flush()
    written = capsys.readouterr().err
    events = [json.loads(line)["session_event"] for line in written.splitlines()]
    assert [(event["event"], event.get("reason"), event.get("user")) for event in events] == [
        ("created", None, "7"),
        ("rotated", None, "7"),
        ("rejected", "superseded", None),
        ("ended", "logout", "7"),
    ]
    assert not any(key in written for key in keys)


@contextmanager
def restored_logging() -> Iterator[None]:
    """Loggers as they were, when the test is over."""
    loggers = [
        logging.getLogger(name)
        for name in ("audit.sessions", "django_sessionstores", "django.security.SuspiciousSession")
    ]
    before = [(each.level, each.handlers[:], each.propagate) for each in loggers]
    handlers = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = handlers
    for each, (level, own, each.propagate) in zip(loggers, before, strict=True):
        each.setLevel(level)
        each.handlers[:] = own


SITES: Final[list[dict[str, Any]]] = [
    {},
    {"SESSIONSTORES": {"MIGRATE_FROM": ["django_sessionstores.backends.memory"]}},
    {"SESSIONSTORES": {"IDLE_TIMEOUT": 1800, "ROTATE_AFTER": 3600}},
    {"SESSIONSTORES": {"MAX_SESSIONS": 1, "ON_LIMIT": "refuse", "STATISTICS": True}},
    {"SESSIONSTORES": {"ABSOLUTE_TIMEOUT": 60, "TOUCH_INTERVAL": 0, "CONFLICT_RETRIES": 0}},
    {"SESSION_COOKIE_AGE": 60, "SESSION_SAVE_EVERY_REQUEST": True},
    {"SESSION_EXPIRE_AT_BROWSER_CLOSE": True, "SESSIONSTORES": {"REGISTRY": "cache"}},
]
"""Settings of projects."""


@pytest.mark.parametrize(
    "settings",
    [*SITES[:3], *(pytest.param(each, marks=pytest.mark.slow) for each in SITES[3:])],
    ids=lambda settings: ",".join(settings.get("SESSIONSTORES", settings)) or "none",
)
def test_storage_of_the_guide_passes_the_conformance_suite(
    workshop: dict[str, Any], settings: dict[str, Any]
) -> None:
    """It is what authors of engines start from, under whatever settings their project has."""
    names = run(DOCS / "howto" / "writing.rst", workshop)
    suite = unittest.TestSuite(
        unittest.defaultTestLoader.loadTestsFromTestCase(names[name])
        for name in ("StorageTests", "AsyncStorageTests", "EngineTests", "RequestTests")
    )
    with override_settings(SESSION_ENGINE="shop.engine", **settings):
        result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
    assert result.testsRun > 50
    assert [(str(test), text) for test, text in result.failures + result.errors] == []


def test_the_guide_names_the_options_that_the_conformance_suite_keeps() -> None:
    """An author whose tests run beside a site has to know what keeps them apart."""
    page = read("howto", "writing.rst").split("They keep only", 1)[1].split("A test that", 1)[0]
    named = set(re.findall(r"``(\w+)``", page))
    kept = {"MONGODB_" if name.startswith("MONGODB_") else name for name in KEPT}
    assert named == kept


def test_the_view_of_the_guide_on_outages_works(workshop: dict[str, Any]) -> None:
    """The view is called with the store and without it."""
    names = run(DOCS / "howto" / "outages.rst", workshop)
    session = memory.SessionStore()
    session["name"] = "Ada"
    session.save()
    request = RequestFactory().get("/")

    def greet(request: Any) -> Any:
        response = names["greeting"](request)
        # What Django says of a view that returns something else.
        BaseHandler().check_response(response, names["greeting"])
        return response

    request.session = memory.SessionStore(session.session_key)
    assert greet(request).content == b"Hello, Ada"

    def refuse(name: str) -> None:
        raise exceptions.StorageUnavailable("no route")

    with observed(memory.SessionStore.own_storage(), before=refuse):
        request.session = memory.SessionStore(session.session_key)
        assert greet(request).content == b"Hello, stranger"


def test_the_filter_of_the_guide_on_outages_is_found(workshop: dict[str, Any]) -> None:
    names = run(DOCS / "howto" / "outages.rst", workshop)
    logger = logging.getLogger("django.request")
    before = logger.filters[:]
    with restored_logging():
        logging.config.dictConfig(names["LOGGING"])
        added = [each for each in logger.filters if each not in before]
        logger.filters[:] = before
    assert [type(each) for each in added] == [IgnoreOutages]


@pytest.mark.django_db(transaction=True)
def test_the_view_of_the_page_on_transactions_signs_out_a_user_who_was_rolled_back(
    workshop: dict[str, Any],
) -> None:
    """The session object still has the login, and the middleware would save it."""
    names = run(DOCS / "explanation" / "transactions.rst", workshop)

    class Form:
        def save(self) -> User:
            return User.objects.create_user("ada")

        def send_welcome_mail(self) -> None:
            request.session.save()
            raise OSError

    request: Any = RequestFactory().post("/")
    request.session, request.user = db.SessionStore(), AnonymousUser()
    with override_settings(SESSION_ENGINE="django_sessionstores.backends.db"):
        assert b"later" in names["register"](request, Form()).content
        request.session.save()
        assert not User.objects.exists()
        assert "_auth_user_id" not in db.SessionStore(request.session.session_key)


def test_the_single_logout_of_the_reference_follows_the_session(workshop: dict[str, Any]) -> None:
    """Through a login of the same user and a new key, it ends this session and no other."""
    names = run(DOCS / "reference" / "inventory.rst", workshop)
    sessions = []
    for ticket in ("one", "other"):
        request = RequestFactory().get("/")
        request.session = memory.SessionStore()
        request.session["cart"] = [1]
        request.session.save()
        request.session["_auth_user_id"] = "7"
        request.session.cycle_key()
        names["note"](request, ticket)
        request.session.save()
        for _ in range(3):
            request.session.cycle_key()
        sessions.append(request.session)
    assert names["noted"] == {"one": sessions[0].session_id, "other": sessions[1].session_id}
    assert names["sign_out"]("one")
    alive = [bool(dict(memory.SessionStore(each.session_key).items())) for each in sessions]
    assert alive == [False, True]


def test_the_login_form_of_the_guide_refuses_what_the_limit_refuses(
    workshop: dict[str, Any],
) -> None:
    """Another device, and not the same one once more."""
    form_class = run(DOCS / "howto" / "limiting.rst", workshop)["LoginForm"]
    user, request = User(pk=7), RequestFactory().get("/")
    with override_settings(SESSIONSTORES={"MAX_SESSIONS": 1, "ON_LIMIT": "refuse"}):
        request.session = memory.SessionStore()
        form_class(request).confirm_login_allowed(user)
        request.session["_auth_user_id"] = "7"
        request.session.save()
        form_class(request).confirm_login_allowed(user)
        request.session = memory.SessionStore()
        with pytest.raises(ValidationError, match="1 devices"):
            form_class(request).confirm_login_allowed(user)


@pytest.mark.parametrize("name", ["memory", "db"])
def test_tests_of_the_guide_pass(
    workshop: dict[str, Any], django_db_setup: None, django_db_blocker: Any, name: str
) -> None:
    """They run on the engine that the guide names, and on one whose signals wait for a commit."""
    names = run(DOCS / "howto" / "testing.rst", workshop)
    suite = unittest.TestSuite(
        unittest.defaultTestLoader.loadTestsFromTestCase(names[tests])
        for tests in ("EndTests", "AccountTests", "SignalTests", "CallbackTests")
    )
    engine = f"django_sessionstores.backends.{name}"
    with django_db_blocker.unblock(), override_settings(SESSION_ENGINE=engine):
        result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
    assert result.testsRun == 5
    assert [(str(test), text) for test, text in result.failures + result.errors] == []


SITE_OF_THE_GUIDE = {
    "settings.py": """
        SECRET_KEY = "tests only"
        INSTALLED_APPS = [
            "django.contrib.contenttypes", "django.contrib.auth", "django_sessionstores"
        ]
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        MIDDLEWARE = [
            "django_sessionstores.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ]
        ROOT_URLCONF, LOGIN_URL = "urls", "/login/"
        SESSIONSTORES = {"MAX_SESSIONS": 10}
    """,
    "urls.py": """
        from django.contrib.auth.decorators import login_required
        from django.http import HttpResponse
        from django.urls import path

        @login_required
        def account(request):
            return HttpResponse("account")

        def add_apple(request):
            request.session["cart"] = ["apple"]
            return HttpResponse("added")

        urlpatterns = [path("account/", account), path("cart/", add_apple)]
    """,
    "pytest.ini": "[pytest]",
    "running.py": """
        import inspect

        import pytest
        from asgiref.sync import async_to_sync

        @pytest.hookimpl(tryfirst=True)
        def pytest_pyfunc_call(pyfuncitem):
            # As a plugin for async tests does.
            if not inspect.iscoroutinefunction(pyfuncitem.obj):
                return None
            names = pyfuncitem._fixtureinfo.argnames
            async_to_sync(pyfuncitem.obj)(**{name: pyfuncitem.funcargs[name] for name in names})
            return True
    """,
}


@pytest.mark.parametrize("name", ["memory", pytest.param("db", marks=pytest.mark.slow)])
def test_pytest_tests_of_the_guide_pass(tmp_path: Path, name: str) -> None:
    """In a project of their own, as a reader has it."""
    page = blocks(DOCS / "howto" / "testing.rst")
    (conftest,) = [code for code in page if "pytest_plugins" in code]
    is_test = re.compile("^(async )?def test_|^pytestmark", re.MULTILINE)
    tests = [code for code in page if is_test.search(code)]
    files = SITE_OF_THE_GUIDE | {"conftest.py": conftest, "test_guide.py": "\n\n".join(tests)}
    engine = f"django_sessionstores.backends.{name}"
    files["settings.py"] = textwrap.dedent(files["settings.py"]) + f"SESSION_ENGINE = {engine!r}"
    written = run_tests(tmp_path, files, "-p", "running", "--ds=settings")
    number = sum(code.count("def test_") for code in tests)
    assert f"{number} passed" in written, written


# Commands -------------------------------------------------------------------------------------

COMMAND = re.compile(r"(\$ (?:python )?|``|python |uv run )?manage\.py ([a-z_]+)([^`|\n]*)")


def commands(page: Path) -> Iterator[tuple[str, list[str], bool]]:
    """Yield the commands that a page names, with their arguments, and whether they are whole."""
    for before, name, arguments in COMMAND.findall(page.read_text(encoding="utf-8")):
        yield name, shlex.split(arguments), before.endswith(("$ ", "python ", "run "))


def parser_of(name: str) -> CommandParser:
    """Return the parser of a command of Django, the package or the demo site."""
    app = get_commands().get(name, "testproject")
    command = load_command_class(app, name) if isinstance(app, str) else app
    return command.create_parser("manage.py", name)


def test_commands_exist_with_their_options() -> None:
    """A reader types them as they stand."""
    wrong, found = [], 0
    for page in PAGES:
        for name, arguments, is_whole in commands(page):
            try:
                if is_whole:
                    parser_of(name).parse_args(arguments)
                else:
                    assert_known(parser_of(name), arguments)
            except (ModuleNotFoundError, CommandError, AssertionError, SystemExit) as error:
                wrong.append((page.name, name, arguments, repr(error)))
            found += 1
    assert wrong == []
    assert found > 50


def assert_known(parser: ArgumentParser, arguments: list[str]) -> None:
    """Assert that the command in a text has the action and the options that the text names."""
    for action in parser._actions:
        if isinstance(action, _SubParsersAction) and arguments:
            assert arguments[0] in action.choices
            parser, *arguments = action.choices[arguments[0]], *arguments[1:]
    for argument in arguments:
        assert not argument.startswith("-") or argument in parser._option_string_actions


# Lists ----------------------------------------------------------------------------------------


def test_every_engine_has_a_page_with_the_same_headings() -> None:
    """A reader who compares engines finds each answer at the same place on each page."""
    headings = [
        "When to use it",
        "Setup",
        "What is stored",
        "What it promises",
        "When the store is down",
        "Cost",
        "Limits",
    ]
    pages = {path.stem: path for path in (DOCS / "reference/engines").glob("*.rst")}
    assert pages.keys() - {"index"} == ENGINES, (
        "Each engine has a page docs/reference/engines/*.rst."
    )
    for name in ENGINES:
        text = pages[name].read_text(encoding="utf-8")
        assert re.findall(r"^(.+)\n-+$", text, re.MULTILINE) == headings, (
            f"Give docs/reference/engines/{name}.rst these headings, in this order: "
            f"{', '.join(headings)}."
        )


def test_the_checklist_has_every_engine() -> None:
    """A site on an engine without a list goes live unchecked."""
    headings = re.findall(r"^``(\w+)``\n-+$", read("howto", "deploying.rst"), re.MULTILINE)
    assert sorted(headings) == sorted(ENGINES)


def test_the_page_of_servers_says_what_is_tested() -> None:
    """A reader takes a server that is listed as tested for one on which the tests run."""
    rows = read("howto", "servers.rst").split("* - Server", 1)[1].partition("\n\n")[0]
    tested = [row for row in rows.split("   * - ") if "     - yes" in row]
    assert len(tested) == len(KINDS)
    for kind in KINDS.values():
        options = [each for each in kind.arguments if each.startswith(("--worker-class", "--pre"))]
        wanted = [kind.arguments[0], *options, f"--workers={kind.processes}"]
        assert any(all(each in row for each in wanted) for row in tested), kind.name


def test_the_readme_lists_every_engine() -> None:
    """An engine that is not in the table does not exist for readers."""
    readme = (ROOT / "README.rst").read_text(encoding="utf-8")
    table = readme.split(".. engines-begin")[1].split(".. engines-end")[0]
    assert set(re.findall(r"^``(\w+)``", table, re.MULTILINE)) == ENGINES, (
        "Give each engine a row of the table in README.rst, after '.. engines-begin'."
    )


@pytest.mark.parametrize(
    ("file", "begin", "end", "name"),
    [
        ("docs/reference/settings.rst", "and one of", ".", r"``(\w+)``"),
        (
            "docs/reference/checks.rst",
            "The package has the engines",
            ", all in",
            r"<engines/(\w+)>",
        ),
        ("docs/_extensions/package_facts.py", "STORAGES: Final", "\n}\n", r'^    "``(\w+)``'),
        ("testproject/engines.py", "FORMS: Final", "\n\n", r"^  (\w+)"),
    ],
)
def test_a_list_in_prose_names_every_engine(file: str, begin: str, end: str, name: str) -> None:
    """A reader takes such a list for all that there is."""
    text = (ROOT / file).read_text(encoding="utf-8").split(begin)[1].split(end)[0]
    named = set(re.findall(name, text, re.MULTILINE))
    assert named == ENGINES, f"Name each engine in {file}, after {begin!r}."


def test_the_page_of_the_architecture_names_files_that_exist() -> None:
    """A contributor opens them. A path is below the package, or, with ``tests``, the checkout."""
    page = read("explanation", "architecture.rst")
    paths = set(re.findall(r"``([\w/]+(?:\.py|/))``", page))
    folders = ROOT, ROOT / "django_sessionstores"
    assert [path for path in paths if not any((each / path).exists() for each in folders)] == []
    assert len(paths) > 30


def test_the_page_of_the_architecture_has_the_layers() -> None:
    """In the order that ``lint-imports`` checks."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = [set(layer.split(" | ")) for layer in contracts[0]["layers"]]
    page = read("explanation", "architecture.rst").split("   * - Layer\n", 1)[1].split("\n\n", 1)[0]
    rows = re.findall(r"^   \* - (.*)$", page, re.MULTILINE)
    assert [set(re.findall(r"``(\w+)``", row)) for row in rows] == layers


def test_contributors_are_told_what_each_folder_is() -> None:
    """Each folder of modules, two levels deep."""
    package = ROOT / "django_sessionstores"
    folders = {path.parent.relative_to(package).parts[:2] for path in package.rglob("*.py")}
    text = (ROOT / "CONTRIBUTING.rst").read_text(encoding="utf-8")
    unnamed = {"/".join(parts) for parts in folders if parts} - set(
        re.findall(r"``([\w/]+)``", text)
    )
    assert unnamed - {"management"} == set(), "Describe them in CONTRIBUTING.rst, Where things are."


def test_the_page_of_checks_lists_every_id() -> None:
    """An id without an entry sends people to read the source. A new check takes the number after
    the last one of its letter, because a number that is missing there was one of a former check."""
    ids = r"sessionstores\.[EWI]\d{3}"
    modules = [*Path(*checks.__path__).glob("*.py"), *Path(*doctor.__path__).glob("*.py")]
    emitted = {id_ for path in modules for id_ in re.findall(ids, path.read_text("utf-8"))}
    entries = re.findall(rf"^   \* - ``({ids})``", read("reference", "checks.rst"), re.MULTILINE)
    assert entries == sorted(entries, key=lambda id_: ("EWI".index(id_[14]), id_)), (
        "Sort the rows of docs/reference/checks.rst: errors, warnings, then information."
    )
    missing, former = emitted - set(entries), set(entries) - emitted
    assert not missing, f"Describe {missing} in docs/reference/checks.rst."
    assert not former, f"No check has {former}. Remove them from docs/reference/checks.rst."


def test_each_id_of_a_check_that_a_page_names_exists() -> None:
    """A reader looks it up, and silences it."""
    known = set(re.findall(r"sessionstores\.[EWI]\d{3}", read("reference", "checks.rst")))
    for page in PAGES:
        named = set(re.findall(r"sessionstores\.[EWI]\d{3}", page.read_text(encoding="utf-8")))
        assert named <= known, page


def test_the_page_of_exceptions_has_every_one() -> None:
    """Each error that can reach a log has to be explained."""
    defined = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and value.__module__ == exceptions.__name__
    }
    page = read("reference", "exceptions.rst")
    assert set(re.findall(r"autoexception:: (\w+)", page)) == defined
    assert page.count("**What to do:**") == len(defined) - 1  # The root is raised by nobody.


@pytest.mark.parametrize(
    ("name", "id_"),
    [("MAX_SESSIONS", "sessionstores.E019"), ("ROTATE_AFTER", "sessionstores.W022")],
)
def test_the_engines_of_a_setting_are_those_that_the_checks_accept(
    engine: Any, monkeypatch: pytest.MonkeyPatch, name: str, id_: str
) -> None:
    """What the page of settings says of an engine, the check says with the settings of a site."""
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(DOCS / "_extensions")
    needs = import_module("settings_reference").NEEDS[name]
    options = getattr(settings, "SESSIONSTORES", {})
    with override_settings(SESSIONSTORES={**options, name: 5}):
        reported = {message.id for message in check_limit_and_rotation(None)}
    assert (id_ in reported) is not needs(engine.storage)


def test_the_page_of_signals_has_every_one() -> None:
    """A signal without an entry is connected by nobody."""
    defined = {name for name, value in vars(signals).items() if isinstance(value, Signal)}
    table = read("reference", "signals.rst").split("* - Signal\n", 1)[1].split("\n\n", 1)[0]
    assert set(re.findall(r"^   \* - ``(\w+)``", table, re.MULTILINE)) == defined


def test_every_command_is_described_with_its_actions_and_options() -> None:
    """What ``--help`` alone tells is found by nobody who does not know that it is there."""
    folder = ROOT / "django_sessionstores" / "management" / "commands"
    names = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in names if f"manage.py {name}" not in pages] == []
    page = read("howto", "sessions_command.rst")
    known = {*BaseCommand().create_parser("manage.py", "any")._option_string_actions}
    for action in parser_of("sessions")._actions:
        if isinstance(action, _SubParsersAction):
            for name, parser in action.choices.items():
                assert f"   * - ``sessions {name}" in page
                missing = [
                    each.option_strings
                    for each in parser._actions
                    if each.help != SUPPRESS and not known & set(each.option_strings)
                    if each.option_strings and each.option_strings[0] not in page
                ]
                assert not missing, f"Describe {missing} of sessions {name}."


def test_the_page_of_promises_has_every_number() -> None:
    """The simulation tells a broken promise by its number."""
    page = read("reference", "promises.rst")
    numbers = list(map(int, re.findall(r"^(\d+)\. ", page, re.MULTILINE)))
    assert numbers == list(range(1, 31))
    folder = ROOT / "django_sessionstores/testing/simulation"
    code = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    told = set(map(int, re.findall(r"(?:_broken\((?:world, )?|Violation\()(\d+)", code)))
    assert len(told) > 10
    assert told <= {0, *numbers}


def test_the_page_of_compatibility_lists_each_test_of_djangos_that_fails() -> None:
    """The claim of compatibility is worth what its exceptions are."""
    entries = re.findall(
        r"^``(test_\w+)``\n   \| In ``([\w.]+)``\n   \| Engines: (.+)\n\n   (.+)$",
        read("reference", "compatibility.rst"),
        re.MULTILINE,
    )
    expected = [
        (failure.test, ", ".join(failure.engines), failure.reason) for failure in EXPECTED_FAILURES
    ]
    found = [(f"{where}.{test}", engines, reason) for test, where, engines, reason in entries]
    assert found == expected


def test_the_setup_of_each_scenario_is_that_of_the_site_that_is_measured() -> None:
    """A reader who copies it has what was tried."""
    rows = read("reference", "compatibility.rst").split("* - Scenario", 1)[1]
    shown = re.findall(r'``(?:include\()?"([\w.]+)"\)?``', rows.partition("\n\n")[0])
    folder = ROOT / "tests" / "packages"
    site = "".join((folder / f"{name}.py").read_text("utf-8") for name in ("site", "site_urls"))
    assert len(shown) > 15
    assert [each for each in shown if f'"{each}"' not in site] == []


def test_the_table_of_packages_is_what_was_measured() -> None:
    """``python -m tests.packages --table`` writes both."""
    page = read("reference", "compatibility.rst")
    assert page_with_table(page) == page


# The build ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the documentation as text, built with warnings as errors."""
    if find_spec("sphinx") is None or find_spec("furo") is None:
        skip_or_fail("Sphinx and furo are not installed. Install them with: uv sync --group docs")
    target = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "-b", "text", DOCS, target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.mark.slow
def test_the_page_of_settings_has_every_option(built: Path) -> None:
    """Each fact comes from the package, and each entry has the same lines: none may be lost."""
    page = (built / "reference" / "settings.txt").read_text(encoding="utf-8")
    for name in conf.OPTIONS:
        value = getattr(conf.Settings(), name)
        default = re.escape(repr([] if value == () else value))
        assert page.count(f'\n"{name}"\n') == 1, (
            f"Name {name} in one group of docs/reference/settings.rst."
        )
        entry = re.search(
            rf'^"{name}"\n +Type: .+\n +Default: "{default}"\n'
            rf' +Example: ""{name}":.*\n(?: +.+\n)* +Engines: .+\n(?: +.+\n)*\n +\w',
            page,
            re.MULTILINE,
        )
        assert entry is not None, (
            f"Give Settings.{name} in conf/options.py a return type and a docstring."
        )


def table(page: str) -> Iterator[list[str]]:
    """Yield the rows of the table in a text page, their cells' lines joined."""
    for row in re.split(r"^[+|][-=+|]+$", page, flags=re.MULTILINE):
        lines = [line.strip("|").split("|") for line in row.splitlines() if line.startswith("|")]
        if lines:
            yield [" ".join(map(str.strip, cell)).strip() for cell in zip(*lines, strict=True)]


@pytest.mark.slow
def test_the_matrix_of_storages_is_what_they_declare(built: Path) -> None:
    """People choose by it whether a restart signs everyone out."""
    page = (built / "howto" / "choosing.txt").read_text(encoding="utf-8")
    rows = {name.replace('"', ""): cells for name, *cells in table(page)}
    assert rows["memory"] == ["yes", "yes", "no", "no", "no", "yes", "no", "no"]
    assert rows["file"] == ["yes", "yes", "yes", "yes", "no", "yes", "yes", "no"]
    assert rows["db"] == ["yes", "yes", "yes", "yes", "no", "yes", "yes", "yes"]
    assert rows["cache on Redis"] == ["yes", "yes", "yes", "no", "yes", "yes", "yes", "yes"]
    assert rows["cache on DatabaseCache"] == ["yes", "yes", "yes", "no", "no", "yes", "no", "no"]
    assert rows["cache on LocMemCache"] == ["yes", "yes", "no", "no", "yes", "yes", "no", "no"]
    assert rows["cache on another cache"] == ["yes", "yes", "yes", "no", "yes", "no", "no", "no"]
    assert rows["cached_db"] == ["yes", "yes", "yes", "yes", "no", "yes", "yes", "yes"]
    assert rows["cookie"] == ["no", "no", "yes", "yes", "yes", "no", "no", "no"]
    registered = ["yes", "yes", "yes", "yes", "no", "yes", "yes", "yes"]
    assert rows["cookie, registered in db or cached_db"] == registered
    registered = ["yes", "yes", "yes", "no", "yes", "yes", "yes", "yes"]
    assert rows["cookie, registered in cache on Redis"] == registered


@pytest.mark.slow
def test_defaults_in_prose_are_filled_in(built: Path) -> None:
    """A number that is written twice is wrong once."""
    page = (built / "explanation" / "login.txt").read_text(encoding="utf-8")
    assert f"({conf.Settings().TOMBSTONE_AGE})" in " ".join(page.split())


def test_the_summary_of_the_performance_page_says_what_its_tables_say() -> None:
    """It has the newest figure of each, which for Redis are in the text above the tables."""
    page = (DOCS / "reference" / "performance.rst").read_text(encoding="utf-8")
    summary, figures = page.split("\nFigures\n", 1)
    later = re.findall(r"\d\.\d\d", figures.partition("In a\nlater run")[2].partition("\n\n")[0])
    rows = _rows(figures.partition("list-table:: Of the time of Django's engine")[2])
    rows |= {"cache:django-redis": later[:5], "cache:redis-cache": later[5:]}
    in_short = _rows(summary)
    assert len(in_short) == 8
    for name, ratios in in_short.items():
        read, _first_write, read_and_write, login, _logout = rows[name]
        assert ratios == [read, read_and_write, login], name


def _rows(text: str) -> dict[str, list[str]]:
    """Return the figures of a table by the engine and store in the first column."""
    rows = re.findall(r"^   \* - ``([\w:+-]+)``\n((?:     - .+\n)+)", text, re.MULTILINE)
    return {name: re.findall(r"- [*]*(\d+\.\d+)", cells) for name, cells in rows}
