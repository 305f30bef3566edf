"""Packages that end sessions, replace them or note their keys do what they should, on a real site.

Each scenario runs in a process of its own, see `tests.packages.site`.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.packages.backends import BACKENDS
from tests.sdists import ROOT
from tests.services import Redis, shared_service

pytestmark = pytest.mark.slow

DJANGOS = ("Django's db",)
KEEPING_THE_KEY = ("db", "db under our middleware", "cache")
"""Backends on which the session key stays until a login."""


def observe(backend: str, scenario: str) -> dict[str, Any]:
    """Return what the visitors of the site find."""
    command = [sys.executable, "-m", "tests.packages.site", backend, scenario]
    if BACKENDS[backend].needs_redis:
        command.append(shared_service(Redis).url(database=5))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("backend", [*DJANGOS, *KEEPING_THE_KEY])
def test_cas_single_logout(backend: str) -> None:
    """django-cas-ng notes the key after the login, to sign the user out by it."""
    assert observe(backend, "cas_single_logout") == {
        "signed in": "anna",
        "ticket has the key": [True],
        "after": "",
    }


@pytest.mark.parametrize("backend", [*DJANGOS, *KEEPING_THE_KEY, "cookie"])
def test_social_login(backend: str) -> None:
    """allauth replaces the session of the request by another object with the same key. The state
    of the login is in it, also if the visitor had no session before."""
    assert observe(backend, "social_login") == {
        "after a visit": [302, "anna", "1"],
        "at once": [302, "bert", "0"],
    }


@pytest.mark.parametrize("backend", [*DJANGOS, *KEEPING_THE_KEY])
def test_users_sessions(backend: str) -> None:
    """allauth.usersessions asks whether sessions exist, and deletes them, by their keys."""
    assert observe(backend, "users_sessions") == {
        "listed": 2,
        "listed later": 2,
        "after a password change": ["anna", ""],
        "before": ["anna", "anna"],
        "after": ["anna", ""],
        "listed at last": 1,
    }


@pytest.mark.parametrize("backend", [*DJANGOS, *KEEPING_THE_KEY, "cookie"])
def test_password_change_beside_a_poll(backend: str) -> None:
    """The tab that changes the password stays signed in, whatever another one asks meanwhile."""
    assert observe(backend, "password_change_beside_a_poll") == {
        "change": 302,
        "polls": [200],
        "afterwards": "anna",
    }


@pytest.mark.parametrize("backend", [*DJANGOS, *KEEPING_THE_KEY])
def test_app_password_change(backend: str) -> None:
    """allauth.headless puts the session of the key in a header into the request. It goes on."""
    assert observe(backend, "app_password_change") == {
        "before": [True, True],
        "change": 200,
        "has another key": True,
        "after": [True, False],
    }


@pytest.mark.parametrize("backend", [*DJANGOS, *KEEPING_THE_KEY])
def test_one_login_at_a_time(backend: str) -> None:
    """django-preventconcurrentlogins deletes the session of the login before, and no other."""
    assert observe(backend, "one_login_at_a_time") == {
        "alone": ["anna"] * 4,
        "later one": "anna",
        "earlier one": "",
    }


@pytest.mark.parametrize("backend", [*DJANGOS, *KEEPING_THE_KEY, "cookie"])
def test_hijacking(backend: str) -> None:
    """django-hijack signs in as somebody else and back, within one browser. The expiry stays."""
    assert observe(backend, "hijacking") == {
        "acquired": "anna",
        "expiry": "600",
        "released": "boss",
    }
