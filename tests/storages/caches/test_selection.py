"""Which storage is chosen for a cache, and what is said where there is none."""

import subprocess
import sys
from typing import Any

import pytest
from django.core.cache import InvalidCacheBackendError
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import PyMemcacheCache
from django.core.cache.backends.redis import RedisCache
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from django_redis.cache import RedisCache as DjangoRedisCache

from django_sessionstores.storages.base import CacheStorage
from django_sessionstores.storages.caches.selection import Kind, kind_of, storage_for
from tests.services import HOST, refusing_port

BACKENDS = "django.core.cache.backends"


class OwnRedisCache(RedisCache):
    pass


class OwnDjangoRedisCache(DjangoRedisCache):
    pass


class OwnMemcache(PyMemcacheCache):
    pass


class OwnLocMemCache(LocMemCache):
    pass


class OwnFileBasedCache(FileBasedCache):
    pass


CHOICES = {
    "django_redis.cache.RedisCache": Kind.REDIS,
    f"{__name__}.OwnDjangoRedisCache": Kind.REDIS,
    f"{BACKENDS}.redis.RedisCache": Kind.REDIS,
    f"{__name__}.OwnRedisCache": Kind.REDIS,
    f"{BACKENDS}.memcached.PyMemcacheCache": Kind.MEMCACHED,
    f"{__name__}.OwnMemcache": Kind.MEMCACHED,
    f"{BACKENDS}.memcached.PyLibMCCache": Kind.PORTABLE,
    f"{BACKENDS}.locmem.LocMemCache": Kind.PORTABLE,
    f"{__name__}.OwnLocMemCache": Kind.PORTABLE,
    f"{BACKENDS}.db.DatabaseCache": Kind.PORTABLE,
    f"{BACKENDS}.filebased.FileBasedCache": Kind.FILES,
    f"{__name__}.OwnFileBasedCache": Kind.FILES,
}


def configured(backend: str, location: str = "") -> Any:
    return override_settings(CACHES={"sessions": {"BACKEND": backend, "LOCATION": location}})


@pytest.mark.parametrize(("backend", "kind"), CHOICES.items())
def test_the_class_of_the_cache_decides(backend: str, kind: Kind) -> None:
    """A native path not taken costs the atomic operations of the store; one taken for a foreign
    class fails at every request. Projects derive from these classes, so subclasses count."""
    with configured(backend):
        assert kind_of("sessions") is kind


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        ("django_redis.cache.RedisCache", Kind.REDIS),
        (f"{BACKENDS}.redis.RedisCache", Kind.REDIS),
        (f"{BACKENDS}.memcached.PyMemcacheCache", Kind.MEMCACHED),
        (f"{BACKENDS}.locmem.LocMemCache", Kind.PORTABLE),
    ],
)
def test_the_storage_is_the_one_of_that_kind_and_connects_later(backend: str, kind: Kind) -> None:
    """Checks and reports say which path is in use, and must not say another one. A worker must
    start while its store is away: nobody listens here."""
    address = f"{HOST}:{refusing_port()}"
    with configured(backend, f"redis://{address}/0" if kind is Kind.REDIS else address):
        storage = storage_for("sessions")

    assert isinstance(storage, CacheStorage)
    assert kind in type(storage).__module__.split(".")


def test_a_cache_that_keeps_nothing_is_refused() -> None:
    """Each request would begin a new session, and nothing would say why nobody can log in."""
    with (
        configured(f"{BACKENDS}.dummy.DummyCache"),
        pytest.raises(ImproperlyConfigured, match=r"SESSION_CACHE_ALIAS.*CACHES") as caught,
    ):
        storage_for("sessions")
    assert "DummyCache" in str(caught.value)


def test_an_unknown_alias_names_its_setting() -> None:
    """Django's "the connection doesn't exist" does not say which setting to correct."""
    with (
        configured(f"{BACKENDS}.locmem.LocMemCache"),
        pytest.raises(
            InvalidCacheBackendError, match=r"SESSION_CACHE_ALIAS is 'sesions'.*'sessions'"
        ),
    ):
        storage_for("sesions")


@pytest.mark.parametrize(
    "backend", [f"{BACKENDS}.locmem.Misspelt", "no.such.module", f"{__name__}.CHOICES"]
)
def test_a_backend_that_is_no_class_names_its_setting(backend: str) -> None:
    """The setting is wrong, not an extra missing: another installation would not help."""
    with (
        configured(backend),
        pytest.raises(InvalidCacheBackendError, match=r"CACHES\['sessions'\]"),
    ):
        kind_of("sessions")


IN_A_NEW_PROCESS = """
import sys

backend, *missing = sys.argv[1:]

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())

from django.conf import settings
settings.configure(CACHES={"default": {"BACKEND": backend, "LOCATION": "redis://127.0.0.1:1"}})
from django_sessionstores.backends.cache import SessionStore
from django_sessionstores.exceptions import MissingExtra
try:
    print(SessionStore.storage().describe())
except MissingExtra as error:
    print(error)
print(sorted({"redis", "django_redis", "pymemcache"} & sys.modules.keys()))
"""


def in_a_new_process(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_NEW_PROCESS, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("backend", "missing", "extra"),
    [
        ("django_redis.cache.RedisCache", "django_redis", "redis"),
        ("django_redis.cache.RedisCache", "redis", "redis"),
        (f"{BACKENDS}.redis.RedisCache", "redis", "redis"),
        (f"{BACKENDS}.memcached.PyMemcacheCache", "pymemcache", "memcached"),
    ],
)
def test_a_missing_client_is_told_with_its_cure(backend: str, missing: str, extra: str) -> None:
    """The clients are optional; "No module named" does not say which extra brings one."""
    said, _ = in_a_new_process(backend, missing)

    assert said.startswith(missing.replace("_", "-"))
    assert f'pip install "django-sessionstores[{extra}]"' in said


@pytest.mark.parametrize(
    ("backend", "imported"),
    [
        (f"{BACKENDS}.locmem.LocMemCache", "[]"),
        (f"{BACKENDS}.redis.RedisCache", "['redis']"),
    ],
)
def test_only_the_client_in_use_is_imported(backend: str, imported: str) -> None:
    """They are optional, and take a tenth of a second each to import."""
    assert in_a_new_process(backend)[-1] == imported
