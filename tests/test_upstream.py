"""Django's own session tests, unmodified, against every engine on every store."""

import re
import unittest
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import TestCase

from tests import cases, upstream

sessions_tests = upstream.session_tests()
MIXIN = sessions_tests.SessionTestsMixin


class _OnCase:
    """Puts a case in force around a class of Django's tests."""

    case: cases.Case
    databases: set[str]
    backend: type[Any]

    @classmethod
    def setUpClass(cls) -> None:
        # Before TestCase opens its transactions, which need to know the databases.
        engine = cls.enterClassContext(cases.activate(cls.case))  # type: ignore[attr-defined]
        cls.backend = engine.SessionStore
        cls.databases = {"default", engine.database}
        super().setUpClass()  # type: ignore[misc]


def _test_case(case: cases.Case) -> type[TestCase]:
    name = re.sub(r"\W", "_", case.id)  # An identifier, so that -k and node ids can name it.
    members: dict[str, Any] = {"case": case, "__module__": __name__}
    if case.engine == "cookie" and not case.registry:
        # Strict: one that passes is a failure.
        members |= {test: _expected_to_fail(test) for test in upstream.REVOCATION_TESTS}
    return type(name, (_OnCase, MIXIN, TestCase), members)


def _expected_to_fail(test: str) -> Any:
    method = getattr(MIXIN, test)
    if iscoroutinefunction(method):
        method = async_to_sync(method)
    return unittest.expectedFailure(lambda self: method(self))


for _case in cases.CASES:
    _class = _test_case(_case)
    globals()[_class.__name__] = _class
del _class


def test_the_mixin_holds_65_tests() -> None:
    """The engines are said to pass 65 of 65. A Django that renames its mixin's tests, or has more
    of them, would make that figure false without any test failing."""
    names = unittest.TestLoader().getTestCaseNames(_test_case(cases.CASES[0]))

    assert len(names) == 65


# Under the package's middleware, `db` has a run of its own below.
SUITES = [
    pytest.param("cookie", marks=pytest.mark.slow),
    *(
        pytest.param(each, marks=pytest.mark.all_packages)
        for each in ("db", "cached_db", "cache", "file")
    ),
]


@pytest.mark.parametrize("engine_name", SUITES)
def test_djangos_suite_fails_only_where_documented(engine_name: str, tmp_path: Path) -> None:
    """Auth, messages, CSRF, the middleware and the test client work on the engine as Django's own
    tests want it. A failure that is not in the table is a defect; an entry in the table that no
    longer fails is a false excuse in the documentation."""
    (case, *_) = cases.select(engine_name)

    run = upstream.run_suite(cases.engine_path(case), tmp_path)

    assert run.ran > upstream.FEWEST_TESTS
    assert run.failed == upstream.expected_failures(engine_name), run.output[-20_000:]


@pytest.mark.slow
def test_djangos_suite_passes_under_the_packages_middleware(tmp_path: Path) -> None:
    """It takes the place of Django's in sites with any of Django's apps."""
    (case, *_) = cases.select("db")

    path = "django_sessionstores.middleware.SessionMiddleware"
    run = upstream.run_suite(cases.engine_path(case), tmp_path, path)

    expected = upstream.expected_failures("db", upstream.MIDDLEWARE)
    assert run.ran > upstream.FEWEST_TESTS
    assert run.failed == expected, run.output[-20_000:]
