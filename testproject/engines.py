"""The environment variable that selects the engine and the stores of the demo.

Its value is the name of an engine, followed by the stores that it needs, each after a ``+``. The
name of a second engine selects the registry of the first::

    db
    cookie+db
    db+postgres://user:password@host:5432/name
    cached_db+redis://localhost:6379/0+mysql://user:password@host:3306/name

A ``+`` or ``/`` inside a user name or password is written ``%2B`` or ``%2F``, as in any URL.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import url2pathname

from django.core.exceptions import ImproperlyConfigured

VARIABLE: Final = "SESSIONSTORES_DEMO"
DEFAULT: Final = "db"
CONNECT_SECONDS: Final = 5
"""The seconds to wait for a server. It is short, so that a wrong address is reported soon."""

FORMS: Final = """\
  memory
  file                                              in the demo's folder
  file+/absolute/path/of/a/folder
  db                                                SQLite in the demo's folder
  db+<database>
  cache+<cache>
  cached_db+<cache>
  cached_db+<cache>+<database>
  cached_db+<cache>+<mongodb>
  cookie                                            without a registry
  cookie+db                                         the rest with one, which ends sessions
  cookie+cache+<cache>                              not memcached
  cookie+cached_db+<cache>
  cache+memcached://host:11211+db                   with a registry, which lists sessions
  cookie+mongodb+<mongodb>
  mongodb+<mongodb>

  <database>  sqlite:///absolute/path.sqlite3
              postgres://user:password@host:5432/name
              mysql://user:password@host:3306/name
  <mongodb>   mongodb://user:password@host:27017/name
  <cache>     redis://localhost:6379/0              through Django's RedisCache; rediss:// for TLS
              django-redis://localhost:6379/0       through django-redis; django-rediss:// for TLS
              memcached://host:11211,host:11212
              locmem, filecache, dbcache            Django's caches without a server

Any engine takes +<database> as its last part: the users are there. A + in a password is
written %2B."""

MAKE_DATABASES: Final = {
    "postgresql": (
        """sudo -u postgres psql -c "CREATE USER {user} PASSWORD '{password}'" """
        """-c "CREATE DATABASE {name} OWNER {user}\""""
    ),
    # A user of any host is not used at localhost if there is an anonymous user of localhost.
    "mysql": (
        """sudo mysql -e "CREATE DATABASE {name}; CREATE USER {user} IDENTIFIED BY '{password}', """
        """{user}@localhost IDENTIFIED BY '{password}'; """
        """GRANT ALL ON {name}.* TO {user}, {user}@localhost\""""
    ),
}
"""Commands that make the user and the database on this machine, by Django's name of the kind."""
_SERVERS: Final = {
    "redis": ("Redis", "redis-server --port {port}"),
    "rediss": ("Redis", ""),
    "django-redis": ("Redis", "redis-server --port {port}"),
    "django-rediss": ("Redis", ""),
    "memcached": ("memcached", "memcached -u nobody -p {port}"),
    "mongodb": ("MongoDB", "mkdir -p .cache/mongodb; mongod --dbpath .cache/mongodb --port {port}"),
    "postgres": ("PostgreSQL", ""),
    "postgresql": ("PostgreSQL", ""),
    "mysql": ("MySQL or MariaDB", ""),
}
"""The server that each scheme needs, and a command that starts one on this machine."""
_LOCAL: Final = frozenset({"localhost", "127.0.0.1"})
_ENGINES: Final = frozenset(re.findall(r"^  (\w+)", FORMS.partition("\n\n")[0], re.MULTILINE))
_IN_A_CACHE: Final = frozenset({"cache", "cached_db"})
_REGISTRIES: Final = frozenset({"db", "mongodb", *_IN_A_CACHE})
_DATABASES: Final = {"postgres": "postgresql", "postgresql": "postgresql", "mysql": "mysql"}
_BACKENDS: Final = "django.core.cache.backends."
_PYMEMCACHE: Final = _BACKENDS + "memcached.PyMemcacheCache"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The engine and the stores that the variable selects, as values of Django's settings."""

    engine: str
    """The last part of ``SESSION_ENGINE``."""
    registry: str
    """The engine of the registry. Empty without a registry."""
    database: dict[str, Any]
    """The default database, which also stores the users."""
    cache: dict[str, Any] | None
    """The cache for sessions or their registry; ``None`` if no engine needs one."""
    mongodb: str
    """The address of MongoDB for sessions or their registry; empty if no engine needs it."""
    cached_store: str
    """The engine behind the cache of ``cached_db``."""
    sessions_folder: Path
    """The folder in which the file engine keeps its sessions."""
    text: str
    """The value of the variable without its passwords, to show it."""


