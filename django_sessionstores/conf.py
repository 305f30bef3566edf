"""Every setting of the package: name, type, default and meaning.

Read from ``settings.SESSIONSTORES`` when first asked for, and anew when a setting changes, so that
``override_settings`` works. To look at each access would take longer than to seal the payload.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, cached_property
from importlib import import_module
from os import PathLike
from types import NoneType
from typing import Any, Final, NamedTuple, TypeVar, cast

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string
from django.utils.translation import gettext_noop as _

from .chunks import MOST_PARTS, capacity
from .client import Proxies
from .codec import BareCodec, Codec, KeyRing, Serializer
from .lifetime import Limits
from .merge import MergeFunction
from .serializers import TypedSerializer
from .words import Phrase

NAME: Final = "SESSIONSTORES"
T = TypeVar("T")


class Settings:
    """The options in ``settings.SESSIONSTORES``, each with its default."""

    def _get(self, name: str, default: T, kind: type | tuple[type, ...]) -> T:
        options = getattr(django_settings, NAME, {})
        if not isinstance(options, dict):
            raise ImproperlyConfigured(f"{NAME} must be a dict.")
        value = options.get(name, default)
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            raise ImproperlyConfigured(
                Phrase(
                    _("%(setting)s is a %(type)s; it must be a %(expected)s."),
                    setting=f"{NAME}[{name!r}]",
                    type=type(value).__name__,
                    expected="/".join(each.__name__ for each in kinds),
                )
            )
        return cast("T", value)

    def _seconds(self, name: str, default: float) -> float:
        value = self._get(name, default, (int, float))
        if not (math.isfinite(value) and value >= 0):
            raise ImproperlyConfigured(
                Phrase(
                    _("%(setting)s is %(value)s; it is a number of seconds, 0 or more."),
                    setting=f"{NAME}[{name!r}]",
                    value=value,
                )
            )
        return value

    def _count(self, name: str, default: int, least: int, most: float = math.inf) -> int:
        value = self._get(name, default, int)
        if value < least:
            raise ImproperlyConfigured(
                Phrase(
                    _("%(setting)s is %(value)s; it must be %(least)s or more."),
                    setting=f"{NAME}[{name!r}]",
                    value=value,
                    least=least,
                )
            )
        if value > most:
            raise ImproperlyConfigured(
                Phrase(
                    _("%(setting)s is %(value)s; it must be %(most)s or less."),
                    setting=f"{NAME}[{name!r}]",
                    value=value,
                    most=most,
                )
            )
        return value

    def _choice(self, name: str, default: str, *others: str) -> str:
        value = self._get(name, default, str)
        if value not in {default, *others}:
            raise ImproperlyConfigured(
                Phrase(
                    _("%(setting)s is %(value)s; it must be one of: %(choices)s."),
                    setting=f"{NAME}[{name!r}]",
                    value=repr(value),
                    choices=", ".join(map(repr, (default, *others))),
                )
            )
        return value

    @cached_property
    def ENCRYPTION_KEYS(self) -> Sequence[str]:
        """Secrets for the payloads: the first seals, all open. Empty: ``SECRET_KEY`` and then
        ``SECRET_KEY_FALLBACKS``."""
        keys: Sequence[str] = self._get("ENCRYPTION_KEYS", (), (list, tuple))
        if not all(keys) or not all(isinstance(key, str) for key in keys):
            raise ImproperlyConfigured(
                Phrase(
                    _(
                        "%(setting)s has a key that is empty or no string. Is an environment "
                        "variable not set?"
                    ),
                    setting=f"{NAME}['ENCRYPTION_KEYS']",
                )
            )
        return keys

    @cached_property
    def IDLE_AGE(self) -> float:
        """Seconds without a request that reads the session after which it ends. Reading moves the
        end, which it does not with ``SESSION_COOKIE_AGE`` alone. 0: no such end."""
        return self._seconds("IDLE_AGE", 0)

    @cached_property
    def ABSOLUTE_AGE(self) -> float:
        """Seconds after which a session ends however much it is used, counted from the login, or
        from the first save of an anonymous session. 0: no such end."""
        return self._seconds("ABSOLUTE_AGE", 0)

    @cached_property
    def RENEW_AGE(self) -> float:
        """Seconds after which a request of a logged-in user gives the session another key, so that
        one that leaked, as into a log, is not of use for long. Only where sessions can be listed,
        and not where they are in the cookie itself. 0: a key changes at login alone."""
        return self._seconds("RENEW_AGE", 0)

    @cached_property
    def RENEW_GRACE(self) -> float:
        """Seconds for which the key from before a renewal is still good: for requests that are
        under way, and for browsers that the answer with the new key did not reach."""
        return self._seconds("RENEW_GRACE", 120)

    @cached_property
    def TOUCH_INTERVAL(self) -> float:
        """Seconds by which the stored expiry may lag, so that a session in steady use is not
        rewritten, nor an index moved, at each request. Never more than a twentieth of the
        session's lifetime."""
        return self._seconds("TOUCH_INTERVAL", 60)

    @cached_property
    def TOMBSTONE_AGE(self) -> float:
        """Seconds for which requests with the key from before a login are served as anonymous,
        their cookie untouched."""
        return self._seconds("TOMBSTONE_AGE", 60)

    @cached_property
    def CACHE_LEASE(self) -> float:
        """Seconds for which ``cached_db`` trusts a cached copy before it asks the database: how
        long a logout that the cache missed can go unnoticed."""
        return self._seconds("CACHE_LEASE", 60)

    @cached_property
    def CACHE_RETRY(self) -> float:
        """Seconds for which ``cached_db`` leaves a cache alone that did not answer."""
        return self._seconds("CACHE_RETRY", 5)

    @cached_property
    def DATABASE_TIMEOUT(self) -> float:
        """Seconds for which a request waits for PostgreSQL or MySQL to answer a statement for a
        session, also while someone else's transaction holds the session's row. Then the client
        loses its connection, and the request gets ``StorageUnavailable``. 0: as long as it
        takes."""
        return self._seconds("DATABASE_TIMEOUT", 10)

    @cached_property
    def MAX_SESSIONS(self) -> int:
        """How many sessions a user may have at a time. 0: any number."""
        return self._count("MAX_SESSIONS", 0, least=0)

    @cached_property
    def ON_LIMIT(self) -> str:
        """What happens at a login over `MAX_SESSIONS`: ``"end_oldest"`` ends the session of the
        user that began first, ``"refuse"`` refuses the new one with ``SessionLimitReached``."""
        return self._choice("ON_LIMIT", "end_oldest", "refuse")

    @cached_property
    def TALLY(self) -> bool:
        """Whether the sessions that begin and end are counted, by the hour and in a table, for the
        overview in the admin and ``sessions stats``."""
        return self._get("TALLY", False, bool)

    @cached_property
    def RECENT_SIGN_IN_AGE(self) -> float | None:
        """Seconds after which a sign-in is no longer recent: views that ask for a recent one have
        the user sign in again then. ``None``: they ask nobody who is signed in."""
        age = self._get("RECENT_SIGN_IN_AGE", None, (int, float, NoneType))
        if age is not None and not (math.isfinite(age) and age > 0):
            raise ImproperlyConfigured(
                f"{NAME}['RECENT_SIGN_IN_AGE'] is {age}; it is a number of seconds, more than 0, "
                "or None."
            )
        return age

    @cached_property
    def RECENT_SIGN_IN_URL(self) -> str:
        """Where somebody who is signed in signs in again: a path, a URL or the name of one. Empty:
        ``LOGIN_URL``."""
        return self._get("RECENT_SIGN_IN_URL", "", str)

    @cached_property
    def END_ON_PASSWORD_CHANGE(self) -> bool:
        """Whether a new password ends the user's sessions but the one in which it was set. Django
        takes the user out of them at their next request in any case."""
        return self._get("END_ON_PASSWORD_CHANGE", True, bool)

    @cached_property
    def END_ON_DEACTIVATION(self) -> bool:
        """Whether the sessions of a user end whose ``is_active`` becomes false, but the one in
        which that was done."""
        return self._get("END_ON_DEACTIVATION", True, bool)

    @cached_property
    def END_ON_DELETION(self) -> bool:
        """Whether the sessions of a user that is deleted end, but the one in which that was
        done."""
        return self._get("END_ON_DELETION", True, bool)

    @cached_property
    def CONFLICT_RETRIES(self) -> int:
        """How often a save is merged and tried again before it raises ``SessionConflict``."""
        return self._count("CONFLICT_RETRIES", 50, least=0)

    @cached_property
    def MERGE(self) -> Mapping[str, str | MergeFunction]:
        """Session keys with a function of their own for when two requests changed the same key:
        dotted path or callable, called with (base, mine, theirs)."""
        return self._get("MERGE", {}, dict)

    @cached_property
    def REGISTRY(self) -> str:
        """The engine that keeps the registry of an engine that cannot list and end sessions:
        ``"db"``, ``"cached_db"`` or ``"cache"``. Empty: there is no registry."""
        return self._choice("REGISTRY", "", "db", "cached_db", "cache")

    @cached_property
    def MERGE_WINDOW(self) -> float:
        """Seconds for which the registry remembers what a save of the ``cookie`` engine changed,
        for requests that carry the cookie from before it."""
        return self._seconds("MERGE_WINDOW", 60)

    @cached_property
    def COOKIE_MAX_PARTS(self) -> int:
        """Over how many cookies the package's middleware may split a session of the ``cookie``
        engine; 16 at most."""
        return self._count("COOKIE_MAX_PARTS", 4, least=1, most=MOST_PARTS)

    @cached_property
    def COOKIE_MAX_BYTES(self) -> int:
        """Bytes that the value of a session of the ``cookie`` engine may have, all parts
        together."""
        return self._count("COOKIE_MAX_BYTES", 16_384, least=256)

    @cached_property
    def MEMORY_MAX_SESSIONS(self) -> int:
        """How many sessions the ``memory`` engine keeps."""
        return self._count("MEMORY_MAX_SESSIONS", 10_000, least=1)

    @cached_property
    def ON_OUTAGE(self) -> str:
        """What the package's middleware does with a request that needs the session while the store
        does not answer: ``"unavailable"`` answers 503, ``"anonymous"`` lets it read an empty
        session, and answers 503 if it writes."""
        return self._choice("ON_OUTAGE", "unavailable", "anonymous")

    @cached_property
    def OUTAGE_RETRY_AFTER(self) -> int:
        """Seconds after which such a 503 asks the client to come back."""
        return self._count("OUTAGE_RETRY_AFTER", 5, least=0)

    @cached_property
    def TRUSTED_PROXIES(self) -> Sequence[str]:
        """Addresses and networks, IPv4 and IPv6, of the proxies whose ``X-Forwarded-For`` the
        package's middleware believes; ``"unix"`` for one that connects through a Unix socket.
        Empty: nobody's."""
        entries: Sequence[str] = self._get("TRUSTED_PROXIES", (), (list, tuple))
        try:
            Proxies.parse(entries)
        except ValueError as error:
            raise ImproperlyConfigured(f"{NAME}['TRUSTED_PROXIES']: {error}.") from error
        return entries

    @cached_property
    def OPENTELEMETRY(self) -> bool:
        """Whether sessions are counted and calls of their store measured, for OpenTelemetry. Takes
        the extra ``opentelemetry``, and is looked at when Django starts."""
        return self._get("OPENTELEMETRY", False, bool)

    @cached_property
    def COOKIE_PARTITIONED(self) -> bool:
        """Whether the package's middleware marks the session cookie ``Partitioned``: a site that
        is embedded in others then has a session for each of them."""
        return self._get("COOKIE_PARTITIONED", False, bool)

    @cached_property
    def SECRET_NAMES(self) -> Sequence[str]:
        """Parts of the names of values that pages leave out, besides those that nobody should see
        anyway, as ``token`` or ``password``."""
        names: Sequence[str] = self._get("SECRET_NAMES", (), (list, tuple))
        if not all(isinstance(name, str) and name.strip("_- ") for name in names):
            raise ImproperlyConfigured(
                Phrase(
                    _("%(setting)s has an entry that is no name."),
                    setting=f"{NAME}['SECRET_NAMES']",
                )
            )
        return names

    @cached_property
    def MIGRATE_FROM(self) -> Sequence[str | tuple[str, dict[str, str]]]:
        """Engines that were in use before, Django's or the package's, each by its dotted path. A
        session that is unknown is looked for there, in this order, and taken over. An engine that
        used another cache, folder or registry stands in a pair with what it used:
        ``("django.contrib.sessions.backends.cache", {"SESSION_CACHE_ALIAS": "old"})``, or with
        ``SESSION_FILE_PATH`` or ``REGISTRY``."""
        entries: Sequence[Any] = self._get("MIGRATE_FROM", (), (list, tuple))
        for entry in entries:
            former_engine(entry)
        return entries

    @cached_property
    def limits(self) -> Limits:
        """`IDLE_AGE` and `ABSOLUTE_AGE`, as sessions compare them."""
        return Limits(int(self.IDLE_AGE * 1000), int(self.ABSOLUTE_AGE * 1000))


