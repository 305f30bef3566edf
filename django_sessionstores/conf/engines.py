"""Engines by their dotted path, and the settings by which they find their storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Final

from django.conf import settings as django_settings

from .options import settings
from .previous_backends import PreviousBackend


def session_store(path: str) -> Any:
    """Return the ``SessionStore`` of an engine, or ``None`` if the module has none.

    Raises ``ImportError`` if there is no such module.
    """
    if not all(part.isidentifier() for part in path.split(".")):
        raise ImportError(f"{path!r} is not the dotted path of a module")
    return getattr(import_module(path), "SessionStore", None)


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
    return settings.REGISTRY if name == "REGISTRY" else getattr(django_settings, name)
