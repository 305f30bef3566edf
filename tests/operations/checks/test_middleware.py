"""Checks of the session middleware."""

from __future__ import annotations

import pytest
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.core import checks as django_checks
from django.test import override_settings

from django_sessionstores.middleware import SessionMiddleware
from django_sessionstores.operations.checks.middleware import (
    check_devices_page,
    check_middleware,
    check_middleware_order,
    report_unknown_clients,
)
from tests.operations.checks.configurations import DJANGO, DJANGOS, ENGINES, OURS, ids


def test_two_session_middlewares_are_refused():
    """E009: they would answer for two sessions, of which the view sees one."""
    for middleware, surplus in (
        ([OURS, DJANGOS], DJANGOS),
        ([DJANGOS, OURS], DJANGOS),
        ([OURS, THEIRS], THEIRS),
        ([OURS, OURS, DJANGOS], DJANGOS),
    ):
        with override_settings(MIDDLEWARE=middleware):
            (message,) = check_middleware(None)
            assert message.id == "sessionstores.E009"
            assert message.hint == f"Remove from MIDDLEWARE: {surplus!r}."


def test_a_session_middleware_that_is_listed_twice_stays_once():
    """The hint says to keep one line, because a reader who removed all of them would have no
    sessions."""
    with override_settings(MIDDLEWARE=[OURS, AUTHENTICATION, OURS]):
        (message,) = check_middleware(None)
        assert message.id == "sessionstores.E009"
        assert message.hint == (
            f"MIDDLEWARE lists {OURS!r} 2 times: keep the first line and remove the others."
        )


AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"
CSRF = "django.middleware.csrf.CsrfViewMiddleware"
MESSAGES = "django.contrib.messages.middleware.MessageMiddleware"
UPDATE_CACHE = "django.middleware.cache.UpdateCacheMiddleware"


class OwnAuthentication(AuthenticationMiddleware):
    """A project's own."""


class OwnSessions(SessionMiddleware):
    """A project's own, built on the package's."""


THEIRS = f"{OwnSessions.__module__}.{OwnSessions.__qualname__}"
OWN = f"{OwnAuthentication.__module__}.{OwnAuthentication.__qualname__}"


@pytest.mark.parametrize(
    ("too_high", "settings"),
    [(AUTHENTICATION, {}), (MESSAGES, {}), (OWN, {}), (CSRF, {"CSRF_USE_SESSIONS": True})],
)
@pytest.mark.parametrize("middleware", [OURS, DJANGOS])
def test_the_middleware_must_be_above_those_that_use_the_session(too_high, settings, middleware):
    """E020: Django's message would be to insert a middleware that is there."""
    with override_settings(MIDDLEWARE=[too_high, middleware], **settings):
        (message,) = check_middleware_order(None)
        assert message.id == "sessionstores.E020"
        assert message.hint == f"Move the line {middleware!r} above {too_high!r}."
    with override_settings(MIDDLEWARE=[middleware, too_high], **settings):
        assert ids(check_middleware_order) == []


@pytest.mark.parametrize("middleware", [OURS, DJANGOS])
def test_the_middleware_must_be_below_the_cache_of_pages(middleware):
    """E021: it would store a user's page as one for everybody."""
    with override_settings(MIDDLEWARE=[middleware, AUTHENTICATION, UPDATE_CACHE]):
        (message,) = check_middleware_order(None)
        assert message.id == "sessionstores.E021"
        assert message.hint == f"Move the line {UPDATE_CACHE!r} above {middleware!r}."
    with override_settings(MIDDLEWARE=[UPDATE_CACHE, middleware, AUTHENTICATION]):
        assert ids(check_middleware_order) == []


@pytest.mark.parametrize(
    "middleware",
    [[CSRF, OURS], [CSRF, DJANGOS], [AUTHENTICATION], [f"{__name__}.plain", OURS]],
)
def test_an_order_that_matters_not_is_nobodys_concern(middleware):
    """CSRF tokens in a cookie need no session."""
    with override_settings(MIDDLEWARE=middleware):
        assert ids(check_middleware_order) == []


def test_the_order_of_a_site_without_the_package_is_djangos_concern():
    with override_settings(MIDDLEWARE=[AUTHENTICATION, DJANGOS], SESSION_ENGINE=DJANGO + "db"):
        assert ids(check_middleware_order) == []


def plain(get_response):
    """A middleware that is a function."""
    return get_response


def test_options_without_the_middleware_are_named():
    """W010: who sets TRUSTED_PROXIES believes that it is used."""
    options = {"TRUSTED_PROXIES": ["10.0.0.1"], "ON_OUTAGE": "anonymous", "TOUCH_INTERVAL": 5}
    with override_settings(SESSIONSTORES=options, MIDDLEWARE=[DJANGOS]):
        (message,) = check_middleware(None)
        assert message.id == "sessionstores.W010"
        assert "TRUSTED_PROXIES" in message.msg
        assert "TOUCH_INTERVAL" not in message.msg
        with override_settings(MIDDLEWARE=[OURS]):
            assert ids(check_middleware) == []


def test_a_middleware_that_does_not_exist_is_djangos_to_report():
    """The check must not be what fails."""
    with override_settings(MIDDLEWARE=["no.such.Middleware"]):
        assert ids(check_middleware) == []


def test_a_site_without_the_middleware_is_told_what_it_does_not_know():
    """W025 if it has the pages of devices, whose readers would wonder; else I003, for operators."""
    site = {"SESSION_ENGINE": ENGINES + "memory", "MIDDLEWARE": [DJANGOS]}
    with override_settings(ROOT_URLCONF="django_sessionstores.urls", **site):
        (message,) = check_devices_page(None)
        assert message.id == "sessionstores.W025"
        assert message.hint == f"In MIDDLEWARE, replace {DJANGOS!r} by {OURS!r}."
        assert ids(report_unknown_clients) == []
    with override_settings(ROOT_URLCONF=__name__, **site):
        assert ids(check_devices_page) == []
        (message,) = report_unknown_clients(None)
        assert (message.level, message.id) == (django_checks.INFO, "sessionstores.I003")
        assert message.hint == f"In MIDDLEWARE, replace {DJANGOS!r} by {OURS!r}."


@pytest.mark.parametrize(
    ("middleware", "name"),
    [(OURS, "memory"), (DJANGOS, "cookie"), (DJANGOS, "mysterious")],
    ids=["package", "no list", "no engine"],
)
def test_a_site_that_knows_or_lists_nothing_is_told_nothing(middleware, name):
    """Neither is a fault, and what has no list has no devices to show."""
    with override_settings(
        MIDDLEWARE=[middleware],
        ROOT_URLCONF="django_sessionstores.urls",
        SESSION_ENGINE=ENGINES + name,
    ):
        assert ids(check_devices_page) == []
        assert ids(report_unknown_clients) == []


urlpatterns = []
