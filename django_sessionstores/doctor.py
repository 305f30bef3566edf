"""What an operator should know of the sessions of a site, and what is wrong with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec
from django.conf import settings as django_settings
from django.core import checks as django_checks
from django.core.checks.registry import registry
from django.core.exceptions import ImproperlyConfigured
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from . import checks, conf
from .exceptions import StorageUnavailable
from .records import draw_key, session_id
from .storages.base import Storage
from .words import grouped, isolated, span, told, translated

T = TypeVar("T")

# Translators: these seven are lines below the heading "Sessions can" or "They cannot".
CAPABILITIES: Final = {
    "authoritative": gettext_lazy("end sessions, and lose no change of parallel requests"),
    "lists": gettext_lazy("list and count sessions"),
    "shared": gettext_lazy("be seen by all processes"),
    "durable": gettext_lazy("outlive a restart, and are never evicted"),
    "self_expiring": gettext_lazy("expire without a purge"),
    "keeps_client": gettext_lazy("keep the client's address"),
    "native_async": gettext_lazy("be used without threads under ASGI"),
}
"""What storages declare of themselves."""
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
_OPTIONS: Final = ("IDLE_AGE", "ABSOLUTE_AGE", "TOUCH_INTERVAL", "REGISTRY")
_CHECKS: Final = (checks.__name__, "django.core.checks.security.sessions")
"""The modules whose checks are about sessions."""
_WRONG: Final = django_checks.WARNING
LEVELS: Final = {
    "critical": gettext_lazy("Critical"),
    "error": gettext_lazy("Error"),
    "warning": gettext_lazy("Warning"),
    "info": gettext_lazy("Info"),
    "debug": gettext_lazy("Debug"),
}
"""`Finding.level` in the words of a page."""


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """One of the stores that sessions are in, and whether it answers."""

    description: str
    milliseconds: float | None
    """How long it takes to answer, once there is a connection; ``None`` where it does not."""
    error: str = ""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a system check."""

    level: str
    id: str
    message: str
    hint: str
    is_wrong: bool


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    engine: str
    description: str
    stores: list[Store]
    """Without the browser, which cannot be asked."""
    capabilities: dict[str, bool]
    max_payload: int | None
    middleware: list[str]
    policy: dict[str, Any]
    encryption_keys: int | None
    """How many there are; ``None`` where the settings of them are wrong."""
    index_is_complete: bool | None
    """Whether the store has all sessions in its index; ``None`` where it has none, or does not
    answer."""
    eviction_policy: str
    """By which policy the store drops sessions in use when it is full; empty where it does not."""
    findings: list[Finding]
    problems: int
    """How many things an operator should see to: silent stores, findings, no middleware."""


def diagnose(storage: Storage) -> Diagnosis:
    """Look at the settings, and ask the stores one question that changes nothing."""
    stores = [_ask(part) for part in checks.parts(storage) if not part.holds_in_key]
    findings = sorted(_findings(), key=lambda finding: (not finding.is_wrong, finding.id))
    middleware = [f"{each.__module__}.{each.__qualname__}" for each in checks.session_middlewares()]
    eviction_policy = _if_told(storage.eviction_policy) or ""
    problems = [
        *(store.error for store in stores),
        *(finding.is_wrong for finding in findings),
        eviction_policy,
    ]
    return Diagnosis(
        engine=django_settings.SESSION_ENGINE,
        description=translated(storage.describe()),
        stores=stores,
        capabilities={name: bool(getattr(storage, name)) for name in CAPABILITIES},
        max_payload=storage.max_payload,
        middleware=middleware,
        policy=_policy(),
        encryption_keys=_if_valid(lambda: len(conf.key_ring())),
        index_is_complete=_if_told(storage.index_is_complete),
        eviction_policy=eviction_policy,
        findings=findings,
        problems=sum(map(bool, [*problems, not middleware])),
    )


def _ask(storage: Storage) -> Store:
    unknown, description = session_id(draw_key()), translated(storage.describe())
    try:
        storage.lookup(unknown)  # Opens the connection, which is not what is measured.
        started = time.perf_counter()
        storage.lookup(unknown)
    except StorageUnavailable as error:
        return Store(description=description, milliseconds=None, error=told(error))
    milliseconds = round((time.perf_counter() - started) * 1000, 3)
    return Store(description=description, milliseconds=milliseconds)


