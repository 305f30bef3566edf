"""The storage and the views that the project has configured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from django.conf import settings as django_settings
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils.connection import ConnectionDoesNotExist

from ...conf import session_store
from ...sessions import SessionStore
from ...storages.base import Storage

T = TypeVar("T")


def configured_storage() -> Storage | None:
    """Return the storage of ``SESSION_ENGINE``, or ``None`` if the engine is not of this package.

    An engine that a project builds on one of this package counts as one of it. Raises
    ``ImportError`` or ``ImproperlyConfigured`` if the storage cannot be made; `engine.check_engine`
    reports that.
    """
    store = session_store(django_settings.SESSION_ENGINE)
    if not (isinstance(store, type) and issubclass(store, SessionStore)):
        return None
    try:
        storage = store.own_storage()
        for part in parts(storage):
            part.database()
    except (ImportError, ImproperlyConfigured):
        raise  # It says what to set.
    except ConnectionDoesNotExist as error:
        raise ImproperlyConfigured(
            f"DATABASE_ROUTERS send its table to a database that DATABASES does not have: {error}"
        ) from error
    except Exception as error:
        # An engine of the project, for example one whose setting is missing.
        raise ImproperlyConfigured(
            f"make_storage() fails with {type(error).__name__}: {error}"
        ) from error
    return storage


def if_valid(read: Callable[[], T]) -> T | None:
    """Return what ``read`` reads from the settings; ``None`` if one of them is wrong.

    `engine.check_engine`, `options.check_settings` and `options.check_django_settings` report those
    errors, so that no other check has to.
    """
    try:
        return read()
    except (ImportError, ImproperlyConfigured):
        return None


def usable_storage() -> Storage | None:
    """Return the storage, or ``None`` if it cannot be made or is not of this package."""
    return if_valid(configured_storage)


def production_storage() -> Storage | None:
    """Return the storage, or ``None`` if it cannot be made or this is not a live site."""
    # The test runners of Django and pytest-django turn DEBUG off and set up the mail outbox.
    if django_settings.DEBUG or hasattr(mail, "outbox"):
        return None
    return usable_storage()


def parts(storage: Storage | None) -> list[Storage]:
    """Return the storages that a storage is made of and that communicate with stores."""
    if storage is None:
        return []
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
