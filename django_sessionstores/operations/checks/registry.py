"""Checks of the registry of sessions, and of the options that need to list sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core import checks
from django.utils.translation import gettext_noop as _

from ...conf import full_name, settings
from ...core.phrases import Phrase
from ...storages.base import Storage
from ...storages.registered import RegisteredStorage
from .configuration import if_valid, production_storage, usable_storage


@checks.register
def check_registry(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that sessions in cookies have a registry, and that no registry loses records."""
    storage = production_storage()
    if storage is None:
        return []
    if not storage.authoritative:
        return [_no_registry()]
    if isinstance(storage, RegisteredStorage) and _may_lose_records(storage.registry):
        return [_unreliable_registry(storage.registry)]
    return []


def _may_lose_records(registry: Storage) -> bool:
    # check_cache reports a store in the memory of one process.
    return registry.shared and not (registry.durable or registry.tells_eviction)


def _no_registry() -> checks.Warning:
    return checks.Warning(
        Phrase(
            _(
                "Without a registry, no session can be ended. A cookie that was copied "
                "before a logout works until it expires. A new password and a deactivation "
                "are noticed only when Django asks for the user. Of two requests that "
                "save at once, one loses its changes."
            )
        ),
        hint=Phrase(
            _(
                "Set %(setting)s to 'db', 'cached_db' or 'cache'. If you can do without a"
                " registry, silence this check and make SESSION_COOKIE_AGE short."
            ),
            setting=full_name("REGISTRY"),
        ),
        id="sessionstores.W020",
    )


def _unreliable_registry(registry: Storage) -> checks.Warning:
    return checks.Warning(
        Phrase(
            _(
                "The registry is in %(store)s, which may drop records that are in use and so end "
                "sessions."
            ),
            store=registry.describe(),
        ),
        hint=Phrase(
            _(
                "Set %(setting)s to 'db' or 'cached_db', or point SESSION_CACHE_ALIAS to a "
                "cache on Redis."
            ),
            setting=full_name("REGISTRY"),
        ),
        id="sessionstores.W021",
    )


@checks.register
def check_limit_and_rotation(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the engine can list sessions, as ``MAX_SESSIONS`` and ``ROTATE_AFTER`` need."""
    storage = usable_storage()
    options = if_valid(lambda: (bool(settings.MAX_SESSIONS), bool(settings.ROTATE_AFTER)))
    if storage is None or options is None:
        return []
    has_limit, rotates = options
    messages: list[checks.CheckMessage] = []
    hint = _how_to_list()
    if has_limit and not storage.lists:
        messages.append(
            checks.Error(
                Phrase(
                    _(
                        "Sessions are in %(store)s, which cannot tell how many sessions a user "
                        "has. Every login fails, because %(setting)s is set."
                    ),
                    setting=full_name("MAX_SESSIONS"),
                    store=storage.describe(),
                ),
                hint=hint,
                id="sessionstores.E019",
            )
        )
    if rotates and (storage.holds_in_key or not storage.lists):
        if storage.holds_in_key:
            hint = Phrase(_("Remove it: the cookie engine makes a new cookie on each save anyway."))
        messages.append(_without_effect("ROTATE_AFTER", storage, hint))
    elif rotates and (problem := _grace_problem()):
        messages.append(problem)
    return messages


@checks.register
def check_notices(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the engine can do what ``NEW_SIGN_IN`` and ``EXPLAIN_ENDS`` need."""
    storage = usable_storage()
    options = if_valid(lambda: (settings.NEW_SIGN_IN != "ignore", bool(settings.EXPLAIN_ENDS)))
    if storage is None or options is None:
        return []
    told = {
        "NEW_SIGN_IN": options[0] and not storage.lists,
        "EXPLAIN_ENDS": options[1] and not storage.authoritative,
    }
    return [
        _without_effect(name, storage, _how_to_list())
        for name, is_without_effect in told.items()
        if is_without_effect
    ]


def _without_effect(name: str, storage: Storage, hint: Phrase) -> checks.Warning:
    return checks.Warning(
        Phrase(
            _("%(setting)s has no effect, because sessions are in %(store)s."),
            setting=full_name(name),
            store=storage.describe(),
        ),
        hint=hint,
        id="sessionstores.W022",
    )


def _how_to_list() -> Phrase:
    """Return the hint that gives the engine a list of its sessions."""
    return Phrase(
        _(
            "With the cookie or cache engine, set %(setting)s, for example to 'db'. Otherwise "
            "choose another SESSION_ENGINE."
        ),
        setting=full_name("REGISTRY"),
    )


def _grace_problem() -> checks.Warning | None:
    """Return what is wrong with the grace period of rotated keys, if anything is."""
    grace, age = settings.ROTATION_GRACE, settings.ROTATE_AFTER
    if grace == 0:
        problem = Phrase(
            _(
                "%(setting)s is 0: a request that is under way while its key is rotated is not "
                "signed in, and a browser that misses the response with the new key is signed out."
            ),
            setting=full_name("ROTATION_GRACE"),
        )
    elif grace > age:
        problem = Phrase(
            _(
                "%(setting)s is longer than %(rotate_after)s: an old key works for longer after "
                "its rotation than before."
            ),
            setting=full_name("ROTATION_GRACE"),
            rotate_after=full_name("ROTATE_AFTER"),
        )
    else:
        return None
    return checks.Warning(
        problem,
        hint=Phrase(
            _("Set it to a minute or two, and to less than %(setting)s."),
            setting=full_name("ROTATE_AFTER"),
        ),
        id="sessionstores.W027",
    )


@checks.register
def check_unused_registry(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the engine uses a registry, if there is to be one."""
    storage = usable_storage()
    # The registry may be that of a previous backend.
    is_for_this = if_valid(lambda: bool(settings.REGISTRY) and not settings.MIGRATE_FROM)
    if storage is None or not is_for_this or isinstance(storage, RegisteredStorage):
        return []
    return [
        checks.Warning(
            Phrase(
                _("%(setting)s has no effect, because sessions are in %(store)s."),
                setting=full_name("REGISTRY"),
                store=storage.describe(),
            ),
            hint=Phrase(_("Remove it: this engine lists and ends its sessions itself."))
            if storage.lists
            else Phrase(_("Remove it: only the cookie and cache engines use a registry.")),
            id="sessionstores.W028",
        )
    ]
