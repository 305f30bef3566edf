"""The storage and the session middleware that the project has configured."""

from __future__ import annotations

from django.conf import settings as django_settings
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ...conf import session_store
from ...middleware import SessionMiddleware
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


def session_middlewares() -> list[type[DjangoSessionMiddleware]]:
    """Return Django's session middleware and its subclasses that ``MIDDLEWARE`` contains."""
    try:
        found = [import_string(path) for path in django_settings.MIDDLEWARE]
    except ImportError:
        return []  # Django reports it when it starts.
    return [
        each
        for each in found
        if isinstance(each, type) and issubclass(each, DjangoSessionMiddleware)
    ]


def has_package_middleware() -> bool:
    """Return whether ``MIDDLEWARE`` contains the package's session middleware."""
    return any(issubclass(each, SessionMiddleware) for each in session_middlewares())
