"""A wrong password, port, scheme or name: the error, the doctor and the command name the option."""

from __future__ import annotations

import datetime
import io
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import Thread
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import override_settings

from django_sessionstores.conf import session_store
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.operations.checks.stores import check_write_access
from django_sessionstores.operations.doctor import diagnose
from django_sessionstores.sessions.engine import Engine
from tests.cases import MARIADB, POSTGRESQL
from tests.operations.checks.configurations import ENGINES
from tests.services import (
    HOST,
    MariaDB,
    Memcached,
    PostgreSQL,
    Redis,
    accepts,
    refusing_port,
    shared_service,
)
from tests.storages.files.test_storage import as_another_user

SECRET: Final = "hunter2"
REDIS: Final = {
    "redis-cache": "django.core.cache.backends.redis.RedisCache",
    "django-redis": "django_redis.cache.RedisCache",
}
PYMEMCACHE: Final = "django.core.cache.backends.memcached.PyMemcacheCache"
ALIAS: Final = "sessions"
QUICK: Final = "?socket_timeout=0.3&socket_connect_timeout=0.3"


def assert_said(engine: str, *parts: str) -> None:
    """Assert that an outage says where to look, by each way in which somebody may see it.

    And never the password.
    """
    store = session_store(ENGINES + engine)
    assert store is not None
    with pytest.raises(StorageUnavailable) as caught:
        store("k" * 32).load()
    finding = diagnose(store.own_storage()).findings[0]
    assert finding.id == "sessionstores.E022"
    # True of a server that refuses as well as of one that does not answer.
    assert ", which cannot be used: " in finding.message
    errors = io.StringIO()
    with pytest.raises(CommandError) as stopped:
        call_command("sessions", "list", stderr=errors)
    for said in (str(caught.value), finding.message, str(stopped.value)):
        for part in parts:
            assert part in said
        assert SECRET not in said


# Redis and memcached ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked() -> Iterator[Redis]:
    """Yield a Redis with a password."""
    with Redis() as server:
        server.cli("config", "set", "requirepass", "another password")
        yield server


