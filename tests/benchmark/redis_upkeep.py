"""What a rebuild and a purge of the index on Redis do to logins, and how long scripts take.

The logins are made by a process of their own, as many in a second as are named here.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import Any

from django_sessionstores.core.clock import now
from django_sessionstores.inventory import Inventory
from django_sessionstores.storages.redis import index_scripts, scripts
from django_sessionstores.testing import HOUR, at
from tests.benchmark.figure import Figure
from tests.services import Redis

LOGINS_PER_SECOND = 200
ALONE_SECONDS = 10.0
_BATCH = 1000
_USERS = 1_000_000
_ENTRIES = 20_000
_SLOWER_THAN = 1000
"""Microseconds from which on the server notes a command; of a few sessions it notes none."""


def figures(engine: Any) -> Iterator[Figure]:
    """Yield the figures of logins alone, beside a rebuild and beside a purge.

    Half of the sessions expire before the purge.
    """
    server, inventory = engine.server(Redis), Inventory()
    server.cli("CONFIG", "SET", "slowlog-log-slower-than", str(_SLOWER_THAN))
    server.cli("CONFIG", "SET", "slowlog-max-len", str(_ENTRIES))
    used = _used_memory(server)
    yield Figure("memory of the server", used / 1e6, "MB")
    yield Figure("bytes of a session", used / inventory.count(), "")
    yield from _beside(engine, "alone", lambda: time.sleep(ALONE_SECONDS))
    yield from _beside(engine, "beside a rebuild", inventory.reindex)
    # Of those that have expired, half are counted before a purge has removed them.
    moment = now() + HOUR * 3 // 2
    with at(moment):
        started = time.perf_counter()
        inventory.count()
        seconds = time.perf_counter() - started
        yield Figure("count, half of them expired", seconds * 1000, "ms")
        yield from _beside(engine, "beside a purge", lambda: _purge(inventory, moment))


def _purge(inventory: Inventory, moment: int) -> None:
    while inventory.storage.purge(moment, _BATCH):
        pass


def _beside(engine: Any, what: str, work: Callable[[], Any]) -> Iterator[Figure]:
    server = engine.server(Redis)
    server.cli("SLOWLOG", "RESET")
    with _logins(engine) as times:
        started = time.perf_counter()
        work()
        yield Figure(f"{what}, in all", time.perf_counter() - started, "s")
    each = times[1:] if len(times) > 2 else 2 * times  # The first one opens a connection.
    yield Figure(f"  logins {what}", len(each), "")
    yield Figure("  median of a login", median(each), "ms")
    yield Figure("  p99 of a login", quantiles(each, n=100)[-1], "ms")
    yield Figure("  longest login", max(each), "ms")
    for name, microseconds in _longest(server).items():
        yield Figure(f"  longest {name}", microseconds / 1000, "ms")


def _longest(server: Redis) -> dict[str, int]:
    """Return the microseconds of the longest call of each script that is in the log."""
    from redis import Redis as Client

    names = {
        value.sha: name
        for module in (scripts, index_scripts)
        for name, value in vars(module).items()
        if isinstance(value, scripts.Script)
    }
    found = dict[str, int]()
    with Client.from_url(server.url()) as client:
        for entry in client.slowlog_get(_ENTRIES):
            words = entry["command"].decode(errors="replace").split(" ")
            name = names.get(words[1], "another script") if words[0] == "EVALSHA" else words[0]
            found[name] = max(entry["duration"], found.get(name, 0))
    return found


def _used_memory(server: Redis) -> int:
    lines = dict(line.split(":", 1) for line in server.cli("INFO").splitlines() if ":" in line)
    return int(lines["used_memory"])


@contextmanager
def _logins(engine: Any) -> Iterator[list[float]]:
    """Make logins meanwhile, and return the milliseconds that each takes."""
    times = list[float]()
    receiver, sender = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=_log_in, args=(engine, sender))
    process.start()
    sender.close()
    receiver.recv()  # The process is ready for the signal.
    try:
        yield times
    finally:
        os.kill(process.pid or 0, signal.SIGUSR1)
        times += receiver.recv()
        process.join()


def _log_in(engine: Any, results: Connection) -> None:
    times, is_over = list[float](), list[int]()
    signal.signal(signal.SIGUSR1, lambda number, _: is_over.append(number))
    results.send(None)
    due = time.perf_counter()
    while not is_over:
        session = engine.SessionStore()
        user = str(random.randrange(_USERS))
        session.update({"_auth_user_id": user, "_auth_user_backend": "b", "_auth_user_hash": "h"})
        started = time.perf_counter()
        session.create()
        times.append((time.perf_counter() - started) * 1000)
        due = max(due + 1 / LOGINS_PER_SECOND, started)
        time.sleep(max(0.0, due - time.perf_counter()))
    results.send(times)
