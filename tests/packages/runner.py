"""Run the tests of a package on a session backend, and tell which failed."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import BYTECODE
from tests.packages import environments
from tests.packages.backends import Backend
from tests.packages.expected import expected_tests
from tests.packages.suites import Suite
from tests.services import Redis

INSIDE = Path(__file__).resolve().parent / "inside"
PLUGIN = "sessionstores_suite_plugin"
TIMEOUT = 1200
"""Seconds after which a suite counts as hanging."""
MOST_FILES = 5
"""With failures. More are no accident."""


@dataclass(frozen=True)
class SuiteRun:
    """What became of a package's tests."""

    ran: int
    failed: frozenset[str]
    output: str


def run_suite(suite: Suite, backend: Backend) -> SuiteRun:
    """Run all tests of the package with this backend in its settings.

    Files with failures that are not expected run once more: some of their tests count seconds, and
    fail where other processes take those. What fails both times has failed.
    """
    run = _run(suite, backend, suite.tests)
    doubtful = run.failed - expected_tests(suite.package, backend.name)
    files = sorted({test.partition("::")[0] for test in doubtful})
    if not 0 < len(files) <= MOST_FILES:
        return run
    again = _run(suite, backend, files)
    return SuiteRun(run.ran, run.failed - (doubtful - again.failed), run.output + again.output)


def _run(suite: Suite, backend: Backend, tests: Iterable[str]) -> SuiteRun:
    folder, python = environments.source(suite), environments.python(suite)
    with ExitStack() as stack:
        outcomes = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "outcomes.json"
        overlay: dict[str, Any] = {
            "engine": backend.engine,
            "apps": ["django_sessionstores"] if backend.is_ours else [],
            "middleware": backend.middleware,
            "settings": backend.settings,
            "redis_url": "",
            "outcomes": str(outcomes),
        }
        if backend.needs_redis:
            # Of its own: each process of the suite uses another database of it.
            overlay["redis_url"] = f"redis://{stack.enter_context(Redis()).addresses[0]}"
        done = subprocess.run(
            [str(python), "-m", "pytest", *_options(suite), *tests],
            cwd=folder,
            env=_environment(suite, overlay),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
        if not outcomes.is_file():
            raise RuntimeError(f"The tests of {suite.package} did not start:\n{done.stdout}")
        found = json.loads(outcomes.read_text(encoding="utf-8"))
    failed = frozenset(found["failed"])
    if bool(done.returncode) is not bool(failed):
        raise RuntimeError(f"The tests of {suite.package} did not end well:\n{done.stdout}")
    return SuiteRun(found["ran"], failed, done.stdout)


def _options(suite: Suite) -> list[str]:
    options = [
        *("-p", PLUGIN, "-p", "no:cacheprovider", "-q", "--tb=short", "--rootdir=."),
        *("--continue-on-collection-errors", f"--numprocesses={suite.processes}"),
        # Some rely on the order of the tests within a file.
        *("--dist=loadfile", "--override-ini=django_find_project=false"),
    ]
    if not suite.configures_pytest:
        # Without this, pytest would find this project's own.
        options += [f"--config-file={INSIDE / 'pytest.ini'}"]
    if suite.settings:
        options += [f"--ds={suite.settings}"]
    return [*options, *suite.options]


def _environment(suite: Suite, overlay: dict[str, Any]) -> dict[str, str]:
    # Nothing that was meant for the pytest or the Django that runs this.
    ours = ("PYTEST_", "DJANGO_", "VIRTUAL_ENV", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {
        **kept,
        "PYTHONPATH": str(INSIDE),
        "PYTHONPYCACHEPREFIX": BYTECODE,
        "SESSIONSTORES_OVERLAY": json.dumps(overlay),
    }
