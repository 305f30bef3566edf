"""Every option in ``SESSIONSTORES``: its name, type, default and meaning.

To add an option, add a property to `Settings` and an example to a group in
``docs/reference/settings.rst``, which shows the docstring. The functions in `validation` read the
project's value.

Options are read when they are first used, and again after a setting has changed, so that
``override_settings`` works. Reading them on each use would take longer than encrypting a session.
"""

# An option has the name that users write in their settings.
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop as _

from ..core.client import Proxies
from ..core.lifetime import Timeouts
from ..core.phrases import Phrase
from ..payloads.cookie_chunks import MOST_PARTS
from ..payloads.merge import MergeFunction
from .previous_backends import CHOICES, previous_backend
from .resets import reset_on_change
from .validation import (
    NAME,
    choice,
    count,
    entries,
    flag,
    full_name,
    seconds,
    seconds_above_zero,
    text,
    typed_value,
)


class Settings:
    """The options in ``SESSIONSTORES``.

    Reading an attribute raises ``ImproperlyConfigured`` if the project's value is not valid.
    """

    # The life of a session.

    @cached_property
    def IDLE_TIMEOUT(self) -> float:
        """The time without activity after which a session ends, in seconds. Each request that
        reads the session counts as activity; with ``SESSION_COOKIE_AGE`` alone, only a request
        that changes it does. ``0`` disables the timeout."""
        return seconds("IDLE_TIMEOUT", default=0)

    @cached_property
    def ABSOLUTE_TIMEOUT(self) -> float:
        """The time after which a session ends even if it is in use, in seconds. It starts at the
        login, or for an anonymous session when the session is first saved. ``0`` disables the
        timeout."""
        return seconds("ABSOLUTE_TIMEOUT", default=0)

    @cached_property
    def TOUCH_INTERVAL(self) -> float:
        """How far the stored expiry of a session may lag behind, in seconds. A session in steady
        use is then written at most once per interval and not on every request. The lag is never
        more than a twentieth of the session's lifetime."""
        return seconds("TOUCH_INTERVAL", default=60)

    @cached_property
    def ACTIVITY_INTERVAL(self) -> float:
        """How old the stored time of the last activity may become, in seconds, before a request
        that only reads the session updates it. Only the package's middleware does that. Lists of
        sessions show this time; when a session expires does not depend on it. ``0`` disables it:
        then lists show when the session last changed."""
        return seconds("ACTIVITY_INTERVAL", default=300)

    # The session key.

    @cached_property
    def ROTATE_AFTER(self) -> float:
        """The age at which the key of a signed-in session is replaced by a new one, in seconds. The
        next request rotates the key, so that a leaked key, for example from a log file, soon stops
        working. This requires a store that can list sessions, and has no effect with the
        ``cookie`` engine, which makes a new cookie on each save. ``0`` disables it: only a login
        or another explicit change then replaces the key."""
        return seconds("ROTATE_AFTER", default=0)

    @cached_property
    def ROTATION_GRACE(self) -> float:
        """How long the old key still works after a rotation, in seconds. Requests that are already
        under way need this time, and so do browsers that did not receive the response with the new
        key."""
        return seconds("ROTATION_GRACE", default=120)

    @cached_property
    def TOMBSTONE_AGE(self) -> float:
        """How long requests with the key from before a login are treated as anonymous without
        deleting their cookie, in seconds. A request that overlaps a login thus cannot delete the
        cookie that the login has set."""
        return seconds("TOMBSTONE_AGE", default=60)

    # The sessions of a user.

    @cached_property
    def MAX_SESSIONS(self) -> int:
        """The session limit: how many sessions a user may have at the same time. ``0`` means that
        there is no limit. ``ON_LIMIT`` sets what happens at a login above the limit."""
        return count("MAX_SESSIONS", default=0, least=0)

    @cached_property
    def ON_LIMIT(self) -> str:
        """What happens at a login above the limit of ``MAX_SESSIONS``. ``"end_oldest"`` ends the
        user's oldest session; ``"refuse"`` refuses the new one with ``SessionLimitReached``."""
        return choice("ON_LIMIT", "end_oldest", "refuse")

    @cached_property
    def END_ON_PASSWORD_CHANGE(self) -> bool:
        """Whether a new password ends the user's other sessions: all except the one in which the
        password was changed. With ``False`` they stay in the store, but Django still logs the user
        out of each of them on its next request."""
        return flag("END_ON_PASSWORD_CHANGE", default=True)

    @cached_property
    def END_ON_DEACTIVATION(self) -> bool:
        """Whether a user's sessions end when the user's ``is_active`` becomes ``False``, except
        the session in which that was done."""
        return flag("END_ON_DEACTIVATION", default=True)

    @cached_property
    def END_ON_DELETION(self) -> bool:
        """Whether a user's sessions end when the user is deleted, except the session in which that
        was done."""
        return flag("END_ON_DELETION", default=True)

    @cached_property
    def EXPLAIN_ENDS(self) -> float:
        """How long a browser can be told why its session has ended, in seconds. The template tag
        ``ended_session`` says it on the next page, such as the login page. This costs one more
        write to the store for each signed-in session that is ended elsewhere, and none for
        visitors. ``0`` disables it."""
        return seconds("EXPLAIN_ENDS", default=0)

    @cached_property
    def NEW_SIGN_IN(self) -> str:
        """What happens at a login on a device, or in a country, that none of the user's live
        sessions has. ``"signal"`` sends the signal ``new_sign_in``. ``"email"`` also sends an email
        to the user, with Django's mail backend. ``"ignore"`` does nothing."""
        return choice("NEW_SIGN_IN", "ignore", "signal", "email")

    # Recent authentication.

    @cached_property
    def RECENT_AUTHENTICATION_AGE(self) -> float | None:
        """How long an authentication counts as recent, in seconds. A view that requires recent
        authentication asks users to sign in again after this time. With ``None``, such a view
        accepts every signed-in user, unless it sets an age of its own."""
        return seconds_above_zero("RECENT_AUTHENTICATION_AGE")

    @cached_property
    def RECENT_AUTHENTICATION_URL(self) -> str:
        """The page where signed-in users sign in again: a path, a URL or the name of a URL pattern.
        If it is empty, ``LOGIN_URL`` is used."""
        return text("RECENT_AUTHENTICATION_URL", default="")

    # Encryption.

    @cached_property
    def ENCRYPTION_KEYS(self) -> Sequence[str]:
        """The secrets that protect session data. The first key encrypts; every key in the list
        decrypts. If the list is empty, ``SECRET_KEY`` and ``SECRET_KEY_FALLBACKS`` are used."""
        return _encryption_keys()

    # Sites that share a store.

    @cached_property
    def SITE(self) -> str:
        """A name that tells sites apart that share both a store and a ``SECRET_KEY``, such as the
        workers of a test run. Each lists, counts, ends and purges its own sessions only; a session
        that was saved under another name is listed again when it is next saved. A session key is
        valid at each of the sites; give them different secrets if it must not be."""
        return text("SITE", default="")

    # Previous backends.

    @cached_property
    def MIGRATE_FROM(self) -> Sequence[str | tuple[str, dict[str, str]]]:
        """The dotted paths of the previous session backends, Django's or those of this package. A
        session that is not in the current store is looked up in these, in order, and migrated. If
        a previous backend used another cache, folder, collection or registry than the settings name
        now, write a pair of its path and the old settings:
        ``("django.contrib.sessions.backends.cache", {"SESSION_CACHE_ALIAS": "old"})``. The dict may
        have ``SESSION_CACHE_ALIAS``, ``SESSION_FILE_PATH``, ``REGISTRY``, ``CACHED_STORE`` and the
        ``MONGODB_…`` options. A ``MONGODB_URI`` or ``MONGODB_CLIENT`` there replaces both, and
        ``MONGODB_DATABASE`` as well."""
        backends = entries("MIGRATE_FROM")
        for entry in backends:
            previous_backend(entry)
        return backends

    # Outages.

    @cached_property
    def ON_OUTAGE(self) -> str:
        """What the package's middleware does if a request needs the session while the store is
        unreachable. ``"unavailable"`` responds with status 503. ``"anonymous"`` lets the request
        read an empty session, and responds with 503 only if the request changes it."""
        return choice("ON_OUTAGE", "unavailable", "anonymous")

    @cached_property
    def OUTAGE_RETRY_AFTER(self) -> int:
        """The value of the ``Retry-After`` header of such a 503 response, in seconds."""
        return count("OUTAGE_RETRY_AFTER", default=5, least=0)

    @cached_property
    def STORE_RETRY(self) -> float:
        """How long a process does not ask Redis, memcached, PostgreSQL, MySQL or MongoDB again
        after the server has kept requests waiting until their timeout, in seconds. During that
        time, requests that need the server fail at once; those that need only the cache of
        ``cached_db`` go on without it. Then one request tries the server, and the time begins again
        when that request ends. ``0`` means that each request waits until its timeout."""
        return seconds("STORE_RETRY", default=5)

    @cached_property
    def DATABASE_TIMEOUT(self) -> float:
        """How long a request waits for PostgreSQL, MySQL or MongoDB to execute one statement for a
        session, in seconds. This includes waiting for another transaction that has locked the
        session's row, and on MongoDB also waiting for a connection and for another primary. For a
        replica set, the default is 15 seconds, so that it can elect one. After that time the
        connection is closed and ``StorageUnavailable`` is raised. ``0`` disables the timeout."""
        return seconds("DATABASE_TIMEOUT", default=10)

    # Parallel requests.

    @cached_property
    def MERGE(self) -> Mapping[str, str | MergeFunction]:
        """Merge functions for single session keys, as a dict of keys and functions. If two parallel
        requests change the same key, its function is called with three arguments (base, mine,
        theirs) and returns the merged value. Each function is a callable or its dotted path. For
        all other keys, the request that is saved last wins."""
        return typed_value("MERGE", {}, dict)

    @cached_property
    def CONFLICT_RETRIES(self) -> int:
        """How many times a save that conflicts with saves of other requests is merged and retried
        before it raises ``SessionConflict``."""
        return count("CONFLICT_RETRIES", default=50, least=0)

    # Open connections.

    @cached_property
    def WATCH_INTERVAL(self) -> float:
        """How often a process asks the store whether the sessions with open connections still live,
        in seconds: for all of them at once. ``None``, the default, stands for 5 seconds."""
        return seconds_above_zero("WATCH_INTERVAL") or 5.0

    @cached_property
    def TELL_ENDS(self) -> bool:
        """Whether Redis, PostgreSQL and MongoDB tell all processes at once which sessions have
        ended, so that open connections do not wait for ``WATCH_INTERVAL``."""
        return flag("TELL_ENDS", default=False)

    # The middleware.

    @cached_property
    def TRUSTED_PROXIES(self) -> Sequence[str]:
        """The addresses and networks (IPv4 and IPv6) of the proxies whose ``X-Forwarded-For``
        header the package's middleware trusts. ``"unix"`` stands for a proxy that connects through
        a Unix socket. If the list is empty, the header is ignored."""
        return _trusted_proxies()

    @cached_property
    def COOKIE_PARTITIONED(self) -> bool:
        """Whether the package's middleware marks the session cookie as ``Partitioned``. A site
        that is embedded in other sites then has a separate session in each of them. It requires
        ``SESSION_COOKIE_SECURE``."""
        return flag("COOKIE_PARTITIONED", default=False)

    # Sessions that are bound to a device.

    @cached_property
    def DEVICE_BINDING(self) -> str:
        """Whether the package's middleware asks browsers to bind sessions to their device.
        ``"prefer"`` asks at each login, and browsers that cannot do it go on without. If it is
        empty, no browser is asked, and sessions that are bound already need no proof."""
        return choice("DEVICE_BINDING", "", "prefer")

    @cached_property
    def DEVICE_BINDING_LIFETIME(self) -> float:
        """How long a bound cookie is valid, in seconds. A browser that is in use refreshes it in
        this time. Anyone who has copied all cookies can use them for this time, and at most a
        minute more. ``None``, the default, stands for 600 seconds."""
        return seconds_above_zero("DEVICE_BINDING_LIFETIME") or 600.0

    @cached_property
    def END_WITHOUT_PROOF(self) -> bool:
        """Whether a session that is bound to a device ends when its key is used without the proof
        of the device. This also signs out users whose browser could not refresh its bound cookie,
        for example because the site did not answer. With ``False``, only the request without the
        proof is anonymous."""
        return flag("END_WITHOUT_PROOF", default=False)

    # The registry and the cookie engine.

    @cached_property
    def REGISTRY(self) -> str:
        """The engine that keeps the registry for an engine that cannot list and end sessions
        itself: ``"db"``, ``"cached_db"``, ``"cache"`` or ``"mongodb"``. If it is empty, there is no
        registry."""
        return choice("REGISTRY", *CHOICES["REGISTRY"])

    @cached_property
    def MERGE_WINDOW(self) -> float:
        """How long the registry remembers the changes of each save of the ``cookie`` engine, in
        seconds. They are merged into requests that carry an older cookie."""
        return seconds("MERGE_WINDOW", default=60)

    @cached_property
    def COOKIE_MAX_PARTS(self) -> int:
        """Into how many cookies the package's middleware may split a session of the ``cookie``
        engine: 1 to 16."""
        return count("COOKIE_MAX_PARTS", default=4, least=1, most=MOST_PARTS)

    @cached_property
    def COOKIE_MAX_BYTES(self) -> int:
        """The maximum size of a session of the ``cookie`` engine, in bytes: the cookie value, or
        the values of all its parts together."""
        return count("COOKIE_MAX_BYTES", default=16_384, least=256)

    # The cached_db engine.

    @cached_property
    def CACHE_LEASE(self) -> float:
        """How long ``cached_db`` trusts a cached copy before it asks the database again, in
        seconds. A logout that did not reach the cache can go unnoticed for this time."""
        return seconds("CACHE_LEASE", default=60)

    @cached_property
    def CACHED_STORE(self) -> str:
        """The engine that keeps the sessions of which ``cached_db`` has copies in the cache:
        ``"db"`` or ``"mongodb"``."""
        return choice("CACHED_STORE", *CHOICES["CACHED_STORE"])

    # The mongodb engine.

    @cached_property
    def MONGODB_URI(self) -> str:
        """The address of MongoDB, such as ``"mongodb://user:password@10.0.0.1/shop"``, with all
        members of a replica set. Options of pymongo are in its query."""
        return text("MONGODB_URI", default="")

    @cached_property
    def MONGODB_CLIENT(self) -> str:
        """A client that the project has made, instead of ``MONGODB_URI``: the dotted path of a
        ``pymongo.MongoClient``, or of a function without arguments that returns one. Under ASGI,
        it is called in threads."""
        return text("MONGODB_CLIENT", default="")

    @cached_property
    def MONGODB_DATABASE(self) -> str:
        """The database that sessions are in. If it is empty, it is the one that the address
        names."""
        return text("MONGODB_DATABASE", default="")

    @cached_property
    def MONGODB_COLLECTION(self) -> str:
        """The collection that sessions are in. It should have nothing else."""
        return text("MONGODB_COLLECTION", default="django_sessionstores")

    # The memory engine.

    @cached_property
    def MEMORY_MAX_SESSIONS(self) -> int:
        """How many sessions the ``memory`` engine keeps. When it is full, it drops expired sessions
        first, then the session that has not been written for the longest time."""
        return count("MEMORY_MAX_SESSIONS", default=10_000, least=1)

    # Pages and measurements.

    @cached_property
    def STATISTICS(self) -> bool:
        """Whether created and ended sessions are counted per hour, in a database table. The
        overview in the admin and ``manage.py sessions stats`` show the counts."""
        return flag("STATISTICS", default=False)

    @cached_property
    def OPENTELEMETRY(self) -> bool:
        """Whether sessions are counted and calls to their store are measured with OpenTelemetry.
        This needs the extra ``opentelemetry``. The option is read only when Django starts."""
        return flag("OPENTELEMETRY", default=False)

    @cached_property
    def SECRET_NAMES(self) -> Sequence[str]:
        """Additional names of values that the pages must not show. A value is hidden if its name
        contains one of these, ignoring case and punctuation. Names such as ``token`` and
        ``password`` are always hidden."""
        return _secret_names()

    @cached_property
    def timeouts(self) -> Timeouts:
        """`IDLE_TIMEOUT` and `ABSOLUTE_TIMEOUT` in milliseconds, as sessions compare them."""
        return Timeouts(int(self.IDLE_TIMEOUT * 1000), int(self.ABSOLUTE_TIMEOUT * 1000))


