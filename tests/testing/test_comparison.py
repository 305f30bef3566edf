"""The comparison of session backends in the documentation."""

from __future__ import annotations

from typing import Any

import pytest

from django_sessionstores.testing.cases.catalog import CASES
from tests import ROOT
from tests.testing.comparison import (
    DJANGO,
    OWN,
    PAGE,
    SUBJECTS,
    all_results,
    page_with_results,
    results_of,
)


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    """The results that the documentation has."""
    return all_results()


def outcomes(cases: dict[str, Any]) -> dict[str, str]:
    return {name: case["result"] for name, case in cases.items()}


@pytest.mark.slow
class TestTheComparison:
    def test_the_tables_of_the_documentation_are_those_of_the_command(
        self, results: dict[str, dict[str, Any]]
    ) -> None:
        """``uv run python -m tests.testing.comparison`` rewrites them."""
        page = PAGE.read_text(encoding="utf-8")
        assert page_with_results(page, results) == page

    def test_the_package_passes_all_cases(self, results: dict[str, dict[str, Any]]) -> None:
        failed = [
            (engine, name)
            for engine, cases in results.items()
            for name, result in outcomes(cases).items()
            if engine.startswith(OWN) and result == "failed"
        ]
        assert failed == []

    def test_what_fails_under_the_middleware_of_django_is_documented(self) -> None:
        page = PAGE.read_text(encoding="utf-8")
        middleware = "--middleware=django.contrib.sessions.middleware.SessionMiddleware"
        for cases in results_of(OWN + "db", OWN + "memory", middleware).values():
            failed = [name for name, result in outcomes(cases).items() if result == "failed"]
            assert failed == [
                "an-error-page-after-a-new-key-signs-nobody-out",
                "a-reader-beside-an-end-gets-no-error",
            ]
            assert all(f"``{name}`` (" in page for name in failed)

    def test_the_order_of_cases_does_not_matter(self, results: dict[str, dict[str, Any]]) -> None:
        engines = [DJANGO + "db", OWN + "db", OWN + "memory"]
        names = [f"--case={name}" for name in reversed(CASES)]
        for engine, cases in results_of(*engines, *names).items():
            assert outcomes(cases) == outcomes(results[engine]), engine


class TestTheCases:
    def test_each_is_described(self) -> None:
        page = (ROOT / "docs/reference/promises.rst").read_text(encoding="utf-8")
        assert {case.subject for case in CASES.values()} == set(SUBJECTS)
        for case in CASES.values():
            assert f"\n{case.promise}. " in page
            assert case.meaning.endswith("."), case.name
            assert "\n\n" not in case.meaning, case.name
