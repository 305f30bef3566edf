"""The diagnosis of a site's sessions: how they are stored, and what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec
from django.conf import settings as django_settings
from django.core import checks as django_checks
from django.core.checks.registry import registry
from django.core.exceptions import ImproperlyConfigured
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop, ngettext

from .. import conf
from ..core.phrases import (
    Phrase,
    format_duration,
    format_number,
    isolate_direction,
    translate,
    translated_message,
)
from ..core.records import draw_key, session_id
from ..exceptions import StorageUnavailable
from ..middleware.installed import OWN_PATH, has_package_middleware, session_middlewares
from ..payloads.cookie_chunks import split
from ..storages.base import Storage
from . import checks
from .checks.configuration import parts
from .checks.stores import check_write_access, write_warning

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
_OPTIONS: Final = (
    "IDLE_TIMEOUT",
    "ABSOLUTE_TIMEOUT",
    "TOUCH_INTERVAL",
    "ROTATE_AFTER",
    "MAX_SESSIONS",
    "REGISTRY",
    "MIGRATE_FROM",
)
_DISABLED_BY_ZERO: Final = ("IDLE_TIMEOUT", "ABSOLUTE_TIMEOUT", "ROTATE_AFTER", "MAX_SESSIONS")
"""The options that a value of 0 disables."""
_CHECKS: Final = (f"{checks.__name__}.", "django.core.checks.security.sessions")
"""How the names of modules begin whose checks are about sessions."""
_WRONG: Final = django_checks.WARNING
_TENTH: Final = 0.1
LEVELS: Final = {
    "critical": gettext_lazy("Critical"),
    "error": gettext_lazy("Error"),
    "warning": gettext_lazy("Warning"),
    "info": gettext_lazy("Info"),
    "debug": gettext_lazy("Debug"),
}
"""The translated names of `Finding.level`."""


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """A store of sessions, whether it answers, and whether it can be written."""

    description: str
    milliseconds: float | None
    """The time to answer over an open connection; ``None`` if the store does not answer."""
    error: str = ""
    """Why the store does not answer; empty if it does."""
    write_obstacle: str = ""
    """What keeps this process from writing to the store; empty if nothing is known to."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong or worth knowing: a message of a system check, or about what a store says."""

    level: str
    id: str
    message: str
    hint: str
    is_wrong: bool


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """How the sessions of a site are stored, and what is wrong."""

    engine: str
    description: str
    stores: list[Store]
    """The stores that can be asked, which excludes the browser."""
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
    eviction_policy: str
    """The policy by which a full store drops live sessions; empty if it does not drop them."""
    findings: list[Finding]
    """The stores that do not answer come first, then the other problems, and then the rest."""
    problems: int
    """The number of findings that are problems."""


def diagnose(storage: Storage) -> Diagnosis:
    """Return the diagnosis of a storage and of the settings. Nothing is changed."""
    stores = ask_stores(storage)
    eviction_policy = _store_answer(storage.eviction_policy) or ""
    middleware = [path for path, _each in session_middlewares()]
    findings = [*_findings(stores, eviction_policy, bool(middleware))]
    return Diagnosis(
        engine=django_settings.SESSION_ENGINE,
        description=translate(storage.describe()),
        stores=stores,
        capabilities=_capabilities(storage),
        holds_in_key=storage.holds_in_key,
        max_payload=storage.max_payload,
        cookie_bytes=_setting_value(conf.cookie_bytes) if storage.holds_in_key else None,
        middleware=middleware,
        policy=_policy(),
        encryption_keys=_setting_value(lambda: len(conf.key_ring())),
        index_is_complete=_store_answer(storage.index_is_complete),
        eviction_policy=eviction_policy,
        findings=findings,
        problems=sum(finding.is_wrong for finding in findings),
    )


def ask_stores(storage: Storage) -> list[Store]:
    """Return the stores of a storage, each asked by itself. Nothing is written."""
    return [_ask(part) for part in parts(storage) if not part.holds_in_key]


def _ask(storage: Storage) -> Store:
    unknown, description = session_id(draw_key()), translate(storage.describe())
    try:
        storage.lookup(unknown)  # Opens the connection, which must not be measured.
        started = time.perf_counter()
        storage.lookup(unknown)
    except StorageUnavailable as error:
        # Many messages begin with the store, which is named already.
        reason = translated_message(error).removeprefix(f"{description}: ")
        return Store(description=description, milliseconds=None, error=reason)
    milliseconds = round((time.perf_counter() - started) * 1000, 3)
    obstacle = storage.write_obstacle()
    return Store(description=description, milliseconds=milliseconds, write_obstacle=obstacle)


def _capabilities(storage: Storage) -> dict[str, bool]:
    capabilities = {name: bool(getattr(storage, name)) for name in CAPABILITIES}
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
    for name in _OPTIONS:
        policy[name] = _setting_value(lambda name=name: getattr(conf.settings, name))  # type: ignore[misc]
    return policy


def _setting_value(ask: Callable[[], T]) -> T | None:
    """Return the value of a setting; ``None`` if it is wrong, which is also a finding."""
    try:
        return ask()
    except ImproperlyConfigured:
        return None


# --- Findings ------------------------------------------------------------------------------


def _findings(
    stores: Sequence[Store], eviction_policy: str, has_middleware: bool
) -> Iterator[Finding]:
    messages = [*_about_stores(stores, eviction_policy), *_about_settings(has_middleware)]
    messages.sort(key=lambda message: (message.level < _WRONG, message.id or ""))
    for message in (*_unreachable(stores), *messages):
        if not message.is_silenced():
            yield Finding(
                level=_level_name(message.level),
                id=message.id or "",
                message=translate(message.msg),
                hint=translate(message.hint or ""),
                is_wrong=message.level >= _WRONG,
            )