def _encryption_keys() -> Sequence[str]:
    """Return the entries of ``ENCRYPTION_KEYS``. Raises ``ImproperlyConfigured``."""
    keys: Sequence[str] = entries("ENCRYPTION_KEYS")
    if not all(keys) or not all(isinstance(key, str) for key in keys):
        raise ImproperlyConfigured(
            Phrase(
                _(
                    "%(setting)s has a key that is empty or not a string. Is an "
                    "environment variable not set?"
                ),
                setting=full_name("ENCRYPTION_KEYS"),
            )
        )
    return keys


def _trusted_proxies() -> Sequence[str]:
    """Return the entries of ``TRUSTED_PROXIES``. Raises ``ImproperlyConfigured``."""
    proxies: Sequence[str] = entries("TRUSTED_PROXIES")
    try:
        Proxies.parse(proxies)
    except ValueError as error:
        raise ImproperlyConfigured(
            Phrase(
                _(
                    "%(setting)s: %(error)s. Write addresses and networks such as %(address)s "
                    "and %(network)s, or 'unix'."
                ),
                setting=full_name("TRUSTED_PROXIES"),
                error=str(error),
                address="'10.0.0.1'",
                network="'10.0.0.0/8'",
            )
        ) from error
    return proxies


def _secret_names() -> Sequence[str]:
    """Return the entries of ``SECRET_NAMES``. Raises ``ImproperlyConfigured``."""
    names: Sequence[str] = entries("SECRET_NAMES")
    if not all(isinstance(name, str) and name.strip("_- ") for name in names):
        raise ImproperlyConfigured(
            Phrase(
                _(
                    "%(setting)s has an entry that is not a string with letters or digits. "
                    "Each entry is a part of a name, such as %(example)s."
                ),
                example=repr("iban"),
                setting=full_name("SECRET_NAMES"),
            )
        )
    return names


settings: Final = Settings()
reset_on_change()(vars(settings).clear)

OPTIONS: Final = frozenset(name for name in vars(Settings) if name.isupper())
"""The names of all options."""

DURATIONS: Final = frozenset(
    name
    for name in OPTIONS
    if vars(Settings)[name].func.__annotations__["return"] in {"float", "float | None"}
)
"""The names of the options that are numbers of seconds and may be fractions."""


def stated_options(names: Iterable[str]) -> dict[str, Any]:
    """Return the options with these names that the project sets, without validation.

    Names that are not options are ignored.
    """
    stated = getattr(django_settings, NAME, {})
    return {
        name: stated[name]
        for name in names
        if name in OPTIONS and isinstance(stated, dict) and name in stated
    }
