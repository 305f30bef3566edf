"""WebSockets on one process of uvicorn, and an end of all their sessions in another process.

``python -m tests.benchmark.open_connections redis 2000`` prints how long it takes until the last
one is closed, what the store is asked while nothing happens, and the memory after many connections.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings

from tests.services import HOST, PostgreSQL, Redis, free_port, stop_all, wait_until

CONFIGURATION = "OPEN_CONNECTIONS_SETTINGS"
IDLE_SECONDS = 30
AT_ONCE = 50
"""How many connections are opened at the same time."""
CONNECTS = 10_000


def settings_for(kind: str, server: Any, folder: str) -> dict[str, Any]:
    database: dict[str, Any] = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"{folder}/db.sqlite3",
        "OPTIONS": {"timeout": 30},
    }
    if kind == "postgresql":
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": HOST,
            "PORT": server.port,
            "USER": server.USER,
            "NAME": server.DATABASE,
        }
    cache = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    if kind == "redis":
        cache = {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": server.url(),
        }
    engine = {"redis": "cache", "postgresql": "db", "sqlite": "db", "file": "file"}[kind]
    return {
        "SECRET_KEY": "open connections",
        "ALLOWED_HOSTS": ["*"],
        "USE_TZ": True,
        "DATABASES": {"default": database},
        "CACHES": {"default": cache},
        "SESSION_ENGINE": f"django_sessionstores.backends.{engine}",
        "SESSION_FILE_PATH": folder,
        "SESSIONSTORES": {"TELL_ENDS": True},
        "INSTALLED_APPS": [
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django_sessionstores",
        ],
    }


def set_up() -> None:
    import django

    django_settings.configure(**json.loads(os.environ[CONFIGURATION]))
    django.setup()


# What the processes do ------------------------------------------------------------------------


def serve(port: str) -> None:
    """One process with WebSockets."""
    import uvicorn

    set_up()
    from django_sessionstores.watching import WatchMiddleware

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            return
        while True:
            message = await receive()
            if message["type"] == "websocket.connect":
                await send({"type": "websocket.accept"})
            elif message["type"] == "websocket.disconnect":
                return

    watched = WatchMiddleware(application)

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        async def note(message: Any) -> None:
            if message["type"] == "websocket.close":
                print(time.monotonic(), flush=True)
            await send(message)

        await watched(scope, receive, note)

    uvicorn.run(noting, host=HOST, port=int(port), log_level="warning", backlog=4096)


def make(number: str) -> None:
    """Prints the keys of so many sessions."""
    set_up()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    from django_sessionstores.conf import session_store

    store = session_store(django_settings.SESSION_ENGINE)
    for each in range(int(number)):
        session = store()
        session["_auth_user_id"] = str(each)
        session.save()
        print(session.session_key)


def end() -> None:
    """Prints when all sessions have ended."""
    set_up()
    from django_sessionstores.inventory import Inventory

    began = time.monotonic()
    Inventory().end_everything()
    print(began, time.monotonic())


# The visitors ---------------------------------------------------------------------------------


def child(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.benchmark.open_connections", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def served() -> Iterator[tuple[int, int]]:
    """Yield the port and the id of a process that serves."""
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmark.open_connections", "serve", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: is_open(port), "uvicorn serves")
        yield port, process.pid
    finally:
        process.terminate()
        said, _ = process.communicate()
        print("moment at which the process closed the last one:", said.split()[-1])


def is_open(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def memory_of(pid: int) -> float:
    """Return the megabytes that a process has in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def work_of(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def queries_of(kind: str, server: Any) -> int:
    """Return how many questions the store has answered; 0 if it does not count them."""
    if kind == "redis":
        lines = server.cli("info", "commandstats").splitlines()
        asked = [each for each in lines if each.startswith(("cmdstat_getrange", "cmdstat_get:"))]
        return sum(int(each.split("calls=")[1].split(",")[0]) for each in asked)
    if kind == "postgresql":
        import psycopg

        address = {"host": HOST, "port": server.port, "user": server.USER}
        with psycopg.connect(dbname="postgres", **address) as connection:
            row = connection.execute(
                "SELECT xact_commit FROM pg_stat_database WHERE datname = %s", [server.DATABASE]
            ).fetchone()
        return int(row[0]) if row else 0
    return 0


async def open_all(port: int, keys: list[str]) -> list[Any]:
    from websockets.asyncio.client import connect

    gate = asyncio.Semaphore(AT_ONCE)

    async def one(key: str) -> Any:
        async with gate:
            return await connect(
                f"ws://{HOST}:{port}/",
                additional_headers={"Cookie": f"sessionid={key}"},
                ping_interval=None,
                compression=None,
                open_timeout=60,
            )

    return list(await asyncio.gather(*map(one, keys)))


async def visit(kind: str, server: Any, port: int, pid: int, keys: list[str]) -> None:
    from websockets.exceptions import ConnectionClosed

    memory = memory_of(pid)
    began = time.monotonic()
    sockets = await open_all(port, keys)
    print(f"{len(sockets)} WebSockets opened in {time.monotonic() - began:.1f} s")
    print(f"memory of the process: {memory:.0f} MB before, {memory_of(pid):.0f} MB with them")
    before, worked = await asyncio.to_thread(queries_of, kind, server), work_of(pid)
    await asyncio.sleep(IDLE_SECONDS)
    asked = await asyncio.to_thread(queries_of, kind, server) - before
    if asked:
        print(f"store: {asked * 60 / IDLE_SECONDS:.0f} operations a minute while nothing happens")
    print(f"process: {(work_of(pid) - worked) * 60 / IDLE_SECONDS:.2f} s of work a minute")
    codes = dict[int, int]()

    async def until_closed(socket: Any) -> float:
        with suppress(ConnectionClosed):
            await socket.recv()
        code = socket.close_code
        codes[code] = codes.get(code, 0) + 1
        return time.monotonic()

    worked = work_of(pid)
    closing = asyncio.gather(*map(until_closed, sockets))
    began, ended = map(float, (await asyncio.to_thread(child, "end")).split())
    last = max(await asyncio.wait_for(closing, 60))
    print(f"end all took {ended - began:.2f} s")
    print("moment at which all sessions had ended:", ended)
    print(f"the last WebSocket closed {last - ended:.2f} s after it was done, with {codes}")
    print(f"process: {work_of(pid) - worked:.2f} s of work to close them")


async def reconnect(port: int, pid: int, keys: list[str], connects: int) -> None:
    for total in range(AT_ONCE, connects + 1, AT_ONCE):
        sockets = await open_all(port, [keys[n % len(keys)] for n in range(AT_ONCE)])
        await asyncio.gather(*(each.close() for each in sockets))
        if total in {connects // 5, connects}:
            await asyncio.sleep(1)
            print(f"memory after {total} connections: {memory_of(pid):.0f} MB")


def measure(kind: str, number: str, connects: str = str(CONNECTS)) -> None:
    servers = {"redis": Redis, "postgresql": PostgreSQL}
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.get(kind, nullcontext)() as server,
    ):
        os.environ[CONFIGURATION] = json.dumps(settings_for(kind, server, folder))
        print(kind, number)
        keys = child("make", number).split()
        with served() as (port, pid):
            asyncio.run(visit(kind, server, port, pid, keys))
            keys = child("make", str(AT_ONCE)).split()
            asyncio.run(reconnect(port, pid, keys, int(connects)))
    stop_all()


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    commands = {"serve": serve, "make": make, "end": end}
    if command in commands:
        commands[command](*arguments)
    else:
        measure(command, *arguments)