class EncryptedRedis(Redis):
    """A Redis that speaks TLS only, with a certificate that nobody else trusts."""

    def prepare(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), 1)
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        (self.folder / "certificate").write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
        )
        (self.folder / "key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def command(self) -> list[str]:
        self.options |= {
            "port": "0",
            "tls_port": str(self.port),
            "tls_cert_file": str(self.folder / "certificate"),
            "tls_key_file": str(self.folder / "key"),
            "tls_auth_clients": "no",
            "tls_ca_cert_file": str(self.folder / "certificate"),
        }
        return super().command()

    def answers(self) -> bool:
        return accepts(self.port)


@pytest.fixture(scope="module")
def encrypted() -> Iterator[Redis]:
    with EncryptedRedis() as server:
        yield server


Fixture = Callable[[str], Any]

REDIS_MISTAKES: Final[dict[str, tuple[Callable[[Fixture], str], tuple[str, ...]]]] = {
    "no password": (
        lambda get: get("locked").url(),
        ("password (NOAUTH: ", "['LOCATION'] or ['OPTIONS']"),
    ),
    "wrong password": (
        lambda get: get("locked").url().replace("//", f"//:{SECRET}@"),
        ("password (WRONGPASS: ", "['LOCATION'] or ['OPTIONS']", "ACL LIST"),
    ),
    "unknown user": (
        lambda get: get("locked").url().replace("//", f"//shop:{SECRET}@"),
        ("user name or the password (WRONGPASS: ", "['LOCATION'] or ['OPTIONS']"),
    ),
    "wrong port": (
        lambda get: f"redis://:{SECRET}@{HOST}:{refusing_port()}/0",
        ("the port", "['LOCATION']"),
    ),
    "wrong host": (
        lambda get: f"redis://:{SECRET}@redis.invalid:6379/0",
        ("the host", "['LOCATION']"),
    ),
    "wrong number": (
        lambda get: shared_service(Redis).url(99),
        ("no database 99", "the number", "['LOCATION']"),
    ),
    "TLS to a server without": (
        lambda get: (
            shared_service(Redis).url().replace("redis:", "rediss:") + "?socket_timeout=0.3"
            "&socket_connect_timeout=0.3"
        ),
        ("'rediss' is for TLS", "['LOCATION']"),
    ),
    "no TLS": (lambda get: get("encrypted").url(), ("'rediss' is for TLS", "['LOCATION']")),
    "untrusted certificate": (
        lambda get: get("encrypted").url().replace("redis:", "rediss:"),
        ("ssl_ca_certs", "['OPTIONS']"),
    ),
    "another server": (
        lambda get: f"redis://{HOST}:{shared_service(Memcached).port}/0",
        ("did not answer as Redis does", "the port", "['LOCATION']"),
    ),
}


@pytest.mark.parametrize("client", REDIS)
@pytest.mark.parametrize("mistake", REDIS_MISTAKES)
def test_redis(mistake: str, client: str, request: pytest.FixtureRequest) -> None:
    make, parts = REDIS_MISTAKES[mistake]
    cache = {"BACKEND": REDIS[client], "LOCATION": make(request.getfixturevalue)}
    with override_settings(
        SESSION_ENGINE=ENGINES + "cache", SESSION_CACHE_ALIAS=ALIAS, CACHES={ALIAS: cache}
    ):
        assert_said("cache", f"CACHES['{ALIAS}']", *parts)


def test_a_missing_password_is_not_taken_for_an_old_server(locked: Redis) -> None:
    """Its error names HELLO, which Redis before 6 did not know."""
    cache = {"BACKEND": REDIS["redis-cache"], "LOCATION": locked.url()}
    with (
        override_settings(CACHES={"default": cache}, SESSION_ENGINE=ENGINES + "cache"),
        pytest.raises(StorageUnavailable) as caught,
    ):
        session_store(ENGINES + "cache")("k" * 32).load()  # type: ignore[misc]
    assert "older than Redis 6" not in str(caught.value)


@pytest.mark.parametrize("client", REDIS)
@pytest.mark.parametrize("location", ["http://:hunter2@host", "redis://:hunter2/x@host:6379/0"])
def test_an_address_that_is_not_one_of_redis(client: str, location: str) -> None:
    """The client's own error quotes a part of the second one, which is the password."""
    cache = {"BACKEND": REDIS[client], "LOCATION": location}
    with (
        override_settings(
            SESSION_ENGINE=ENGINES + "cache", SESSION_CACHE_ALIAS=ALIAS, CACHES={ALIAS: cache}
        ),
        pytest.raises(ImproperlyConfigured) as caught,
    ):
        session_store(ENGINES + "cache")("k" * 32).load()  # type: ignore[misc]
    assert f"CACHES['{ALIAS}']['LOCATION']" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("location", "options", "part"),
    [
        (lambda: f"{HOST}:{refusing_port()}", {}, "['LOCATION']"),
        (lambda: "memcached.invalid:11211", {}, "['LOCATION']"),
        (lambda: f"{HOST}:{shared_service(Redis).port}", {}, "['LOCATION']"),
        (
            lambda: shared_service(Memcached).addresses[0],
            {"tls_context": ssl.create_default_context()},
            "['OPTIONS']['tls_context']",
        ),
    ],
    ids=["wrong port", "wrong host", "another server", "TLS to a server without"],
)
def test_memcached(location: Callable[[], str], options: dict[str, Any], part: str) -> None:
    cache = {"BACKEND": PYMEMCACHE, "LOCATION": location(), "OPTIONS": options}
    store = session_store(ENGINES + "cache")
    assert store is not None
    with override_settings(
        SESSION_ENGINE=ENGINES + "cache", SESSION_CACHE_ALIAS=ALIAS, CACHES={ALIAS: cache}
    ):
        with pytest.raises(StorageUnavailable) as caught:
            store("k" * 32).load()
        finding = diagnose(store.own_storage()).findings[0]
    assert finding.id == "sessionstores.E022"
    for said in (str(caught.value), finding.message):
        assert f"CACHES['{ALIAS}']{part}" in said