def _unreachable(stores: Sequence[Store]) -> list[django_checks.CheckMessage]:
    return [
        django_checks.Error(
            Phrase(
                gettext_noop("Sessions are in %(store)s, which cannot be used: %(error)s"),
                store=store.description,
                error=store.error,
            ),
            id="sessionstores.E022",
        )
        for store in stores
        if store.error
    ]


def _about_stores(
    stores: Sequence[Store], eviction_policy: str
) -> Iterator[django_checks.CheckMessage]:
    """Yield what is wrong with stores that answer."""
    for store in stores:
        if store.write_obstacle:
            yield write_warning(store.description, store.write_obstacle)
    if eviction_policy:
        yield django_checks.Warning(
            Phrase(
                gettext_noop(
                    "When the store is full, it drops sessions that are in use, by its policy "
                    "%(policy)s."
                ),
                policy=eviction_policy,
            ),
            hint=Phrase(
                gettext_noop(
                    "Set %(setting)s in the configuration of Redis to noeviction, or give sessions "
                    "a server of their own."
                ),
                setting="maxmemory-policy",
            ),
            id="sessionstores.W026",
        )


def _about_settings(has_middleware: bool) -> Iterator[django_checks.CheckMessage]:
    """Yield the messages of the system checks that are about sessions.

    In development, without those that only concern a site in production.
    """
    everywhere = registry.get_checks()
    for check in registry.get_checks(include_deployment_checks=True):
        # What concerns the stores was asked from them.
        if not check.__module__.startswith(_CHECKS) or check is check_write_access:
            continue
        for message in check(app_configs=None, databases=None):
            if message.level < _WRONG or check in everywhere or not django_settings.DEBUG:
                yield message
    if not has_middleware:
        yield django_checks.Error(
            Phrase(gettext_noop("MIDDLEWARE has no session middleware, so no view has a session.")),
            hint=Phrase(
                gettext_noop("Add %(path)s to MIDDLEWARE, above those that use the session."),
                path=repr(OWN_PATH),
            ),
            id="sessionstores.E023",
        )


def _level_name(level: int) -> str:
    for name in ("CRITICAL", "ERROR", "WARNING", "INFO"):
        if level >= getattr(django_checks, name):
            return name.lower()
    return "debug"


# --- Texts ---------------------------------------------------------------------------------


def summary(diagnosis: Diagnosis) -> dict[str, str]:
    """Return the names and values of the diagnosis, without its findings."""
    able: list[str] = []
    unable: list[str] = []
    for name, phrases in CAPABILITIES.items():
        (able if diagnosis.capabilities[name] else unable).extend(map(str, phrases))
    keys = diagnosis.encryption_keys
    return {
        _("Engine"): diagnosis.engine,
        _("Stores"): "\n".join(map(_store_in_words, diagnosis.stores))
        or _("none, but the browser"),
        **_index_in_words(diagnosis),
        _("Sessions can"): "\n".join(able) or "-",
        _("Sessions cannot"): "\n".join(unable) or "-",
        _("Size limit"): _size_limit_in_words(diagnosis),
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
    return words


def _store_in_words(store: Store) -> str:
    if store.error:
        words = _("%(store)s: CANNOT BE USED. %(error)s")
        return words % {
            "store": isolate_direction(store.description),
            "error": isolate_direction(store.error),
        }
    if store.write_obstacle:
        words = _("%(store)s: CANNOT BE WRITTEN. %(error)s")
        return words % {
            "store": isolate_direction(store.description),
            "error": isolate_direction(store.write_obstacle),
        }
    words = _("%(store)s: answers in %(number)s ms")
    return words % {
        "store": isolate_direction(store.description),
        "number": _format_milliseconds(store.milliseconds),
    }


def _format_milliseconds(milliseconds: float | None) -> str:
    milliseconds = milliseconds or 0
    # "0.0 ms" would say that it took no time.
    return number_format(milliseconds, decimal_pos=1 if milliseconds >= _TENTH else 3)


def _size_limit_in_words(diagnosis: Diagnosis) -> str:
    if diagnosis.max_payload:
        return _bytes_in_words(diagnosis.max_payload)
    if not diagnosis.holds_in_key:
        return _("none")
    limit = diagnosis.cookie_bytes
    if limit is None:
        return _("wrong, see the findings")
    number = len(split(django_settings.SESSION_COOKIE_NAME, "x" * limit))
    words = ngettext(
        "%(size)s, encrypted, in %(number)s cookie",
        "%(size)s, encrypted, in up to %(number)s cookies",
        number,
    )
    return words % {"size": _bytes_in_words(limit), "number": format_number(number)}


def _bytes_in_words(size: int) -> str:
    return ngettext("%(number)s byte", "%(number)s bytes", size) % {"number": format_number(size)}


def _value_in_words(name: str, value: Any) -> str:
    if value is None and name in _OPTIONS:
        return _("wrong, see the findings")
    if name in _DISABLED_BY_ZERO and not value:
        words = _("disabled")
    elif isinstance(value, int | float) and (
        name in conf.DURATIONS or name == "SESSION_COOKIE_AGE"
    ):
        words = format_duration(value)
    else:
        return repr(list(value) if isinstance(value, tuple) else value)
    return f"{value} ({isolate_direction(words)})"


def finding_in_words(finding: Finding) -> str:
    """Return the message of a finding, and its hint on the next line."""
    return f"{finding.message}\n{finding.hint}".strip()
