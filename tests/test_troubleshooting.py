"""The guide to troubleshooting quotes what the package says: a reader searches for it there."""

from __future__ import annotations

import io
import logging
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, modify_settings, override_settings

from django_sessionstores.backends import cookie, db, file, memory
from django_sessionstores.exceptions import CannotList, PayloadTooLarge, SessionLimitReached
from django_sessionstores.inventory import Inventory
from django_sessionstores.middleware import SessionMiddleware
from django_sessionstores.operations.checks.middleware import (
    check_middleware,
    check_middleware_order,
)
from tests import ROOT

PAGE = ROOT / "docs" / "howto" / "troubleshooting.rst"
ENGINES = "django_sessionstores.backends"


def plain(text: str) -> str:
    """Return a text without what differs between two runs: line ends, ids, numbers, folders."""
    text = re.sub(r"[0-9a-f]{40}", "ID", text)
    text = re.sub(r"folder /\S+/django_sessionstores ", "folder PLACE ", text)
    return " ".join(re.sub(r"\d+", "N", text).split())


def assert_quoted(text: str) -> None:
    """Assert that the page has this text."""
    assert plain(text) in plain(PAGE.read_text(encoding="utf-8"))


def middleware(view: Any) -> HttpResponse:
    """Return the response to a new visitor."""
    request = RequestFactory().get("/cart/")
    response: HttpResponse = SessionMiddleware(view)(request)
    return response


@override_settings(SESSION_ENGINE=f"{ENGINES}.memory")
def test_a_key_that_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    session = memory.SessionStore()
    session["a"] = 1
    session.save()
    with override_settings(SECRET_KEY="of the new deployment"):
        assert memory.SessionStore(session.session_key).load() == {}
    (line,) = [record.getMessage() for record in caplog.records]
    assert_quoted(line)


def test_a_folder_that_was_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(SESSION_ENGINE=f"{ENGINES}.file", SESSION_FILE_PATH=str(tmp_path)):
        session = file.SessionStore()
        session["a"] = 1
        session.save()
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 1
    assert_quoted(lines[0])


def test_a_server_that_refuses() -> None:
    pytest.importorskip("redis")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        entry = {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": f"redis://127.0.0.1:{unused.getsockname()[1]}",
        }
        out = io.StringIO()
        with (
            override_settings(
                SESSION_ENGINE=f"{ENGINES}.cache",
                SESSION_CACHE_ALIAS="sessions",
                CACHES={"default": entry, "sessions": entry},
            ),
            pytest.raises(CommandError, match="problem"),
        ):
            call_command("sessions", "doctor", verbosity=0, stdout=out)
    (finding,) = re.findall(r"ERROR sessionstores.E022\n.*\n.*\n", out.getvalue())
    assert_quoted(finding)


@override_settings(SESSION_ENGINE=f"{ENGINES}.memory")
def test_a_session_that_ends_while_a_request_runs() -> None:
    session = memory.SessionStore()
    session["a"] = 1
    session.save()

    def view(request: HttpRequest) -> HttpResponse:
        request.session = memory.SessionStore(session.session_key)
        request.session["a"] = 2
        memory.SessionStore(session.session_key).flush()
        return HttpResponse()

    with pytest.raises(SessionInterrupted) as raised:
        middleware(view)
    assert_quoted(f"{raised.value}: /cart/")


@modify_settings(MIDDLEWARE={"append": "django_sessionstores.middleware.SessionMiddleware"})
@override_settings(SESSION_ENGINE=f"{ENGINES}.cookie")
def test_a_session_that_is_too_large() -> None:
    def view(request: HttpRequest) -> HttpResponse:
        request.session["big"] = os.urandom(14_000)
        return HttpResponse()

    with pytest.raises(PayloadTooLarge) as raised:
        middleware(view)
    assert_quoted(str(raised.value))


@override_settings(SESSION_ENGINE=f"{ENGINES}.cookie")
def test_an_engine_that_keeps_no_list() -> None:
    with pytest.raises(CannotList) as raised:
        Inventory().list()
    before, after = str(raised.value).split("because", 1)[1], "keeps no list of them"
    assert after in before
    assert_quoted(f"cannot list sessions, because ... {after}")


@override_settings(SESSION_ENGINE=f"{ENGINES}.memory")
def test_sessions_that_a_command_cannot_see(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("sessions", "list")
    assert_quoted(capsys.readouterr().err.strip().rpartition(". ")[2])


@override_settings(SESSIONSTORES={"ON_OUTAGE": "anonymous"})
@modify_settings(MIDDLEWARE={"remove": "django_sessionstores.middleware.SessionMiddleware"})
def test_options_that_nothing_uses() -> None:
    (warning,) = check_middleware(None)
    assert_quoted(f"(sessionstores.W010) {warning.msg} HINT: {warning.hint}")


@override_settings(
    MIDDLEWARE=[
        "django_sessionstores.middleware.SessionMiddleware",
        "django.middleware.cache.UpdateCacheMiddleware",
    ]
)
def test_a_cache_that_gives_pages_to_others() -> None:
    (error,) = check_middleware_order(None)
    assert_quoted(f"({error.id}) {error.msg}")


@pytest.mark.django_db
@override_settings(
    SESSION_ENGINE=f"{ENGINES}.memory", SESSIONSTORES={"MAX_SESSIONS": 1, "ON_LIMIT": "refuse"}
)
def test_a_login_over_the_limit() -> None:
    user = User.objects.create_user("ada")

    def view(request: HttpRequest) -> HttpResponse:
        login(request, user, "django.contrib.auth.backends.ModelBackend")
        return HttpResponse()

    middleware(view)
    with pytest.raises(SessionLimitReached) as raised:
        middleware(view)
    assert_quoted(f"SessionLimitReached: {raised.value}")


@modify_settings(INSTALLED_APPS={"remove": "django_sessionstores"})
@override_settings(SESSION_ENGINE=f"{ENGINES}.db")
def test_an_app_that_is_missing() -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        db.SessionStore.make_storage()
    assert_quoted(str(raised.value))


@pytest.mark.django_db
def test_nothing_to_purge(capsys: pytest.CaptureFixture[str]) -> None:
    with override_settings(SESSION_ENGINE=f"{ENGINES}.db"):
        call_command("sessions", "purge", "--dry-run")
    assert_quoted(capsys.readouterr().out)


def test_only_sessions_of_the_cookie_engine_are_in_the_cookie() -> None:
    """A cookie of any other engine cannot be too large."""
    with override_settings(SESSION_ENGINE=f"{ENGINES}.memory"):
        session = memory.SessionStore()
        session["a"] = "x" * 5000
        session.save()
        assert len(str(session.session_key)) == 32
    with override_settings(SESSION_ENGINE=f"{ENGINES}.cookie"):
        in_cookie = cookie.SessionStore()
        in_cookie["a"] = os.urandom(1000)
        in_cookie.save()
        assert len(str(in_cookie.session_key)) > 1000
