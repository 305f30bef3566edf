"""The command that holds any session backend to cases: what it says, and how it ends."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from django_sessionstores.testing.cases.catalog import CASES
from django_sessionstores.testing.cases.command import _backend, _CouldNotRun, main
from django_sessionstores.testing.sites import store_down
from tests.testing.comparison import DJANGO, OWN, run_command

CASE = "a-saved-value-is-read-back"
FAILING = "an-equal-value-is-no-write"


def write(folder: Path, **modules: str) -> dict[str, str]:
    """Write modules, and return the environment in which they can be imported."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


# Results --------------------------------------------------------------------------------------


def test_its_table_names_promise_and_behaviour() -> None:
    done = run_command(DJANGO + "db", OWN + "memory", DJANGO + "db", f"--case={FAILING}")
    assert done.returncode == 1
    said = f"{FAILING}   5  failed: The write of the other request is undone.\n"
    assert done.stdout.count(said) == 1
    assert "0 passed, 1 failed, 0 does not apply\n" in done.stdout
    assert "1 passed, 0 failed, 0 does not apply\n" in done.stdout
    assert done.stderr == f"{DJANGO}db is named more than once. It is run once.\n"


def test_it_lists_the_cases() -> None:
    lines = run_command("--list").stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines] == list(CASES)


def test_it_runs_the_simulation() -> None:
    done = run_command(
        *(OWN + "memory", OWN + "file", DJANGO + "db", "--simulation=500"), f"--case={CASE}"
    )
    assert "  simulation: passed\n" in done.stdout
    assert done.stdout.count("  simulation: does not apply: ") == 2
    assert done.returncode == 0