def parse(value: str, folder: Path) -> Choice:
    """Return the choice for a value of the variable. Files are created below ``folder``.

    Raises ``ImproperlyConfigured``, with the name of the variable and its possible values.
    """
    engine, *stores = value.strip().split("+")
    if engine not in _ENGINES:
        raise _value_error(value, f"{engine!r} is not an engine.")
    registry = ""
    mongodb = ""
    database = cache = sessions_folder = None
    for number, store in enumerate(stores, start=2):
        try:
            if engine == "file" and sessions_folder is None and Path(store).is_absolute():
                sessions_folder = Path(store)
            elif _takes_registry(engine, cache) and not registry and store in _REGISTRIES:
                registry = store
            elif _IN_A_CACHE & {engine, registry} and cache is None:
                cache = _cache(store, folder)
            elif _takes_mongodb(engine, registry, store) and not mongodb:
                mongodb = _mongodb(store)
            else:
                database = _database(store)
        except ValueError as error:
            # The message does not show the part: it may be half of a password with a + in it.
            raise _value_error(value, f"Part {number}: {error}.") from None
    if cache is None and (without := _IN_A_CACHE & {engine, registry}):
        raise _value_error(value, f"The engine {min(without)!r} needs a cache.")
    if "mongodb" in {engine, registry} and not mongodb:
        raise _value_error(value, "The engine 'mongodb' needs the address of MongoDB.")
    parts = (registry or None, database, cache, mongodb or None, sessions_folder)
    if len(stores) > sum(part is not None for part in parts):
        raise _value_error(value, "It has more than one database.")
    return Choice(
        engine=engine,
        registry=registry,
        database=database or _sqlite(folder / "demo.sqlite3"),
        cache=cache,
        mongodb=mongodb,
        cached_store="mongodb" if mongodb and "mongodb" not in {engine, registry} else "db",
        sessions_folder=sessions_folder or folder / "sessions",
        text=hide_passwords(value),
    )


def _takes_registry(engine: str, cache: dict[str, Any] | None) -> bool:
    is_memcached = cache is not None and cache["BACKEND"] == _PYMEMCACHE
    return engine == "cookie" or (engine == "cache" and is_memcached)


def _takes_mongodb(engine: str, registry: str, store: str) -> bool:
    if "mongodb" in {engine, registry}:
        return True
    return "cached_db" in {engine, registry} and urlsplit(store).scheme == "mongodb"


def hide_passwords(value: str) -> str:
    """Return the value with asterisks in place of its passwords."""
    # A password ends at the last @ of its URL, because it may contain an unquoted @.
    return re.sub(r"(://[^:/@]*):(?:(?!://).)*@", r"\1:***@", value)


def how_to_start(value: str) -> list[str]:
    """Return how to start each server of a value that accepts no connections."""
    sentences = []
    for store in value.split("+")[1:]:
        url = urlsplit(store)
        if url.scheme not in _SERVERS:
            continue
        server, command = _SERVERS[url.scheme]
        for address in url.netloc.rpartition("@")[2].split(","):
            host, _, port = address.partition(":")
            if port and _accepts(host, int(port)):
                continue
            start = f": {command.format(port=port)}" if command and port and host in _LOCAL else ""
            sentences.append(f"Start {server} at {address}, if it does not run{start}")
    return sentences


