"""Checks of the registry, and of the options that need a list of sessions."""

from __future__ import annotations

import pytest
from django.test import override_settings

from django_sessionstores.operations.checks.engine import check_engine
from django_sessionstores.operations.checks.registry import (
    check_limit_and_rotation,
    check_notices,
    check_registry,
    check_unused_registry,
)
from tests.operations.checks.configurations import (
    DUMMY,
    ENGINES,
    HERE,
    LOCMEM,
    MEMCACHED,
    OTHER_CACHE,
    OWN_STORE,
    ids,
    with_registry,
)


@pytest.mark.usefixtures("production")
def test_cookies_without_a_registry_are_explained():
    """W020: that a logout ends nothing there is what nobody expects."""
    with with_registry(""):
        (message,) = check_registry(None)
    assert message.id == "sessionstores.W020"
    for unprotected in ("logout", "password", "deactivation", "two requests"):
        assert unprotected in message.msg
    assert "REGISTRY" in message.hint


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize(
    ("registry", "cache"),
    [
        ("db", LOCMEM),
        ("cached_db", MEMCACHED),
        ("cache", "django.core.cache.backends.redis.RedisCache"),
    ],
)
def test_a_registry_that_keeps_what_it_has_passes(registry, cache):
    """Each of the three engines that may be named, on a store that can be relied on."""
    with with_registry(registry, cache):
        assert ids(check_engine) == []
        assert ids(check_registry) == []


@pytest.mark.usefixtures("production")
def test_a_registry_that_forgets_is_named():
    """W021: a session that is dropped there ends, in the middle of somebody's work."""
    with with_registry("cache", "django.core.cache.backends.db.DatabaseCache"):
        assert ids(check_registry) == ["sessionstores.W021"]


@pytest.mark.parametrize(
    ("registry", "cache", "of", "reason"),
    [
        ("cache", MEMCACHED, "cookie", "forgets"),
        ("cache", MEMCACHED, "cache", "forgets"),
        ("cache", DUMMY, "cookie", "keeps nothing"),
        ("cached_db", MEMCACHED, "cache", "where the sessions are"),
        (
            "cached_db",
            OTHER_CACHE,
            "cache",
            "where the sessions are",
        ),
        ("cache", OTHER_CACHE, "cache", "can list nothing"),
        ("cache", OTHER_CACHE, "cookie", "cannot list its sessions"),
    ],
)
def test_a_registry_that_cannot_be_one_is_refused(registry, cache, of, reason):
    """E005: memcached cannot be asked who is signed in, and copies of a registry would stand
    where the sessions in the same cache are."""
    with with_registry(registry, cache, of):
        (message,) = check_engine(None)
    assert message.id == "sessionstores.E005"
    assert reason in message.msg


@pytest.mark.parametrize("registry", ["db", "cached_db"])
def test_a_registry_in_the_database_needs_the_app(registry):
    """E005: without it there is no table, which the first login would find out."""
    with with_registry(registry), override_settings(INSTALLED_APPS=[]):
        (message,) = check_engine(None)
    assert message.id == "sessionstores.E005"
    assert "INSTALLED_APPS" in message.msg


@pytest.mark.parametrize(
    ("registry", "found"), [("", ["E019", "W022"]), ("db", ["W022"])], ids=["bare", "registered"]
)
def test_limits_and_rotations_that_have_no_list_of_sessions(registry, found):
    """E019, W022: every login would fail, and a leaked key would go on working."""
    options = {"MAX_SESSIONS": 3, "ROTATE_AFTER": 600, "REGISTRY": registry}
    with override_settings(SESSION_ENGINE=ENGINES + "cookie", SESSIONSTORES=options):
        messages = check_limit_and_rotation(None)
        assert [each.id[-4:] for each in messages] == found
        hints = [str(each.hint) for each in messages if each.id.endswith("E019")]
        assert all("['REGISTRY'], for example to 'db'" in hint for hint in hints)
    with override_settings(SESSION_ENGINE=ENGINES + "db", SESSIONSTORES=options | {"REGISTRY": ""}):
        assert check_limit_and_rotation(None) == []


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"NEW_SIGN_IN": "email", "EXPLAIN_ENDS": 60}, ["NEW_SIGN_IN", "EXPLAIN_ENDS"]),
        ({"NEW_SIGN_IN": "ignore", "EXPLAIN_ENDS": 0}, []),
        ({"NEW_SIGN_IN": "signal", "EXPLAIN_ENDS": 60, "REGISTRY": "db"}, []),
    ],
)
def test_notices_that_nobody_would_get(options, found):
    """W022: whoever has set them relies on them."""
    with override_settings(SESSION_ENGINE=ENGINES + "cookie", SESSIONSTORES=options):
        messages = check_notices(None)
    assert [each.id for each in messages] == ["sessionstores.W022"] * len(found)
    for each, name in zip(messages, found, strict=True):
        assert f"['{name}'] has no effect" in each.msg
        assert "['REGISTRY'], for example to 'db'" in str(each.hint)


def test_a_registry_under_keys_that_hide_its_sessions_is_refused():
    """E005: the cache could list, but for what the project has set."""
    settings = with_registry("cache", "django.core.cache.backends.db.DatabaseCache")
    settings.options["CACHES"]["sessions"]["KEY_FUNCTION"] = f"{HERE}.digest"
    with settings:
        (message,) = check_engine(None)
    assert message.id == "sessionstores.E005"
    assert "KEY_FUNCTION" in message.msg
    assert "Use 'db'" in message.msg


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ROTATE_AFTER": 3600, "ROTATION_GRACE": 0}, "is 0"),
        ({"ROTATE_AFTER": 60, "ROTATION_GRACE": 600}, "is longer than"),
        ({"ROTATE_AFTER": 60}, "is longer than"),
        ({"ROTATE_AFTER": 600, "ROTATION_GRACE": 600}, ""),
        ({"ROTATION_GRACE": 0}, ""),
    ],
)
def test_a_grace_period_that_does_not_fit(options, says):
    """W027: parallel requests would be signed out, or old keys outlive the new ones."""
    with override_settings(SESSION_ENGINE=ENGINES + "db", SESSIONSTORES=options):
        messages = check_limit_and_rotation(None)
    assert [each.id for each in messages] == (["sessionstores.W027"] if says else [])
    assert all(says in each.msg for each in messages)


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("db", {"REGISTRY": "cached_db"}, ["sessionstores.W028"]),
        ("db", {}, []),
        ("cookie", {"REGISTRY": "db"}, []),
        ("db", {"REGISTRY": "db", "MIGRATE_FROM": [ENGINES + "cookie"]}, []),
    ],
)
def test_a_registry_that_the_engine_does_not_use(name, options, found):
    """W028: whoever set it expects something from it. A previous backend may need it."""
    with override_settings(SESSION_ENGINE=ENGINES + name, SESSIONSTORES=options):
        assert ids(check_unused_registry) == found


@pytest.mark.parametrize(
    ("path", "says"),
    [(ENGINES + "db", "lists and ends its sessions itself"), (OWN_STORE, "only the cookie and")],
    ids=["package", "project"],
)
def test_the_hint_about_an_unused_registry_is_true_of_the_engine(path, says):
    """W028: an engine of a project may keep no list, and a registry does not give it one."""
    with override_settings(SESSION_ENGINE=path, SESSIONSTORES={"REGISTRY": "db"}):
        (message,) = check_unused_registry(None)
    assert says in str(message.hint)
