"""What an error says of a server that answers, but not as it should: its code, and what to do.

The exception, the log and the doctor say the same, and none of them shows a secret. Servers that
cannot be found, and logins that they refuse, are in `test_wrong_addresses`.
"""

from __future__ import annotations

import re
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Any, Final

import psycopg
import pymysql
import pytest
from django.core.management import call_command
from django.db import OperationalError, connections
from django.test import override_settings
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    ResponseError,
)
from redis.retry import Retry
from redis.sentinel import Sentinel

from django_sessionstores.conf import session_store
from django_sessionstores.exceptions import StorageFull, StorageUnavailable
from django_sessionstores.operations.doctor import diagnose
from django_sessionstores.storages.mongodb import faults as mongodb_faults
from django_sessionstores.storages.redis import faults
from django_sessionstores.storages.redis.faults import fault_of, text_of
from django_sessionstores.storages.sql import connection_errors, deadline
from django_sessionstores.storages.sql.connection_errors import connection_error, outage_of
from tests import ROOT
from tests.cases import MARIADB, POSTGRESQL
from tests.operations.checks.configurations import ENGINES
from tests.operations.test_wrong_addresses import ALIAS, PYMEMCACHE, REDIS, SECRET, ToSessions
from tests.operations.test_wrong_addresses import open_database as open_database  # A fixture.
from tests.services import HOST, MariaDB, Memcached, PostgreSQL, Redis, refusing_port, wait_until

COLOR: Final = "ultramarine"
"""What is in the session, and must not be in a message."""
BEGIN: Final = "Session store outage begins: "


@contextmanager
def site(engine: str, **settings: Any) -> Iterator[Any]:
    """Yield the session class of a site."""
    store = session_store(ENGINES + engine)
    assert store is not None
    with override_settings(SESSION_ENGINE=ENGINES + engine, SESSION_CACHE_ALIAS=ALIAS, **settings):
        yield store


def save(store: Any) -> None:
    session = store()
    session["color"] = COLOR
    session["_auth_user_agent"] = SECRET
    session.save()


def fail(store: Any, times: int = 1) -> StorageUnavailable:
    """Save until that fails; return the error."""
    for _ in range(times - 1):
        try:
            save(store)
        except StorageUnavailable as error:
            return error
    with pytest.raises(StorageUnavailable) as caught:
        save(store)
    return caught.value


def said_of(
    store: Any,
    caplog: pytest.LogCaptureFixture,
    *parts: str,
    kind: type[StorageUnavailable] = StorageUnavailable,
    doctor: bool = True,
    begins: bool = True,
) -> str:
    """Assert that a save fails, and that the error, the log and the doctor say why; return that."""
    caplog.clear()
    error = fail(store)
    assert type(error) is kind
    if begins:
        assert [each for each in caplog.messages if BEGIN in each] == [f"{BEGIN}{error}"]
    said = [str(error)]
    if doctor:
        said += [each.message for each in diagnose(store.own_storage()).findings]
        # It may have been refused another command.
        assert any(parts[0].partition(":")[0] in each for each in said[1:]), said
    for part in parts:
        assert part in said[0]
    for each in said:
        assert SECRET not in each
        assert COLOR not in each
    return said[0]


pytestmark = pytest.mark.usefixtures("outages_end_at_once")


@pytest.fixture(autouse=True)
def _no_outages_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "_breakers", type(deadline._breakers)())


# PostgreSQL ---------------------------------------------------------------------------------------

OpenDatabase = Callable[[dict[str, Any]], AbstractContextManager[None]]


def sql(server: PostgreSQL | MariaDB, *statements: str) -> None:
    """Run statements as the administrator."""
    with connect(server) as connection, closing(connection.cursor()) as cursor:
        for each in statements:
            cursor.execute(each)


def connect(server: PostgreSQL | MariaDB) -> Any:
    """Return a connection of the administrator, which closes at the end of its context."""
    if isinstance(server, PostgreSQL):
        return closing(psycopg.connect(server.url(), autocommit=True))
    return closing(
        pymysql.connect(
            host=HOST, port=server.port, user=server.USER, database=server.DATABASE, autocommit=True
        )
    )


