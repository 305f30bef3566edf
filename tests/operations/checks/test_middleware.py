"""Checks of the session middleware."""

from __future__ import annotations

from django.test import override_settings

from django_sessionstores.operations.checks.middleware import check_middleware
from tests.operations.checks.configurations import DJANGOS, OURS, ids


def test_two_session_middlewares_are_refused():
    """E009: they would answer for two sessions, of which the view sees one."""
    for middleware in ([OURS, DJANGOS], [DJANGOS, OURS], [OURS, OURS]):
        with override_settings(MIDDLEWARE=middleware):
            assert ids(check_middleware) == ["sessionstores.E009"]


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
