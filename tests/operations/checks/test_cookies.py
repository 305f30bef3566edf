"""Checks of the session cookie: its name, attributes and size."""

from __future__ import annotations

import re

import pytest
from django.test import override_settings

from django_sessionstores.operations.checks.cookies import (
    PROXY_SAFE_BYTES,
    check_cookie,
    check_cookie_protection,
    check_cookie_size,
)
from django_sessionstores.operations.checks.options import check_settings
from tests.operations.checks.configurations import DJANGOS, ENGINES, OURS, ids


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"SESSION_COOKIE_NAME": "__Secure-id"}, ["SECURE"]),
        ({"SESSION_COOKIE_NAME": "__secure-id"}, ["SECURE"]),
        ({"SESSION_COOKIE_NAME": "__Host-id"}, ["SECURE"]),
        ({"SESSION_COOKIE_NAME": "__Host-id", "SESSION_COOKIE_PATH": "/x/"}, ["SECURE", "PATH"]),
        (
            {"SESSION_COOKIE_NAME": "__Host-id", "SESSION_COOKIE_DOMAIN": "example.com"},
            ["SECURE", "DOMAIN"],
        ),
    ],
    ids=str,
)
def test_prefix_of_the_cookie_must_hold(wrong, named):
    """E007: a browser that refuses the cookie says so to nobody; every login is lost."""
    with override_settings(**wrong):
        (message,) = check_cookie(None)
    assert message.id == "sessionstores.E007"
    assert re.findall(r"SESSION_COOKIE_(\w+)", message.hint) == named


@pytest.mark.parametrize("name", ["__Secure-id", "__Host-id", "Host-id"])
def test_prefix_of_the_cookie_that_holds_passes(name):
    """The settings that the hint asks for are enough."""
    with override_settings(SESSION_COOKIE_NAME=name, SESSION_COOKIE_SECURE=name.startswith("__")):
        assert ids(check_cookie) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"SESSION_COOKIE_NAME": "my session"},
        {"SESSION_COOKIE_NAME": "a=b"},
        {"SESSION_COOKIE_NAME": "caf\u00e9"},
        {"SESSION_COOKIE_NAME": ""},
        {"SESSION_COOKIE_NAME": "Path"},
        {"SESSION_COOKIE_NAME": None},
        {"SESSION_COOKIE_SAMESITE": "Laxx"},
        {"SESSION_COOKIE_SAMESITE": True},
        {"SESSION_COOKIE_DOMAIN": "https://example.com"},
        {"SESSION_COOKIE_DOMAIN": "example.com:8000"},
        {"SESSION_COOKIE_DOMAIN": ["example.com"]},
    ],
    ids=str,
)
def test_a_value_that_no_cookie_can_have(wrong):
    """E027: Django does not check it, and each save would fail or be lost."""
    ((setting, value),) = wrong.items()
    with override_settings(**wrong):
        (message,) = check_cookie(None)
    assert message.id == "sessionstores.E027"
    assert message.msg.startswith(f"{setting} is {value!r}, ")
    assert message.hint.startswith(f"Write {setting} = ")


@pytest.mark.parametrize(
    "right",
    [
        {"SESSION_COOKIE_NAME": "__my.session-id"},
        {"SESSION_COOKIE_SAMESITE": "strict"},
        {"SESSION_COOKIE_SAMESITE": False},
        {"SESSION_COOKIE_SAMESITE": None},
        {"SESSION_COOKIE_DOMAIN": ".sites.example.com"},
        {"SESSION_COOKIE_DOMAIN": ""},
    ],
    ids=str,
)
def test_a_value_that_cookies_have_passes(right):
    with override_settings(**right):
        assert ids(check_cookie) == []


@pytest.mark.parametrize("other", ["CSRF_COOKIE_NAME", "LANGUAGE_COOKIE_NAME"])
def test_two_cookies_have_one_name(other):
    """E028: the CSRF token would sign everyone out."""
    with override_settings(**{other: "sessionid"}):
        (message,) = check_cookie(None)
        with override_settings(CSRF_USE_SESSIONS=True):  # There is no such cookie.
            assert (ids(check_cookie) == []) is (other == "CSRF_COOKIE_NAME")
    assert message.id == "sessionstores.E028"
    assert other in message.msg