class FormerEngine(NamedTuple):
    """An entry of `Settings.MIGRATE_FROM`."""

    path: str
    options: Mapping[str, str]
    """What it used, by the names of the settings, where that is not what they say now."""


ENGINE_SETTINGS: Final = ("SESSION_CACHE_ALIAS", "SESSION_FILE_PATH", "REGISTRY")
"""Settings by which an engine finds its storage."""


def former_engine(entry: Any) -> FormerEngine:
    """An entry in full. Raises ``ImproperlyConfigured`` for what cannot be one."""
    is_pair = isinstance(entry, list | tuple) and len(entry) == 2
    path, options = entry if is_pair else (entry, {})
    if not (isinstance(path, str) and path and isinstance(options, dict)):
        raise ImproperlyConfigured(
            Phrase(
                _(
                    "%(setting)s has %(entry)s. An entry is the dotted path of an engine, or a "
                    "pair of that and a dict."
                ),
                setting=f"{NAME}['MIGRATE_FROM']",
                entry=repr(entry),
            )
        )
    unknown = [name for name in options if name not in ENGINE_SETTINGS]
    if unknown or not all(isinstance(value, str | PathLike) for value in options.values()):
        raise ImproperlyConfigured(
            Phrase(
                _("%(setting)s gives %(engine)s %(options)s. It takes, each a string: %(names)s."),
                setting=f"{NAME}['MIGRATE_FROM']",
                engine=path,
                options=repr(options),
                names=", ".join(ENGINE_SETTINGS),
            )
        )
    return FormerEngine(path, {name: str(value) for name, value in options.items()})


