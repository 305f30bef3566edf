"""System checks: one function per concern, each message with an id, a reason and a cure.

Ids are never reused; `docs/reference/checks.rst` lists them. Nothing here connects to a store.
Messages are phrases: English, as those of Django's checks are, and translated on pages.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.core import checks, mail
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import ImproperlyConfigured
from django.urls import NoReverseMatch, Resolver404, resolve
from django.utils.module_loading import import_string
from django.utils.translation import gettext_noop as _

from . import conf, freshness
from .chunks import split
from .conf import NAME, OPTIONS
from .formers import Former, OwnFormer, open_former
from .middleware import SessionMiddleware
from .session import SessionStore
from .storages.base import CacheStorage, Storage
from .storages.database import DatabaseStorage
from .storages.database_cache import DatabaseCacheStorage
from .storages.file import FileStorage
from .storages.layered import Layered
from .storages.memory import MemoryStorage
from .storages.portable import LocMemStorage, PortableStorage
from .storages.registered import Registered
from .words import Phrase, said

_REGISTRY: Final = f"{NAME}['REGISTRY']"
_MIGRATE_FROM: Final = f"{NAME}['MIGRATE_FROM']"


def _storage() -> Storage | None:
    """The storage of the configured engine, if that is one of this package or built on one.

    Raises what making it raises.
    """
    store = conf.session_store(django_settings.SESSION_ENGINE)
    if isinstance(store, type) and issubclass(store, SessionStore):
        return store.storage()
    return None


def _storage_in_production() -> Storage | None:
    """The storage, if it works and this is a live site."""
    # The test runners of Django and pytest-django turn DEBUG off and set up the mail outbox.
    if django_settings.DEBUG or hasattr(mail, "outbox"):
        return None
    try:
        return _storage()
    except (ImportError, ImproperlyConfigured):
        return None  # check_engine says so.


@checks.register
def check_settings(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """The options in ``SESSIONSTORES`` are known and of the right type."""
    options = getattr(django_settings, NAME, {})
    if not isinstance(options, dict):
        return [
            checks.Error(
                Phrase(
                    _("%(setting)s is a %(type)s; it must be a %(expected)s."),
                    setting=NAME,
                    type=type(options).__name__,
                    expected="dict",
                ),
                hint=Phrase(
                    _("Write %(setting)s = {...} with any of: %(options)s."),
                    setting=NAME,
                    options=", ".join(sorted(OPTIONS)),
                ),
                id="sessionstores.E001",
            )
        ]
    messages: list[checks.CheckMessage] = []
    for name in sorted(options.keys() - OPTIONS, key=str):
        near = difflib.get_close_matches(str(name), OPTIONS, n=1)
        messages.append(
            checks.Error(
                Phrase(_("%(option)s is not an option."), option=f"{NAME}[{name!r}]"),
                hint=Phrase(_("Did you mean %(option)s?"), option=repr(near[0]))
                if near
                else Phrase(_("The options are: %(options)s."), options=", ".join(sorted(OPTIONS))),
                id="sessionstores.E002",
            )
        )
    for name in sorted(OPTIONS & options.keys()):
        try:
            getattr(conf.settings, name)
        except ImproperlyConfigured as error:
            messages.append(
                checks.Error(
                    said(error),
                    hint=Phrase(_("Correct %(setting)s."), setting=f"{NAME}[{name!r}]"),
                    id="sessionstores.E003",
                )
            )
    return messages


@checks.register
def check_merge_functions(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """The functions in ``MERGE`` can be imported and called."""
    try:
        functions = conf.merge_functions()
    except ImproperlyConfigured:
        return []  # check_settings says so.
    except ImportError as error:
        problem = Phrase(
            _("%(setting)s names something that cannot be imported: %(error)s."),
            setting=f"{NAME}['MERGE']",
            error=str(error),
        )
    else:
        odd = [key for key, function in functions.items() if not callable(function)]
        if not odd:
            return []
        problem = Phrase(
            _("%(setting)s names something that is no function, for: %(keys)s."),
            setting=f"{NAME}['MERGE']",
            keys=", ".join(map(repr, odd)),
        )
    return [
        checks.Error(
            problem,
            hint=Phrase(
                _("Give the dotted path of a function of three arguments: base, mine, theirs.")
            ),
            id="sessionstores.E004",
        )
    ]


@checks.register
def check_engine(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """The engine can be imported and, if it is of this package, its storage be made."""
    try:
        _storage()
    except (ImportError, ImproperlyConfigured) as error:
        return [
            checks.Error(
                Phrase(
                    _("SESSION_ENGINE %(engine)s cannot be used: %(error)s"),
                    engine=repr(django_settings.SESSION_ENGINE),
                    error=said(error),
                ),
                hint=Phrase(_("Correct the setting that the message names.")),
                id="sessionstores.E005",
            )
        ]
    return []


@checks.register
def check_memory(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """The memory engine is for development and tests."""
    if not isinstance(_storage_in_production(), MemoryStorage):
        return []
    return [
        checks.Error(
            Phrase(
                _(
                    "The memory engine keeps sessions in one process: a second worker does not see "
                    "them, and a restart ends them all."
                )
            ),
            hint=Phrase(_("Set SESSION_ENGINE to the db, cached_db, cache or file engine.")),
            id="sessionstores.E006",
        )
    ]


@checks.register
def check_cache(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """The cache that sessions are in does not lose them on its own."""
    storage = _storage_in_production()
    both = (storage.data, storage.registry) if isinstance(storage, Registered) else (storage,)
    in_cache = [each for each in both if isinstance(each, CacheStorage | Layered)]
    if not in_cache:
        return []
    alias = django_settings.SESSION_CACHE_ALIAS
    cache = caches.create_connection(alias)
    messages: list[checks.CheckMessage] = []
    if isinstance(cache, LocMemCache):
        messages.append(
            checks.Warning(
                Phrase(
                    _("The cache %(cache)s is in the memory of one process."), cache=repr(alias)
                ),
                hint=Phrase(
                    _("Point SESSION_CACHE_ALIAS to a cache that all workers share, such as Redis.")
                ),
                id="sessionstores.W001",
            )
        )
    if all(each.durable for each in in_cache):
        return messages  # The cache keeps them, or the database still has what it loses.
    limit = cache._max_entries
    if isinstance(cache, LocMemCache) and limit < 10_000:
        messages.append(
            checks.Warning(
                Phrase(
                    _(
                        "The cache %(cache)s holds %(limit)s entries; from then on it drops "
                        "sessions that are still in use."
                    ),
                    cache=repr(alias),
                    limit=limit,
                ),
                hint=Phrase(
                    _(
                        "Raise OPTIONS['MAX_ENTRIES'] of the cache above the number of sessions, "
                        "or use the db or cached_db engine."
                    )
                ),
                id="sessionstores.W002",
            )
        )
    if alias == "default":
        messages.append(
            checks.Warning(
                Phrase(_("Sessions share the cache 'default': cache.clear() logs everyone out.")),
                hint=Phrase(
                    _(
                        "Give sessions a cache of their own in CACHES, with its own server or "
                        "database number, and name it in SESSION_CACHE_ALIAS."
                    )
                ),
                id="sessionstores.W003",
            )
        )
    return messages


@checks.register
def check_registry(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Sessions in cookies have a registry, and one that does not forget."""
    storage = _storage_in_production()
    if storage is None:
        return []
    if not storage.authoritative:
        return [
            checks.Warning(
                Phrase(
                    _(
                        "Without a registry, no session can be ended. A cookie that was copied "
                        "before a logout works until it expires. A new password and a deactivation "
                        "are noticed only where Django asks for the user. Of two requests that "
                        "save at once, one loses its changes."
                    )
                ),
                hint=Phrase(
                    _(
                        "Set %(setting)s to 'db', 'cached_db' or 'cache'. Where you can do "
                        "without, silence this check and make SESSION_COOKIE_AGE short."
                    ),
                    setting=_REGISTRY,
                ),
                id="sessionstores.W020",
            )
        ]
    if not isinstance(storage, Registered):
        return []
    # LocMemCache is check_cache's, and how Redis is set up only Redis knows.
    forgets = isinstance(storage.registry, PortableStorage | DatabaseCacheStorage)
    if not forgets or isinstance(storage.registry, LocMemStorage):
        return []
    return [
        checks.Warning(
            Phrase(
                _(
                    "The registry is in a store that may drop records that are in use, and ends "
                    "sessions by that: %(store)s."
                ),
                store=storage.registry.describe(),
            ),
            hint=Phrase(
                _(
                    "Set %(setting)s to 'db' or 'cached_db', or point SESSION_CACHE_ALIAS to a "
                    "cache on Redis."
                ),
                setting=_REGISTRY,
            ),
            id="sessionstores.W021",
        )
    ]


