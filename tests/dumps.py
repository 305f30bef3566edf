"""What lies in the stores, read and written past the package, as who broke in there could."""

import base64
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import bson
import msgspec
import redis
from django.db import connections
from pymemcache.client.base import Client as MemcachedClient
from pymongo import MongoClient

from django_sessionstores.storages.base import NAMESPACE, SHORT_NAMESPACE
from django_sessionstores.storages.redis.keys import record_key
from tests.cases import CACHE_TABLE, DATABASE_CACHE, FILE_CACHE, MONGODB, MONGODB_DATABASE
from tests.services import HOST, Memcached, MemcachedNodes, MongoDB, Redis

TABLE = "django_sessionstores_storedsession"
_KNOWN: Final = frozenset({"memory", "file", "db", "cache", "cached_db", "cookie", "mongodb"})
"""The engines whose stores `places` and `dump` read."""


@dataclass(frozen=True)
class Place:
    """Where the bytes of one session lie."""

    name: str
    read: Callable[[], bytes]
    write: Callable[[bytes], object]


def places(engine: Any, session_id: str) -> list[Place]:
    """Return the bytes of a session in each store of the case, in the order of asking.

    Either a packed record, whose payload stands at its end, or a payload alone.
    """
    found = []
    _insist_that_it_is_known(engine)
    if engine.name == "memory":
        found.append(_in_memory(engine.storage._sessions, session_id))
    if engine.name == "file":
        found.append(_file(engine.file_path, session_id))
    if engine.case.cache is FILE_CACHE:
        found.append(_file(Path(engine.cache._dir), session_id))
    elif engine.case.cache is not None:
        found.append(_in_cache(engine, session_id))
    if engine.case.database is not None and not engine.case.registry:
        found.append(_column(engine.database, TABLE, "id", session_id, "payload"))
    if engine.case.other is MONGODB and not engine.case.registry:
        found.append(_in_document(engine, session_id))
    return found


def spoil(engine: Any, session_id: str) -> None:
    """Put something that is not a record in place of what all stores of the case have."""
    for place in places(engine, session_id):
        place.write(b"\xff" * 60)
    if engine.case.database is not None:
        state = f"UPDATE {TABLE} SET state = 9 WHERE id = %s"
        with connections[engine.database].cursor() as cursor:
            cursor.execute(state, [session_id])
    if engine.case.other is MONGODB:
        # Still one that lists find.
        change = {"created": None, "version": "many", "user_agent": 7}
        _documents(engine).update_one({"_id": bytes.fromhex(session_id)}, {"$set": change})


def dump(engine: Any) -> bytes:
    """Return all that the stores hold, names included, with what they did to pack it undone."""
    _insist_that_it_is_known(engine)
    parts: list[bytes] = []
    if engine.name == "memory":
        storage = engine.storage
        for record in (*storage._sessions.values(), *storage._tombstones.values()):
            parts += [record.payload, repr(msgspec.structs.astuple(record)).encode()]
    if engine.name == "file":
        parts += _contents(engine.file_path)
    if engine.case.cache is not None:
        parts += _cached(engine)
    if engine.case.database is not None:
        parts += _rows(engine.database, TABLE)
    if engine.case.other is MONGODB:
        # Documents as they lie on the disk, where ids are bytes.
        for each in _documents(engine).find():
            parts += [bson.encode(each), each["_id"].hex().encode()]
    return b"\n".join(parts)


def _insist_that_it_is_known(engine: Any) -> None:
    """Without this, the places of a new engine would be none, and so would be what it stores."""
    if engine.name not in _KNOWN:
        raise LookupError(
            f"tests/dumps.py does not know where the engine {engine.name!r} stores sessions. Add "
            "its place to places(), what it stores to dump(), and its name to _KNOWN."
        )


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _file(folder: Path, name: str) -> Place:
    (path,) = (path for path in _files(folder) if path.name == name)
    return Place("file", path.read_bytes, path.write_bytes)


def _contents(folder: Path) -> Iterator[bytes]:
    for path in _files(folder):
        yield from (str(path).encode(), path.read_bytes())


def _rows(alias: str, table: str) -> list[bytes]:
    with connections[alias].cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table}")
        columns = [column for row in cursor.fetchall() for column in row]
    return [
        bytes(column) if isinstance(column, bytes | memoryview) else str(column).encode()
        for column in columns
    ]


