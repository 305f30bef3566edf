"""Engines by their dotted path, and the settings by which they find their storage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Final

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop as _

from ..core.phrases import Phrase
from .options import settings
from .previous_backends import PreviousBackend
from .validation import full_name, wrong_type_message


def session_store(path: str) -> Any:
    """Return the ``SessionStore`` of an engine, or ``None`` if the module has none.

    Raises ``ImportError`` if there is no such module, or if the module itself fails.
    """
    if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")):
        raise ImportError(f"{path!r} is not the dotted path of a module")
    try:
        module = import_module(path)
    except ImproperlyConfigured:
        raise  # It says what to set.
    except ModuleNotFoundError as error:
        if f"{path}.".startswith(f"{error.name}."):
            raise
        raise ImportError(f"{path} cannot import a module that it needs: {error}") from error
    except Exception as error:
        raise ImportError(
            f"the module {path} fails with {type(error).__name__}: {error}"
        ) from error
    return getattr(module, "SessionStore", None)


_previous: Final = ContextVar[PreviousBackend]("the previous backend that is being opened")


@contextmanager
def settings_of(backend: PreviousBackend) -> Iterator[None]:
    """Have `engine_setting` return the settings that a previous backend used."""
    token = _previous.set(backend)
    try:
        yield
    finally:
        _previous.reset(token)


def engine_setting(name: str) -> Any:
    """Return one of ``ENGINE_SETTINGS`` for the engine whose storage is being made.

    This is the current value, unless `settings_of` names a previous backend that used another one.
    """
    if (backend := _previous_with(name)) is not None:
        return backend.options[name]
    return getattr(django_settings if name.startswith("SESSION_") else settings, name)


def engine_setting_name(name: str) -> str:
    """Return where the value of `engine_setting` comes from, for messages."""
    if (backend := _previous_with(name)) is not None:
        return f"{name} of {backend.path} in {full_name('MIGRATE_FROM')}"
    return name if name.startswith("SESSION_") else full_name(name)


def _previous_with(name: str) -> PreviousBackend | None:
    """Return the previous backend that is being opened, if it used another value of a setting."""
    backend = _previous.get(None)
    return backend if backend is not None and name in backend.options else None


def file_path() -> str:
    """Return ``SESSION_FILE_PATH`` for the engine whose storage is being made; empty if not set.

    Raises ``ImproperlyConfigured`` if it cannot be a path.
    """
    value, name = engine_setting("SESSION_FILE_PATH"), engine_setting_name("SESSION_FILE_PATH")
    if value is None:
        return ""
    try:
        path = os.fspath(value)
        is_possible = b"\0" not in os.fsencode(path)
    except TypeError:
        path = None
    except UnicodeError:
        is_possible = False
    if not isinstance(path, str):
        raise ImproperlyConfigured(wrong_type_message(name, (str,), value))
    if not is_possible:
        raise ImproperlyConfigured(
            Phrase(_("%(setting)s must be a string without NUL and surrogates."), setting=name)
        )
    return path
