"""Which middlewares a project has, and what the package can promise because of them."""

from __future__ import annotations

from typing import Any, Final

from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.sessions import middleware as django_middleware
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..conf import session_store, settings
from ..sessions import SessionStore
from .session_middleware import SessionMiddleware

OWN_PATH: Final = "django_sessionstores.middleware.SessionMiddleware"
"""The path of the package's session middleware, as ``MIDDLEWARE`` has it."""
_APP: Final = "django_sessionstores"


def middlewares() -> list[tuple[str, Any]]:
    """Return the entries of ``MIDDLEWARE``, each with the class or function that it names.

    The list is empty if one of them cannot be imported. Django reports that when it starts.
    """
    try:
        return [(path, import_string(path)) for path in django_settings.MIDDLEWARE]
    except ImportError:
        return []


def session_middlewares() -> list[tuple[str, type[django_middleware.SessionMiddleware]]]:
    """Return the entries that are Django's session middleware or a subclass of it."""
    return [
        (path, each)
        for path, each in middlewares()
        if isinstance(each, type) and issubclass(each, django_middleware.SessionMiddleware)
    ]


def has_package_middleware() -> bool:
    """Return whether ``MIDDLEWARE`` contains the package's session middleware."""
    return any(issubclass(each, SessionMiddleware) for _path, each in session_middlewares())


def records_reads() -> bool:
    """Return whether a request that only reads its session counts as activity of the session."""
    return reads_move_expiry() or (bool(settings.ACTIVITY_INTERVAL) and has_package_middleware())


def reads_move_expiry() -> bool:
    """Return whether a request that only reads its session makes it expire later."""
    return bool(django_settings.SESSION_SAVE_EVERY_REQUEST or settings.IDLE_TIMEOUT)


def require_app() -> None:
    """Raise ``ImproperlyConfigured`` if sessions need the package's app and it is not installed.

    The checks of an app that is not installed do not run. But ``manage.py check`` imports the
    middlewares, and so finds the mistake here.
    """
    if not apps.ready or apps.is_installed(_APP):
        return
    try:
        store = session_store(django_settings.SESSION_ENGINE)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"SESSION_ENGINE {django_settings.SESSION_ENGINE!r} cannot be used: {error}"
        ) from error
    if isinstance(store, type) and issubclass(store, SessionStore):
        store.own_storage()
