"""Fixtures that every test file shares."""

import contextvars
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.test import override_settings

from tests import cases, services
from tests.browser import Chromium


def pytest_configure(config: pytest.Config) -> None:
    # A time limit ends a test run by SIGTERM: as with Ctrl-C, the servers must be stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    services.stop_all()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run each test in a context of its own.

    Each change of CACHES leaves variables in the context, which asgiref carries along at every
    step between sync and async: after a thousand tests that took most of the time.
    """
    runner = item.config.pluginmanager.get_plugin("runner")
    contextvars.copy_context().run(runner.pytest_runtest_protocol, item, nextitem)
    return True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per case for who asks for `engine`; see the marker ``engines``."""
    if "engine" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("engines")
        selected = cases.select(*(marker.args if marker else ()))
        if metafunc.definition.get_closest_marker("authoritative"):
            selected = [case for case in selected if case.engine != "cookie" or case.registry]
        if metafunc.definition.get_closest_marker("payload_stored"):
            selected = [case for case in selected if case.engine != "cookie"]
        metafunc.parametrize("engine", selected, ids=lambda case: case.id, indirect=True)


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, django_db_blocker: Any) -> None:
    """The tables of the default database, whatever tests ask for it.

    In place of pytest-django's fixture, which makes a second database beside the one in the
    settings, and none where only tests outside a transaction use it. The settings' own is a
    temporary file already.
    """
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0, interactive=False)


@pytest.fixture
def engine(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: Any
) -> Iterator[cases.Engine]:
    """A case in force, its store empty; the test runs once for each case.

    ``@pytest.mark.engines("redis", "db")`` picks cases by engine, store, server or id.
    ``@pytest.mark.authoritative`` leaves out what cannot end a session, and
    ``@pytest.mark.payload_stored`` what leaves the payload to the browser.
    ``@pytest.mark.private_servers`` gives the test servers of its own, to be paused and killed;
    ``@pytest.mark.private_servers({Redis: partial(Redis, maxmemory="3mb")})`` says which.

    No transaction is around the test: other threads and processes see what it writes. What it
    writes besides sessions it has to remove.
    """
    marker = request.node.get_closest_marker("private_servers")
    private = (marker.args[0] if marker.args else True) if marker else False
    with django_db_blocker.unblock(), cases.activate(request.param, private=private) as active:
        yield active


@pytest.fixture(params=["django.contrib.sessions", "django_sessionstores"])
def middleware(request: pytest.FixtureRequest) -> Iterator[str]:
    """A session middleware in force, Django's and then the package's.

    ``@pytest.mark.usefixtures("middleware")`` holds a test to be true under both.
    """
    path = f"{request.param}.middleware.SessionMiddleware"
    _, *others = settings.MIDDLEWARE
    with override_settings(MIDDLEWARE=[path, *others]):
        yield path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """The browser of a test file; each of its tests makes windows of its own."""
    with Chromium() as browser:
        yield browser


@pytest.fixture
def user(django_db_setup: None, django_db_blocker: Any) -> Iterator[Any]:
    """A user in the default database, for tests without a transaction."""
    from django.contrib.auth import get_user_model

    with django_db_blocker.unblock():
        user = get_user_model()._default_manager.create(username="ada")
        yield user
        user.delete()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many of Django's own session tests each engine passed, on every store."""
    passed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for outcome in ("passed", "failed", "error", "skipped", "xfailed"):
        for report in terminalreporter.getreports(outcome):
            file, *names = report.nodeid.split("::")
            if file.endswith("test_upstream.py") and len(names) == 2:
                passed[names[0]] += outcome == "passed"
                total[names[0]] += 1
    if total:
        terminalreporter.section("Django's SessionTestsMixin")
        for name in sorted(total):
            terminalreporter.write_line(f"{passed[name]:>3} of {total[name]}  {name}")
