"""A pytest plugin for the process in which another package's tests run.

It puts a session backend into the settings of that package, and writes down what became of each
test. Nothing of this project's tests can be imported there: those packages have a ``tests``, too.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.cache import CacheHandler, caches

OVERLAY: dict[str, Any] = json.loads(os.environ["SESSIONSTORES_OVERLAY"])
"""`engine`, `apps` to append, `middleware` instead of Django's, `redis_url`, more `settings`, and
the file for the `outcomes`."""
CACHE_ALIAS = "sessionstores_suite"
DJANGOS_MIDDLEWARE = "django.contrib.sessions.middleware.SessionMiddleware"

# Settings -------------------------------------------------------------------------------------


def change_settings() -> None:
    """Change the session backend, and what it needs, in settings that are loaded already."""
    settings.SESSION_ENGINE = OVERLAY["engine"]
    installed = list(settings.INSTALLED_APPS)
    settings.INSTALLED_APPS = [app for app in OVERLAY["apps"] if app not in installed] + installed
    if OVERLAY["middleware"]:
        settings.MIDDLEWARE = [
            OVERLAY["middleware"] if path == DJANGOS_MIDDLEWARE else path
            for path in settings.MIDDLEWARE
        ]
    if OVERLAY["redis_url"]:
        settings.CACHES = {**settings.CACHES, CACHE_ALIAS: redis_cache()}
        settings.SESSION_CACHE_ALIAS = CACHE_ALIAS
    for name, value in OVERLAY["settings"].items():
        setattr(settings, name, value)


configure_caches = CacheHandler.configure_settings


def configure_caches_and_ours(handler: CacheHandler, configured: Any) -> Any:
    """Keep the cache of the sessions if a test changes CACHES."""
    entries = configure_caches(handler, configured)
    if OVERLAY["redis_url"]:
        entries.setdefault(CACHE_ALIAS, redis_cache())
    return entries


CacheHandler.configure_settings = configure_caches_and_ours  # type: ignore[method-assign]


def redis_cache() -> dict[str, str]:
    """Return an entry of CACHES. Each process has a database of its own."""
    number = os.environ.get("PYTEST_XDIST_WORKER", "gw15").removeprefix("gw")
    return {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": f"{OVERLAY['redis_url']}/{number}",
    }


populate = apps.populate


def populate_after_change(installed_apps: Any = None) -> None:
    """Change the settings before the first app is loaded, wherever they come from: a module that
    DJANGO_SETTINGS_MODULE names, or ``settings.configure()`` in a conftest."""
    apps.populate = populate  # type: ignore[method-assign]
    change_settings()
    populate(settings.INSTALLED_APPS)


apps.populate = populate_after_change  # type: ignore[method-assign]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Remove what the test left in Redis, as the rollback does for a database: ids of users come
    again in the next test."""
    if OVERLAY["redis_url"]:
        caches[CACHE_ALIAS].clear()


# Outcomes -------------------------------------------------------------------------------------

ran: set[str] = set()
failed: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down a test. One whose set-up or tear-down or subtest fails has failed."""
    if report.failed:
        failed.add(report.nodeid)
    if report.failed or (report.when == "call" and report.passed):
        ran.add(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Count a module that cannot be imported as one test that fails."""
    if report.failed:
        failed.add(report.nodeid)
        ran.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the outcomes to who started the tests."""
    if not hasattr(session.config, "workerinput"):
        outcomes = {"ran": len(ran), "failed": sorted(failed)}
        Path(OVERLAY["outcomes"]).write_text(json.dumps(outcomes), encoding="utf-8")
