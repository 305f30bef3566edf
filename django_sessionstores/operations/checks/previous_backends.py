"""Checks of the previous backends in ``MIGRATE_FROM``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.conf import settings as django_settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop as _

from ...conf import cookie_age, full_name, previous_backend, settings
from ...core.phrases import Phrase, message_of
from ...migration.sources import DJANGO_ENGINES, MissingApp, OwnSource, Source, open_source
from ...storages.base import CacheStorage, Storage
from .configuration import configured_storage, if_valid, parts
from .engine import engine_hint

_MIGRATE_FROM: Final = full_name("MIGRATE_FROM")
_DAY: Final = 86_400  # Seconds.
_EXAMPLES: Final = {"mongodb": "MONGODB_COLLECTION", "file": "SESSION_FILE_PATH"}
"""The setting to name in an example for an engine, if it has no cache."""


@checks.register
def check_previous_backends(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that each previous backend can be read and has a storage of its own."""
    read = if_valid(lambda: (settings.MIGRATE_FROM, configured_storage(), cookie_age()))
    if read is None:
        return []
    entries, storage, _age = read
    messages: list[checks.CheckMessage] = []
    with_cookies: list[str] = []
    for backend in map(previous_backend, entries):
        try:
            source = open_source(backend)
            name = source.describe()
        except ImproperlyConfigured as error:
            messages.append(_unusable_error(backend.path, error))
            continue
        if storage is not None and (shared := shared_parts(storage, source)):
            messages.append(
                _shared_store_error(
                    backend.path, shared[0], _how_to_separate(source, storage, backend.path, shared)
                )
            )
        if source.in_key or (storage is not None and storage.holds_in_key):
            with_cookies.append(name)
        source.close()
    if with_cookies:
        messages.append(_copied_cookies(with_cookies))
    return messages


def _unusable_error(path: str, error: ImproperlyConfigured) -> checks.Error:
    return checks.Error(
        Phrase(
            _("%(setting)s names %(engine)s, which cannot be used: %(error)s"),
            setting=_MIGRATE_FROM,
            engine=repr(path),
            error=message_of(error),
        ),
        hint=_how_to_use(path, error),
        id="sessionstores.E017",
    )


def _how_to_use(path: str, error: ImproperlyConfigured) -> Phrase:
    if isinstance(error, MissingApp):
        return Phrase(
            _(
                "Add the app to INSTALLED_APPS again, for Django's own backends %(app)s, until the "
                "sessions of this backend have expired or are moved. To migrate nothing from it, "
                "remove the entry."
            ),
            app="'django.contrib.sessions'",
        )
    return engine_hint(path, DJANGO_ENGINES) or _how_to_name_settings(path)


def _how_to_name_settings(path: str) -> Phrase:
    return Phrase(
        _(
            "If the backend used other settings than the current ones, write a pair of its "
            "path and a dict of those settings, such as %(example)s. To migrate nothing from "
            "it, remove the entry."
        ),
        example=_example(path),
    )


def _example(path: str) -> str:
    """Return an entry with another setting by which the engine finds its sessions."""
    name = _EXAMPLES.get(_name(path), "SESSION_CACHE_ALIAS")
    return f"({path!r}, {{{name!r}: 'old'}})"


def _name(path: str) -> str:
    return path.rpartition(".")[2]


def _shared_store_error(path: str, shared: Storage, hint: Phrase) -> checks.Error:
    return checks.Error(
        Phrase(
            _(
                "%(setting)s names %(engine)s, which has its sessions where "
                "SESSION_ENGINE has them: %(store)s."
            ),
            setting=_MIGRATE_FROM,
            engine=path,
            store=shared.describe(),
        ),
        hint=hint,
        id="sessionstores.E016",
    )


def _copied_cookies(stores: list[str]) -> checks.Warning:
    days = -(-django_settings.SESSION_COOKIE_AGE // _DAY)
    return checks.Warning(
        Phrase(
            _(
                "A cookie from before the move that somebody has copied can be exchanged for a "
                "session until it expires, in up to %(days)s days. The sessions to migrate are in: "
                "%(stores)s."
            ),
            days=days,
            stores=tuple(stores),
        ),
        hint=Phrase(
            _(
                "Remove the engine from %(setting)s when the last of its cookies has "
                "expired, or earlier, which logs those out who have not been back."
            ),
            setting=_MIGRATE_FROM,
        ),
        id="sessionstores.W016",
    )


def shared_parts(storage: Storage, source: Source) -> list[Storage]:
    """Return the parts of a previous backend that keep records where the storage keeps its own.

    The two would mistake each other's sessions for theirs.
    """
    if not isinstance(source, OwnSource) or (source.in_key and not storage.holds_in_key):
        # Sessions that are migrated from cookies get new ids, so the same table can hold both.
        return []
    places = {part.place() for part in parts(storage)}
    return [part for part in parts(source.storage) if part.place() in places]


def _how_to_separate(
    source: Source, storage: Storage, path: str, shared: Sequence[Storage]
) -> Phrase:
    if _name(path) in _EXAMPLES:
        return _how_to_name_settings(path)
    if storage.holds_in_key and all(isinstance(each, CacheStorage) for each in shared):
        return Phrase(
            _(
                "Set SESSION_CACHE_ALIAS to another cache, for the registry, and write the old one "
                "in %(setting)s: %(example)s."
            ),
            setting=_MIGRATE_FROM,
            example=_example(path),
        )
    if storage.holds_in_key and not source.in_key:
        return Phrase(
            _(
                "Move to the cookie engine with a registry in another store: change %(registry)s. "
                "Or remove the engine from %(setting)s, which signs everyone out once."
            ),
            registry=full_name("REGISTRY"),
            setting=_MIGRATE_FROM,
        )
    return Phrase(
        _(
            "Remove it if there is nothing to move. If one cache must hold both, set "
            "SESSION_CACHE_ALIAS to another alias with a KEY_PREFIX of its own, and name the old "
            "one in MIGRATE_FROM."
        )
    )
