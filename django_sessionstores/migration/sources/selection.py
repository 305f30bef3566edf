"""The source for an entry of ``MIGRATE_FROM``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import ImproperlyConfigured

from ...conf import PreviousBackend, session_store, settings_of
from .base import Source
from .cache import cache_source
from .database import CachedDatabaseSource, DatabaseSource
from .django_backend import DJANGO_BACKENDS
from .files import FileSource
from .own_storage import OwnSource
from .signed_cookies import SignedCookieSource

_KINDS: Final[dict[str, Callable[[type[SessionBase]], Source]]] = {
    "cached_db": CachedDatabaseSource,
    "db": DatabaseSource,
    "cache": cache_source,
    "file": FileSource,
    "signed_cookies": SignedCookieSource,
}
DJANGO_ENGINES: Final = tuple(f"{DJANGO_BACKENDS}.{name}" for name in sorted(_KINDS))
"""The paths of Django's session backends."""


def open_source(entry: PreviousBackend) -> Source:
    """Return the previous backend that an entry of ``MIGRATE_FROM`` names.

    Raises ``ImproperlyConfigured`` if there is no such backend.
    """
    try:
        engine = session_store(entry.path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"The previous backend {entry.path!r} cannot be imported: {error}"
        ) from error
    if hasattr(engine, "make_storage"):
        if not entry.options:
            return OwnSource(engine.own_storage(), is_shared=True)
        with settings_of(entry):
            return OwnSource(engine.make_storage(), is_shared=False)
    # The most special first: cached_db is a db. By name, so that none is imported needlessly.
    names = [base.__module__ for base in getattr(engine, "__mro__", ())]
    for name, kind in _KINDS.items():
        if f"{DJANGO_BACKENDS}.{name}" in names:
            with settings_of(entry):
                return kind(engine)
    raise ImproperlyConfigured(
        f"{entry.path!r} is neither a session backend of Django nor of django_sessionstores, nor "
        "is it built on one."
    )
