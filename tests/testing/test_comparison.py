"""The command that holds any session backend to cases."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.contrib.sessions.backends import db
from django.contrib.sessions.backends.cache import SessionStore as CacheStore

from django_sessionstores.testing.cases import running
from django_sessionstores.testing.cases.backend import Backend
from django_sessionstores.testing.cases.catalog import CASES
from django_sessionstores.testing.cases.running import Outcome, Result, run_cases
from tests import ROOT
from tests.testing.comparison import (
    DJANGO,
    OWN,
    PAGE,
    SUBJECTS,
    all_results,
    page_with_results,
    results_of,
    run_command,
)

SECRET = "a-secret-in-the-session"


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    """The results that the documentation has."""
    return all_results()


def outcomes(cases: dict[str, Any]) -> dict[str, str]:
    return {name: case["result"] for name, case in cases.items()}


class TestTheComparison:
    def test_the_tables_of_the_documentation_are_those_of_the_command(
        self, results: dict[str, dict[str, Any]]
    ) -> None:
        """``python -m tests.testing.comparison`` writes them."""
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

    @pytest.mark.slow
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


@pytest.fixture
def hold(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that holds a session store to cases."""

    def run(store: type, *names: str) -> dict[str, Result]:
        module: Any = types.ModuleType("backend_of_a_test")
        module.SessionStore = store
        monkeypatch.setitem(sys.modules, module.__name__, module)
        backend = Backend(module.__name__)
        cases = [CASES[name] for name in names or CASES]
        return {result.case.name: result for result in run_cases(backend, cases)}

    return run


