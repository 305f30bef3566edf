"""Checks of the options in ``SESSIONSTORES``, one test per id."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from django.contrib.sessions.serializers import JSONSerializer
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_sessionstores.backends.memory import SessionStore
from django_sessionstores.operations.checks.encryption import check_encryption_keys
from django_sessionstores.operations.checks.options import (
    check_django_settings,
    check_merge_functions,
    check_settings,
    check_unused_options,
)
from django_sessionstores.operations.checks.previous_backends import check_previous_backends
from tests.operations.checks.configurations import DJANGO, DJANGOS, ENGINES, HERE, OURS, ids


def test_settings_must_be_a_dict():
    """E001: a list would otherwise fail at the first request."""
    with override_settings(SESSIONSTORES=["TOUCH_INTERVAL"]):
        assert ids(check_settings) == ["sessionstores.E001"]
        assert ids(check_encryption_keys) == []
        assert ids(check_merge_functions) == []


def test_unknown_option_is_named_with_the_nearest_one():
    """E002: a misspelt option would silently keep its default."""
    with override_settings(SESSIONSTORES={"TOUCH_INTERVALL": 5}):
        (message,) = check_settings(None)
    assert message.id == "sessionstores.E002"
    assert message.hint == "Did you mean 'TOUCH_INTERVAL'?"
    with override_settings(SESSIONSTORES={"idle_age": 5}):
        (message,) = check_settings(None)
    assert message.hint == "Did you mean 'IDLE_TIMEOUT'?"


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"ON_LIMIT": "end_oldst"}, "Did you mean 'end_oldest'?"),
        ({"NEW_SIGN_IN": "e-mail"}, "Did you mean 'email'?"),
        ({"REGISTRY": "cacheddb"}, "Did you mean 'cached_db'?"),
        ({"REGISTRY": "sun"}, None),
        (
            {"MIGRATE_FROM": [(f"{ENGINES}file", {"SESSION_FILEPATH": "old"})]},
            "Did you mean 'SESSION_FILE_PATH'?",
        ),
    ],
)
def test_a_misspelt_value_is_named_with_the_nearest_one(options, hint):
    """E003, like a misspelt option."""
    with override_settings(SESSIONSTORES=options):
        (message,) = check_settings(None)
    assert (message.id, message.hint) == ("sessionstores.E003", hint)


@pytest.mark.parametrize("value", ["60", True, -1, None])
def test_option_of_a_wrong_type_is_named(value):
    """E003: a string of digits or a negative time is a mistake, told before the first request."""
    with override_settings(SESSIONSTORES={"TOUCH_INTERVAL": value}):
        (message,) = check_settings(None)
    assert message.id == "sessionstores.E003"
    assert "TOUCH_INTERVAL" in message.msg


@pytest.mark.parametrize(
    ("options", "says", "hint"),
    [
        (
            {"IDLE_TIMEOUT": "30m"},
            "['IDLE_TIMEOUT'] must be a number of seconds, such as 1800, not str.",
            None,
        ),
        (
            {"EXPLAIN_ENDS": True},
            "['EXPLAIN_ENDS'] must be a number of seconds, such as 1800, not bool.",
            None,
        ),
        ({"MAX_SESSIONS": "3"}, "['MAX_SESSIONS'] must be a whole number, not str.", None),
        ({"REGISTRY": None}, "['REGISTRY'] must be a string, not NoneType.", None),
        ({"STATISTICS": 1}, "['STATISTICS'] must be True or False, not int.", None),
        ({"MERGE": []}, "['MERGE'] must be a dict, not list.", None),
        (
            {"ENCRYPTION_KEYS": "secret"},
            "['ENCRYPTION_KEYS'] must be a list, not str.",
            'Write a list, also for a single entry: ["..."].',
        ),
        ({"TRUSTED_PROXIES": {"::1"}}, "['TRUSTED_PROXIES'] must be a list, not set.", None),
        (
            {"IDLE_TIMEOUT": timedelta(weeks=2)},
            "['IDLE_TIMEOUT'] must be a number of seconds, such as 1800, not timedelta.",
            "Write a number of seconds: 1209600.",
        ),
        (
            {"RECENT_AUTHENTICATION_AGE": timedelta(seconds=1.5)},
            (
                "['RECENT_AUTHENTICATION_AGE'] must be None or a number of seconds, such as 1800, "
                "not timedelta."
            ),
            "Write a number of seconds: 1.5.",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_of_a_wrong_type_is_told_what_to_write(options, says, hint):
    """E003: in words, without the value, and with a hint only if that says something more."""
    with override_settings(SESSIONSTORES=options):
        (message,) = check_settings(None)
    assert (message.id, message.msg, message.hint) == (
        "sessionstores.E003",
        "SESSIONSTORES" + says,
        hint,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"ENCRYPTION_KEYS": [""]},
        {"ENCRYPTION_KEYS": [None]},
        {"CONFLICT_RETRIES": -1},
        {"MEMORY_MAX_SESSIONS": 0},
        {"COOKIE_MAX_PARTS": 17},
        {"TOUCH_INTERVAL": float("inf")},
        {"CACHE_LEASE": float("nan")},
    ],
    ids=str,
)
def test_option_of_a_useless_value_is_named(options):
    """E003: an empty secret, from a variable that is not set, would encrypt with nothing."""
    with override_settings(SESSIONSTORES=options):
        (message,) = check_settings(None)
        assert ids(check_encryption_keys) == []
    assert message.id == "sessionstores.E003"
    assert next(iter(options)) in message.msg


@pytest.mark.parametrize(
    ("name", "accepted", "refused"),
    [
        ("MAX_SESSIONS", 0, -1),
        ("OUTAGE_RETRY_AFTER", 0, -1),
        ("CONFLICT_RETRIES", 0, -1),
        ("COOKIE_MAX_PARTS", 1, 0),
        ("COOKIE_MAX_PARTS", 16, 17),
        ("COOKIE_MAX_BYTES", 256, 255),
        ("MEMORY_MAX_SESSIONS", 1, 0),
    ],
)
def test_the_limits_of_an_option(name, accepted, refused):
    """E003 does not refuse the least and the most that the reference allows."""
    for value, expected in ((accepted, []), (refused, ["sessionstores.E003"])):
        with override_settings(SESSIONSTORES={name: value}):
            assert ids(check_settings) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"TRUSTED_PROXIES": ["10.0.0.1/8"]},
        {"TRUSTED_PROXIES": "10.0.0.1"},
        {"TRUSTED_PROXIES": ["nginx"]},
        {"SECRET_NAMES": "diagnosis"},
        {"SECRET_NAMES": ["_"]},
        {"ON_OUTAGE": "ignore"},
        {"OUTAGE_RETRY_AFTER": 1.5},
        {"COOKIE_PARTITIONED": 1},
    ],
    ids=str,
)
def test_options_of_the_middleware_are_checked(options):
    """E003: a proxy that is not recognised would make everybody the proxy."""
    with override_settings(SESSIONSTORES=options):
        (message,) = check_settings(None)
    assert message.id == "sessionstores.E003"
    assert next(iter(options)) in message.msg


@pytest.mark.parametrize(
    "options",
    [
        {"RECENT_AUTHENTICATION_AGE": 0},
        {"RECENT_AUTHENTICATION_AGE": -1},
        {"RECENT_AUTHENTICATION_AGE": True},
        {"RECENT_AUTHENTICATION_AGE": float("nan")},
        {"RECENT_AUTHENTICATION_AGE": "600"},
        {"RECENT_AUTHENTICATION_URL": None},
    ],
    ids=str,
)
def test_options_of_recent_authentications_are_checked(options):
    """E003."""
    with override_settings(SESSIONSTORES=options):
        assert ids(check_settings) == ["sessionstores.E003"]


@pytest.mark.parametrize("function", ["no.such.module.function", f"{HERE}.ENGINES"])
def test_merge_function_must_exist(function):
    """E004: the first conflict is the worst moment to find out."""
    with override_settings(SESSIONSTORES={"MERGE": {"cart": function}}):
        assert ids(check_merge_functions) == ["sessionstores.E004"]


def test_merge_function_that_exists_passes():
    """A dotted path is imported."""
    with override_settings(SESSIONSTORES={"MERGE": {"cart": f"{HERE}.not_a_function"}}):
        assert ids(check_merge_functions) == []


@pytest.mark.parametrize(
    ("name", "middleware", "options", "named"),
    [
        (
            DJANGO + "db",
            DJANGOS,
            {"IDLE_TIMEOUT": 60, "MIGRATE_FROM": []},
            "IDLE_TIMEOUT, MIGRATE_FROM",
        ),
        (DJANGO + "db", DJANGOS, {"RECENT_AUTHENTICATION_AGE": 60}, "RECENT_AUTHENTICATION_AGE"),
        (DJANGO + "db", DJANGOS, {"COOKIE_PARTITIONED": True}, "COOKIE_PARTITIONED"),
        (DJANGO + "db", OURS, {"COOKIE_PARTITIONED": True}, None),
        (DJANGO + "db", DJANGOS, {}, None),
        (DJANGO + "db", DJANGOS, {"unknown": 1}, None),
        (DJANGO + "db", DJANGOS, ["no dict"], None),
        (ENGINES + "db", DJANGOS, {"IDLE_TIMEOUT": 60}, None),
        (HERE, DJANGOS, {"IDLE_TIMEOUT": 60}, None),
        ("no.such.module", DJANGOS, {"IDLE_TIMEOUT": 60}, None),
        ("tests.cases", DJANGOS, {"IDLE_TIMEOUT": 60}, None),
    ],
)
def test_options_for_an_engine_of_djangos(name, middleware, options, named):
    """W023: a timeout that nothing enforces is worse than none. Other checks say the rest."""
    with override_settings(SESSION_ENGINE=name, MIDDLEWARE=[middleware], SESSIONSTORES=options):
        messages = check_unused_options(None)
    assert [each.id for each in messages] == (["sessionstores.W023"] if named else [])
    assert not messages or messages[0].msg.endswith(f": {named}.")
    assert not messages or repr(name) in messages[0].msg


@pytest.mark.parametrize("age", ["1209600", None, timedelta(days=14), True])
def test_a_cookie_age_that_is_not_a_number(age):
    """E024: Django does not check it, and each save would fail. The error of a save says the same,
    and no other check fails over it."""
    options = {"MIGRATE_FROM": [DJANGO + "signed_cookies"]}
    with override_settings(SESSION_COOKIE_AGE=age, SESSIONSTORES=options):
        (message,) = check_django_settings(None)
        assert check_previous_backends(None) == []
        session = SessionStore()
        session["x"] = 1
        with pytest.raises(ImproperlyConfigured, match="SESSION_COOKIE_AGE must be a number"):
            session.save()
    assert message.id == "sessionstores.E024"
    assert "SESSION_COOKIE_AGE must be a number" in message.msg


@pytest.mark.parametrize("age", [math.nan, math.inf, -math.inf])
def test_a_cookie_age_that_is_not_finite(age):
    """E024: it is a number to Python, but no cookie and no store can have it."""
    with override_settings(SESSION_COOKIE_AGE=age):
        (message,) = check_django_settings(None)
        with pytest.raises(ImproperlyConfigured, match="SESSION_COOKIE_AGE is "):
            SessionStore().get_expiry_age()
    assert message.id == "sessionstores.E024"
    assert f"SESSION_COOKIE_AGE is {age}; it must be a number" in message.msg


class Failing:
    def __init__(self):
        raise RuntimeError


class Attributes:
    dumps = loads = "text"


@pytest.mark.parametrize(
    "path",
    [
        "json.JSONEncoder",
        "math.pi",
        "os.path",
        "django.core.signing.dumps",
        f"{__name__}.Failing",
        f"{__name__}.Attributes",
    ],
)
def test_a_serializer_that_is_not_one(path):
    """E025: it can be imported, and each save would fail."""
    with override_settings(SESSION_SERIALIZER=path):
        (message,) = check_django_settings(None)
        session = SessionStore()
        session["x"] = 1
        with pytest.raises(ImproperlyConfigured, match="SESSION_SERIALIZER is "):
            session.save()
    assert message.id == "sessionstores.E025"
    assert path in message.msg


def make_serializer():
    return JSONSerializer()


@pytest.mark.parametrize(
    "path",
    [
        "django.contrib.sessions.serializers.JSONSerializer",
        "django.core.signing.JSONSerializer",
        f"{__name__}.make_serializer",
    ],
)
def test_a_serializer_that_django_would_use(path):
    """Django calls whatever the path leads to."""
    with override_settings(SESSION_SERIALIZER=path):
        assert check_django_settings(None) == []


@pytest.mark.parametrize("site", ["\udcff", "a\0b"])
def test_a_site_whose_name_has_no_bytes(site):
    """E003: an undecodable byte of an environment variable, for example."""
    with override_settings(SESSIONSTORES={"SITE": site}):
        (message,) = check_settings(None)
    assert message.id == "sessionstores.E003"
    assert message.msg == "SESSIONSTORES['SITE'] must be a string without NUL and surrogates."


def test_a_serializer_that_does_not_exist():
    """E025: Django has had a PickleSerializer, and the first session would find out."""
    path = "django.contrib.sessions.serializers.PickleSerializer"
    with override_settings(SESSION_SERIALIZER=path):
        (message,) = check_django_settings(None)
        session = SessionStore()
        session["x"] = 1
        with pytest.raises(ImproperlyConfigured, match="SESSION_SERIALIZER is "):
            session.save()
    assert message.id == "sessionstores.E025"
    assert path in message.msg


@pytest.mark.parametrize("age", [1209600, 0.5])
def test_settings_of_django_that_are_fine(age):
    with override_settings(SESSION_COOKIE_AGE=age):
        assert check_django_settings(None) == []