def test_it_uses_the_settings_of_the_project() -> None:
    """The middleware is that of the project, too."""
    settings = {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    done = run_command(OWN + "memory", "--json", f"--case={FAILING}", **settings)
    (entry,) = json.loads(done.stdout)["backends"].values()
    assert entry["middleware"] == "django.contrib.sessions.middleware.SessionMiddleware"


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    settings = f"from tests.settings import *\nSESSION_FILE_PATH = {str(folder)!r}\n"
    environment = write(tmp_path, in_folder=settings)
    done = run_command(DJANGO + "file", DJANGO_SETTINGS_MODULE="in_folder", **environment)
    assert "passed" in done.stdout
    assert list(folder.iterdir()) == []


# Backends that print, exit or do not end ------------------------------------------------------

PRINTS = """
    print("LINE of settings")
    from tests.settings import *
    del ROOT_URLCONF
"""
BACKEND = """
    import asyncio, os, subprocess, sys
    from django.contrib.sessions.backends import db

    class SessionStore(db.SessionStore):
        def load(self):
            print("LINE of print")
            sys.__stdout__.write("LINE of the original output\\n")
            os.write(1, b"LINE of the descriptor\\n")
            subprocess.run(["echo", "LINE of a process"])
            raise SystemExit(0)

        async def asave(self, *args):
            await asyncio.sleep(1000)
"""


def test_a_backend_that_prints_exits_and_hangs(tmp_path: Path) -> None:
    """What it prints is not JSON, its exit is not that of the command, and its loop is left."""
    done = run_command(
        *("--json", "own_backend", "--traceback", "--time-limit=0.5"),
        *(f"--case={CASE}", "--case=async-methods-store-the-same"),
        DJANGO_SETTINGS_MODULE="prints",
        **write(tmp_path, prints=PRINTS, own_backend=BACKEND),
    )
    assert done.returncode == 1
    results = json.loads(done.stdout)["backends"]["own_backend"]["cases"].values()
    assert [result["detail"] for result in results] == [
        "SystemExit was raised.",
        "It had not ended after 0.5 seconds.",
    ]
    origins = ("settings", "print", "the original output", "the descriptor", "a process")
    assert all(f"LINE of {origin}\n" in done.stderr for origin in origins)
    assert f"own_backend, {CASE}:\nTraceback" in done.stderr
    assert "raise SystemExit(0)" in done.stderr


def test_a_backend_that_cannot_be_stopped_ends_the_process(tmp_path: Path) -> None:
    backend = """
        import time
        from django.contrib.sessions.backends import db

        class SessionStore(db.SessionStore):
            def load(self):
                while True:
                    try:
                        time.sleep(1)
                    except BaseException:
                        pass
    """
    # Its folder stays, because nothing is tidied up at such an end.
    environment = {"TMPDIR": str(tmp_path), **write(tmp_path, own_backend=backend)}
    done = run_command("own_backend", "--time-limit=0.2", f"--case={CASE}", **environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'own_backend.py", line 9 in load' in done.stderr


ENDS = """
    from os import _exit, execv
    from django.contrib.sessions.backends import db

    class SessionStore(db.SessionStore):
        def load(self):
            {end}
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Needs os.fork()")
@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (ENDS.format(end="_exit(0)"), 1, f"exit code 0 in the case {CASE} of own_backend"),
        (ENDS.format(end="execv('/bin/true', ['true'])"), 1, "exit code 0 in the case"),
        (ENDS.format(end="_exit(3)"), 1, "exit code 3 in the case"),
        (ENDS.format(end="import os; os.kill(os.getpid(), 9)"), 1, "by signal 9 in the case"),
        ("from os import _exit\n_exit(0)", 2, "exit code 0 before the first case"),
    ],
)
def test_a_backend_that_ends_the_process_has_failed(
    text: str, code: int, said: str, tmp_path: Path
) -> None:
    environment = {"TMPDIR": str(tmp_path), **write(tmp_path, own_backend=text)}
    done = run_command("own_backend", f"--case={CASE}", "--json", **environment)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "so there are no results" in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Needs os.fork()")
def test_what_ends_the_process_after_the_results_does_not_change_them(tmp_path: Path) -> None:
    text = """
        import atexit, os
        from django.contrib.sessions.backends.db import SessionStore

        atexit.register(os._exit, 0)
    """
    done = run_command("own_backend", f"--case={FAILING}", **write(tmp_path, own_backend=text))
    assert (done.returncode, done.stderr) == (1, "")
    assert "0 passed, 1 failed" in done.stdout


# What cannot run ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Name a session backend"),
        (("--simulation=0", OWN + "memory"), "'0' is not a number of steps"),
        (("--time-limit=0", OWN + "memory"), "'0' is not a number of seconds"),
        (("--time-limit=nan", OWN + "memory"), "'nan' is not a number of seconds"),
    ],
)
def test_wrong_arguments_are_said(arguments: tuple[str, ...], said: str, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (("no.such.backend",), "", "no.such.backend cannot be used: ModuleNotFoundError: "),
        ((OWN + "memory", "--case=none"), "", "There is no case 'none'"),
        ((OWN + "memory",), "raise SystemExit(0)", "could not be set up: SystemExit: 0"),
    ],
)
def test_what_cannot_run_is_said(
    arguments: tuple[str, ...], settings: str, said: str, tmp_path: Path
) -> None:
    environment = write(tmp_path, odd_settings=settings)
    if settings:
        environment["DJANGO_SETTINGS_MODULE"] = "odd_settings"
    done = run_command(*arguments, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


OF_DJANGO = "from django.contrib.sessions.backends import db\n"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import of_nobody", "cannot be used: ModuleNotFoundError: No module named"),
        ("raise RuntimeError('a secret')", "could not store a session: RuntimeError. Check"),
        ("raise SystemExit(0)", "could not store a session: SystemExit. Check"),
        ("", "The module own_backend has no class SessionStore."),
        ("SessionStore = None", "The module own_backend has no class SessionStore."),
        ("class SessionStore: pass", "could not store a session: AttributeError."),
        (
            "from django.contrib.sessions.backends.base import SessionBase as SessionStore",
            "subclasses of SessionBase must provide a save() method",
        ),
        (
            (
                f"{OF_DJANGO}class SessionStore(db.SessionStore):\n"
                "    def exists(self, session_key):\n        return 'yes'\n"
            ),
            "own_backend had not stored a session after 0.2 seconds.",
        ),
        (
            (
                f"{OF_DJANGO}class SessionStore(db.SessionStore):\n"
                "    def save(self, **kwargs):\n        raise GeneratorExit('a secret')\n"
            ),
            "could not store a session: GeneratorExit. Check",
        ),
    ],
)
def test_a_backend_that_cannot_be_used_is_said(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, own_backend=code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_backend", raising=False)
    with pytest.raises(_CouldNotRun) as found:
        _backend("own_backend", Namespace(middleware=None, time_limit=0.2))
    assert said in str(found.value)
    assert "a secret" not in str(found.value)
    assert found.value.__cause__ is not None


def test_a_middleware_that_cannot_be_imported_is_said() -> None:
    with pytest.raises(_CouldNotRun, match=r"'no\.Such' cannot be imported"):
        _backend(OWN + "memory", Namespace(middleware="no.Such", time_limit=1))


def test_a_store_that_does_not_answer_is_said_in_its_own_words() -> None:
    """They name the store. Those of other packages may have a key in them."""
    with (
        store_down(),
        pytest.raises(_CouldNotRun) as found,
    ):
        _backend(OWN + "memory", Namespace(middleware=None, time_limit=1))
    assert "could not store a session: StorageUnavailable: The store of sessions does not" in str(
        found.value
    )