def how_to_make(choice: Choice) -> list[str]:
    """Return how to make the user and the database, if a server on this machine runs."""
    database = choice.database
    kind = database["ENGINE"].rpartition(".")[2]
    host, port = database.get("HOST"), database.get("PORT")
    if kind not in MAKE_DATABASES or host not in _LOCAL or not (port and _accepts(host, port)):
        return []
    command = MAKE_DATABASES[kind].format(
        user=database["USER"],
        # That of README.rst is not secret.
        password="demo" if database["PASSWORD"] == "demo" else "***",
        name=database["NAME"],
    )
    return [f"The server runs. If it lacks the user or the database, make them: {command}"]


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _mongodb(store: str) -> str:
    url = urlsplit(store)
    if url.scheme != "mongodb":
        raise ValueError("no address of MongoDB has this form")
    if not url.path.removeprefix("/"):
        raise ValueError("the name of the database is missing, after the host and a slash")
    if "timeoutms=" in url.query.lower():
        return store
    return f"{store}{'&' if url.query else '?'}timeoutMS={1000 * CONNECT_SECONDS}"


def _database(store: str) -> dict[str, Any]:
    url = urlsplit(store)
    if url.scheme == "sqlite":
        path = Path(url2pathname(url.path))
        if url.netloc or not path.is_absolute():
            raise ValueError("the path after sqlite:// has to begin with a slash")
        return _sqlite(path)
    if url.scheme not in _DATABASES:
        raise ValueError("no database has this form")
    name = unquote(url.path.removeprefix("/"))
    if not name:
        raise ValueError("the name of the database is missing, after the host and a slash")
    return {
        "ENGINE": f"django.db.backends.{_DATABASES[url.scheme]}",
        "HOST": url.hostname or "127.0.0.1",
        "PORT": _port(url) or "",
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "NAME": name,
        "OPTIONS": {"connect_timeout": CONNECT_SECONDS},
    }


def _port(url: SplitResult) -> int | None:
    try:
        return url.port
    except ValueError:
        raise ValueError("the port must be a number up to 65535") from None


def _sqlite(path: Path) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        # With these options, two parallel requests wait for each other instead of failing.
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 10},
    }


def _cache(store: str, folder: Path) -> dict[str, Any]:
    without_server: Mapping[str, dict[str, Any]] = {
        "locmem": {"BACKEND": _BACKENDS + "locmem.LocMemCache", "LOCATION": "demo"},
        "filecache": {
            "BACKEND": _BACKENDS + "filebased.FileBasedCache",
            "LOCATION": str(folder / "cache"),
        },
        "dbcache": {"BACKEND": _BACKENDS + "db.DatabaseCache", "LOCATION": "demo_cache"},
    }
    if store in without_server:
        # By default, Django's caches hold 300 entries, which is too few for sessions.
        return {**without_server[store], "OPTIONS": {"MAX_ENTRIES": 100_000}}
    scheme, separator, rest = store.partition("://")
    if separator and scheme in {"redis", "rediss"}:
        return {
            "BACKEND": _BACKENDS + "redis.RedisCache",
            "LOCATION": store,
            "OPTIONS": {"socket_connect_timeout": CONNECT_SECONDS},
        }
    if separator and scheme in {"django-redis", "django-rediss"}:
        return {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": store.removeprefix("django-"),
            "OPTIONS": {"SOCKET_CONNECT_TIMEOUT": CONNECT_SECONDS},
        }
    if separator and scheme == "memcached":
        nodes = rest.rstrip("/").split(",")
        if not all(re.fullmatch(r"[^:/]+:\d+", node) for node in nodes):
            raise ValueError("memcached:// takes host:port, and further ones after commas")
        return {"BACKEND": _PYMEMCACHE, "LOCATION": nodes}
    raise ValueError("no cache has this form")


def _value_error(value: str, reason: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"{VARIABLE} is {hide_passwords(value)!r}. {reason} It may be:\n\n{FORMS}"
    )
