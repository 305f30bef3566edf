"""Engines by their dotted path, and the settings by which they find their storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Final

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

from .options import settings
from .previous_backends import PreviousBackend


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


_previous_options: Final = ContextVar[Mapping[str, str]]("options of a previous backend")


@contextmanager
def settings_of(backend: PreviousBackend) -> Iterator[None]:
    """Have `engine_setting` return the settings that a previous backend used."""
    token = _previous_options.set(backend.options)
    try:
        yield
    finally:
        _previous_options.reset(token)


def engine_setting(name: str) -> Any:
    """Return one of ``ENGINE_SETTINGS`` for the engine whose storage is being made.

    This is the current value, unless `settings_of` names a previous backend that used another one.
    """
    options = _previous_options.get(None) or {}
    if name in options:
        return options[name]
    return getattr(django_settings if name.startswith("SESSION_") else settings, name)
