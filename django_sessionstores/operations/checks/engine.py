"""Checks of ``SESSION_ENGINE``: the engine can be used, and which store it uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.conf import settings as django_settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop as _

from ... import backends
from ...conf import full_name, session_store
from ...core.phrases import Phrase, message_of
from ...storages.base import CacheStorage
from .configuration import configured_storage

ENGINES: Final = ("cache", "cached_db", "cookie", "db", "file", "memory")
"""The engines of the package: modules of its `backends`."""
_BACKENDS: Final = backends.__name__
_PACKAGE: Final = _BACKENDS.partition(".")[0]


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
    return [
        checks.Error(
            Phrase(
                _("SESSION_ENGINE %(engine)s cannot be used: %(error)s"),
                engine=repr(engine),
                error=problem,
            ),
            hint=engine_hint(engine),
            id="sessionstores.E005",
        )
    ]


def engine_hint(path: str) -> Phrase | None:
    """Return which engine to name instead of a path in the package that is not an engine.

    Returns ``None`` for an engine of the package and for a path outside of the package.
    """
    package, _dot, name = path.rpartition(".")
    if path.partition(".")[0] != _PACKAGE or (package == _BACKENDS and name in ENGINES):
        return None
    if name == "signed_cookies":
        return Phrase(_("Use %(engine)s instead."), engine=repr(f"{_BACKENDS}.cookie"))
    return Phrase(
        _("The engines are: %(engines)s."),
        engines=", ".join(repr(f"{_BACKENDS}.{each}") for each in ENGINES),
    )


@checks.register(deploy=True)
def report_storage(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Report which store sessions are in, and through which adapter."""
    try:
        storage = configured_storage()
    except (ImportError, ImproperlyConfigured):
        return []  # check_engine reports it.
    if storage is None:
        return []
    where = Phrase(_("Sessions are in %(store)s."), store=storage.describe())
    messages = [checks.Info(where, id="sessionstores.I001")]
    if isinstance(storage, CacheStorage) and not storage.lists:
        messages.append(
            checks.Info(
                Phrase(
                    _("%(store)s cannot list what it has, so no session can be found by its user."),
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
