"""Django's own tests, from the source distribution of the Django that is installed.

The wheel has no tests, and they are not ours to ship, so they are fetched into a folder that git
ignores, once per version.
"""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import django
from django.conf import settings
from django.test import override_settings

from tests.sdists import ROOT, unpack_sdist
from tests.services import Redis, shared_service

CACHE = ROOT / ".cache" / "django"


@cache
def tests_folder() -> Path:
    """Django's tests. Skips where they are not there yet and cannot be fetched."""
    return unpack_sdist("django", django.get_version(), CACHE) / "tests"


def session_tests() -> ModuleType:
    """Django's ``sessions_tests.tests``. The module, because a class would be collected again."""
    with _on_path(tests_folder()), _installed("sessions_tests"):
        return importlib.import_module("sessions_tests.tests")


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    # Only meanwhile: Django's folder is full of packages with names such as cache and files.
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _installed(app: str) -> Iterator[None]:
    # Its models refuse to be imported outside INSTALLED_APPS; the tests used here need no table.
    with override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, app]):
        yield


# Whole parts of Django's suite, with our engine in its settings ---------------------------------

LABELS = (
    "sessions_tests.tests.SessionMiddlewareTests",
    "test_client",
    "test_client_regress",
    "messages_tests",
    "csrf_tests",
)
WITHOUT_SESSIONS = "test_hashers"
"""The module of ``auth_tests`` that is left out: it is about hashes of passwords only, and took
longer than all others together."""
FEWEST_TESTS = 1_000
"""The suite holds more than that in any supported Django: fewer ran means that some did not."""


MIDDLEWARE = "any, under the package's middleware"
"""Stands among the engines of an expected failure for each of them under that."""


@dataclass(frozen=True)
class ExpectedFailure:
    """A test of Django's that asks for something which is not a promise of sessions."""

    test: str
    engines: tuple[str, ...]
    reason: str


EXPECTED_FAILURES = (
    ExpectedFailure(
        "sessions_tests.tests.SessionMiddlewareTests.test_empty_session_saved",
        ("db", "cached_db", "cache", "file", "cookie"),
        "This test looks for the session in the table of Django's own db engine.",
    ),
    ExpectedFailure(
        "auth_tests.test_middleware.TestLoginRequiredMiddleware"
        ".test_protected_view_logged_in_performance",
        ("cache", "file"),
        "This test expects two queries, for the session and for the user. Here the session needs "
        "none.",
    ),
    ExpectedFailure(
        "auth_tests.test_views.LoginTest.test_session_key_flushed_on_login_after_password_change",
        ("db", "cached_db", "cache", "file", "cookie"),
        "This test expects the same key when the same user signs in again. Here each login makes a "
        "new key.",
    ),
    ExpectedFailure(
        "sessions_tests.tests.SessionMiddlewareTests"
        ".test_save_every_request_with_non_empty_session_renews_session_cookie",
        (MIDDLEWARE,),
        "This test expects the cookie with each response. Here it is sent when the stored expiry "
        "has moved.",
    ),
)


REVOCATION_TESTS = (
    "test_delete",
    "test_delete_async",
    "test_flush",
    "test_flush_async",
    "test_session_save_does_not_resurrect_session_logged_out_in_other_context",
    "test_session_asave_does_not_resurrect_session_logged_out_in_other_context",
)
"""What the cookie engine cannot do without a registry: end a session."""


def expected_failures(*engines: str) -> set[str]:
    """Return those of `EXPECTED_FAILURES` for any of the engines that the Django under test has."""
    return {
        expected.test
        for expected in EXPECTED_FAILURES
        if {*engines} & {*expected.engines} and _is_in_this_django(expected.test)
    }


def _is_in_this_django(test: str) -> bool:
    module, _class, method = test.rsplit(".", 2)
    source = tests_folder() / f"{module.replace('.', '/')}.py"
    return f"def {method}(" in source.read_text(encoding="utf-8")


@dataclass(frozen=True)
class SuiteRun:
    """What became of a run of Django's suite."""

    ran: int
    failed: frozenset[str]
    output: str


_FAILURE = re.compile(r"^(?:FAIL|ERROR|UNEXPECTED SUCCESS): .*?\(([\w.]+)\)", re.MULTILINE)
_RAN = re.compile(r"^Ran (\d+) tests", re.MULTILINE)


def _auth_tests() -> list[str]:
    modules = {path.stem for path in tests_folder().glob("auth_tests/test_*.py")}
    assert WITHOUT_SESSIONS in modules
    return [f"auth_tests.{module}" for module in sorted(modules - {WITHOUT_SESSIONS})]


def run_suite(session_engine: str, folder: Path, middleware: str = "") -> SuiteRun:
    """Run `LABELS` and ``auth_tests`` with SESSION_ENGINE set; files go to ``folder``.

    With ``middleware``, a dotted path, that class stands everywhere for Django's own.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "UPSTREAM_SESSION_ENGINE": session_engine,
        "UPSTREAM_MIDDLEWARE": middleware,
        "UPSTREAM_FOLDER": str(folder),
        "UPSTREAM_REDIS_URL": shared_service(Redis).url(database=1),
    }
    done = subprocess.run(
        [
            *(sys.executable, "runtests.py", "--settings=tests.upstream_settings"),
            *("--parallel=1", "--verbosity=1", "--noinput", *LABELS, *_auth_tests()),
        ],
        cwd=tests_folder(),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    failed = frozenset(_FAILURE.findall(done.stdout))
    ran = sum(map(int, _RAN.findall(done.stdout)))
    if bool(done.returncode) is not bool(failed):
        raise RuntimeError(f"Django's tests did not run to their end:\n{done.stdout[-8000:]}")
    return SuiteRun(ran, failed, done.stdout)
