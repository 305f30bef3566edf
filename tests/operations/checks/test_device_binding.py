"""Checks of sessions that are bound to a device."""

from __future__ import annotations

import pytest
from django.core import mail
from django.test import override_settings
from django.urls import include, path

from django_sessionstores.operations.checks.device_binding import (
    check_device_binding,
    check_secure_cookie,
)
from django_sessionstores.operations.checks.middleware import check_middleware
from tests.operations.checks.configurations import DJANGO, DJANGOS, OURS, ids

# The URLconf of this module's tests.
urlpatterns = [path("device/", include("django_sessionstores.binding_urls"))]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, []),
        ({"ROOT_URLCONF": "tests.urls"}, ["W046"]),
        ({"SESSION_COOKIE_PATH": "/shop/"}, ["W046"]),
        ({"SESSION_COOKIE_PATH": "/device/"}, []),
        ({"SESSION_COOKIE_PATH": "/device"}, []),
        ({"SESSION_COOKIE_PATH": "/dev"}, ["W046"]),
        ({"SESSION_COOKIE_DOMAIN": "example.com"}, ["W046"]),
        ({"ROOT_URLCONF": "tests.urls", "SESSIONSTORES": {}}, []),
        ({"ROOT_URLCONF": "tests.urls", "SESSIONSTORES": {"DEVICE_BINDING": "always"}}, []),
        ({"ROOT_URLCONF": "tests.urls", "SESSION_ENGINE": f"{DJANGO}db"}, []),
        # Another check reports it.
        ({"ROOT_URLCONF": "tests.urls", "MIDDLEWARE": [DJANGOS]}, []),
    ],
)
def test_browsers_can_bind_sessions(settings, found):
    stated = {
        "ROOT_URLCONF": __name__,
        "MIDDLEWARE": [OURS],
        "SESSIONSTORES": {"DEVICE_BINDING": "prefer"},
    }
    with override_settings(**stated | settings):
        assert ids(check_device_binding) == [f"sessionstores.{each}" for each in found]


def test_another_middleware_binds_nothing():
    with override_settings(MIDDLEWARE=[DJANGOS], SESSIONSTORES={"DEVICE_BINDING": "prefer"}):
        assert ids(check_middleware) == ["sessionstores.W010"]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, ["sessionstores.W047"]),
        ({"SESSION_COOKIE_SECURE": True}, []),
        ({"DEBUG": True}, []),
        ({"SESSIONSTORES": {}}, []),
        ({"MIDDLEWARE": [DJANGOS]}, []),
    ],
)
def test_keys_over_plain_http(settings, found, monkeypatch):
    monkeypatch.delattr(mail, "outbox", raising=False)
    stated = {"MIDDLEWARE": [OURS], "SESSIONSTORES": {"DEVICE_BINDING": "prefer"}}
    with override_settings(**stated | settings):
        assert ids(check_secure_cookie) == found
