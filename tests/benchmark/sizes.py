"""The bytes that sessions take in their store, indexes included, beside Django's engine."""

import re
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import cycle
from typing import Any, TypeAlias

from django.conf import settings
from django.db import connections

from django_sessionstores import conf
from django_sessionstores.core.clock import now
from django_sessionstores.core.records import Record, draw_key, next_version, session_id
from django_sessionstores.testing import DAY
from tests.benchmark.at_scale import SESSIONS_OF_A_USER, store
from tests.benchmark.figure import Figure
from tests.benchmark.measure import djangos_engine
from tests.benchmark.operations import BACKEND, VISIT
from tests.cases import Engine
from tests.services import HOST, Memcached, PostgreSQL, Redis

Data: TypeAlias = Callable[[int], dict[str, Any]]

_BATCH = 1000
_BLOCK = 512
"""The bytes in which systems count what a file takes on the disk."""
_TABLES = ("django_session", "django_sessionstores_storedsession")
_FIRST_USER = 10_000_000
_LIFETIME = 14 * DAY
_WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
_LIKE_IOS = "like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
_IN_APP = "Mozilla/5.0 (Linux; Android 14; SM-S918B Build/UP1A.231005.007; wv)"
_MOBILE = "Mobile/15E148 Safari/604.1"
_EDGE = "Safari/537.36 Edg/134.0.0.0"
USER_AGENTS = (
    f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_WEBKIT} Chrome/135.0.0.0 Safari/537.36",
    f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_3_2 {_LIKE_IOS} Version/18.3.1 {_MOBILE}",
    f"Mozilla/5.0 (Linux; Android 10; K) {_WEBKIT} Chrome/135.0.0.0 Mobile Safari/537.36",
    f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {_WEBKIT} Chrome/134.0.0.0 Safari/537.36",
    f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_WEBKIT} Chrome/134.0.0.0 {_EDGE}",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:137.0) Gecko/20100101 Firefox/137.0",
    f"{_IN_APP} {_WEBKIT} Version/4.0 Chrome/134.0.6998.135 Mobile Safari/537.36",
    "Shop/7.3.1 (iPhone; iOS 18.3.2; Scale/3.00) CFNetwork/3826.400.120 Darwin/24.3.0",
)
"""Those of usual browsers, of a page within an app, and of an app."""


def is_measured(engine: Engine) -> bool:
    """Return whether the bytes of a store are known here."""
    servers = engine.servers.values()
    return engine.name == "file" or any(
        isinstance(each, Redis | Memcached | PostgreSQL) and len(engine.case.stores) == 1
        for each in servers
    )


def figures(engine: Engine, number: int) -> Iterator[Figure]:
    """Yield the bytes of each kind of session, with so many sessions of that kind alone."""
    for what, data in (("login", _login), ("login and small cart", _cart)):
        djangos = partial(_fill_djangos, engine, number, data)
        yield Figure(f"{what}, Django's engine", _measure(engine, djangos) / number, "bytes")
        for name, has_client in ((what, False), (f"{what}, address and browser", True)):
            fill = partial(_fill, engine, number, data, has_client)
            yield Figure(name, _measure(engine, fill) / number, "bytes")


def _login(number: int) -> dict[str, Any]:
    return {
        "_auth_user_id": str(_FIRST_USER + number // SESSIONS_OF_A_USER),
        "_auth_user_backend": BACKEND,
        "_auth_user_hash": secrets.token_hex(32),
    }


def _cart(number: int) -> dict[str, Any]:
    return _login(number) | {"cart": VISIT["cart"]}


def _measure(engine: Engine, fill: Callable[[], None]) -> int:
    """Return the bytes that a store takes for what is filled into it."""
    _empty(engine)
    before = _bytes(engine)
    fill()
    return _bytes(engine) - before


def _empty(engine: Engine) -> None:
    engine.empty()
    if engine.name == "db":
        with connections[engine.database].cursor() as cursor:
            cursor.execute(f"TRUNCATE {', '.join(_TABLES)}")  # A deleted row leaves its place.
    for server in engine.servers.values():
        if isinstance(server, Memcached):
            _remove_flushed(server.port)


def _remove_flushed(port: int) -> None:
    """Let memcached free what was flushed, which it does when it meets it."""
    time.sleep(1.1)  # It counts in seconds.
    _memcached(port).raw_command(b"lru_crawler crawl all")
    before = -1
    while (after := _bytes_of_slabs(port)) != before:
        before = after
        time.sleep(0.5)


def _fill(engine: Engine, number: int, data: Data, has_client: bool) -> None:
    codec, agents = conf.codec(), cycle(USER_AGENTS)
    for first in range(0, number, _BATCH):
        moment, records = now(), list[Record]()
        for each in range(first, min(number, first + _BATCH)):
            record_id, values = session_id(draw_key()), data(each)
            records.append(
                Record(
                    id=record_id,
                    payload=codec.encrypt(record_id, codec.serialize(values)),
                    version=next_version(),
                    user_id=values["_auth_user_id"],
                    created=moment,
                    last_activity=moment,
                    expires=moment + _LIFETIME + each,
                    ip=f"203.0.113.{each % 256}" if has_client else "",
                    user_agent=next(agents) if has_client else "",
                    site=engine.storage.sites()[0],
                )
            )
        store(engine, records)


def _fill_djangos(engine: Engine, number: int, data: Data) -> None:
    kind: Any = djangos_engine(engine.case)
    for first in range(0, number, _BATCH):
        values = [data(each) for each in range(first, min(number, first + _BATCH))]
        if engine.name == "cache":
            # As its ``save()`` stores each of them.
            items = {f"{kind.cache_key_prefix}{draw_key()}": each for each in values}
            engine.cache.set_many(items, settings.SESSION_COOKIE_AGE)
        elif engine.name == "db":
            expires = datetime.now(UTC) + timedelta(seconds=settings.SESSION_COOKIE_AGE)
            model = kind.get_model_class()
            rows = [
                model(session_key=draw_key(), session_data=kind().encode(each), expire_date=expires)
                for each in values
            ]
            model.objects.using(engine.database).bulk_create(rows)
        else:
            for each in values:
                session = kind()
                session.update(each)
                session.save()


def _bytes(engine: Engine) -> int:
    if engine.name == "file":
        paths = [engine.file_path, *engine.file_path.rglob("*")]
        return sum(path.lstat().st_blocks * _BLOCK for path in paths)
    if engine.name == "db":
        sizes = " + ".join(f"pg_total_relation_size('{each}')" for each in _TABLES)
        with connections[engine.database].cursor() as cursor:
            cursor.execute(f"SELECT {sizes}")
            return int(cursor.fetchone()[0])
    server = engine.server()
    if isinstance(server, Redis):
        answer = server.cli("INFO", "memory")
        return int(re.search(r"used_memory:(\d+)", answer)[1])  # type: ignore[index]
    return _bytes_of_slabs(server.port)


def _bytes_of_slabs(port: int) -> int:
    """Return the bytes of the chunks of memcached that are in use.

    An item takes a whole chunk.
    """
    found = _memcached(port).stats("slabs")
    classes = {name.split(b":")[0] for name in found if b":" in name}
    return sum(found[each + b":used_chunks"] * found[each + b":chunk_size"] for each in classes)


def _memcached(port: int) -> Any:
    from pymemcache.client.base import Client

    return Client((HOST, port))
