"""System checks: one function per concern, each message with an id, a reason and a cure.

Ids are never reused; `docs/reference/checks.rst` lists them. Nothing here connects to a store.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from django.conf import settings as django_settings
from django.core import checks, mail
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import ImproperlyConfigured

from . import conf
from .conf import NAME, OPTIONS
from .session import SessionStore
from .storages.base import CacheStorage, Storage
from .storages.file import FileStorage
from .storages.layered import Layered
from .storages.memory import MemoryStorage


def _storage() -> Storage | None:
    """The storage of the configured engine, if that is one of this package or built on one.

    Raises what making it raises.
    """
    store = getattr(import_module(django_settings.SESSION_ENGINE), "SessionStore", None)
    if isinstance(store, type) and issubclass(store, SessionStore):
        return store.storage()
    return None


def _storage_in_production() -> Storage | None:
    """The storage, if it works and this is a live site."""
    # The test runners of Django and pytest-django turn DEBUG off and set up the mail outbox.
    if django_settings.DEBUG or hasattr(mail, "outbox"):
        return None
    try:
        return _storage()
    except (ImportError, ImproperlyConfigured):
        return None  # check_engine says so.


@checks.register
def check_settings(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """The options in ``SESSIONSTORES`` are known and of the right type."""
    options = getattr(django_settings, NAME, {})
    if not isinstance(options, dict):
        return [
            checks.Error(
                f"{NAME} is a {type(options).__name__}; it must be a dict.",
                hint=f"Write {NAME} = {{...}} with any of: {', '.join(sorted(OPTIONS))}.",
                id="sessionstores.E001",
            )
        ]
    messages: list[checks.CheckMessage] = []
    for name in sorted(options.keys() - OPTIONS, key=str):
        near = difflib.get_close_matches(str(name), OPTIONS, n=1)
        messages.append(
            checks.Error(
                f"{NAME}[{name!r}] is not an option.",
                hint=f"Did you mean {near[0]!r}?"
                if near
                else f"The options are: {', '.join(sorted(OPTIONS))}.",
                id="sessionstores.E002",
            )
        )
    for name in sorted(OPTIONS & options.keys()):
        try:
            getattr(conf.settings, name)
        except ImproperlyConfigured as error:
            messages.append(
                checks.Error(str(error), hint=f"Correct {NAME}[{name!r}].", id="sessionstores.E003")
            )
    return messages


@checks.register
def check_merge_functions(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """The functions in ``MERGE`` can be imported and called."""
    try:
        functions = conf.merge_functions()
    except ImproperlyConfigured:
        return []  # check_settings says so.
    except ImportError as error:
        problem: str | None = str(error)
    else:
        odd = [key for key, function in functions.items() if not callable(function)]
        problem = f"not callable for: {', '.join(map(repr, odd))}" if odd else None
    if problem is None:
        return []
    return [
        checks.Error(
            f"{NAME}['MERGE'] names something that is no function: {problem}.",
            hint="Give the dotted path of a function of three arguments: base, mine, theirs.",
            id="sessionstores.E004",
        )
    ]


@checks.register
def check_engine(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """The engine can be imported and, if it is of this package, its storage be made."""
    try:
        _storage()
    except (ImportError, ImproperlyConfigured) as error:
        return [
            checks.Error(
                f"SESSION_ENGINE {django_settings.SESSION_ENGINE!r} cannot be used: {error}",
                hint="Correct the setting that the message names.",
                id="sessionstores.E005",
            )
        ]
    return []


@checks.register
def check_memory(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """The memory engine is for development and tests."""
    if not isinstance(_storage_in_production(), MemoryStorage):
        return []
    return [
        checks.Error(
            "The memory engine keeps sessions in one process: a second worker does not see them, "
            "and a restart ends them all.",
            hint="Set SESSION_ENGINE to the db, cached_db, cache or file engine.",
            id="sessionstores.E006",
        )
    ]


@checks.register
def check_cache(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """The cache that sessions are in does not lose them on its own."""
    storage = _storage_in_production()
    if not isinstance(storage, CacheStorage | Layered):
        return []
    alias = django_settings.SESSION_CACHE_ALIAS
    cache = caches.create_connection(alias)
    messages: list[checks.CheckMessage] = []
    if isinstance(cache, LocMemCache):
        messages.append(
            checks.Warning(
                f"The cache {alias!r} is in the memory of one process.",
                hint="Point SESSION_CACHE_ALIAS to a cache that all workers share, such as Redis.",
                id="sessionstores.W001",
            )
        )
    if storage.durable:
        return messages  # The cache keeps them, or the database still has what it loses.
    limit = cache._max_entries
    if isinstance(cache, LocMemCache) and limit < 10_000:
        messages.append(
            checks.Warning(
                f"The cache {alias!r} holds {limit} entries; from then on it drops sessions "
                "that are still in use.",
                hint="Raise OPTIONS['MAX_ENTRIES'] of the cache above the number of sessions, "
                "or use the db or cached_db engine.",
                id="sessionstores.W002",
            )
        )
    if alias == "default":
        messages.append(
            checks.Warning(
                "Sessions share the cache 'default': cache.clear() logs everyone out.",
                hint="Give sessions a cache of their own in CACHES, with its own server or "
                "database number, and name it in SESSION_CACHE_ALIAS.",
                id="sessionstores.W003",
            )
        )
    return messages


@checks.register
def check_file_path(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Session files are in a folder of the project's choice."""
    storage = _storage_in_production()
    # The path of a cache of files is the cache's own.
    if not isinstance(storage, FileStorage) or isinstance(storage, CacheStorage):
        return []
    if django_settings.SESSION_FILE_PATH:
        return []
    return [
        checks.Warning(
            "Sessions are in the system's folder for temporary files, which a restart or a "
            "cleaning job may empty.",
            hint="Set SESSION_FILE_PATH to a folder that only the site's user can read.",
            id="sessionstores.W004",
        )
    ]


@checks.register(checks.Tags.security, deploy=True)
def check_encryption_keys(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """The keys of the payloads are long enough."""
    try:
        keys = conf.settings.ENCRYPTION_KEYS
    except ImproperlyConfigured:
        return []  # check_settings says so.
    short = [i for i, key in enumerate(keys) if len(key) < 32]
    if not short:
        return []
    return [
        checks.Warning(
            f"{NAME}['ENCRYPTION_KEYS'] has keys of fewer than 32 characters, at: "
            f"{', '.join(map(str, short))}.",
            hint='Make one with: python -c "import secrets; print(secrets.token_urlsafe(48))". '
            "Put it first; keep the old ones behind it until their sessions have expired.",
            id="sessionstores.W005",
        )
    ]


@checks.register(deploy=True)
def report_storage(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Say which store sessions are in, and through which adapter."""
    try:
        storage = _storage()
    except (ImportError, ImproperlyConfigured):
        return []  # check_engine says so.
    if storage is None:
        return []
    return [checks.Info(f"Sessions are in {storage.describe()}.", id="sessionstores.I001")]