def _cached(engine: Any) -> Iterator[bytes]:
    if Redis in engine.servers:
        client = _redis(engine)
        for name in client.scan_iter():
            yield from (name, *contents(client, name))
    elif engine.case.cache is DATABASE_CACHE:
        rows = _rows(engine.database, CACHE_TABLE)
        yield from rows
        yield from map(base64.b64decode, rows[1::3])
    elif engine.case.cache is FILE_CACHE:
        yield from _contents(Path(engine.cache._dir))
    elif engine.servers.keys() & {Memcached, MemcachedNodes}:
        for port in engine.server(Memcached, MemcachedNodes).ports:
            with closing(MemcachedClient((HOST, port))) as client:
                for name in _memcached_names(port):
                    yield from (name, client.get(name) or b"")
    else:
        for name, pickled in engine.cache._cache.items():
            yield from (name.encode(), pickled)


def _memcached_names(port: int) -> list[bytes]:
    with socket.create_connection((HOST, port), timeout=5) as connection:
        connection.sendall(b"lru_crawler metadump all\r\n")
        answer = b""
        while not answer.endswith(b"END\r\n") and (part := connection.recv(65_536)):
            answer += part
    fields = [field for line in answer.splitlines() for field in line.split(b" ")]
    return [unquote_to_bytes(field[4:]) for field in fields if field.startswith(b"key=")]


def contents(client: redis.Redis, name: bytes) -> list[bytes]:
    """Return all that Redis holds under a key: a record's, or one of the index."""
    kind = client.type(name)
    if kind == b"set":
        return list(client.smembers(name))
    return client.zrange(name, 0, -1) if kind == b"zset" else [client.get(name)]


def _redis(engine: Any) -> Any:
    return redis.Redis(host=HOST, port=engine.server(Redis).port)


def _documents(engine: Any) -> Any:
    return MongoClient(engine.server(MongoDB).url())[MONGODB_DATABASE]["django_sessionstores"]


def _in_document(engine: Any, session_id: str) -> Place:
    documents, name = _documents(engine), {"_id": bytes.fromhex(session_id)}
    return Place(
        "document",
        lambda: documents.find_one(name)["payload"],
        lambda payload: documents.update_one(name, {"$set": {"payload": payload}}),
    )


def _in_memory(records: dict[str, Any], session_id: str) -> Place:
    def write(payload: bytes) -> None:
        record = records[session_id]
        records[session_id] = msgspec.structs.replace(record, payload=payload)

    return Place("memory", lambda: records[session_id].payload, write)


def _in_cache(engine: Any, session_id: str) -> Place:
    if Redis in engine.servers:
        client = _redis(engine)
        key = record_key(str(engine.cache.make_key(SHORT_NAMESPACE)).encode(), session_id)
        return Place(
            "redis", lambda: client.get(key), lambda data: client.set(key, data, keepttl=True)
        )
    name = f"{NAMESPACE}{session_id}"
    full_name = str(engine.cache.make_key(name))
    if engine.case.cache is DATABASE_CACHE:
        column = _column(engine.database, CACHE_TABLE, "cache_key", full_name, "value")
        return Place(
            "cache table",
            lambda: base64.b64decode(column.read()),
            lambda data: column.write(base64.b64encode(data)),
        )
    if engine.servers.keys() & {Memcached, MemcachedNodes}:
        ports = engine.server(Memcached, MemcachedNodes).ports
        clients = [MemcachedClient((HOST, port), default_noreply=False) for port in ports]
        (node,) = [client for client in clients if client.get(full_name) is not None]
        return Place(
            "memcached", lambda: node.get(full_name), lambda data: node.set(full_name, data)
        )
    return Place(
        "cache", lambda: engine.cache.get(name), lambda data: engine.cache.set(name, data, 3600)
    )


def _column(alias: str, table: str, id_column: str, row_id: str, column: str) -> Place:
    def read() -> bytes:
        with connections[alias].cursor() as cursor:
            cursor.execute(f"SELECT {column} FROM {table} WHERE {id_column} = %s", [row_id])
            ((value,),) = cursor.fetchall()
        return value.encode() if isinstance(value, str) else bytes(value)

    def write(data: bytes) -> None:
        value = data.decode() if column == "value" else data
        with connections[alias].cursor() as cursor:
            cursor.execute(
                f"UPDATE {table} SET {column} = %s WHERE {id_column} = %s", [value, row_id]
            )

    return Place(f"{table}.{column}", read, write)
