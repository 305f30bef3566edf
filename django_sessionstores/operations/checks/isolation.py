"""Checks that a store can tell the sessions of tenants apart, see `Record.site`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.apps import apps
from django.conf import settings as django_settings
from django.core import checks
from django.utils.translation import gettext_noop as _

from ...core.phrases import Phrase
from ...storages.base import CacheStorage, Storage, has_fixed_keys, prefix_of
from ...storages.caches.selection import cache_object
from .configuration import parts, usable_storage

# By the package of the database backend, because none of these sets anything else that tells.
_KEY_FUNCTIONS: Final = {
    "django_tenants": "django_tenants.cache.make_key",
    "tenant_schemas": "tenant_schemas.cache.make_key",
    "django_pgschemas": "django_pgschemas.contrib.cache.make_key",
}
"""The packages that give each tenant a schema, and their functions for the keys of a cache."""


@checks.register
def check_isolation(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the store can tell the sessions of tenants in schemas apart."""
    found = parts(usable_storage())
    function = _key_function_of_schemas()
    messages = list(_hidden_keys(found))
    if function is not None:
        messages += _shared_by_schemas(found, function)
    return messages


def _key_function_of_schemas() -> str | None:
    """Return the KEY_FUNCTION that tells tenants in schemas apart; ``None`` if there are none."""
    for entry in django_settings.DATABASES.values():
        package, _dot, _rest = str(entry.get("ENGINE", "")).partition(".")
        if package in _KEY_FUNCTIONS:
            return _KEY_FUNCTIONS[package]
    return None


def _shared_by_schemas(found: Sequence[Storage], function: str) -> Iterator[checks.CheckMessage]:
    alias = django_settings.SESSION_CACHE_ALIAS
    for part in found:
        if isinstance(part, CacheStorage):
            if has_fixed_keys(cache_object(alias)):
                hint = Phrase(
                    _("Add %(line)s to %(setting)s."),
                    line=f'"KEY_FUNCTION": "{function}"',
                    setting=f"CACHES[{alias!r}]",
                )
                yield _shared_store(part, hint)
        elif part.database() is not None:
            if _has_shared_table():
                yield _shared_table()
        elif part.shared and not part.holds_in_key:
            hint = Phrase(_("Set SESSION_ENGINE to the db or cached_db engine."))
            yield _shared_store(part, hint)


def _has_shared_table() -> bool:
    """Return whether each tenant has users of its own, and all have one table of sessions."""
    of_tenants = getattr(django_settings, "TENANT_APPS", ())
    users = django_settings.AUTH_USER_MODEL.partition(".")[0]
    return _is_among(users, of_tenants) and not _is_among("django_sessionstores", of_tenants)


def _is_among(label: str, names: Sequence[str]) -> bool:
    """Return whether an installed app is in a list such as ``INSTALLED_APPS``."""
    config = apps.get_app_config(label)
    path = f"{type(config).__module__}.{type(config).__qualname__}"
    return config.name in names or path in names


def _shared_store(storage: Storage, hint: Phrase) -> checks.CheckMessage:
    return checks.Warning(
        Phrase(
            _(
                "Each tenant has a schema, and all share %(store)s. Users of two tenants may have "
                "the same primary key: their sessions are then listed, counted and ended together."
            ),
            store=storage.describe(),
        ),
        hint=hint,
        id="sessionstores.W030",
    )


def _shared_table() -> checks.CheckMessage:
    return checks.Warning(
        Phrase(
            _(
                "Each tenant has users of its own, and all share one table of sessions. Users of "
                "two tenants may have the same primary key: their sessions are then listed, "
                "counted and ended together."
            )
        ),
        hint=Phrase(
            _("Add %(line)s to TENANT_APPS, and run: python manage.py migrate_schemas"),
            line='"django_sessionstores"',
        ),
        id="sessionstores.W031",
    )


def _hidden_keys(found: Sequence[Storage]) -> Iterator[checks.CheckMessage]:
    """Check that the keys of a cache end as the package names them."""
    alias = django_settings.SESSION_CACHE_ALIAS
    if not any(isinstance(part, CacheStorage) for part in found):
        return
    cache = cache_object(alias)
    try:
        is_hidden = not has_fixed_keys(cache) and prefix_of(cache.make_key) is None
    except Exception:  # noqa: BLE001 - a function of the project, which may expect a request
        return
    if is_hidden:
        yield checks.Warning(
            Phrase(
                _(
                    "The KEY_FUNCTION of the cache %(cache)s hides which keys are sessions. So "
                    "their list cannot be rebuilt, and a store that has no list of its own cannot "
                    "tell them from those of other sites."
                ),
                cache=repr(alias),
            ),
            hint=Phrase(
                _("Let it return a string that ends in the key, such as %(example)s."),
                example='f"{prefix}:{version}:{key}"',
            ),
            id="sessionstores.W032",
        )