@pytest.fixture(scope="module")
def postgresql(django_db_setup: None) -> Iterator[PostgreSQL]:
    """Yield a server with the table of sessions, and a user without rights whose name is shop."""
    with PostgreSQL(max_connections="12", superuser_reserved_connections="3") as server:
        yield server


@pytest.fixture(scope="module")
def mariadb(django_db_setup: None) -> Iterator[MariaDB]:
    with MariaDB("--max-connections=10") as server:
        yield server


@contextmanager
def database(
    server: PostgreSQL | MariaDB, open_database: OpenDatabase, **entry: Any
) -> Iterator[Any]:
    """Yield the session class of a site with its sessions in a server, whose table is made."""
    store = POSTGRESQL if isinstance(server, PostgreSQL) else MARIADB
    with site("db", DATABASE_ROUTERS=[ToSessions()]) as session_class:
        with open_database(store.configure(server)):
            call_command("migrate", "django_sessionstores", database=ALIAS, verbosity=0)
        with open_database(store.configure(server) | entry):
            yield session_class


def shop(server: PostgreSQL | MariaDB, options: str = "") -> None:
    """Make the user shop, with the right to connect only."""
    if isinstance(server, PostgreSQL):
        sql(
            server,
            "DROP OWNED BY shop; DROP ROLE shop" if "shop" in roles(server) else "SELECT 1",
            f"CREATE ROLE shop LOGIN PASSWORD '{SECRET}' {options}",
        )
    else:
        sql(server, f"CREATE OR REPLACE USER shop@'%' IDENTIFIED BY '{SECRET}' {options}")


def roles(server: PostgreSQL) -> list[str]:
    with connect(server) as connection:
        return [name for (name,) in connection.execute("SELECT rolname FROM pg_roles")]


SHOP: Final = {"USER": "shop", "PASSWORD": SECRET}


