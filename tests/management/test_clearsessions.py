"""The command that removes expired sessions, whichever engine is set."""

import io
from typing import Any
from unittest import mock

import pytest
from django.apps import apps

# Makes this module an engine, one that leaves everything to be done.
from django.contrib.sessions.backends.base import SessionBase as SessionStore  # noqa: F401
from django.contrib.sessions.management.commands.clearsessions import Command as DjangosCommand
from django.core import checks
from django.core.management import CommandError, call_command, get_commands
from django.test import override_settings

from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.management.commands.clearsessions import Command
from django_sessionstores.testing import observed
from tests.cases import Engine
from tests.management.test_sessions import transcripts
from tests.operations.test_cache_keys import PAGE


def clear_sessions(**options: Any) -> str:
    output = io.StringIO()
    # By its class: which app's command has the name is the project's choice.
    call_command(Command(), stdout=output, **options)
    return output.getvalue()


def make_sessions(engine: Engine, *, expired: int, alive: int) -> list[str]:
    """Make sessions, and return the keys of those that are live."""
    keys = []
    for number in range(expired + alive):
        session = engine.SessionStore()
        session["number"] = number
        session.save()
        if number < expired:
            session.set_expiry(-1)
            session.save()
        else:
            keys.append(session.session_key)
    return keys


@pytest.mark.engines("memory", "db")
def test_it_removes_what_has_expired_and_says_how_many(engine: Engine) -> None:
    """One session too many logs somebody out; one too few and the table grows for ever."""
    keys = make_sessions(engine, expired=3, alive=2)

    assert clear_sessions() == "3 expired sessions removed.\n"
    assert all(engine.SessionStore().exists(key) for key in keys)


@pytest.mark.engines("db:sqlite")
def test_the_transcript_is_true(engine: Engine) -> None:
    """The documentation shows exactly what the command prints."""
    make_sessions(engine, expired=2, alive=1)
    ((arguments, expected),) = transcripts(PAGE, "clearsessions")
    assert (arguments, clear_sessions().strip()) == ("", expected)


@pytest.mark.engines("memory")
def test_it_is_silent_when_asked_to_be(engine: Engine) -> None:
    """It runs from cron, which sends its output as mail."""
    make_sessions(engine, expired=1, alive=0)

    assert clear_sessions(verbosity=0) == ""


@pytest.mark.engines("db:sqlite")
def test_it_removes_more_than_one_batch(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends when nothing is left, not after the first batch."""
    monkeypatch.setattr("django_sessionstores.sessions.engine._PURGE_BATCH", 2)
    make_sessions(engine, expired=5, alive=0)

    assert clear_sessions() == "5 expired sessions removed.\n"


def test_it_serves_engines_that_do_not_count() -> None:
    """A project may have the package installed and still use one of Django's engines."""
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies"):
        assert clear_sessions() == "The expired sessions were removed.\n"


def test_an_engine_that_cannot_is_an_error_that_names_it() -> None:
    """Exit code 0 would let a cron job go on doing nothing."""
    with (
        override_settings(SESSION_ENGINE=__name__),
        pytest.raises(CommandError, match=f"'{__name__}' doesn't support"),
    ):
        clear_sessions()


@pytest.mark.engines("db:sqlite")
def test_an_outage_is_an_error_that_names_the_store(engine: Engine) -> None:
    """Cron sends the output as mail: a line that says what to look after, not a traceback."""

    def broken(name: str) -> None:
        raise StorageUnavailable("no route")

    with (
        observed(engine.storage, before=broken),
        pytest.raises(CommandError, match=r"database 'default' \(sqlite\), could not"),
    ):
        clear_sessions()


def test_it_is_the_command_of_a_project_without_djangos_app() -> None:
    """The name alone must reach it."""
    installed = [config.name for config in apps.get_app_configs()]
    installed.remove("django.contrib.sessions")
    with override_settings(INSTALLED_APPS=installed):
        get_commands.cache_clear()
        assert get_commands()["clearsessions"] == "django_sessionstores"
    get_commands.cache_clear()


@pytest.mark.engines("db:sqlite")
def test_an_error_on_a_terminal_that_lacks_its_characters(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Databases speak the language of their operators. NO_COLOR is honoured as well."""

    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    outage = StorageUnavailable("Verbindung zurückgewiesen \x1b[2J")
    monkeypatch.setattr(engine.SessionStore, "clear_expired", mock.Mock(side_effect=outage))
    monkeypatch.setenv("NO_COLOR", "1")
    written = io.BytesIO()
    screen = Terminal(written, "ascii")
    command = Command(stdout=screen, stderr=screen, force_color=True)
    with pytest.raises(SystemExit):
        command.run_from_argv(["manage.py", "clearsessions", "--skip-checks"])
    screen.flush()
    assert rb"zur\xfcckgewiesen [2J" in written.getvalue()
    assert b"\x1b" not in written.getvalue()


@pytest.mark.parametrize("kind", [Command, DjangosCommand], ids=["package", "Django"])
def test_warnings_of_checks_come_on_the_error_stream(
    engine: Engine, kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """As from Django's command. The output has only what the command itself says."""
    warning = checks.Warning("a warning of the project", id="project.W001")
    with mock.patch.object(checks, "run_checks", return_value=[warning]):
        kind().run_from_argv(["manage.py", "clearsessions"])
        said = capsys.readouterr()
        assert "a warning of the project" in said.err
        assert "a warning" not in said.out
        kind().run_from_argv(["manage.py", "clearsessions", "--skip-checks"])
        assert "a warning" not in capsys.readouterr().err
