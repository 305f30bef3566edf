"""The commonest mistakes of a configuration, each made in a process or on a server of its own.

Mistakes that a single check finds are in `tests.operations.checks`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from django_sessionstores.backends.cache import SessionStore
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.operations.doctor import diagnose
from tests import ROOT
from tests.operations.checks.configurations import DJANGO, DJANGOS, ENGINES, OURS
from tests.services import Redis

SITE = """
import os
import sys

import django
from django.conf import settings

from tests import settings as tested

middleware, options = sys.argv[1], eval(sys.argv[2])
settings.configure(
    **{name: getattr(tested, name) for name in dir(tested) if name.isupper()}
    | {
        "INSTALLED_APPS": [app for app in tested.INSTALLED_APPS if app != "django_sessionstores"],
        "MIDDLEWARE": [
            middleware,
            *tested.MIDDLEWARE[1:],
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        "ROOT_URLCONF": "tests.operations.test_mistakes",
        **options,
    }
)
django.setup()
for step in sys.argv[3:]:
    child = os.fork()
    if not child:
        exec(step)
        sys.exit()
    _, status = os.waitpid(child, 0)
    print("\\0", status, end="\\0", file=sys.stderr, flush=True)
"""
CHECK = "from django.core.management import call_command; call_command('check')"
SERVE = "from django.core.wsgi import get_wsgi_application; get_wsgi_application()"
ASK = "from django.test import Client; Client().get('/')"

urlpatterns: list[Any] = []


def stops_of(middleware: str, *steps: str, **options: Any) -> list[str]:
    """Return the last line of what a site without the app says before it stops, for each step."""
    return [each.rpartition("\n")[2] for each in errors_of(middleware, *steps, **options)]


def errors_of(middleware: str, *steps: str, **options: Any) -> list[str]:
    """Return what a site without the app says before it stops, for each step.

    Each step is taken by a process of its own; it is empty if that does not stop.
    """
    done = subprocess.run(
        [sys.executable, "-c", SITE, middleware, repr(options), *steps],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *parts, _ = done.stderr.split("\0")
    said, codes = parts[::2], map(int, parts[1::2])
    return [text.strip() if code else "" for text, code in zip(said, codes, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["db", "cached_db"])
def test_the_app_of_a_previous_backend_is_removed_too_early(name: str) -> None:
    """E017: no other setting would help. In this process, the app cannot be taken away."""
    options = {"MIGRATE_FROM": [DJANGO + name]}
    apps = ["django.contrib.auth", "django.contrib.contenttypes", "django_sessionstores"]
    (said,) = errors_of(DJANGOS, CHECK, SESSIONSTORES=options, INSTALLED_APPS=apps)
    assert "sessionstores.E017" in said
    assert "HINT: Add the app to INSTALLED_APPS again" in said
    assert "backends 'django.contrib.sessions'," in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"SESSION_ENGINE": ENGINES + "db"},
        {"SESSION_ENGINE": ENGINES + "cached_db"},
        {"SESSION_ENGINE": ENGINES + "cookie", "SESSIONSTORES": {"REGISTRY": "db"}},
    ],
    ids=["db", "cached_db", "registry"],
)
def test_a_table_without_its_app(options: dict[str, Any]) -> None:
    """The checks of an app that is not installed do not run. ``check`` finds it nevertheless on a
    site with the package's middleware, and on one with Django's no server starts."""
    steps = {OURS: [CHECK, SERVE, ASK], DJANGOS: [SERVE]}
    if "REGISTRY" in str(options):
        del steps[DJANGOS]  # The first session that is read or saved finds it.
    for middleware, each in steps.items():
        for said in stops_of(middleware, *each, **options):
            assert said.startswith("django.core.exceptions.ImproperlyConfigured: ")
            assert "Add 'django_sessionstores' to INSTALLED_APPS" in said
            assert "manage.py migrate" in said


@pytest.mark.slow
@pytest.mark.parametrize("middleware", [OURS, DJANGOS])
def test_an_engine_that_needs_no_app(middleware: str) -> None:
    """The app is for tables, commands and pages."""
    assert stops_of(middleware, CHECK, SERVE, ASK, SESSION_ENGINE=ENGINES + "memory") == [""] * 3


def test_the_name_of_django_for_the_cookie_engine() -> None:
    """Somebody who moves from Django's engine may use its name, and forget the app."""
    for middleware, steps in {OURS: [CHECK, SERVE], DJANGOS: [SERVE]}.items():
        for said in stops_of(middleware, *steps, SESSION_ENGINE=ENGINES + "signed_cookies"):
            assert "'django_sessionstores.backends.cookie'" in said


# Redis ------------------------------------------------------------------------------------------


@pytest.fixture(params=["redis-cache", "django-redis"])
def restricted(request: pytest.FixtureRequest) -> Iterator[Redis]:
    """Yield a Redis whose user "shop" has the rights that a test gives it."""
    backends = {
        "redis-cache": "django.core.cache.backends.redis.RedisCache",
        "django-redis": "django_redis.cache.RedisCache",
    }
    with Redis() as server:
        url = server.url().replace("redis://", "redis://shop:secret@")
        cache = {"BACKEND": backends[request.param], "LOCATION": url, "KEY_PREFIX": "shop"}
        with override_settings(
            SESSION_ENGINE=ENGINES + "cache",
            CACHES={"default": cache},
            MIDDLEWARE=[OURS],
            SESSION_COOKIE_SECURE=True,
        ):
            yield server


def give(server: Redis, *rights: str) -> None:
    said = server.cli("acl", "setuser", "shop", "reset", "on", ">secret", "resetchannels", *rights)
    assert said == "OK"


@pytest.mark.parametrize(
    "rights",
    [
        ("~*", "+@all", "-@scripting"),
        ("~*", "+@read", "+@connection"),
        ("~*", "+@read", "+@connection", "+@scripting"),
        ("~other:*", "+@all"),
        ("~*", "+@all", "-@sortedset"),
        ("~*", "+@all", "-zadd", "-zrem"),
        ("~*", "+@all", "-evalsha"),
        ("~*", "+@all", "-set"),
    ],
    ids=[
        "no scripts",
        "reads only",
        "no writes in scripts",
        "other keys",
        "no index",
        "no writes to the index",
        "no known scripts",
        "no writes of records",
    ],
)
def test_a_redis_user_without_the_rights(restricted: Redis, rights: tuple[str, ...]) -> None:
    """The error and the doctor have the line that gives them. With them, all works."""
    give(restricted, *rights)
    session = SessionStore()
    session["_auth_user_id"] = "7"
    with pytest.raises(StorageUnavailable) as caught:
        session.save()
    diagnosis = diagnose(SessionStore.storage())
    first = diagnosis.findings[0]
    assert first.id in {"sessionstores.E022", "sessionstores.E026"}
    for said in (str(caught.value), f"{first.message} {first.hint}"):
        (rights,) = re.findall(r" run 'ACL SETUSER shop (.*?)'\.", said)
        line = rights.split()
    give(restricted, *line)
    session.save()
    assert SessionStore(session.session_key)["_auth_user_id"] == "7"
    # The save that failed may have stored a record before it came to the index.
    listed = [each.id for each in Inventory().list(user=7).sessions]
    assert session.session_id in listed
    assert Inventory().end_all(7) == len(listed)
    assert diagnose(SessionStore.storage()).problems == 0