# Databases ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[dict[str, Any]]:
    """Yield a PostgreSQL that asks for a password."""
    with PostgreSQL() as server:
        (server.folder / "data" / "pg_hba.conf").write_text("host all all all scram-sha-256\n")
        server.restart()
        yield POSTGRESQL.configure(server)


def postgresql(**entry: Any) -> Callable[[Fixture], dict[str, Any]]:
    return lambda get: {**POSTGRESQL.configure(shared_service(PostgreSQL)), **entry}


def mariadb(**entry: Any) -> Callable[[Fixture], dict[str, Any]]:
    return lambda get: {**MARIADB.configure(shared_service(MariaDB)), **entry}


DATABASE_MISTAKES: Final[dict[str, tuple[Callable[[Fixture], dict[str, Any]], str]]] = {
    "postgresql: wrong password": (
        lambda get: {**get("guarded"), "PASSWORD": SECRET},
        "['USER'] and ['PASSWORD']",
    ),
    "postgresql: no password": (lambda get: get("guarded"), "['USER'] and ['PASSWORD']"),
    "postgresql: unknown user": (postgresql(USER="shop"), "['USER'] and ['PASSWORD']"),
    "postgresql: wrong port": (postgresql(PORT=1), "['HOST'] and ['PORT']"),
    "postgresql: wrong host": (postgresql(HOST="postgres.invalid"), "['HOST'] and ['PORT']"),
    "postgresql: wrong name": (postgresql(NAME="shop"), "['NAME']"),
    "postgresql: TLS to a server without": (
        postgresql(OPTIONS={"sslmode": "require"}),
        "['OPTIONS']",
    ),
    "mariadb: wrong password": (mariadb(PASSWORD=SECRET), "['USER'] and ['PASSWORD']"),
    "mariadb: unknown user": (mariadb(USER="shop"), "['USER'] and ['PASSWORD']"),
    "mariadb: wrong port": (mariadb(PORT=1), "['HOST'] and ['PORT']"),
    "mariadb: wrong name": (mariadb(NAME="shop"), "['NAME']"),
    "sqlite: no such folder": (
        lambda get: {"ENGINE": "django.db.backends.sqlite3", "NAME": "/nowhere/db.sqlite3"},
        "['NAME']",
    ),
}


class ToSessions:
    """Sends the tables of sessions and of caches to the database "sessions"."""

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return ALIAS if model._meta.app_label in {"django_sessionstores", "django_cache"} else None

    db_for_read = db_for_write


@pytest.fixture
def open_database(
    django_db_setup: None, django_db_blocker: Any
) -> Iterator[Callable[[dict[str, Any]], AbstractContextManager[None]]]:
    """Adds the database that `ToSessions` uses."""

    @contextmanager
    def added(entry: dict[str, Any]) -> Iterator[None]:
        connections.settings[ALIAS] = connections.settings["default"] | {"OPTIONS": {}} | entry
        try:
            yield
        finally:
            connections[ALIAS].close()
            del connections[ALIAS], connections.settings[ALIAS]
            # Statements are compiled once for each alias. The next server may be another one.
            for storage in Engine._own_storages.values():
                getattr(storage, "_compiled", {}).pop(ALIAS, None)

    with django_db_blocker.unblock():
        yield added


@pytest.mark.parametrize("mistake", DATABASE_MISTAKES)
def test_databases(mistake: str, request: pytest.FixtureRequest, open_database: Any) -> None:
    make, part = DATABASE_MISTAKES[mistake]
    with (
        open_database(make(request.getfixturevalue)),
        override_settings(SESSION_ENGINE=ENGINES + "db", DATABASE_ROUTERS=[ToSessions()]),
    ):
        assert_said("db", f"DATABASES['{ALIAS}']{part}")