def session_store(path: str) -> Any:
    """What an engine calls ``SessionStore``; ``None`` where it has none.

    Raises ``ImportError`` where there is no such module.
    """
    if not all(part.isidentifier() for part in path.split(".")):
        raise ImportError(f"{path!r} is not the dotted path of a module")
    return getattr(import_module(path), "SessionStore", None)


_former_options: Final = ContextVar[Mapping[str, str]]("options of a former engine")


@contextmanager
def settings_of(former: FormerEngine) -> Iterator[None]:
    """Have `engine_setting` say what was in force for a former engine."""
    token = _former_options.set(former.options)
    try:
        yield
    finally:
        _former_options.reset(token)


def engine_setting(name: str) -> Any:
    """One of `ENGINE_SETTINGS`, for an engine that makes its storage."""
    options = _former_options.get(None) or {}
    if name in options:
        return options[name]
    return settings.REGISTRY if name == "REGISTRY" else getattr(django_settings, name)


settings: Final = Settings()

OPTIONS: Final = frozenset(name for name in vars(Settings) if name.isupper())

# Numbers of the serializers, part of the stored format: never reuse one.
TYPED_SERIALIZER: Final = 1
DJANGO_JSON_SERIALIZER: Final = 2
CUSTOM_SERIALIZER: Final = 3
_DJANGO_JSON: Final = "django.contrib.sessions.serializers.JSONSerializer"