def _if_told(ask: Callable[[], T]) -> T | None:
    """What the store says of itself; ``None`` where it does not answer, or not to this user."""
    try:
        return ask()
    except StorageUnavailable:
        return None


def _policy() -> dict[str, Any]:
    policy = {name: getattr(django_settings, name) for name in _COOKIE}
    for name in _OPTIONS:
        policy[name] = _if_valid(lambda name=name: getattr(conf.settings, name))  # type: ignore[misc]
    return policy


def _if_valid(ask: Callable[[], T]) -> T | None:
    """What a setting says; ``None`` where it is wrong, which a finding says as well."""
    try:
        return ask()
    except ImproperlyConfigured:
        return None


def _findings() -> Iterable[Finding]:
    for check in registry.get_checks(include_deployment_checks=True):
        if check.__module__ not in _CHECKS:
            continue
        for message in check(app_configs=None, databases=None):
            if not message.is_silenced():
                yield Finding(
                    level=_level_name(message.level),
                    id=message.id or "",
                    message=translated(message.msg),
                    hint=translated(message.hint or ""),
                    is_wrong=message.level >= _WRONG,
                )


def _level_name(level: int) -> str:
    for name in ("CRITICAL", "ERROR", "WARNING", "INFO"):
        if level >= getattr(django_checks, name):
            return name.lower()
    return "debug"


# --- In words ------------------------------------------------------------------------------


def summary(diagnosis: Diagnosis) -> dict[str, str]:
    """How things are, whether right or wrong."""
    able = [str(words) for name, words in CAPABILITIES.items() if diagnosis.capabilities[name]]
    unable = [
        str(words) for name, words in CAPABILITIES.items() if not diagnosis.capabilities[name]
    ]
    keys, size = diagnosis.encryption_keys, diagnosis.max_payload
    return {
        _("Engine"): diagnosis.engine,
        _("Stores"): "\n".join(map(_store_in_words, diagnosis.stores))
        or _("none, but the browser"),
        **_index_in_words(diagnosis),
        _("Sessions can"): "\n".join(able) or "-",
        _("They cannot"): "\n".join(unable) or "-",
        _("Largest session"): _bytes_in_words(size) if size else "-",
        _("Middleware"): "\n".join(diagnosis.middleware) or _("none, so no view has a session"),
        _("Encryption keys"): _("wrong, see the findings") if keys is None else str(keys),
        _("Policy"): "\n".join(
            f"{name} = {_value_in_words(name, value)}" for name, value in diagnosis.policy.items()
        ),
    }


def _index_in_words(diagnosis: Diagnosis) -> dict[str, str]:
    words = {}
    if diagnosis.index_is_complete is not None:
        words[_("Index")] = (
            _("complete")
            if diagnosis.index_is_complete
            else _("not complete: the next list makes it, or manage.py sessions reindex")
        )
    if diagnosis.eviction_policy:
        text = _(
            "SESSIONS IN USE when the store is full, by its policy %(policy)s: their users are "
            "logged out. Set it to noeviction, or give sessions a store of their own."
        )
        words[_("Drops")] = text % {"policy": isolated(diagnosis.eviction_policy)}
    return words


def _store_in_words(store: Store) -> str:
    if store.error:
        words = _("%(store)s: DOES NOT ANSWER. %(error)s")
        return words % {"store": isolated(store.description), "error": isolated(store.error)}
    words = _("%(store)s: answers in %(number)s ms")
    return words % {
        "store": isolated(store.description),
        "number": _rounded(store.milliseconds),
    }


def _rounded(milliseconds: float | None) -> str:
    return number_format(milliseconds or 0, decimal_pos=1)


def _bytes_in_words(size: int) -> str:
    return ngettext("%(number)s byte", "%(number)s bytes", size) % {"number": grouped(size)}


def _value_in_words(name: str, value: Any) -> str:
    if value is None and name in _OPTIONS:
        return _("wrong, see the findings")
    if name.endswith("_AGE"):
        words = span(value) if value else _("no such end")
        return f"{value} ({isolated(words)})"
    return repr(value)


def in_words(finding: Finding) -> str:
    return f"{finding.message}\n{finding.hint}".strip()