_LIMITS_OF_CONNECTING: Final = {
    # By the client's module, the option that ends the wait for the server's greeting.
    "psycopg": "connect_timeout",
    "psycopg2": "connect_timeout",
    "MySQLdb": "connect_timeout",
    "pymysql": "read_timeout",
}
_LIMITED_ELSEWHERE: Final = {"pool", "service", "read_default_file"}
"""Options that have a limit of their own, or name a file that may have one."""


def parts(storage: Storage) -> list[Storage]:
    """The storages that a storage is put together from; itself, if there are none."""
    if isinstance(storage, Layered):
        inner = [storage.cache, storage.authority]
    elif isinstance(storage, Registered):
        inner = [storage.data, storage.registry]
    else:
        return [storage]
    return [part for each in inner for part in parts(each)]


@checks.register
def check_database(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """A database that hangs is not waited for when a connection to it is opened."""
    storage = _storage_in_production()
    connections = {
        part.connection().alias: part.connection()
        for part in (parts(storage) if storage else ())
        if isinstance(part, DatabaseStorage | DatabaseCacheStorage)
    }
    messages: list[checks.CheckMessage] = []
    for alias, connection in connections.items():
        client = getattr(connection, "Database", None)
        limit = _LIMITS_OF_CONNECTING.get(getattr(client, "__name__", ""))
        options = connection.settings_dict["OPTIONS"]
        if limit and not {limit, *_LIMITED_ELSEWHERE} & options.keys():
            messages.append(
                checks.Warning(
                    Phrase(
                        _(
                            "Should the database %(database)s hang, each request that opens a "
                            "connection to it hangs as well, for minutes or without end."
                        ),
                        database=repr(alias),
                    ),
                    hint=Phrase(
                        _(
                            "Set %(setting)s to a few seconds. %(option)s counts once there is a "
                            "connection."
                        ),
                        setting=f"DATABASES[{alias!r}]['OPTIONS'][{limit!r}]",
                        option=f"{NAME}['DATABASE_TIMEOUT']",
                    ),
                    id="sessionstores.W006",
                )
            )
    return messages


@checks.register
def check_file_path(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Session files are in a folder of the project's choice."""
    storage = _storage_in_production()
    # The path of a cache of files is the cache's own.
    if not isinstance(storage, FileStorage) or isinstance(storage, CacheStorage):
        return []
    if django_settings.SESSION_FILE_PATH:
        return []
    return [
        checks.Warning(
            Phrase(
                _(
                    "Sessions are in the system's folder for temporary files, which a restart or a "
                    "cleaning job may empty."
                )
            ),
            hint=Phrase(_("Set SESSION_FILE_PATH to a folder that only the site's user can read.")),
            id="sessionstores.W004",
        )
    ]


def shared_parts(storage: Storage, former: Former) -> list[Storage]:
    """What the storage has in common with that of a former engine, and must not."""
    if not isinstance(former, OwnFormer) or (former.in_key and not storage.holds_in_key):
        # Sessions that come out of cookies get ids of their own, even in the same table.
        return []
    places = {_place(part) for part in parts(storage)}
    return [part for part in parts(former.storage) if _place(part) in places]


def _place(part: Storage) -> str:
    """Where a storage keeps its records. Two aliases may stand for the same cache."""
    alias = getattr(part, "_alias", None)
    return part.describe() if alias is None else repr(sorted(caches.settings[alias].items()))


@checks.register
def check_former_engines(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Each engine in ``MIGRATE_FROM`` can be read, and is another one than that in use."""
    try:
        entries, storage = conf.settings.MIGRATE_FROM, _storage()
    except (ImportError, ImproperlyConfigured):
        return []  # check_settings and check_engine say so.
    messages: list[checks.CheckMessage] = []
    lasting: list[str] = []
    for entry in entries:
        path = conf.former_engine(entry).path
        try:
            former = open_former(conf.former_engine(entry))
            name = former.describe()
        except ImproperlyConfigured as error:
            messages.append(
                checks.Error(
                    Phrase(
                        _("The former engine %(engine)s cannot be used: %(error)s"),
                        engine=path,
                        error=said(error),
                    ),
                    hint=Phrase(
                        _("Correct %(setting)s or the setting that the message names."),
                        setting=_MIGRATE_FROM,
                    ),
                    id="sessionstores.E017",
                )
            )
            continue
        if storage is not None and (shared := shared_parts(storage, former)):
            messages.append(
                checks.Error(
                    Phrase(
                        _(
                            "%(setting)s names %(engine)s, which has its sessions where "
                            "SESSION_ENGINE has them: %(store)s."
                        ),
                        setting=_MIGRATE_FROM,
                        engine=path,
                        store=shared[0].describe(),
                    ),
                    hint=Phrase(
                        _(
                            "Remove it, where there is nothing to move. Where a cache has to hold "
                            "both, give SESSION_CACHE_ALIAS another alias with a KEY_PREFIX of its "
                            "own, and name the old one in MIGRATE_FROM."
                        )
                    ),
                    id="sessionstores.E016",
                )
            )
        if former.in_key or (storage is not None and storage.holds_in_key):
            lasting.append(name)
        former.close()
    if entries and storage is None:
        messages.append(
            checks.Error(
                Phrase(
                    _(
                        "%(setting)s is for the engines of django_sessionstores, and "
                        "SESSION_ENGINE is %(engine)s."
                    ),
                    setting=_MIGRATE_FROM,
                    engine=repr(django_settings.SESSION_ENGINE),
                ),
                hint=Phrase(_("Remove it, or correct SESSION_ENGINE.")),
                id="sessionstores.E018",
            )
        )
    if lasting:
        days = -(-django_settings.SESSION_COOKIE_AGE // 86_400)
        messages.append(
            checks.Warning(
                Phrase(
                    _(
                        "A cookie from before the move that somebody has copied can be exchanged "
                        "for a session until it expires, in up to %(days)s days: %(stores)s."
                    ),
                    days=days,
                    stores=tuple(lasting),
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
        )
    return messages


MIDDLEWARE_OPTIONS: Final = (
    "ON_OUTAGE",
    "OUTAGE_RETRY_AFTER",
    "TRUSTED_PROXIES",
    "COOKIE_PARTITIONED",
)
"""Options that only the package's middleware heeds."""


def session_middlewares() -> list[type[DjangoSessionMiddleware]]:
    """Django's session middleware and its subclasses, as far as ``MIDDLEWARE`` has them."""
    try:
        found = [import_string(path) for path in django_settings.MIDDLEWARE]
    except ImportError:
        return []  # Django says so at the start.
    return [
        each
        for each in found
        if isinstance(each, type) and issubclass(each, DjangoSessionMiddleware)
    ]


def _has_middleware() -> bool:
    return any(issubclass(each, SessionMiddleware) for each in session_middlewares())


@checks.register(checks.Tags.security)
def check_cookie(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """The browser takes the session cookie as it is named and marked."""
    messages: list[checks.CheckMessage] = []
    name = django_settings.SESSION_COOKIE_NAME
    prefix = next((p for p in ("__Host-", "__Secure-") if name.lower().startswith(p.lower())), None)
    asked: dict[str, object] = {"SESSION_COOKIE_SECURE": True} if prefix else {}
    if prefix == "__Host-":
        asked |= {"SESSION_COOKIE_PATH": "/", "SESSION_COOKIE_DOMAIN": None}
    wrong = [
        f"{key} = {want!r}" for key, want in asked.items() if getattr(django_settings, key) != want
    ]
    if wrong:
        messages.append(
            checks.Error(
                Phrase(
                    _(
                        "Browsers refuse the cookie %(cookie)s with these settings: nobody keeps a "
                        "session."
                    ),
                    cookie=repr(name),
                ),
                hint=Phrase(
                    _("The prefix %(prefix)s asks for: %(settings)s."),
                    prefix=prefix,
                    settings=", ".join(wrong),
                ),
                id="sessionstores.E007",
            )
        )
    try:
        partitioned = conf.settings.COOKIE_PARTITIONED
    except ImproperlyConfigured:
        return messages  # check_settings says so.
    if partitioned and not django_settings.SESSION_COOKIE_SECURE:
        messages.append(
            checks.Error(
                Phrase(_("Browsers refuse a cookie that is Partitioned and not Secure.")),
                hint=Phrase(
                    _("Set SESSION_COOKIE_SECURE = True, or remove %(setting)s."),
                    setting=f"{NAME}['COOKIE_PARTITIONED']",
                ),
                id="sessionstores.E008",
            )
        )
    return messages


@checks.register
def check_middleware(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """There is one session middleware, and it is the package's where options ask for that."""
    messages: list[checks.CheckMessage] = []
    if len(session_middlewares()) > 1 and _has_middleware():
        messages.append(
            checks.Error(
                Phrase(
                    _(
                        "MIDDLEWARE has more than one session middleware: the last one's session "
                        "is used, and the first one's answer."
                    )
                ),
                hint=Phrase(_("Put the package's in the place of Django's.")),
                id="sessionstores.E009",
            )
        )
    options = getattr(django_settings, NAME, {})
    idle = [name for name in MIDDLEWARE_OPTIONS if isinstance(options, dict) and name in options]
    if idle and not _has_middleware():
        messages.append(
            checks.Warning(
                Phrase(
                    _("%(setting)s has options that nothing heeds: %(options)s."),
                    setting=NAME,
                    options=", ".join(idle),
                ),
                hint=Phrase(
                    _(
                        "They are for django_sessionstores.middleware.SessionMiddleware. Put it in "
                        "MIDDLEWARE in the place of Django's, or remove them."
                    )
                ),
                id="sessionstores.W010",
            )
        )
    return messages


PROXY_SAFE_BYTES: Final = 2500
"""A session's cookie of this length leaves room for the other headers of a login in what nginx
takes of a response as it is installed."""
_RESPONSE_HEADER: Final = 4096
_REQUEST_LINE: Final = 8192
_OTHER_HEADERS: Final = _RESPONSE_HEADER - PROXY_SAFE_BYTES


@checks.register
def check_cookie_size(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Sessions in cookies are refused before a proxy refuses them."""
    storage = _storage_in_production()
    if storage is None or not storage.holds_in_key:
        return []
    try:
        most = conf.cookie_bytes()
    except (ImportError, ImproperlyConfigured):
        return []  # Django and check_settings say so.
    if most <= PROXY_SAFE_BYTES:
        return []
    count = len(split(django_settings.SESSION_COOKIE_NAME, "x" * most))
    directives = "proxy_buffer_size"
    refused = _(
        "A session may take %(most)s bytes (cookies: %(count)s). nginx, as it is installed, "
        "refuses a response with more than %(response)s bytes of headers."
    )
    if most + _OTHER_HEADERS > _REQUEST_LINE:
        directives += ", large_client_header_buffers"
        refused = _(
            "A session may take %(most)s bytes (cookies: %(count)s). nginx, as it is installed, "
            "refuses a response with more than %(response)s bytes of headers, and a request with "
            "more than %(request)s bytes of cookies."
        )
    return [
        checks.Warning(
            Phrase(
                refused,
                most=most,
                count=count,
                response=_RESPONSE_HEADER,
                request=_REQUEST_LINE,
            ),
            hint=Phrase(
                _(
                    "Set %(setting)s to %(safe)s or less, which leaves room for other headers. Or "
                    "raise the limits of your proxies, for nginx %(directives)s, and silence this "
                    "check."
                ),
                setting=f"{NAME}['COOKIE_MAX_BYTES']",
                safe=PROXY_SAFE_BYTES,
                directives=directives,
            ),
            id="sessionstores.W015",
        )
    ]


@checks.register
def check_what_needs_a_list(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Limits and renewals have the list of sessions that they need."""
    try:
        storage = _storage()
        limited, renewing = bool(conf.settings.MAX_SESSIONS), bool(conf.settings.RENEW_AGE)
    except (ImportError, ImproperlyConfigured):
        return []  # check_engine and check_settings say so.
    if storage is None:
        return []
    messages: list[checks.CheckMessage] = []
    hint = Phrase(
        _("Set %(setting)s if the engine takes one, or choose another SESSION_ENGINE."),
        setting=_REGISTRY,
    )
    if limited and not storage.lists:
        messages.append(
            checks.Error(
                Phrase(
                    _(
                        "%(setting)s is set, and this store cannot tell how many sessions a user "
                        "has, so that every login fails: %(store)s."
                    ),
                    setting=f"{NAME}['MAX_SESSIONS']",
                    store=storage.describe(),
                ),
                hint=hint,
                id="sessionstores.E019",
            )
        )
    if renewing and (storage.holds_in_key or not storage.lists):
        messages.append(
            checks.Warning(
                Phrase(
                    _("%(setting)s has no effect with this store: %(store)s."),
                    setting=f"{NAME}['RENEW_AGE']",
                    store=storage.describe(),
                ),
                hint=Phrase(_("Each save of the cookie engine makes another cookie as it is."))
                if storage.holds_in_key
                else hint,
                id="sessionstores.W022",
            )
        )
    return messages


@checks.register(checks.Tags.security)
def check_recent_sign_in(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Who is asked to sign in again can do so, and is known to have done so."""
    try:
        storage = _storage()
        if conf.settings.RECENT_SIGN_IN_AGE is None:
            return []
        url = freshness.sign_in_url()
    except (ImportError, ImproperlyConfigured):
        return []  # check_engine and check_settings say so.
    except NoReverseMatch as error:
        return [
            checks.Warning(
                f"There is no page to sign in again: {error}",
                hint=f"Correct {NAME}['RECENT_SIGN_IN_URL'] or LOGIN_URL.",
                id="sessionstores.W019",
            )
        ]
    if storage is None:
        return [
            checks.Warning(
                f"{NAME}['RECENT_SIGN_IN_AGE'] is for the engines of django_sessionstores, and "
                f"SESSION_ENGINE is {django_settings.SESSION_ENGINE!r}: views that ask for a "
                "recent sign-in fail.",
                hint="Correct SESSION_ENGINE, or remove the option.",
                id="sessionstores.W017",
            )
        ]
    if not _turns_away_who_is_signed_in(url):
        return []
    return [
        checks.Warning(
            f"The page {url} sends those away who are signed in, so nobody can sign in again "
            "there: the browser is sent to and fro.",
            hint=f"Set {NAME}['RECENT_SIGN_IN_URL'] to a LoginView of its own, with "
            "redirect_authenticated_user=False.",
            id="sessionstores.W018",
        )
    ]


def _turns_away_who_is_signed_in(url: str) -> bool:
    """Whether a login page of Django's is at the URL that shows its form to strangers only."""
    parts = urlsplit(url)
    if parts.netloc:
        return False  # Another site's.
    try:
        view = resolve(parts.path).func
    except Resolver404:
        return False  # Not in the URLconf.
    # The admin's, whose module cannot be imported on a site without it.
    if hasattr(getattr(view, "__self__", None), "admin_view"):
        return True
    option = "redirect_authenticated_user"
    by_class = getattr(getattr(view, "view_class", None), option, False)
    return bool(getattr(view, "view_initkwargs", {}).get(option, by_class))


@checks.register(checks.Tags.security, deploy=True)
def check_cookie_protection(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """The session cookie is Secure and HttpOnly, where Django's checks do not look."""
    if "django.contrib.sessions" in django_settings.INSTALLED_APPS or not _has_middleware():
        return []  # Django's security.W010 to W015 say so.
    messages: list[checks.CheckMessage] = []
    if not django_settings.SESSION_COOKIE_SECURE:
        messages.append(
            checks.Warning(
                Phrase(
                    _("The session cookie is also sent over plain HTTP, where anybody can read it.")
                ),
                hint=Phrase(_("Set %(setting)s."), setting="SESSION_COOKIE_SECURE = True"),
                id="sessionstores.W011",
            )
        )
    if not django_settings.SESSION_COOKIE_HTTPONLY:
        messages.append(
            checks.Warning(
                Phrase(
                    _(
                        "Scripts in a page can read the session cookie, those of an attacker "
                        "included."
                    )
                ),
                hint=Phrase(_("Set %(setting)s."), setting="SESSION_COOKIE_HTTPONLY = True"),
                id="sessionstores.W012",
            )
        )
    return messages


@checks.register(checks.Tags.security, deploy=True)
def check_encryption_keys(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """The keys of the payloads are long enough."""
    try:
        keys = conf.settings.ENCRYPTION_KEYS
    except ImproperlyConfigured:
        return []  # check_settings says so.
    short = [i for i, key in enumerate(keys) if len(key) < 32]
    if not short:
        return []
    return [
        checks.Warning(
            Phrase(
                _("%(setting)s has keys of fewer than 32 characters, at: %(places)s."),
                setting=f"{NAME}['ENCRYPTION_KEYS']",
                places=", ".join(map(str, short)),
            ),
            hint=Phrase(
                _(
                    "Make one with: %(command)s. Put it first; keep the old ones behind it until "
                    "their sessions have expired."
                ),
                command='python -c "import secrets; print(secrets.token_urlsafe(48))"',
            ),
            id="sessionstores.W005",
        )
    ]


@checks.register(deploy=True)
def report_storage(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Say which store sessions are in, and through which adapter."""
    try:
        storage = _storage()
    except (ImportError, ImproperlyConfigured):
        return []  # check_engine says so.
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
                    setting=_REGISTRY,
                ),
                id="sessionstores.I002",
            )
        )
    return messages