@pytest.mark.parametrize("name", ["db", "cache"])
def test_sqlite_in_a_folder_that_nobody_else_may_enter(name: str, open_database: Any) -> None:
    """Most commands run the system checks first, so no check may raise an exception."""
    sqlite, cache = "django.db.backends.sqlite3", "django.core.cache.backends.db.DatabaseCache"
    with (
        as_another_user(rights=0) as place,
        open_database({"ENGINE": sqlite, "NAME": place / "db.sqlite3"}),
        override_settings(
            SESSION_ENGINE=ENGINES + name,
            CACHES={"default": {"BACKEND": cache, "LOCATION": "session_cache"}},
            DATABASE_ROUTERS=[ToSessions()],
        ),
    ):
        assert_said(name, f"DATABASES['{ALIAS}']['NAME'], and let the user of the site open")
        (message,) = check_write_access(None)
    assert message.id == "sessionstores.W024"
    assert message.hint.startswith(f"This process may not enter {place}. Make the user")


@contextmanager
def greeting(said: bytes) -> Iterator[int]:
    """Yield the port of a server that says this to each client, and then nothing."""
    with socket.create_server((HOST, 0)) as listener:

        def greet() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(said)
                        connection.settimeout(0.3)
                        with suppress(OSError):
                            connection.recv(1000)

        Thread(target=greet, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


_GREETING_OF_MYSQL: Final = (
    b"\x0a5.5.5-10.11.6-MariaDB\0\x07\0\0\0abcdefgh\0\xfe\xf7\x2d\x02\0\xff\x81\x15"
)


@pytest.mark.parametrize("vendor", ["mysql", "postgresql"])
@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"220 mail ESMTP\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"",
        bytes(64),
        b"\x01\0\0\0\x0a",
        b"\x03\0\0\0\xff\x10\x04",
        *(
            bytes([length, 0, 0, 0]) + _GREETING_OF_MYSQL[:length]
            for length in (6, 24, 30, 36, 38, 40, len(_GREETING_OF_MYSQL))
        ),
    ],
)
def test_another_server_at_the_address_of_a_database(
    open_database: Any, vendor: str, said: bytes
) -> None:
    """Or the server itself, which is stopped while it greets."""
    entry: dict[str, Any] = {"HOST": HOST, "USER": "shop", "PASSWORD": SECRET, "NAME": "shop"}
    limit = "read_timeout" if vendor == "mysql" else "connect_timeout"
    with greeting(said) as port:
        entry |= {"ENGINE": f"django.db.backends.{vendor}", "PORT": port, "OPTIONS": {limit: 2}}
        with (
            open_database(entry),
            override_settings(SESSION_ENGINE=ENGINES + "db", DATABASE_ROUTERS=[ToSessions()]),
        ):
            assert_said("db", f"DATABASES['{ALIAS}']")
            store = session_store(ENGINES + "db")
            assert store is not None
            with pytest.raises(StorageUnavailable):
                store.own_storage().count(1, None)
            with pytest.raises(StorageUnavailable) as caught:
                store("k" * 32).load()
    for wrong in ("28P01", "has ended the connection", "2026: "):
        assert wrong not in str(caught.value)
    if vendor == "mysql" or said.startswith((b"SSH", b"220")):
        assert "['HOST'] and ['PORT']" in str(caught.value)


def test_an_sqlite_file_that_cannot_be_opened_is_named(open_database: Any) -> None:
    """The client does not say which one it has tried."""
    make, _ = DATABASE_MISTAKES["sqlite: no such folder"]
    with (
        open_database(make(lambda _: None)),
        override_settings(SESSION_ENGINE=ENGINES + "db", DATABASE_ROUTERS=[ToSessions()]),
    ):
        assert_said("db", "/nowhere/db.sqlite3")


def test_a_cache_in_a_database(open_database: Any) -> None:
    """The settings to look at are those of the database."""
    cache = {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "kept"}
    with (
        open_database(postgresql(PORT=1)(lambda _: None)),
        override_settings(
            SESSION_ENGINE=ENGINES + "cache",
            CACHES={"default": cache},
            DATABASE_ROUTERS=[ToSessions()],
        ),
    ):
        assert_said("cache", f"DATABASES['{ALIAS}']['HOST'] and ['PORT']")