def serializer_path() -> str:
    """The dotted path of the serializer in use.

    The package's own, unless the project sets ``SESSION_SERIALIZER``: Django's default would lose
    types, and what it keeps, the package's own keeps too.
    """
    if django_settings.is_overridden("SESSION_SERIALIZER"):  # type: ignore[misc]
        return str(django_settings.SESSION_SERIALIZER)
    return f"{TypedSerializer.__module__}.{TypedSerializer.__qualname__}"


@cache
def key_ring() -> KeyRing:
    """The encryption keys that the settings ask for."""
    secrets: Sequence[str | bytes] = settings.ENCRYPTION_KEYS or [
        django_settings.SECRET_KEY,
        *django_settings.SECRET_KEY_FALLBACKS,
    ]
    return KeyRing(secrets)


@cache
def codec() -> Codec:
    """The codec that the settings ask for."""
    return _make_codec(Codec)


@cache
def bare_codec() -> Codec:
    """The same, for a storage that seals whole records by itself."""
    return _make_codec(BareCodec)


def _make_codec(kind: type[Codec]) -> Codec:
    path = serializer_path()
    serializers: dict[int, Serializer] = {
        TYPED_SERIALIZER: TypedSerializer(),
        DJANGO_JSON_SERIALIZER: import_string(_DJANGO_JSON)(),
    }
    chosen = import_string(path)
    for number, known in serializers.items():
        if chosen is type(known):
            writes = number
            break
    else:
        serializers[CUSTOM_SERIALIZER] = chosen()
        writes = CUSTOM_SERIALIZER
    return kind(key_ring(), serializers, writes)