class TestAFaultyBackend:
    def test_a_crash_is_a_failure_with_the_name_of_the_error(self, hold: Any) -> None:
        class Store(db.SessionStore):
            def load(self) -> Any:
                raise ZeroDivisionError(f"{SECRET} of {self.session_key}")

        result = hold(Store, "a-saved-value-is-read-back")["a-saved-value-is-read-back"]
        assert result.outcome is Outcome.FAILED
        assert result.detail == "ZeroDivisionError was raised."

    def test_a_case_that_does_not_end_is_stopped(
        self, hold: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Store(db.SessionStore):
            def load(self) -> Any:
                while True:
                    with suppress(Exception):
                        self.exists("a" * 32)

        monkeypatch.setattr(running, "TIME_LIMIT", 0.2)
        (result,) = hold(Store, "a-saved-value-is-read-back").values()
        assert result.outcome is Outcome.FAILED
        assert result.detail == "It had not ended after 0.2 seconds."

    def test_it_accepts_unknown_keys(self, hold: Any) -> None:
        class Store(CacheStore):
            def load(self) -> Any:
                return self._cache.get(self.cache_key) or {}

        names = ("an-unknown-key-is-not-accepted", "a-saved-value-is-read-back")
        adopted, kept = hold(Store, *names).values()
        assert adopted.outcome is Outcome.FAILED
        assert kept.outcome is Outcome.PASSED

    def test_it_does_not_end_sessions(self, hold: Any) -> None:
        class Store(db.SessionStore):
            def delete(self, session_key: str | None = None) -> None:
                pass

        results = hold(Store)
        for name in ("flush-ends-the-session", "logout-ends-the-session"):
            assert results[name].outcome is Outcome.FAILED, name

    def test_it_forgets_lifetimes(self, hold: Any) -> None:
        class Store(db.SessionStore):
            def get_expiry_age(self, **kwargs: Any) -> int:
                return 10**6

            def get_expiry_date(self, **kwargs: Any) -> Any:
                return super().get_expiry_date(expiry=10**6)

        results = hold(Store)
        for name in ("an-expired-session-reads-as-empty", "a-lifetime-is-kept"):
            assert results[name].outcome is Outcome.FAILED, name

    def test_it_loses_data(self, hold: Any) -> None:
        class Store(db.SessionStore):
            def encode(self, session_dict: dict[str, Any]) -> str:
                return super().encode({k: v for k, v in session_dict.items() if len(k) < 6})

        results = hold(Store)
        for name in ("json-values-are-read-back", "names-of-fields-are-harmless"):
            assert results[name].outcome is Outcome.FAILED, name

    def test_its_key_can_be_guessed(self, hold: Any) -> None:
        class Store(db.SessionStore):
            count = 10**8

            def _get_new_session_key(self) -> str:
                Store.count += 1
                return str(Store.count)

        name = "keys-cannot-be-guessed"
        assert hold(Store, name)[name].outcome is Outcome.FAILED


class TestTheCommand:
    def test_its_exit_codes(self, tmp_path: Path) -> None:
        case = "--case=an-equal-value-is-no-write"
        assert run_command(OWN + "memory", case).returncode == 0
        assert run_command(DJANGO + "db", case).returncode == 1

    @pytest.mark.parametrize(
        ("arguments", "environment", "said"),
        [
            ((), {}, "Name a session backend"),
            (("no.such.backend",), {}, "no.such.backend cannot be used: ModuleNotFoundError: "),
            (("--simulation=0", OWN + "memory"), {}, "'0' is not a number of steps"),
            (("--middleware=no.Such", OWN + "memory"), {}, "'no.Such' cannot be imported"),
            ((OWN + "memory", "--case=none"), {}, "There is no case 'none'"),
            ((OWN + "memory",), {"DJANGO_SETTINGS_MODULE": "none"}, "could not be set up"),
        ],
    )
    def test_what_cannot_run_is_said(
        self, arguments: tuple[str, ...], environment: dict[str, str], said: str
    ) -> None:
        done = run_command(*arguments, **environment)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("import of_nobody", "cannot be used: ModuleNotFoundError: No module named"),
            ("raise RuntimeError", "could not store a session: RuntimeError."),
            ("", "The module own_backend has no class SessionStore."),
            ("class SessionStore: pass", "could not store a session: AttributeError."),
            (
                "from django.contrib.sessions.backends.base import SessionBase as SessionStore",
                "subclasses of SessionBase must provide a save() method",
            ),
        ],
    )
    def test_a_backend_that_cannot_be_used_is_said(
        self, tmp_path: Path, code: str, said: str
    ) -> None:
        (tmp_path / "own_backend.py").write_text(code, encoding="utf-8")
        done = run_command("own_backend", PYTHONPATH=str(tmp_path))
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        done = run_command("own_backend", "--traceback", PYTHONPATH=str(tmp_path))
        assert ("Traceback" in done.stderr, done.stderr.count(said)) in {
            (True, 1),
            (True, 2),
            (True, 3),
        }

    @pytest.mark.parametrize("body", ["raise ZeroDivisionError", "raise SystemExit(0)"])
    def test_a_backend_that_prints_and_raises(self, tmp_path: Path, body: str) -> None:
        """What it prints is not JSON, and its exit is not that of the command."""
        (tmp_path / "own_backend.py").write_text(
            "from django.contrib.sessions.backends import db\n"
            "class SessionStore(db.SessionStore):\n"
            f"    def load(self):\n        print('a line')\n        {body}\n",
            encoding="utf-8",
        )
        case = "a-saved-value-is-read-back"
        arguments = ("--json", f"--case={case}", "own_backend", "--traceback")
        done = run_command(*arguments, PYTHONPATH=str(tmp_path))
        assert done.returncode == 1
        found = json.loads(done.stdout)["backends"]["own_backend"]["cases"][case]
        assert found["detail"] == f"{body.split()[1].partition('(')[0]} was raised."
        assert "a line\n" in done.stderr
        assert f"own_backend, {case}:\nTraceback" in done.stderr
        assert body in done.stderr

    def test_a_store_that_does_not_answer_is_said(self, tmp_path: Path) -> None:
        settings = (
            "from tests.settings import *\n"
            "CACHES = {'default': {'BACKEND': 'django.core.cache.backends.redis.RedisCache',\n"
            "                      'LOCATION': 'redis://127.0.0.1:1'}}\n"
        )
        (tmp_path / "unreachable.py").write_text(settings, encoding="utf-8")
        done = run_command(
            DJANGO + "cache",
            DJANGO_SETTINGS_MODULE="unreachable",
            PYTHONPATH=str(tmp_path),
        )
        assert done.returncode == 2
        assert "could not store a session: ConnectionError" in done.stderr
        assert "Traceback" not in done.stderr

    def test_it_uses_the_settings_of_the_project(self) -> None:
        """The middleware is that of the project, too."""
        done = run_command(
            OWN + "memory",
            "--json",
            "--case=an-equal-value-is-no-write",
            DJANGO_SETTINGS_MODULE="tests.settings",
        )
        (entry,) = json.loads(done.stdout)["backends"].values()
        assert entry["middleware"] == "django.contrib.sessions.middleware.SessionMiddleware"

    def test_it_leaves_nothing_behind(self, tmp_path: Path) -> None:
        folder = tmp_path / "sessions"
        folder.mkdir()
        settings = f"from tests.settings import *\nSESSION_FILE_PATH = {str(folder)!r}\n"
        (tmp_path / "in_folder.py").write_text(settings, encoding="utf-8")
        done = run_command(
            DJANGO + "file", DJANGO_SETTINGS_MODULE="in_folder", PYTHONPATH=str(tmp_path)
        )
        assert "passed" in done.stdout
        assert list(folder.iterdir()) == []

    def test_its_table_names_promise_and_behaviour(self) -> None:
        done = run_command(DJANGO + "db", "--case=an-equal-value-is-no-write")
        assert (
            "an-equal-value-is-no-write   5  failed: The write of the other request is undone.\n"
            in done.stdout
        )
        assert "0 passed, 1 failed, 0 does not apply\n" in done.stdout

    def test_it_lists_the_cases(self) -> None:
        lines = run_command("--list").stdout.splitlines()
        assert [line.partition(" ")[0] for line in lines] == list(CASES)

    def test_it_runs_the_simulation(self) -> None:
        done = run_command(
            *(OWN + "memory", OWN + "file", DJANGO + "db", "--simulation=500"),
            "--case=a-saved-value-is-read-back",
        )
        assert "  simulation: passed\n" in done.stdout
        assert done.stdout.count("  simulation: does not apply: ") == 2