def test_the_connection_limit_of_a_user_of_postgresql(
    postgresql: PostgreSQL, open_database: OpenDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    shop(postgresql, "CONNECTION LIMIT 0")
    with database(postgresql, open_database, **SHOP) as store:
        said_of(store, caplog, "has reached its connection limit (53300", f"DATABASES['{ALIAS}']")


def test_the_connection_limit_of_postgresql(
    postgresql: PostgreSQL, open_database: OpenDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    shop(postgresql)
    with database(postgresql, open_database, **SHOP) as store, ExitStack() as held:
        for _ in range(12):
            held.enter_context(connect(postgresql))
        limit = "has reached its connection limit (53300"
        said_of(store, caplog, limit, "['CONN_MAX_AGE'] to 0", "max_connections")


def test_missing_rights_of_postgresql(
    postgresql: PostgreSQL, open_database: OpenDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """The statement of the message gives them."""
    shop(postgresql)
    with database(postgresql, open_database, **SHOP) as store:
        said = said_of(
            store, caplog, "(42501: permission denied for table django_sessionstores_storedsession)"
        )
        (grant,) = re.findall(r"GRANT .*;", said)
        sql(postgresql, grant)
        save(store)
    assert caplog.messages[-1].startswith("Session store outage is over: the database 'sessions'")


def test_a_user_of_postgresql_that_may_not_connect(
    postgresql: PostgreSQL, open_database: OpenDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    shop(postgresql)
    sql(postgresql, "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
    with database(postgresql, open_database, **SHOP) as store:
        said = said_of(store, caplog, "the rights that sessions need (42501")
        (grant,) = re.findall(r"GRANT .*;", said)
        assert grant == 'GRANT CONNECT ON DATABASE "postgres" TO "shop";'
        sql(postgresql, grant, "GRANT ALL ON django_sessionstores_storedsession TO shop")
        save(store)
    sql(postgresql, "GRANT CONNECT ON DATABASE postgres TO PUBLIC")


def test_a_read_only_postgresql(
    postgresql: PostgreSQL, open_database: OpenDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """A standby answers with the same code. Reads do not make the outage look over."""
    shop(postgresql)
    with database(postgresql, open_database, **SHOP) as store:
        sql(postgresql, "GRANT ALL ON django_sessionstores_storedsession TO shop")
        save(store)
        with connections[ALIAS].cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = on")
        where = f"DATABASES['{ALIAS}']['HOST']"
        said_of(store, caplog, "is read-only (25006", where, doctor=False)
        for _ in range(3):
            assert store("k" * 32).load() == {}
            fail(store)
        with connections[ALIAS].cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = off")
        save(store)
    assert [each.partition(":")[0] for each in caplog.messages] == [
        "Session store outage begins",
        "Session store outage is over",
    ]


@pytest.mark.parametrize(
    ("code", "meaning", "kind"),
    [
        ("53100", "has no space left on its disk", StorageFull),
        ("53200", "has no memory left", StorageUnavailable),
        ("57014", "did not finish a statement in time", StorageUnavailable),
        ("55P03", "did not finish a statement in time", StorageUnavailable),
        ("XX000", "did not answer as it should", StorageUnavailable),
    ],
)
def test_codes_of_postgresql(
    code: str,
    meaning: str,
    kind: type[StorageUnavailable],
    postgresql: PostgreSQL,
    open_database: OpenDatabase,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A trigger raises them, with the data in the text, as some errors of the server have it.

    The text of a statement's error says nothing, because a user may have chosen it.
    """
    with database(postgresql, open_database) as store:
        sql(
            postgresql,
            "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = 'refused {SECRET} {COLOR}'; "
            "END $$",
            "CREATE TRIGGER fail BEFORE INSERT ON django_sessionstores_storedsession "
            "FOR EACH ROW EXECUTE FUNCTION fail()",
        )
        try:
            said_of(store, caplog, f"{meaning} ({code}: ", kind=kind, doctor=False)
        finally:
            sql(postgresql, "DROP TRIGGER fail ON django_sessionstores_storedsession")


MISSING_TABLES: Final = {"42P01", "1146"}


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_missing_table(
    kind: str,
    request: pytest.FixtureRequest,
    open_database: OpenDatabase,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only PostgreSQL has schemas, whose missing rights look the same."""
    server = request.getfixturevalue(kind)
    rename = "ALTER TABLE {} RENAME TO {}"
    names = ("django_sessionstores_storedsession", "renamed")
    with database(server, open_database) as store:
        sql(server, rename.format(*names))
        try:
            said = said_of(store, caplog, "has no table for sessions", "manage.py migrate")
        finally:
            sql(server, rename.format(*reversed(names)))
    (code,) = re.findall(r"\((\w+): ", said)
    assert code in MISSING_TABLES
    assert ("schema" in said) is (kind == "postgresql")


# MariaDB ------------------------------------------------------------------------------------------


def test_the_connection_limit_of_mariadb(
    mariadb: MariaDB, open_database: OpenDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    shop(mariadb)
    with database(mariadb, open_database, **SHOP) as store, ExitStack() as held:
        for _ in range(10):
            held.enter_context(connect(mariadb))
        said_of(store, caplog, "has reached its connection limit (1040", f"DATABASES['{ALIAS}']")


def test_missing_rights_of_mariadb(
    mariadb: MariaDB, open_database: OpenDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """First those to the database, and then those to the table."""
    shop(mariadb)
    with database(mariadb, open_database, **SHOP) as store:
        said = said_of(store, caplog, "the rights that sessions need (1044")
        assert "GRANT SELECT, INSERT, UPDATE, DELETE ON `sessions`.* TO 'shop'@'%';" in said
        sql(mariadb, "GRANT CREATE ON sessions.* TO shop@'%'")
        refusal = "the rights that sessions need (1142: INSERT command denied to user 'shop'"
        said = said_of(store, caplog, refusal, begins=False)
        (grant,) = re.findall(r"GRANT .*;", said)
        sql(mariadb, grant)
        save(store)


@pytest.mark.parametrize(
    ("code", "meaning", "kind"),
    [
        (1290, "is read-only", StorageUnavailable),
        (1836, "is read-only", StorageUnavailable),
        (1021, "has no space left on its disk", StorageFull),
        (1114, "has no space left on its disk", StorageFull),
        (1969, "did not finish a statement in time", StorageUnavailable),
        (1105, "did not answer as it should", StorageUnavailable),
    ],
)
def test_codes_of_mariadb(
    code: int,
    meaning: str,
    kind: type[StorageUnavailable],
    mariadb: MariaDB,
    open_database: OpenDatabase,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with database(mariadb, open_database) as store:
        sql(
            mariadb,
            "CREATE TRIGGER fail BEFORE INSERT ON django_sessionstores_storedsession FOR EACH ROW "
            f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = '{SECRET} {COLOR}'",
        )
        try:
            said_of(store, caplog, f"{meaning} ({code}: ", kind=kind, doctor=False)
        finally:
            sql(mariadb, "DROP TRIGGER fail")


@pytest.mark.django_db
def test_a_mariadb_whose_disk_is_full() -> None:
    """Some errors of a disk have a code that says so only with the number of the system."""
    text = "Error writing file './sessions/t.ibd' (errno: 28 \"No space left on device\")"
    error = OperationalError(1026, text)
    connection = connections["default"]
    connection.ensure_connection()
    assert type(outage_of(connection, error, "sessions", "migrate")) is StorageFull
    other = OperationalError(1026, "Error writing file './sessions/t.ibd' (errno: 5)")
    assert type(outage_of(connection, other, "sessions", "migrate")) is StorageUnavailable


# Without a connection -----------------------------------------------------------------------------

PREFIX: Final = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("FATAL:  the database system is starting up", "is starting up or shutting down (57P03: "),
        ("FATAL:  the database system is shutting down", "is starting up or shutting down (57P03"),
        ("FATAL:  the database system is not accepting connections", "is starting up or shutting"),
        ("FATAL:  the database system is in recovery mode", "is starting up or shutting down"),
        ("FATAL:  sorry, too many clients already", "has reached its connection limit (53300: "),
        ("FATAL:  remaining connection slots are reserved", "has reached its connection limit"),
        ('FATAL:  role "nobody" does not exist', "does not know the user (28000: "),
        ('FATAL:  database "nodb" does not exist', "does not exist on the server (3D000: "),
        ("Connection refused\n\tIs the server running?", "refuses connections (OperationalError"),
        ("connection timeout expired", "did not answer in time (OperationalError: "),
        ('could not translate host name "db" to address', "has a host name that is not known (Ope"),
        (
            "[Errno -2] failed to resolve host 'db'",
            "has a host name that is not known (Operational",
        ),
        ("network is unreachable", "cannot be reached (OperationalError: "),
        (
            "SSL error: certificate verify failed",
            "cannot be reached with these settings for TLS (O",
        ),
        ("SYSTEMFEHLER:  unbekannt", "cannot be connected to (OperationalError: "),
    ],
)
def test_what_postgresql_says_before_there_is_a_connection(text: str, meaning: str) -> None:
    """Its client does not tell the code then."""
    said = connection_error(Unopened(), OperationalError(PREFIX + text))  # type: ignore[arg-type]
    assert said is not None
    assert said.startswith(f"The database 'sessions' (postgresql) {meaning}")
    assert "DATABASES['sessions']" in said


class Unopened:
    """A connection to PostgreSQL that could not be opened."""

    alias, vendor, connection = ALIAS, "postgresql", None

    def __init__(self, **entry: str) -> None:
        self.settings_dict = {"NAME": "shop", "USER": "shop", "PASSWORD": SECRET, **entry}
        self.ops = connections["default"].ops


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"NAME": f"postgresql://shop:{SECRET}@host:1x/db", "PASSWORD": ""},
        {"NAME": f"host=db password={SECRET} foo", "PASSWORD": ""},
    ],
)
def test_an_address_in_place_of_a_name(entry: dict[str, str]) -> None:
    """The client quotes one that it does not understand."""
    connection = Unopened(**entry)
    name = connection.settings_dict["NAME"]
    error = OperationalError(f'invalid port in "{name}", password {SECRET}')
    if entry:
        error = OperationalError(f'invalid port in "{name}"')
    said = connection_error(connection, error)  # type: ignore[arg-type]
    assert said is not None
    assert SECRET not in said
    assert "invalid port" in said


# SQLite -------------------------------------------------------------------------------------------


@contextmanager
def sqlite(open_database: OpenDatabase, path: Any) -> Iterator[Any]:
    entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}
    with (
        site("db", DATABASE_ROUTERS=[ToSessions()]) as store,
        open_database({**entry, "OPTIONS": {"timeout": 0.05}}),
    ):
        call_command("migrate", "django_sessionstores", database=ALIAS, verbosity=0)
        yield store


@pytest.mark.parametrize(
    ("cause", "meaning", "kind"),
    [
        ("PRAGMA max_page_count = 1", "has no space left on its disk", StorageFull),
        ("PRAGMA query_only = on", "is read-only", StorageUnavailable),
    ],
)
def test_sqlite(
    cause: str,
    meaning: str,
    kind: type[StorageUnavailable],
    open_database: OpenDatabase,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Any,
) -> None:
    with sqlite(open_database, tmp_path / "db") as store:
        save(store)
        with connections[ALIAS].cursor() as cursor:
            cursor.execute(cause)
        assert type(fail(store, times=100)) is kind  # When the last page is full.
        assert store("k" * 32).load() == {}
        assert fail(store)
        (said,) = caplog.messages
        assert meaning in said
        assert COLOR not in caplog.text


def test_an_sqlite_whose_file_was_moved(
    open_database: OpenDatabase, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    """A new file takes its place. To make the tables there would make an empty site."""
    with sqlite(open_database, tmp_path / "db") as store:
        save(store)
        connections[ALIAS].close()
        (tmp_path / "db").rename(tmp_path / "moved")
        said = said_of(store, caplog, "(OperationalError: no such table: django_sessionstores_")
    assert said.endswith(
        f"If the site has had data, restore the file DATABASES['{ALIAS}']['NAME']. If it is new, "
        f"run: python manage.py migrate --database={ALIAS}."
    )


def test_an_sqlite_that_is_locked(
    open_database: OpenDatabase, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    with (
        sqlite(open_database, tmp_path / "db") as store,
        closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        said_of(store, caplog, "is locked by another connection", "timeout", doctor=False)
        other.execute("ROLLBACK")
        save(store)
    assert "is over" in caplog.messages[-1]


# Redis --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with Redis(enable_protected_configs="yes") as server:
        yield server


@contextmanager
def configured(server: Redis, **options: str) -> Iterator[None]:
    names = {each: each.replace("_", "-") for each in options}
    before = {each: server.cli("config", "get", names[each]).splitlines()[-1] for each in options}
    for each, value in options.items():
        assert server.cli("config", "set", names[each], value) == "OK"
    try:
        yield
    finally:
        for each, value in before.items():
            server.cli("config", "set", names[each], value)


@contextmanager
def replica(server: Redis) -> Iterator[None]:
    server.cli("replicaof", HOST, "1")
    try:
        yield
    finally:
        server.cli("replicaof", "no", "one")


@contextmanager
def connections_in_use(server: Redis) -> Iterator[None]:
    """Use up all connections, except one that redis-cli closes before the site comes."""
    with configured(server, maxclients="3"), ExitStack() as held:
        for _ in range(3):
            held.enter_context(socket.create_connection((HOST, server.port)))
        yield
        held.close()


@contextmanager
def broken_disk(server: Redis) -> Iterator[None]:
    """A snapshot cannot be saved: its name is that of a folder."""

    def try_to_save(result: str) -> None:
        server.cli("bgsave")
        expected = f"rdb_last_bgsave_status:{result}"
        wait_until(lambda: expected in server.cli("info", "persistence"), "Redis has tried to save")

    (server.folder / "dump").mkdir()
    with configured(server, dbfilename="dump", save="3600 1"):
        try_to_save("err")
        yield
    (server.folder / "dump").rmdir()
    try_to_save("ok")


REDIS_FAULTS: Final[dict[str, tuple[Callable[[Redis], Any], str, type[StorageUnavailable]]]] = {
    "connections": (connections_in_use, "has reached its connection limit", StorageUnavailable),
    "read-only": (replica, "is a read-only replica (READONLY: ", StorageUnavailable),
    "full": (
        lambda server: configured(server, maxmemory="1"),
        "has no memory left for writes (OOM: ",
        StorageFull,
    ),
    "replicas": (
        lambda server: configured(server, min_replicas_to_write="1"),
        "too few of its replicas are connected (NOREPLICAS: ",
        StorageUnavailable,
    ),
    "disk": (broken_disk, "it cannot save to its disk (MISCONF: ", StorageUnavailable),
}


@pytest.mark.parametrize("client", REDIS)
@pytest.mark.parametrize("fault", REDIS_FAULTS)
def test_redis(fault: str, client: str, redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    break_it, meaning, kind = REDIS_FAULTS[fault]
    # A pool for each address: another query makes another one, without a connection.
    location = f"{redis.url()}?socket_timeout=2&client_name={fault}"
    with site("cache", CACHES={ALIAS: {"BACKEND": REDIS[client], "LOCATION": location}}) as store:
        if fault != "connections":
            save(store)
        with break_it(redis):
            said_of(store, caplog, meaning, f"cache alias '{ALIAS}'", kind=kind, doctor=False)
            if fault != "connections":
                # Reads go on, and do not make it look over.
                assert store("k" * 32).load() == {}
                fail(store)
        save(store)
    assert [each.partition(":")[0] for each in caplog.messages] == [
        "Session store outage begins",
        "Session store outage is over",
    ]


def test_missing_rights_of_redis(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """The command of the message gives them."""
    redis.cli("acl", "setuser", "shop", "reset", "on", f">{SECRET}", "+@connection")
    location = redis.url().replace("//", f"//shop:{SECRET}@")
    cache = {"BACKEND": REDIS["redis-cache"], "LOCATION": location}
    with site("cache", CACHES={ALIAS: cache}) as store:
        said = said_of(store, caplog, "the rights that sessions need (NOPERM: ", "'evalsha'")
        assert "At the prompt of redis-cli, run '" in said
        # Another command that is refused is no other reason.
        with pytest.raises(StorageUnavailable, match="'get'"):
            store("k" * 32).load()
        assert not [each for each in caplog.messages if "continues" in each]
        (rights,) = re.findall(r"'ACL SETUSER shop (.*?)'\.", said)
        redis.cli("acl", "setuser", "shop", *rights.split())
        save(store)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (BusyLoadingError("Redis is loading the dataset in memory"), "The server is starting up"),
        (
            ResponseError("LOADING Redis is loading the dataset in memory"),
            "The server is starting up",
        ),
        (MasterDownError("Link with MASTER is down"), "The server is a replica that has lost"),
        (ClusterDownError("CLUSTERDOWN Hash slot not served"), "The cluster misses some"),
        (ResponseError("BUSY Redis is busy running a script."), "The server is busy with a script"),
        # In a script, before Redis 7.
        (
            ResponseError("Error running script: -READONLY You can't write"),
            "The server is a read-only",
        ),
        (ResponseError("something else"), "The server refuses a command"),
        (InvalidResponse("Protocol Error: b'RROR'"), "The server did not answer as Redis does"),
    ],
)
def test_answers_of_redis(error: Exception, meaning: str) -> None:
    assert fault_of(error, text_of(error)).meaning.startswith(meaning)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"OOM command not allowed. script: {'4d1bbf0a' * 5}, on @user_script:60.",
            "OOM command not allowed",
        ),
        (
            f"ERR Error running script (call to f_{'4d1bbf0a' * 5}): @user_script: 7: -READONLY No",
            "READONLY No",
        ),
        ("unknown command 'X', with args beginning with: 'secret'", "unknown command 'X'"),
        ("two\nlines.", "two lines"),
        ("x" * 1000, "x" * 300 + "…"),
    ],
)
def test_what_is_shown_of_an_error_of_redis(text: str, expected: str) -> None:
    assert text_of(ResponseError(text)) == expected


@pytest.mark.parametrize("client", REDIS)
def test_sentinels_that_do_not_answer(client: str, caplog: pytest.LogCaptureFixture) -> None:
    """The client lists what each of them has said, with all of its own settings."""
    sentinels = [(HOST, refusing_port()) for _ in range(3)]
    limits: dict[str, Any] = {"socket_timeout": 1, "retry": Retry(NoBackoff(), 0)}
    options: dict[str, Any] = {
        "CLIENT_CLASS": "django_redis.client.SentinelClient",
        "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
        "SENTINELS": sentinels,
        "SENTINEL_KWARGS": {**limits, "password": SECRET},
        "CONNECTION_POOL_KWARGS": {"retry": Retry(NoBackoff(), 0)},
    }
    if client == "redis-cache":
        options = {
            "pool_class": "redis.sentinel.SentinelConnectionPool",
            "service_name": "shop",
            "sentinel_manager": Sentinel(sentinels, {**limits, "password": SECRET}),
            "retry": Retry(NoBackoff(), 0),
        }
    entry = {"BACKEND": REDIS[client], "LOCATION": "redis://shop/0", "OPTIONS": options}
    option = "SENTINELS" if client == "django-redis" else "sentinel_manager"
    with site("cache", CACHES={ALIAS: entry}) as store:
        said = said_of(
            store,
            caplog,
            "No sentinel answers, or none knows the primary (MasterNotFoundError: No master found "
            "for 'shop': ConnectionError, ConnectionError, ConnectionError)",
            f"CACHES['{ALIAS}']['OPTIONS']['{option}']",
            "in ['LOCATION']",
        )
    assert len(said) < 400


@pytest.mark.parametrize("client", REDIS)
def test_what_one_script_after_the_other_says_is_one_reason(
    client: str, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis names the script that a full server refuses."""
    location = f"{redis.url()}?socket_timeout=2&client_name=scripts"
    with site("cache", CACHES={ALIAS: {"BACKEND": REDIS[client], "LOCATION": location}}) as store:
        session = store()
        session.save()
        with configured(redis, maxmemory="1"):
            session["color"] = COLOR
            for change in (session.save, store().create, lambda: save(store)):
                with pytest.raises(StorageFull):
                    change()
            said = caplog.messages[0]
            assert "script:" not in said
            assert "@user_script" not in said
            assert len(caplog.messages) == 1


# memcached ----------------------------------------------------------------------------------------


def test_the_connection_limit_of_memcached(caplog: pytest.LogCaptureFixture) -> None:
    with Memcached("-c", "30", "-t", "1") as server, ExitStack() as held:
        answer = b""
        while not answer.startswith(b"ERROR"):
            connection = held.enter_context(socket.create_connection((HOST, server.port)))
            connection.sendall(b"version\r\n")
            answer = connection.recv(100)
        cache = {"BACKEND": PYMEMCACHE, "LOCATION": server.url(), "OPTIONS": {"timeout": 0.5}}
        with site("cache", CACHES={ALIAS: cache}) as store:
            # The client may notice that it is disconnected before it has read why.
            said_of(store, caplog, "reached its connection limit, -c", f"CACHES['{ALIAS}']")


def test_the_documentation_knows_the_codes() -> None:
    page = (ROOT / "docs/howto/outages.rst").read_text(encoding="utf-8")
    section = page.partition("Read the message\n")[2].partition("What is logged")[0]
    written = set(re.findall(r"``([0-9A-Z]{3,})``", section)) - {"GRANT"}
    known = {str(code) for each in connection_errors._FAULTS for code in each.codes}
    known |= {str(code) for each in mongodb_faults._FAULTS for code in each.codes}
    known |= {each.code for each in faults._FAULTS}
    known |= {word for each in faults._FAULTS for word in each.words.split("|")}
    known |= MISSING_TABLES
    assert len(written) > 20
    assert written - known == set()
    # Those of Redis are in the documentation without exception.
    assert {each.code for each in faults._FAULTS} - written == {""}
