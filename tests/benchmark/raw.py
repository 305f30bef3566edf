"""The bare clients: the same bytes to the same store, with nothing around them.

Each uses its client as its own documentation does, over one connection that is kept. None does
more than an engine has to: no lock, no comparison of versions beyond the store's own.
"""

import datetime
import os
import shutil
import sqlite3
from collections.abc import Callable
from typing import Any

from django.core.cache import caches
from django.db import connections

from tests.cases import CACHE_ALIAS, MONGODB_DATABASE, Engine
from tests.services import HOST, MariaDB, Memcached, MemcachedNodes, MongoDB, PostgreSQL, Redis

LIFETIME = 14 * 24 * 60 * 60
"""In seconds, as Django's default for sessions."""
_FAR_AWAY = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)


class Client:
    """One value per key, each of the size that the engine stores."""

    def __init__(self, value: bytes) -> None:
        self.value = value

    def read(self, key: str) -> object:
        raise NotImplementedError

    def create(self, key: str) -> object:
        raise NotImplementedError

    def update(self, key: str) -> object:
        """After `read` of the same key."""
        raise NotImplementedError

    def delete(self, key: str) -> object:
        raise NotImplementedError

    def rotate(self, key: str) -> object:
        """Create a value under another key and delete this one."""
        self.create(f"{key}n")
        return self.delete(key)

    def close(self) -> None:
        pass


class File(Client):
    def __init__(self, value: bytes, folder: str) -> None:
        super().__init__(value)
        self.folder = folder
        os.makedirs(folder, exist_ok=True)

    def read(self, key: str) -> object:
        fd = os.open(f"{self.folder}/{key}", os.O_RDONLY)
        data = os.read(fd, 65_536)
        os.close(fd)
        return data

    def create(self, key: str) -> object:
        new = f"{self.folder}/new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(fd, self.value)
        os.close(fd)
        return os.replace(new, f"{self.folder}/{key}")

    update = create

    def delete(self, key: str) -> object:
        return os.unlink(f"{self.folder}/{key}")

    def close(self) -> None:
        shutil.rmtree(self.folder)


class RedisPy(Client):
    def __init__(self, value: bytes, url: str) -> None:
        import redis

        super().__init__(value)
        self.client: Any = redis.Redis.from_url(url)

    def read(self, key: str) -> object:
        return self.client.get(key)

    def create(self, key: str) -> object:
        return self.client.set(key, self.value, ex=LIFETIME)

    update = create

    def delete(self, key: str) -> object:
        return self.client.delete(key)

    def rotate(self, key: str) -> object:
        pipeline = self.client.pipeline(transaction=False)
        return pipeline.set(f"{key}n", self.value, ex=LIFETIME).delete(key).execute()

    def close(self) -> None:
        self.client.close()


class Pymemcache(Client):
    def __init__(self, value: bytes, address: str) -> None:
        from pymemcache.client.base import Client as MemcachedClient

        super().__init__(value)
        self.client: Any = MemcachedClient(address, default_noreply=False, no_delay=True)

    def read(self, key: str) -> object:
        return self.client.get(key)

    def create(self, key: str) -> object:
        return self.client.add(key, self.value, expire=LIFETIME)

    def update(self, key: str) -> object:
        return self.client.set(key, self.value, expire=LIFETIME)

    def delete(self, key: str) -> object:
        return self.client.delete(key)

    def close(self) -> None:
        self.client.close()


class PymemcacheCas(Pymemcache):
    """For an update that must not overwrite another: the token comes with ``gets`` only."""

    def read(self, key: str) -> object:
        found = self.client.gets(key)
        self.token = found[1]
        return found

    def update(self, key: str) -> object:
        return self.client.cas(key, self.value, self.token, expire=LIFETIME)


class Sql(Client):
    """A table such as sessions need, and no column more."""

    TABLE = "benchmark_raw"

    def __init__(self, value: bytes, connection: Any, binary: str, mark: str = "%s") -> None:
        super().__init__(value)
        self.connection = connection
        self._execute(f"DROP TABLE IF EXISTS {self.TABLE}")
        self._execute(
            f"CREATE TABLE {self.TABLE} (id varchar(41) PRIMARY KEY, payload {binary} NOT NULL, "
            "version bigint NOT NULL, expires bigint NOT NULL)"
        )
        self._execute(f"CREATE INDEX {self.TABLE}_expires ON {self.TABLE} (expires)")
        self._select = f"SELECT payload, version FROM {self.TABLE} WHERE id = {mark}"
        self._insert = f"INSERT INTO {self.TABLE} VALUES ({mark}, {mark}, 1, 1)"
        self._update = (
            f"UPDATE {self.TABLE} SET payload = {mark}, version = version + 1 WHERE id = {mark}"
        )
        self._delete = f"DELETE FROM {self.TABLE} WHERE id = {mark}"

    def _execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        cursor = self.connection.cursor()
        cursor.execute(sql, parameters)
        cursor.close()

    def read(self, key: str) -> object:
        cursor = self.connection.cursor()
        cursor.execute(self._select, (key,))
        row = cursor.fetchone()
        cursor.close()
        return row

    def create(self, key: str) -> object:
        return self._execute(self._insert, (key, self.value))

    def update(self, key: str) -> object:
        return self._execute(self._update, (self.value, key))

    def delete(self, key: str) -> object:
        return self._execute(self._delete, (key,))

    def close(self) -> None:
        self._execute(f"DROP TABLE {self.TABLE}")
        self.connection.close()


