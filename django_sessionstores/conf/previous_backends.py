"""The entries of ``MIGRATE_FROM``, validated."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, Final, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop as _

from ..core.phrases import Phrase
from .validation import full_name

ENGINE_SETTINGS: Final = ("SESSION_CACHE_ALIAS", "SESSION_FILE_PATH", "REGISTRY")
"""Settings by which an engine finds its storage."""


class PreviousBackend(NamedTuple):
    """An entry of ``MIGRATE_FROM``."""

    path: str
    """The dotted path of the engine."""
    options: Mapping[str, str]
    """The values of `ENGINE_SETTINGS` that the engine used, if they differ from those of today."""


def previous_backend(entry: Any) -> PreviousBackend:
    """Return an entry of ``MIGRATE_FROM`` in full: a path, or a pair of a path and a dict.

    Raises ``ImproperlyConfigured`` if it is neither.
    """
    is_pair = isinstance(entry, list | tuple) and len(entry) == 2
    path, options = entry if is_pair else (entry, {})
    if not (isinstance(path, str) and path and isinstance(options, dict)):
        raise ImproperlyConfigured(
            Phrase(
                _(
                    "%(setting)s has %(entry)s. An entry is the dotted path of an engine, or a "
                    "pair of that and a dict."
                ),
                setting=full_name("MIGRATE_FROM"),
                entry=repr(entry),
            )
        )
    unknown = [name for name in options if name not in ENGINE_SETTINGS]
    if unknown or not all(isinstance(value, str | PathLike) for value in options.values()):
        raise ImproperlyConfigured(
            Phrase(
                _(
                    "%(setting)s gives %(engine)s the settings %(options)s. The dict may have "
                    "these, each with a string as its value: %(names)s."
                ),
                setting=full_name("MIGRATE_FROM"),
                engine=path,
                options=repr(options),
                names=", ".join(ENGINE_SETTINGS),
            )
        )
    return PreviousBackend(path, {name: str(value) for name, value in options.items()})
