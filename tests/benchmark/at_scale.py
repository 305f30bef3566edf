"""Lists, searches and purges among very many sessions."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connections, transaction
from django.test import Client, override_settings

from django_sessionstores.core.clock import now
from django_sessionstores.core.flow import run
from django_sessionstores.core.records import Record, draw_key, pack, session_id
from django_sessionstores.inventory import Inventory
from django_sessionstores.storages.caches.database_cache import DatabaseCacheStorage
from django_sessionstores.storages.mongodb.documents import document_of
from django_sessionstores.storages.mongodb.storage import MongoDBStorage
from django_sessionstores.storages.redis import scripts as redis_scripts
from django_sessionstores.storages.redis.members import arguments_of, keys_of, moves_of
from django_sessionstores.storages.redis.storage import RedisStorage
from django_sessionstores.testing import DAY, HOUR, at
from tests.benchmark import redis_upkeep
from tests.benchmark.figure import Figure

SESSIONS_OF_A_USER = 5
PAGE = 100
BATCH = 5000
PAYLOAD = 190
"""The bytes of an encrypted session with a login and a small cart."""
_TURNS = 20
_MIDDLEWARE = [
    "django_sessionstores.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
_LOGINS_ALONE = 2.0
"""Seconds."""


def _statistics() -> None:
    call_command("sessions", "stats", stdout=io.StringIO())


def figures(engine: Any, number: int) -> Iterator[Figure]:
    """Yield each figure when it is known. Half of the sessions expire in an hour, the others in a
    day."""
    sought = get_user_model()._default_manager.create(username=f"sought-{draw_key()[:6]}")
    some_user = str(sought.pk)
    yield Figure("filling", _once(lambda: _fill(engine, number, sought.pk)), "s")
    inventory = Inventory()
    yield Figure("making an index", _once(inventory.reindex), "s")
    before = _reset_memory()
    yield Figure("first list", _once(inventory.list), "s")
    yield Figure("first page", _median(lambda: inventory.list(limit=PAGE)), "ms")
    yield Figure("page in the middle", _median(_page_in_the_middle(inventory)), "ms")
    yield Figure("a user's sessions", _median(lambda: inventory.list(user=some_user)), "ms")
    yield Figure("count of a user", _median(lambda: inventory.count(user=some_user)), "ms")
    yield Figure("count of all", _once(inventory.count) * 1000, "ms")
    yield Figure("memory for it", _memory() - before, "MB")
    yield Figure("manage.py sessions stats", _once(_statistics), "s")
    yield from _pages(sought)
    if isinstance(inventory.storage, RedisStorage):
        yield from redis_upkeep.figures(engine)
        return
    # Late enough for half of them, and too early for logins to clear them out of Redis' index.
    storage, moment = inventory.storage, now() + HOUR * 3 // 2
    with at(moment):
        with _logins(engine) as logins:
            time.sleep(_LOGINS_ALONE)
            alone = len(logins)
            batches = list(iter(lambda: _timed(lambda: storage.purge(moment, 1000)), None))
        yield Figure("purge of half of them", sum(batches), "s")
        yield Figure("its longest batch", max(batches, default=0) * 1000, "ms")
        # The first is the one that opens a connection.
        for what, times in (("before it", logins[1:alone]), ("beside it", logins[alone:])):
            if times:  # Of a few sessions a purge takes no time.
                yield Figure(f"{len(times)} logins {what}, median", median(times), "ms")
                yield Figure(f"longest login {what}", max(times), "ms")


@contextmanager
def _logins(engine: Any) -> Iterator[list[float]]:
    """Sessions that begin meanwhile, one after the other, and the milliseconds that each takes."""
    times: list[float] = []
    done = Event()

    def log_in() -> None:
        session = engine.SessionStore()
        session.update({"_auth_user_id": "0", "_auth_user_backend": "b", "_auth_user_hash": "h"})
        session.create()

    def log_in_again_and_again() -> None:
        while not done.is_set():
            times.append(_once(log_in) * 1000)
            done.wait(0.005)
        connections.close_all()

    thread = Thread(target=log_in_again_and_again)
    thread.start()
    try:
        yield times
    finally:
        done.set()
        thread.join()


def _pages(sought: Any) -> Iterator[Figure]:
    """Yield the pages of the admin, through all of its middleware."""
    root = get_user_model()._default_manager.create(
        username=f"root-{draw_key()[:6]}", is_staff=True, is_superuser=True
    )
    with override_settings(MIDDLEWARE=_MIDDLEWARE, ALLOWED_HOSTS=["*"]):
        browser = Client()
        browser.force_login(root)
        some_id = Inventory().list(user=sought).sessions[0].id

        def get(page: str) -> None:
            assert browser.get(f"/admin/django_sessionstores/session/{page}").status_code == 200

        for what, page in {
            "list": "",
            "search for a user": f"?q={sought.username}",
            "search for an address": "?q=192.0.2.1",
            "search for an address that none has": "?q=192.0.2.2",
            "search for the beginning of an id": f"?q={some_id[:12]}",
            "filter by last activity": "?idle=24",
            "overview": "overview/",
            "one session": f"{some_id}/change/",
        }.items():
            yield Figure(f"admin, {what}", _median(partial(get, page)), "ms")


def _fill(engine: Any, number: int, first_user: int) -> None:
    records = _records(number, first_user)
    while batch := list(islice(records, BATCH)):
        if isinstance(engine.storage, RedisStorage):
            store_without_index(engine, batch)
        else:
            store(engine, batch)


def _records(number: int, first_user: int) -> Iterator[Record]:
    moment = now()
    payload = bytes(range(PAYLOAD))
    for n in range(number):
        yield Record(
            id=session_id(draw_key()),
            payload=payload,
            user_id=str(first_user + n // SESSIONS_OF_A_USER),
            created=moment,
            last_activity=moment,
            expires=moment + n % HOUR + (DAY if n % 2 else HOUR),
            ip="192.0.2.1",
            user_agent="Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        )


def store(engine: Any, records: list[Record]) -> None:
    """Many at once where the store has a way: filling it is not what is measured."""
    storage, moment = engine.storage, now()
    if engine.name == "db":
        from django_sessionstores.models import StoredSession
        from django_sessionstores.storages.sql.rows import FIELDS, row_of

        StoredSession._base_manager.using(engine.database).bulk_create(
            [StoredSession(**dict(zip(FIELDS, row_of(each), strict=True))) for each in records]
        )
    elif isinstance(storage, DatabaseCacheStorage):
        with transaction.atomic(using=engine.database):
            for each in records:
                storage.create(each, moment)
    elif isinstance(storage, RedisStorage):
        prefix = storage._server.prefix
        calls = []
        for each in records:
            by_index = moves_of(storage, prefix, None, each, moment)
            moves = [*by_index.of_session, *by_index.of_user]
            keys = (storage._server.key(each.id), *keys_of(moves))
            arguments = (pack(each), each.expires - moment, *arguments_of(moves))
            calls.append((redis_scripts.CREATE, keys, arguments))
        run(storage._server.evaluate_all(calls))
    elif isinstance(storage, MongoDBStorage):
        documents = [document_of(each) for each in records]
        storage._server.ask("insert_many", documents, seconds=600, ordered=False)
    else:
        for each in records:
            storage.create(each, moment)


def store_without_index(engine: Any, records: list[Record]) -> None:
    """Store many sessions in Redis for which an index is made later."""
    server, moment = engine.storage._server, now()
    commands = [
        ("SET", server.key(each.id), pack(each), "PX", each.expires - moment) for each in records
    ]
    server.ask_all(commands)


def _page_in_the_middle(inventory: Inventory) -> Callable[[], Any]:
    cursor = ""
    for _ in range(100):
        cursor = inventory.list(limit=PAGE, cursor=cursor).next or cursor
    return lambda: inventory.list(limit=PAGE, cursor=cursor)


def _once(do: Callable[[], Any]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def _timed(purge: Callable[[], int]) -> float | None:
    started = time.perf_counter()
    return time.perf_counter() - started if purge() else None


def _median(do: Callable[[], Any]) -> float:
    return sorted(_once(do) for _ in range(_TURNS))[_TURNS // 2] * 1000


def _reset_memory() -> float:
    """Reset the peak of the memory of the process, and return its present use in megabytes.

    This works on Linux only.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return _memory()


def _memory() -> float:
    """Return the peak of the memory of the process since the reset, in megabytes."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
