"""Configurations for the checks, and what settings name in them by dotted path."""

from __future__ import annotations

import hashlib

from django.core.cache.backends.base import BaseCache
from django.test import override_settings

from django_sessionstores.backends.memory import SessionStore as MemorySessionStore

ENGINES = "django_sessionstores.backends."
DJANGO = "django.contrib.sessions.backends."
LOCMEM = "django.core.cache.backends.locmem.LocMemCache"
OURS = "django_sessionstores.middleware.SessionMiddleware"
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"
MEMCACHED = "django.core.cache.backends.memcached.PyMemcacheCache"
DUMMY = "django.core.cache.backends.dummy.DummyCache"

HERE = __name__
OWN_STORE = __name__.replace("configurations", "own_store")
OTHER_CACHE = f"{HERE}.OtherCache"


class SessionStore(MemorySessionStore):
    """A project's own engine: this module is named as SESSION_ENGINE."""


class OtherCache(BaseCache):
    """A cache of which only Django's API is known."""

    def __init__(self, location, params):
        super().__init__(params)


def not_a_function(base, mine):
    """What MERGE may name: anything that can be called."""


def ids(check) -> list[str]:
    return [message.id for message in check(None)]


def digest(key, key_prefix, version):
    return hashlib.sha256(f"{key_prefix}:{version}:{key}".encode()).hexdigest()


def with_registry(registry, cache=LOCMEM, of="cookie"):
    """An engine with a registry. No server is asked: none runs at port 1."""
    location = "redis://127.0.0.1:1" if "redis" in cache else "127.0.0.1:1"
    return override_settings(
        SESSION_ENGINE=ENGINES + of,
        SESSIONSTORES={"REGISTRY": registry},
        SESSION_CACHE_ALIAS="sessions",
        CACHES={
            "default": {"BACKEND": LOCMEM},
            "sessions": {"BACKEND": cache, "LOCATION": location},
        },
    )
