"""The storage and the views that the project has configured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.conf import settings as django_settings
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, URLResolver, get_resolver

from ...conf import session_store
from ...sessions import SessionStore
from ...storages.base import Storage


def configured_storage() -> Storage | None:
    """Return the storage of ``SESSION_ENGINE``, or ``None`` if the engine is not of this package.

    An engine that a project builds on one of this package counts as one of it. Raises
    ``ImportError`` or ``ImproperlyConfigured`` if the storage cannot be made; `engine.check_engine`
    reports that.
    """
    store = session_store(django_settings.SESSION_ENGINE)
    if isinstance(store, type) and issubclass(store, SessionStore):
        return store.own_storage()
    return None


def production_storage() -> Storage | None:
    """Return the storage, or ``None`` if it cannot be made or this is not a live site."""
    # The test runners of Django and pytest-django turn DEBUG off and set up the mail outbox.
    if django_settings.DEBUG or hasattr(mail, "outbox"):
        return None
    try:
        return configured_storage()
    except (ImportError, ImproperlyConfigured):
        return None  # check_engine reports it.


def parts(storage: Storage) -> list[Storage]:
    """Return the storages that a storage is made of and that communicate with stores."""
    inner = storage.parts()
    return [part for each in inner for part in parts(each)] if inner else [storage]


def views() -> Iterator[Any]:
    """Yield the views in the project's URLconf."""
    if getattr(django_settings, "ROOT_URLCONF", None):
        yield from _views_of(get_resolver().url_patterns)


def _views_of(patterns: Iterable[URLPattern | URLResolver]) -> Iterator[Any]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from _views_of(pattern.url_patterns)
        else:
            yield pattern.callback
