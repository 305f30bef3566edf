"""The tests of packages that use sessions pass on our backends as they do on Django's."""

from typing import Any

import pytest

from tests.packages.backends import BACKENDS
from tests.packages.expected import expected_tests, failures
from tests.packages.runner import run_suite
from tests.packages.suites import ALL, SUITES, Suite
from tests.packages.table import PAGE, page_with_table


def runs() -> list[Any]:
    """Return each package on each backend. The markers say which of them run each time."""
    parameters = []
    for suite in SUITES:
        for backend in ALL:
            marker = "packages" if backend in suite.in_ci else "all_packages"
            marks = [getattr(pytest.mark, name) for name in (marker, "slow")]
            name = f"{suite.package}-{backend}"
            parameters.append(pytest.param(suite, backend, marks=marks, id=name))
    return parameters


@pytest.mark.parametrize(("suite", "backend"), runs())
def test_a_package_fails_only_where_documented(suite: Suite, backend: str) -> None:
    """A new failure is a defect, of ours if it is on our backends alone. A known one that no longer
    fails is a false excuse in the documentation."""
    run = run_suite(suite, BACKENDS[backend])

    known = expected_tests(suite.package, backend)
    assert run.ran > 0
    assert sorted(run.failed - known) == [], run.output[-20_000:]
    assert sorted(known - run.failed) == [], "These do not fail any more."


def test_each_known_failure_is_of_a_run() -> None:
    """A name that is misspelt would excuse nothing, and nobody would notice."""
    packages = {suite.package for suite in SUITES}
    for entry in failures():
        assert entry.package in packages
        assert {*entry.backends} <= {*ALL}
        assert entry.reason
        assert entry.tests


def test_the_page_shows_what_was_measured() -> None:
    """Figures that are written by hand are wrong after the next change."""
    text = PAGE.read_text(encoding="utf-8")
    assert text == page_with_table(text), "Run: python -m tests.packages --write"
