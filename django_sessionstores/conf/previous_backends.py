"""The entries of ``MIGRATE_FROM``, validated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from typing import Any, Final, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop as _

from ..core.phrases import Phrase
from .validation import WrongValue, did_you_mean, full_name, require_choice

ENGINE_SETTINGS: Final = (
    "SESSION_CACHE_ALIAS",
    "SESSION_FILE_PATH",
    "REGISTRY",
    "CACHED_STORE",
    "MONGODB_URI",
    "MONGODB_CLIENT",
    "MONGODB_DATABASE",
    "MONGODB_COLLECTION",
)
"""Settings by which an engine finds its storage."""
CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "REGISTRY": ("", "db", "cached_db", "cache", "mongodb"),
    "CACHED_STORE": ("db", "mongodb"),
}
"""The values of those that name another engine, the default first."""
_ADDRESSES: Final = frozenset({"MONGODB_URI", "MONGODB_CLIENT"})
_OF_ADDRESS: Final = ("MONGODB_URI", "MONGODB_CLIENT", "MONGODB_DATABASE")
"""The settings that an address replaces, because it may name a database."""


class PreviousBackend(NamedTuple):
    """An entry of ``MIGRATE_FROM``."""

    path: str
    """The dotted path of the engine."""
    options: Mapping[str, str]
    """The values of `ENGINE_SETTINGS` that the engine used, if they differ from those of today."""

    def __repr__(self) -> str:
        # Error reports show local variables.
        return repr(hide_addresses((self.path, dict(self.options))))


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
                entry=repr(hide_addresses(entry)),
            )
        )
    unknown = [name for name in options if name not in ENGINE_SETTINGS]
    if unknown or not all(isinstance(value, str | PathLike) for value in options.values()):
        raise WrongValue(
            Phrase(
                _(
                    "%(setting)s gives %(engine)s the settings %(options)s. The dict may have "
                    "these, each with a string as its value: %(names)s."
                ),
                setting=full_name("MIGRATE_FROM"),
                engine=path,
                options=repr(hide_addresses(options)),
                names=", ".join(ENGINE_SETTINGS),
            ),
            did_you_mean(str(unknown[0]), ENGINE_SETTINGS) if unknown else None,
        )
    for name in CHOICES.keys() & options.keys():
        require_choice(
            f"{name} of {path} in {full_name('MIGRATE_FROM')}", options[name], CHOICES[name]
        )
    if _ADDRESSES & options.keys():
        options = {**dict.fromkeys(_OF_ADDRESS, ""), **options}
    return PreviousBackend(path, {name: str(value) for name, value in options.items()})


def hide_addresses(entry: Any) -> Any:
    """Return an entry of ``MIGRATE_FROM`` as it may be shown: an address may have a password."""
    if isinstance(entry, dict):
        return {name: hide_addresses(value) for name, value in entry.items()}
    if isinstance(entry, list | tuple):
        hidden = [hide_addresses(each) for each in entry]
        return tuple(hidden) if isinstance(entry, tuple) else hidden
    return re.sub("://.*", "://…", entry, flags=re.DOTALL) if isinstance(entry, str) else entry