@cache
def splits_cookies() -> bool:
    """Whether a middleware of the project splits the session's cookie."""
    return any(
        getattr(import_string(path), "splits_cookies", False) for path in django_settings.MIDDLEWARE
    )


def cookie_parts() -> int:
    """Over how many cookies a session may be split."""
    return settings.COOKIE_MAX_PARTS if splits_cookies() else 1


def cookie_bytes() -> int:
    """How long the value of a session's cookie may be, all parts together."""
    fits = capacity(django_settings.SESSION_COOKIE_NAME, cookie_parts())
    return min(fits, settings.COOKIE_MAX_BYTES)


@cache
def merge_functions() -> Mapping[str, MergeFunction]:
    """The functions of `Settings.MERGE`, imported."""
    return {
        key: import_string(function) if isinstance(function, str) else function
        for key, function in settings.MERGE.items()
    }


@cache
def trusted_proxies() -> Proxies:
    """`Settings.TRUSTED_PROXIES`, parsed."""
    return Proxies.parse(settings.TRUSTED_PROXIES)


_resets: list[tuple[frozenset[str], Callable[[], Any]]] = []

R = TypeVar("R", bound=Callable[[], Any])


def reset_on_change(*names: str) -> Callable[[R], R]:
    """Have a function called when ``SESSIONSTORES`` or one of these settings changes (in tests)."""

    def register(reset: R) -> R:
        _resets.append((frozenset((NAME, *names)), reset))
        return reset

    return register


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    for names, reset in _resets:
        if setting in names:
            reset()


reset_on_change()(vars(settings).clear)
reset_on_change()(merge_functions.cache_clear)
reset_on_change()(trusted_proxies.cache_clear)
reset_on_change("MIDDLEWARE")(splits_cookies.cache_clear)
for _cached in (key_ring, codec, bare_codec):
    reset_on_change("SECRET_KEY", "SECRET_KEY_FALLBACKS", "SESSION_SERIALIZER")(_cached.cache_clear)
setting_changed.connect(_on_setting_changed, dispatch_uid="django_sessionstores.conf")
