"""The engine in use: its inventory, its purge, and its errors as errors of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from ..conf import session_store
from ..core.phrases import Phrase
from ..exceptions import CannotList, StorageUnavailable
from ..inventory import Inventory
from ..operations.checks.configuration import parts
from ..operations.checks.engine import engine_hint
from ..storages.base import Storage


def open_inventory() -> Inventory:
    """Return the inventory of ``SESSION_ENGINE``. Raises ``CommandError`` if it has none."""
    try:
        with _named_engine():
            return Inventory(by="staff")
    except CannotList as error:
        raise CommandError(
            f"{error} This command works with the engines in django_sessionstores.backends."
        ) from error


@contextmanager
def _named_engine() -> Iterator[None]:
    try:
        yield
    except (ImportError, ImproperlyConfigured) as error:
        path = settings.SESSION_ENGINE
        raise CommandError(
            with_hint(f"SESSION_ENGINE {path!r} cannot be used: {error}", engine_hint(str(path)))
        ) from error


def with_hint(problem: str, hint: str | None) -> str:
    """Return the description of a problem as a sentence, followed by a hint if there is one."""
    return f"{problem.removesuffix('.')}. {hint}" if hint else problem


@contextmanager
def errors_reported() -> Iterator[None]:
    """Replace errors of the package by ``CommandError``: exit code 1, and no traceback."""
    try:
        yield
    except StorageUnavailable as error:
        storage = Inventory().storage
        store = "" if _names_store(error, storage) else f", {storage.describe()},"
        # It may have answered, for example that the user of the site lacks rights.
        raise CommandError(f"The store of sessions{store} could not do this: {error}") from error
    except (CannotList, ImproperlyConfigured) as error:
        raise CommandError(str(error)) from error


def _names_store(error: StorageUnavailable, storage: Storage) -> bool:
    """Return whether the message of an error says which store it is about."""
    for part in parts(storage):
        description = part.describe()
        names = description.values.values() if isinstance(description, Phrase) else [description]
        if any(str(name) in str(error) for name in names):
            return True
    return False


def purge() -> int | None:
    """Remove the expired sessions of ``SESSION_ENGINE``, and return how many.

    The engine may belong to another package; then the number may be unknown, which is ``None``.
    Raises ``CommandError`` if the engine cannot be used or cannot remove expired sessions.
    """
    try:
        with errors_reported(), _named_engine():
            store = session_store(settings.SESSION_ENGINE)
            if store is None:
                raise ImproperlyConfigured("it has no SessionStore")
            removed: int | None = store.clear_expired()
    except NotImplementedError:
        raise CommandError(
            f"Session engine {settings.SESSION_ENGINE!r} doesn't support clearing expired sessions."
        ) from None
    return removed
