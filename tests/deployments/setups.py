"""What the site can keep its sessions in: the servers, and Django's settings for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.deployments.faults import MEMCACHED_FLAGS
from tests.deployments.sites import Kind, Site
from tests.disks import Disk
from tests.services import (
    HOST,
    MariaDB,
    Memcached,
    MongoReplicaSet,
    PostgreSQL,
    Redis,
    RedisCluster,
    RedisSentinel,
    Service,
)

TIMEOUT: Final = 2
"""Seconds that each client waits for an answer, as the documentation advises."""
CONNECT_SECONDS: Final = 5
"""Seconds to connect to a database. On a busy machine, a server takes more than two for that while
the processes of several sites start."""
STORE_RETRY: Final = 5
"""Seconds for which requests may fail after a store hung. It is the default of the setting."""

Settings = dict[str, Any]
Services = Mapping[str, Service]


@dataclass(frozen=True)
class Setup:
    """Stores by the part that they play, and the settings for a site under a kind of server."""

    name: str
    stores: Mapping[str, Callable[[], Service]]
    configure: Callable[[Services, Kind], Settings]
    forgets: bool = False
    """Whether sessions are lost when a store is restarted."""
    waits: bool = False
    """Whether the client waits for a server that refuses connections, as for one that hangs."""
    indexes: bool = False
    """Whether it needs indexes that no migration makes, because there is no database."""


@dataclass(frozen=True)
class Deployment:
    """A site that runs, and what it keeps its sessions in."""

    setup: Setup
    site: Site
    stores: Services


@contextmanager
def deployed(
    setup: Setup, kind: Kind, package: Path | None = None, **settings: Any
) -> Iterator[Deployment]:
    """Start the stores and then the site, with further settings. See `Site` for ``package``."""
    with ExitStack() as stack:
        stores = {name: stack.enter_context(make()) for name, make in setup.stores.items()}
        site = Site(kind, {**setup.configure(stores, kind), **settings}, package=package)
        if "DATABASES" in site.settings:
            site.manage("migrate", "--verbosity=0")
        elif setup.indexes:
            site.manage("sessions", "reindex")
        yield Deployment(setup, stack.enter_context(site), stores)


# Settings ------------------------------------------------------------------------------------

ENGINES: Final = "django_sessionstores.backends"


def _settings(engine: str, **more: Any) -> Settings:
    return {"SESSION_ENGINE": f"{ENGINES}.{engine}", **more}


def _in_cache(entry: Settings, engine: str = "cache", **more: Any) -> Settings:
    locmem = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    caches = {"default": locmem, "sessions": entry}
    return _settings(engine, SESSION_CACHE_ALIAS="sessions", CACHES=caches, **more)


def _redis_entry(service: Any) -> Settings:
    return {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": service.url(),
        "OPTIONS": {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT},
    }


def _memcached_entry(service: Any) -> Settings:
    return {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": service.addresses,
        "OPTIONS": {"timeout": TIMEOUT, "connect_timeout": TIMEOUT},
    }


def _database(service: Any, kind: Kind, **options: Any) -> Settings:
    """Return settings with a database, whose connections are kept if each has its thread."""
    if isinstance(service, PostgreSQL):
        entry: Settings = {"ENGINE": "django.db.backends.postgresql"}
    else:
        # Of PyMySQL, connect_timeout ends before the server's greeting.
        entry = {"ENGINE": "django.db.backends.mysql"}
        options["read_timeout"] = 2
    entry |= {"HOST": HOST, "PORT": service.port, "USER": service.USER, "NAME": service.DATABASE}
    entry["OPTIONS"] = {"connect_timeout": CONNECT_SECONDS, **options}
    if not kind.is_cooperative:
        entry["CONN_MAX_AGE"] = None
    return {
        "DATABASES": {"default": entry},
        "SESSIONSTORES": {"DATABASE_TIMEOUT": TIMEOUT},
    }


def _pooled(services: Services, kind: Kind) -> Settings:
    pool = {"min_size": 2, "max_size": 8, "timeout": TIMEOUT}
    settings = _database(services["database"], kind, pool=pool)
    # Django refuses a pool beside connections that it keeps itself.
    settings["DATABASES"]["default"].update(CONN_MAX_AGE=0, CONN_HEALTH_CHECKS=True)
    return _settings("db", **settings)


def _sentinel(services: Services, kind: Kind, client: str) -> Settings:
    service: Any = services["sentinel"]
    options = {
        "CLIENT_CLASS": "django_redis.client.SentinelClient",
        "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
        "SENTINELS": service.sentinel_addresses,
        "SENTINEL_KWARGS": {"socket_timeout": TIMEOUT},
        "SOCKET_TIMEOUT": TIMEOUT,
        "SOCKET_CONNECT_TIMEOUT": TIMEOUT,
        "REDIS_CLIENT_CLASS": client,
    }
    entry = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": service.url()}
    return _in_cache({**entry, "OPTIONS": options})


def _cluster(services: Services, kind: Kind) -> Settings:
    return _in_cache({**_redis_entry(services["cluster"]), "BACKEND": "deployed_site.ClusterCache"})


def _mongodb(services: Services, kind: Kind, **options: Any) -> Settings:
    service: Any = services["mongodb"]
    address = {"MONGODB_URI": service.url(), "MONGODB_DATABASE": "sessions"}
    return _settings("mongodb", SESSIONSTORES={**address, **options})


def mongodb_setup(patience: float = 1, **options: Any) -> Setup:
    """Return MongoDB as a replica set, for a site with options of ``SESSIONSTORES``.

    See `MongoReplicaSet` for ``patience``.
    """
    make = partial(MongoReplicaSet, patience)
    configure = partial(_mongodb, **options)
    return Setup("mongodb", {"mongodb": make}, configure, waits=True, indexes=True)


# With its log of changes, so that a restart loses nothing.
_DURABLE_REDIS: Final = partial(Redis, appendonly="yes", appendfsync="always")

SETUPS: Final = {
    setup.name: setup
    for setup in (
        Setup(
            "redis",
            {"cache": _DURABLE_REDIS},
            lambda services, kind: _in_cache(_redis_entry(services["cache"])),
        ),
        Setup(
            "memcached",
            {"cache": partial(Memcached, *MEMCACHED_FLAGS)},
            lambda services, kind: _in_cache(_memcached_entry(services["cache"])),
            forgets=True,
        ),
        Setup(
            "postgresql",
            {"database": PostgreSQL},
            lambda services, kind: _settings("db", **_database(services["database"], kind)),
        ),
        Setup("postgresql-pool", {"database": PostgreSQL}, _pooled),
        Setup(
            "mariadb",
            {"database": MariaDB},
            lambda services, kind: _settings("db", **_database(services["database"], kind)),
        ),
        Setup(
            "cached_db",
            {"cache": Redis, "database": PostgreSQL},
            lambda services, kind: _in_cache(
                _redis_entry(services["cache"]),
                "cached_db",
                **_database(services["database"], kind),
            ),
        ),
        Setup(
            "file",
            {"disk": Disk},
            # The folder is made by `Disk`, so that it is not the mount point.
            lambda services, kind: _settings("file", SESSION_FILE_PATH=_folder(services["disk"])),
        ),
        Setup(
            "cookie",
            {"database": PostgreSQL},
            lambda services, kind: _with_registry(_database(services["database"], kind)),
        ),
        mongodb_setup(DATABASE_TIMEOUT=TIMEOUT),
    )
}


def _folder(disk: Any) -> str:
    """Return a folder on the disk: the mount point itself would be there without it."""
    folder: Path = disk.path / "sessions"
    folder.mkdir(mode=0o700)
    return str(folder)


def _with_registry(settings: Settings) -> Settings:
    settings["SESSIONSTORES"]["REGISTRY"] = "db"
    return _settings("cookie", **settings)


def sentinel_setup(*, waits: bool = False, **options: str) -> Setup:
    """Return Redis with a replica and sentinels.

    ``waits`` has each write wait until the replica has it; ``options`` are of both servers.
    """
    client = "deployed_site.ReplicatedRedis" if waits else "redis.client.Redis"
    make = partial(RedisSentinel, 3, patience=1, **options)
    return Setup("sentinel", {"sentinel": make}, partial(_sentinel, client=client))


CLUSTER: Final = Setup("cluster", {"cluster": partial(RedisCluster, replicas=1)}, _cluster)
