"""What the commands share: the engine in use, its purge, and errors in an operator's words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from ..conf import session_store
from ..exceptions import CannotList, StorageUnavailable
from ..inventory import Inventory


def open_inventory() -> Inventory:
    """The inventory of ``SESSION_ENGINE``. Raises ``CommandError`` where there is none."""
    try:
        with _named_engine():
            return Inventory()
    except CannotList as error:
        raise CommandError(
            f"{error} This command works with the engines in django_sessionstores.backends."
        ) from error


@contextmanager
def _named_engine() -> Iterator[None]:
    try:
        yield
    except (ImportError, ImproperlyConfigured) as error:
        raise CommandError(
            f"SESSION_ENGINE {settings.SESSION_ENGINE!r} cannot be used: {error}"
        ) from error


@contextmanager
def errors_reported() -> Iterator[None]:
    """Turn what the package raises into a ``CommandError``: no traceback, exit code 1."""
    try:
        yield
    except StorageUnavailable as error:
        store = Inventory().storage.describe()
        raise CommandError(f"The store of sessions, {store}, does not answer: {error}") from error
    except (CannotList, ImproperlyConfigured) as error:
        raise CommandError(str(error)) from error


@contextmanager
def until_nobody_reads(output: Any) -> Iterator[None]:
    """End with exit code 1, and no traceback, where a pipe is closed before all is written."""
    try:
        try:
            yield
        finally:
            output.flush()
    except BrokenPipeError:
        # What is left is written when the process ends, and would fail once more.
        with suppress(OSError), Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), output.fileno())
        raise SystemExit(1) from None


def purge() -> int | None:
    """Remove the expired sessions of ``SESSION_ENGINE``, whosever engine it is; how many.

    ``None`` where the engine does not count them, as those outside this package.
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


def purged(removed: int | None) -> str:
    """What `purge` did, in words."""
    if removed is None:
        return "The expired sessions removed."
    return f"{counted(removed, 'expired session')} removed."


def counted(number: int, noun: str) -> str:
    """``1,234 sessions``, ``1 session``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
