"""The checks that a store can tell the sessions of tenants apart."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from django.conf import settings
from django.test import override_settings

from django_sessionstores.operations.checks.isolation import check_isolation
from tests.operations.checks.configurations import ENGINES, HERE, LOCMEM, OWN_STORE, ids

BACKENDS = {
    "django_tenants.postgresql_backend": "django_tenants.cache.make_key",
    "tenant_schemas.postgresql_backend": "tenant_schemas.cache.make_key",
    "django_pgschemas.postgresql": "django_pgschemas.contrib.cache.make_key",
}


def by_tenant(key, prefix, version):
    return f"tenant:{prefix}:{version}:{key}"


def site(engine, backend="django_tenants.postgresql_backend", **cache):
    """A site with tenants in schemas. Nothing is connected."""
    stack = ExitStack()
    stack.enter_context(
        override_settings(
            SESSION_ENGINE=ENGINES + engine, CACHES={"default": {"BACKEND": LOCMEM, **cache}}
        )
    )
    # Not by override_settings, because connections would be made anew.
    entry = {**settings.DATABASES["default"], "ENGINE": backend}
    patch = pytest.MonkeyPatch()
    patch.setattr(settings, "DATABASES", {"default": entry})
    stack.callback(patch.undo)
    return stack


@pytest.mark.parametrize(("backend", "function"), BACKENDS.items())
@pytest.mark.parametrize("name", ["cache", "cached_db"])
def test_tenants_that_share_a_cache(name, backend, function):
    """W030, and the line to write."""
    with site(name, backend):
        (message,) = check_isolation(None)
    assert message.id == "sessionstores.W030"
    assert f'"KEY_FUNCTION": "{function}"' in str(message.hint)
    assert "CACHES['default']" in str(message.hint)
    with site(name, backend, KEY_FUNCTION=f"{__name__}.by_tenant"):
        assert ids(check_isolation) == []


def test_tenants_that_share_a_folder(tmp_path):
    """W030. A folder has no keys that could tell them."""
    with site("file"), override_settings(SESSION_FILE_PATH=tmp_path):
        (message,) = check_isolation(None)
    assert (message.id, "cached_db" in str(message.hint)) == ("sessionstores.W030", True)


def test_tenants_that_share_a_store_of_the_project():
    """W030. Nothing says that it tells them apart."""
    with site("db"), override_settings(SESSION_ENGINE=OWN_STORE):
        assert ids(check_isolation) == ["sessionstores.W030"]


@pytest.mark.parametrize("name", ["cookie", "memory"])
def test_tenants_that_share_no_store(name):
    """Each cookie is sent to one site, and the memory engine is for development."""
    with site(name):
        assert ids(check_isolation) == []


@pytest.mark.parametrize(
    ("tenant_apps", "expected"),
    [
        (["django.contrib.auth"], ["sessionstores.W031"]),
        (["django.contrib.auth", "django_sessionstores"], []),
        (["django.contrib.auth", "django_sessionstores.apps.SessionStoresConfig"], []),
        (["shop"], []),
    ],
)
def test_tenants_that_share_a_table(tenant_apps, expected):
    """W031, if each has users of its own."""
    with site("db"), override_settings(TENANT_APPS=tenant_apps):
        found = check_isolation(None)
    assert [message.id for message in found] == expected
    assert all('"django_sessionstores" to TENANT_APPS' in str(message.hint) for message in found)


@pytest.mark.parametrize("name", ["cache", "cached_db"])
def test_a_key_function_that_hides_the_keys(name):
    """W032."""
    cache = {"BACKEND": LOCMEM, "KEY_FUNCTION": f"{HERE}.digest"}
    with override_settings(SESSION_ENGINE=ENGINES + name, CACHES={"default": cache}):
        (message,) = check_isolation(None)
    assert (message.id, '{key}"' in str(message.hint)) == ("sessionstores.W032", True)


def test_a_key_function_that_expects_a_request():
    """The check does not report a key function that fails outside a request."""
    cache = {"BACKEND": LOCMEM, "KEY_FUNCTION": f"{__name__}.of_request"}
    with override_settings(SESSION_ENGINE=ENGINES + "cache", CACHES={"default": cache}):
        assert ids(check_isolation) == []


def of_request(key, prefix, version):
    raise RuntimeError("no tenant")


@pytest.mark.parametrize("name", ["db", "file", "cache", "cached_db", "cookie"])
def test_a_site_without_tenants(name):
    with override_settings(SESSION_ENGINE=ENGINES + name):
        assert ids(check_isolation) == []
