"""Checks of ``SESSION_ENGINE``: the engine can be used, and which store it uses."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any, Final

from django.conf import settings as django_settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop as _

from ... import backends
from ...conf import full_name, session_store
from ...core.phrases import Phrase, message_of
from ...storages.base import CacheStorage
from .configuration import configured_storage, usable_storage
from .options import check_settings

_BACKENDS: Final = backends.__name__
_PACKAGE: Final = _BACKENDS.partition(".")[0]
_OTHER_NAMES: Final = {
    "cache": ("redis", "valkey", "memcached", "memcache", "dbcache"),
    "cached_db": ("db_cache", "cached_database"),
    "cookie": ("signed_cookies", "signed_cookie"),
    "db": ("database", "sql", "postgres", "postgresql", "mysql", "mariadb", "sqlite", "sqlite3"),
    "file": ("filesystem", "file_system", "filebased", "disk"),
    "memory": ("locmem", "in_memory", "dict"),
    "mongodb": ("mongo", "pymongo", "mongoengine"),
}
"""Names that people try for each engine and that are not like its name."""


@checks.register
def check_engine(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the engine can be imported and that its storage can be made."""
    engine = django_settings.SESSION_ENGINE
    try:
        configured_storage()
        if session_store(engine) is not None:
            return []
        problem: str = Phrase(_("it has no class SessionStore."))
    except (ImportError, ImproperlyConfigured) as error:
        problem = message_of(error)
        if any(problem == message.msg for message in check_settings(None)):
            return []  # An option has a wrong value, which is reported there.
    return [engine_error(problem, engine_hint(str(engine)))]


def engine_error(problem: str, hint: str | None = None) -> checks.Error:
    """Return the error that ``SESSION_ENGINE`` cannot be used."""
    return checks.Error(
        Phrase(
            _("SESSION_ENGINE %(engine)s cannot be used: %(error)s"),
            engine=repr(django_settings.SESSION_ENGINE),
            error=problem,
        ),
        hint=hint,
        id="sessionstores.E005",
    )


def engine_hint(path: str, others: Sequence[str] = ()) -> Phrase | None:
    """Return which engine to name instead of a path that does not lead to one.

    These are the engines of the package and ``others``. Returns ``None`` for one of them, and for
    any other module that exists: its problem is not its name.
    """
    paths = (*_engine_paths(), *others)
    is_in_package = path.partition(".")[0] == _PACKAGE
    if path in paths or not (is_in_package or _is_missing(path)):
        return None
    # Some name the class, as in other settings, and the letters of an engine are all small.
    path = path.removesuffix(".SessionStore").lower()
    name = path.rpartition(".")[2]
    for engine, names in _OTHER_NAMES.items():
        if name in names and not others:
            setting = f"SESSION_ENGINE = {f'{_BACKENDS}.{engine}'!r}"
            return Phrase(_("Write %(setting)s."), setting=setting)
    named_alike = [
        each
        for each in paths
        if difflib.get_close_matches(name, [each.rpartition(".")[2]], cutoff=0.8)
    ]
    # A name alone says enough: "db" is short for the engine.
    least = 0.6 if "." in path else 0.0
    if near := difflib.get_close_matches(path, named_alike, n=1, cutoff=least):
        return Phrase(_("Did you mean %(option)s?"), option=repr(near[0]))
    return Phrase(_("The engines are: %(engines)s."), engines=", ".join(map(repr, paths)))


def _engine_paths() -> tuple[str, ...]:
    """Return the paths of the package's engines: its backends, without other names of one."""
    other_names = {name for names in _OTHER_NAMES.values() for name in names}
    return tuple(
        f"{_BACKENDS}.{each.name}"
        for each in iter_modules(backends.__path__)
        if each.name not in other_names
    )


def _is_missing(path: str) -> bool:
    try:
        return find_spec(path) is None
    except (ImportError, ValueError):
        return True


@checks.register(deploy=True)
def report_storage(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Report which store sessions are in, and through which adapter."""
    storage = usable_storage()
    if storage is None:
        return []
    where = Phrase(_("Sessions are in %(store)s."), store=storage.describe())
    messages = [checks.Info(where, id="sessionstores.I001")]
    if isinstance(storage, CacheStorage) and not storage.lists:
        messages.append(
            checks.Info(
                Phrase(
                    _(
                        "Sessions are in %(store)s, which cannot list them, so no session "
                        "can be found by its user."
                    ),
                    store=storage.describe(),
                ),
                hint=Phrase(
                    _("If that is needed, set %(setting)s to 'db'."),
                    setting=full_name("REGISTRY"),
                ),
                id="sessionstores.I002",
            )
        )
    return messages
