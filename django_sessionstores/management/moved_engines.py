"""The engines that ``manage.py sessions move`` moves sessions from and to."""

from __future__ import annotations

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from ..conf import NAME, PreviousBackend, previous_backend, session_store, settings
from ..migration.sources import DJANGO_ENGINES, OwnSource, Source, open_source
from ..operations.checks.configuration import parts
from ..operations.checks.engine import engine_hint
from ..operations.checks.previous_backends import shared_parts
from ..operations.doctor import is_in_one_store
from ..sessions import SessionStore
from ..storages.base import CacheStorage, Storage
from .engine import with_hint


def sources(path: str, cache_alias: str | None) -> list[Source]:
    """Return the sources for an engine to move from: several if ``MIGRATE_FROM`` names it so often.

    ``path`` is the dotted path of the engine. ``cache_alias`` is the cache in which it keeps its
    sessions; ``None`` for those in ``MIGRATE_FROM`` or in the settings. Raises ``CommandError``.
    """
    if cache_alias is not None:
        return [_source(PreviousBackend(path, {"SESSION_CACHE_ALIAS": cache_alias}))]
    named = _named_entries(path)
    if path == django_settings.SESSION_ENGINE and not named:
        raise CommandError(
            f"{path} is SESSION_ENGINE, so moving its sessions would log their users out. "
            f"Change SESSION_ENGINE first, and name {path} in {NAME}['MIGRATE_FROM']."
        )
    return list(map(_source, named or [PreviousBackend(path, {})]))


def _source(entry: PreviousBackend) -> Source:
    path = entry.path
    try:
        source = open_source(entry)
    except ImproperlyConfigured as error:
        hint = engine_hint(path, DJANGO_ENGINES)
        raise CommandError(with_hint(f"--from {path} cannot be used: {error}", hint)) from error
    if not source.lists:
        raise CommandError(
            f"{path} cannot list its sessions: {source.describe()}. Name it in "
            f"{NAME}['MIGRATE_FROM']: each session is then migrated at its next request."
        )
    return source


def is_named(path: str) -> bool:
    """Return whether ``MIGRATE_FROM`` names this engine."""
    return bool(_named_entries(path))


def _named_entries(path: str) -> list[PreviousBackend]:
    """Return the entries of ``MIGRATE_FROM`` for this engine, which have its cache or folder."""
    entries = map(previous_backend, settings.MIGRATE_FROM)
    return [entry for entry in entries if entry.path == path]


def target(path: str) -> Storage:
    """Return the storage of the engine to move to. Raises ``CommandError``."""
    try:
        store = session_store(path)
        if not (isinstance(store, type) and issubclass(store, SessionStore)):
            raise CommandError(
                f"--to {path} is not a session engine of django_sessionstores. Sessions cannot be "
                "moved to other engines: this package stores digests of the session keys, and "
                "other engines need the keys. Switching back logs all users out."
            )
        storage = store.own_storage()
    except (ImportError, ImproperlyConfigured) as error:
        hint = engine_hint(path)
        raise CommandError(with_hint(f"--to {path} cannot be used: {error}", hint)) from error
    if storage.holds_in_key:
        cure = (
            f"{NAME}['MIGRATE_FROM'] names the previous backend, so there is nothing to move: each "
            "session is migrated at its next request. Keep the entry until the others have expired."
            if settings.MIGRATE_FROM
            else f"Name the previous backend in {NAME}['MIGRATE_FROM']: each session is then "
            "migrated at its next request."
        )
        raise CommandError(
            f"{path} keeps sessions in the browsers, so only a request can store one. {cure}"
        )
    return storage


def check_pair(source: Source, storage: Storage) -> None:
    """Raise ``CommandError`` if sessions cannot be moved from the source to the storage."""
    for each in (storage, getattr(source, "storage", storage)):
        if not each.shared:
            raise CommandError(
                f"Sessions in {each.describe()} are in the memory of each process of the site, so "
                "this command cannot move them."
            )
    if shared := shared_parts(storage, source):
        raise _nothing_to_move(shared[0])


def check_stores(source: Source, storage: Storage) -> None:
    """Raise ``CommandError`` if both are one store, which their settings name in two ways.

    A move would remove each session, as if an earlier run had left it in the source.
    """
    if not isinstance(source, OwnSource):
        return
    previous = _keepers(source.storage)
    for each in _keepers(storage):
        if is_in_one_store(each, previous):
            raise _nothing_to_move(each)


def _keepers(storage: Storage) -> list[Storage]:
    """Return the parts of a storage that keep sessions, or what a registry knows of them."""
    return [
        part
        for part in parts(storage)
        if not (part.holds_in_key or (isinstance(part, CacheStorage) and part.holds_copies))
    ]


def _nothing_to_move(storage: Storage) -> CommandError:
    return CommandError(
        f"Both engines store their sessions in {storage.describe()}, so there is nothing to move."
    )