def test_a_cookie_for_other_sites_must_be_secure():
    """W043: browsers refuse it, and the login seems to do nothing."""
    with override_settings(SESSION_COOKIE_SAMESITE="None"):
        assert ids(check_cookie) == ["sessionstores.W043"]
        with override_settings(SESSION_COOKIE_SECURE=True):
            assert ids(check_cookie) == []


def test_partitioned_cookie_must_be_secure():
    """E008: refused by browsers as well, without a word."""
    with override_settings(SESSIONSTORES={"COOKIE_PARTITIONED": True}):
        assert ids(check_cookie) == ["sessionstores.E008"]
        with override_settings(SESSION_COOKIE_SECURE=True):
            assert ids(check_cookie) == []
    with override_settings(SESSIONSTORES={"COOKIE_PARTITIONED": "yes"}):
        assert ids(check_cookie) == []
        assert ids(check_settings) == ["sessionstores.E003"]


def test_cookie_without_protection_is_named_where_django_does_not_look():
    """W011, W012: Django looks for its own app and middleware by name."""
    with override_settings(
        INSTALLED_APPS=["django_sessionstores"],
        MIDDLEWARE=[OURS],
        SESSION_COOKIE_SECURE=False,
        SESSION_COOKIE_HTTPONLY=False,
    ):
        assert ids(check_cookie_protection) == ["sessionstores.W011", "sessionstores.W012"]
        with override_settings(SESSION_COOKIE_SECURE=True, SESSION_COOKIE_HTTPONLY=True):
            assert ids(check_cookie_protection) == []
        with override_settings(INSTALLED_APPS=["django.contrib.sessions"]):
            assert ids(check_cookie_protection) == []


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize(
    ("middleware", "options", "named"),
    [
        (OURS, {"COOKIE_MAX_BYTES": 16_384}, ["16340 bytes (cookies: 4)", "4096", "8192"]),
        (OURS, {"COOKIE_MAX_BYTES": 5_000}, ["5000 bytes (cookies: 2)", "4096"]),
        (OURS, {"COOKIE_MAX_PARTS": 1, "COOKIE_MAX_BYTES": 5_000}, ["4087 bytes (cookies: 1)"]),
        (DJANGOS, {"COOKIE_MAX_BYTES": 16_384}, ["4087 bytes (cookies: 1)", "4096"]),
        (DJANGOS, {"COOKIE_MAX_BYTES": PROXY_SAFE_BYTES + 1}, ["2501 bytes (cookies: 1)"]),
    ],
)
def test_cookies_that_proxies_refuse_are_announced(middleware, options, named):
    """W015: nginx refuses the answer after the session is saved, or each request from then on."""
    with override_settings(
        SESSION_ENGINE=ENGINES + "cookie", MIDDLEWARE=[middleware], SESSIONSTORES=options
    ):
        (message,) = check_cookie_size(None)
    assert message.id == "sessionstores.W015"
    assert all(number in message.msg for number in named)
    assert ("8192" in message.msg) is ("8192" in named)
    assert ("large_client_header_buffers" in message.hint) is ("8192" in named)
    assert str(PROXY_SAFE_BYTES) in message.hint


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize("middleware", [OURS, DJANGOS])
def test_cookies_that_proxies_pass_are_no_matter(middleware):
    """W015: who follows the hint has to be left alone."""
    with override_settings(
        SESSION_ENGINE=ENGINES + "cookie",
        MIDDLEWARE=[middleware],
        SESSIONSTORES={"COOKIE_MAX_BYTES": PROXY_SAFE_BYTES},
    ):
        assert ids(check_cookie_size) == []


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize("name", ["db", "cache"])
def test_keys_without_data_are_short(name):
    """W015: only the cookie engine keeps in the cookie what a session holds."""
    with override_settings(SESSION_ENGINE=ENGINES + name, MIDDLEWARE=[OURS]):
        assert ids(check_cookie_size) == []


def test_limits_that_cannot_be_worked_out_are_left_to_others(production):
    """W015: an option of the wrong type, E003, must not break the check."""
    with override_settings(
        SESSION_ENGINE=ENGINES + "cookie", SESSIONSTORES={"COOKIE_MAX_BYTES": "2500"}
    ):
        assert ids(check_cookie_size) == []