class DjangoCache(Client):
    """A cache that has no client but Django's API."""

    def __init__(self, value: bytes, cache: Any) -> None:
        super().__init__(value)
        self.cache = cache

    def read(self, key: str) -> object:
        return self.cache.get(key)

    def create(self, key: str) -> object:
        return self.cache.add(key, self.value, LIFETIME)

    def update(self, key: str) -> object:
        return self.cache.set(key, self.value, LIFETIME)

    def delete(self, key: str) -> object:
        return self.cache.delete(key)


class Mongo(Client):
    """A collection such as sessions need, and no field more."""

    COLLECTION = "benchmark_raw"

    def __init__(self, value: bytes, url: str) -> None:
        from pymongo import MongoClient

        super().__init__(value)
        self.version = 0
        self.client: Any = MongoClient(url)
        self.collection = self.client[MONGODB_DATABASE][self.COLLECTION]
        self.collection.drop()
        self.collection.create_index("expires", expireAfterSeconds=60)

    def read(self, key: str) -> object:
        return self.collection.find_one({"_id": key})

    def create(self, key: str) -> object:
        return self.collection.insert_one(self._document(key))

    def update(self, key: str) -> object:
        return self.collection.replace_one({"_id": key}, self._document(key))

    def delete(self, key: str) -> object:
        return self.collection.delete_one({"_id": key})

    def rotate(self, key: str) -> object:
        """Do it in one command: the new document, and one that is left under the old key."""
        return self.collection.bulk_write(self._rotation(key))

    def _rotation(self, key: str) -> list[Any]:
        from pymongo import ReplaceOne

        new = self._document(f"{key}n")
        left = {**self._document(key), "payload": b""}
        return [
            ReplaceOne({"_id": new["_id"]}, new, upsert=True),
            ReplaceOne({"_id": key}, left),
        ]

    def _document(self, key: str) -> dict[str, Any]:
        # To replace a document by an equal one is not a write.
        self.version += 1
        return {"_id": key, "payload": self.value, "version": self.version, "expires": _FAR_AWAY}

    def close(self) -> None:
        self.collection.drop()
        self.client.close()


class Layers(Client):
    """A cache in front of a database: what is written goes to both."""

    def __init__(self, cache: Client, database: Client) -> None:
        super().__init__(cache.value)
        self.cache, self.database = cache, database

    def read(self, key: str) -> object:
        return self.cache.read(key)

    def create(self, key: str) -> object:
        self.database.create(key)
        return self.cache.create(key)

    def update(self, key: str) -> object:
        self.database.update(key)
        return self.cache.update(key)

    def delete(self, key: str) -> object:
        self.database.delete(key)
        return self.cache.delete(key)

    def close(self) -> None:
        self.cache.close()
        self.database.close()


class Registered(Layers):
    """A cache and a database that has a row for each of its entries."""

    def read(self, key: str) -> object:
        self.database.read(key)
        return self.cache.read(key)

    def update(self, key: str) -> object:
        return self.cache.update(key)


def _postgresql(value: bytes, server: PostgreSQL) -> Client:
    import psycopg

    # As Django connects: no prepared statements, which a pooler in between would lose.
    connection = psycopg.connect(server.url(), autocommit=True, prepare_threshold=None)
    return Sql(value, connection, "bytea")


def _mariadb(value: bytes, server: MariaDB) -> Client:
    import pymysql

    connection = pymysql.connect(
        host=HOST, port=server.port, user=server.USER, database=server.DATABASE, autocommit=True
    )
    return Sql(value, connection, "longblob")


def _sqlite(value: bytes, engine: Engine) -> Client:
    path = connections[engine.database].settings_dict["NAME"]
    return Sql(value, sqlite3.connect(path, isolation_level=None, timeout=30), "blob", "?")


def _mongodb(value: bytes, engine: Engine) -> Client:
    return Mongo(value, engine.server(MongoDB).url())


def _cache(value: bytes, engine: Engine, updates: bool) -> Client:
    assert engine.case.cache is not None
    kind = engine.case.cache.server
    if kind is None:
        return DjangoCache(value, caches[CACHE_ALIAS])
    if kind is Redis:
        return RedisPy(value, engine.server(kind).url())
    assert kind in {Memcached, MemcachedNodes}
    client = PymemcacheCas if updates else Pymemcache
    # The keys of one node stand for all: choosing the node is the engine's own cost.
    return client(value, engine.server(kind).addresses[0])


def _database(value: bytes, engine: Engine) -> Client:
    if engine.case.other is not None:
        return _mongodb(value, engine)
    assert engine.case.database is not None
    kind = engine.case.database.server
    if kind is None:
        return _sqlite(value, engine)
    connect: Callable[[bytes, Any], Client] = {PostgreSQL: _postgresql, MariaDB: _mariadb}[kind]
    return connect(value, engine.server(kind))


def client(engine: Engine, value: bytes, calls: tuple[str, ...]) -> Client | None:
    """Return the bare client for these calls; ``None`` for an engine without a store.

    For sessions in cookies it is that of their registry.
    """
    case = engine.case
    if engine.name == "file":
        return File(value, f"{engine.file_path}/raw")
    if not case.stores:
        return None
    if case.cache is None:
        return _database(value, engine)
    # In a layered store the database decides who wins, so the cache is simply written.
    is_registered = engine.name == "cache" and case.database is not None
    updates = "update" in calls and (len(case.stores) == 1 or is_registered)
    cache = _cache(value, engine, updates)
    if len(case.stores) == 1:
        return cache
    return (Registered if is_registered else Layers)(cache, _database(value, engine))
