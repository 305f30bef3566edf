"""The diagnosis of a site's sessions: how they are stored, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy

from ... import conf
from ...core.phrases import translate
from ...core.summary import IndexReport
from ...exceptions import StorageUnavailable
from ...middleware.installed import has_package_middleware, session_middlewares
from ...storages.base import Storage
from .findings import Finding, findings
from .stores import SECONDS, Store, ask_parts, ask_previous_backends
from .tasks import Tasks

T = TypeVar("T")

# Translators: these eight are lines below the heading "Sessions can" or "Sessions cannot".
CAPABILITIES: Final = {
    "authoritative": (
        gettext_lazy("be ended"),
        gettext_lazy("keep the changes of parallel requests"),
    ),
    "lists": (gettext_lazy("be listed and counted"),),
    "shared": (gettext_lazy("be seen by all processes"),),
    "durable": (gettext_lazy("survive a restart or a lack of room"),),
    "self_expiring": (gettext_lazy("expire without a purge"),),
    "keeps_client": (gettext_lazy("keep the client's address"),),
    "native_async": (gettext_lazy("be used without threads under ASGI"),),
}
"""The attributes in which storages declare what they can do, in words."""
_COOKIE: Final = (
    "SESSION_COOKIE_AGE",
    "SESSION_EXPIRE_AT_BROWSER_CLOSE",
    "SESSION_SAVE_EVERY_REQUEST",
    "SESSION_COOKIE_SECURE",
    "SESSION_COOKIE_HTTPONLY",
    "SESSION_COOKIE_SAMESITE",
    "SESSION_COOKIE_DOMAIN",
    "SESSION_COOKIE_PATH",
)
OPTIONS: Final = (
    "IDLE_TIMEOUT",
    "ABSOLUTE_TIMEOUT",
    "TOUCH_INTERVAL",
    "ROTATE_AFTER",
    "MAX_SESSIONS",
    "REGISTRY",
    "MIGRATE_FROM",
)
"""The options of the package that belong to the policy."""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """How the sessions of a site are stored, and what is wrong."""

    engine: str
    description: str
    stores: list[Store]
    """The stores that can be asked, and their nodes. That excludes the browser."""
    capabilities: dict[str, bool]
    holds_in_key: bool
    """Whether the session data is in the cookies of the browser."""
    max_payload: int | None
    """The maximum size of a session in the store, in bytes."""
    cookie_bytes: int | None
    """The maximum size of a session in cookies, in bytes.

    ``None`` if sessions are in a store, or if the settings are wrong.
    """
    middleware: list[str]
    policy: dict[str, Any]
    encryption_keys: int | None
    """The number of encryption keys; ``None`` if their settings are wrong."""
    index_is_complete: bool | None
    """Whether the index of the store has all sessions.

    ``None`` if the store has no index, or does not answer.
    """
    index: IndexReport | None
    """What the index has, and what is out of order in it.

    ``None`` if the store has no index, or does not tell.
    """
    eviction_policy: str
    """The policy by which a full store drops live sessions; empty if it does not drop them."""
    findings: list[Finding]
    """What breaks requests comes first, then the other problems, and then the rest."""
    problems: int
    """The number of findings that are problems."""


def diagnose(storage: Storage, *, writes: bool = False) -> Diagnosis:
    """Return the diagnosis of a storage and of the settings, see `stores.ask_stores`.

    Nothing is changed, but with ``writes`` a session is stored and removed in each store.
    """
    with Tasks(SECONDS) as tasks:
        # The client of a cluster connects to answer this.
        is_native = tasks.start(lambda: storage.native_async)
        stores = ask_parts(tasks, storage, writes=writes)
        eviction_policy, index_is_complete, index = "", None, None
        if not any(store.error for store in stores):
            said = tasks.start(partial(_about_itself, storage))
            answers = tasks.result(said) or ("", None, None)
            eviction_policy, index_is_complete, index = answers
            stores += ask_previous_backends(tasks)
        native_async = tasks.result(is_native) or False
    middleware = [path for path, _each in session_middlewares()]
    found = findings(
        stores,
        eviction_policy,
        has_middleware=bool(middleware),
        holds_in_key=storage.holds_in_key,
    )
    return Diagnosis(
        engine=django_settings.SESSION_ENGINE,
        description=translate(storage.describe()),
        stores=stores,
        capabilities=_capabilities(storage, native_async),
        holds_in_key=storage.holds_in_key,
        max_payload=storage.max_payload,
        cookie_bytes=_setting_value(conf.cookie_bytes) if storage.holds_in_key else None,
        middleware=middleware,
        policy=_policy(),
        encryption_keys=_setting_value(lambda: len(conf.key_ring())),
        index_is_complete=index_is_complete,
        index=index,
        eviction_policy=eviction_policy,
        findings=found,
        problems=sum(finding.is_problem for finding in found),
    )


def _about_itself(storage: Storage) -> tuple[str, bool | None, IndexReport | None]:
    """Return what a store says about evictions and about its index."""
    return (
        _store_answer(storage.eviction_policy) or "",
        _store_answer(storage.index_is_complete),
        _store_answer(storage.index_report),
    )


def _capabilities(storage: Storage, native_async: bool) -> dict[str, bool]:
    capabilities = {
        name: native_async if name == "native_async" else bool(getattr(storage, name))
        for name in CAPABILITIES
    }
    # Django's middleware does not tell sessions where they come from.
    capabilities["keeps_client"] &= has_package_middleware()
    return capabilities


def _store_answer(ask: Callable[[], T]) -> T | None:
    """Return what a store says about itself; ``None`` if it does not answer or refuses to."""
    try:
        return ask()
    except StorageUnavailable:
        return None


def _policy() -> dict[str, Any]:
    policy = {name: getattr(django_settings, name) for name in _COOKIE}
    for name in OPTIONS:
        policy[name] = _setting_value(lambda name=name: getattr(conf.settings, name))  # type: ignore[misc]
    policy["MIGRATE_FROM"] = conf.hide_addresses(policy["MIGRATE_FROM"])
    return policy


def _setting_value(ask: Callable[[], T]) -> T | None:
    """Return the value of a setting; ``None`` if it is wrong, which is also a finding."""
    try:
        return ask()
    except ImproperlyConfigured:
        return None
