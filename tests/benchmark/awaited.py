"""The operations in async views, beside the awaited calls of the store's client, in one event loop.

The requests go through the package's middleware, because Django's takes two threads for each. No
engine of Django's takes part, because none has an async driver.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter_ns
from typing import Any

from django.contrib import auth
from django.contrib.auth.models import update_last_login
from django.contrib.auth.signals import user_logged_in
from django.http import HttpRequest, HttpResponse

from django_sessionstores.middleware import SessionMiddleware
from tests.benchmark import measure, raw
from tests.benchmark.measure import BARE, CLIENT, OURS, Contender, Figures
from tests.benchmark.operations import BACKEND, LOGGED_IN, OPERATIONS, VISIT, Operation
from tests.cases import MONGODB_DATABASE, Case, Engine
from tests.services import MongoDB, Redis

LAST_LOGIN = "update_last_login"


async def untouched(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


async def read(request: HttpRequest) -> HttpResponse:
    await request.session.aget("count")
    return HttpResponse()


async def first_write(request: HttpRequest) -> HttpResponse:
    await request.session.aupdate(VISIT)
    return HttpResponse()


async def read_and_write(request: HttpRequest) -> HttpResponse:
    await request.session.aset("count", await request.session.aget("count") + 1)
    return HttpResponse()


async def login(request: HttpRequest) -> HttpResponse:
    await auth.alogin(request, request.visitor, BACKEND)  # type: ignore[attr-defined]
    return HttpResponse()


async def logout(request: HttpRequest) -> HttpResponse:
    await request.session.aget("_auth_user_id")
    await auth.alogout(request)
    return HttpResponse()


VIEWS: dict[str, Any] = {
    "untouched": untouched,
    "read": read,
    "first write": first_write,
    "read and write": read_and_write,
    "login": login,
    "logout": logout,
}


def figures(engine: Engine, rounds: int) -> Iterator[tuple[Operation, Figures]]:
    """Time each operation on the case in force. Only for stores with a client of `CLIENTS`."""
    # Its receiver would go through a thread in each login, with or without a session.
    user_logged_in.disconnect(dispatch_uid=LAST_LOGIN)
    try:
        with asyncio.Runner() as runner:
            for operation in OPERATIONS:
                yield operation, _figures(engine, operation, rounds, runner)
    finally:
        user_logged_in.connect(update_last_login, dispatch_uid=LAST_LOGIN)


def _figures(engine: Engine, operation: Operation, rounds: int, runner: asyncio.Runner) -> Figures:
    awaited: Any = replace(operation, view=VIEWS[operation.name])
    taking_part = {
        OURS: measure.through_middleware(engine.SessionStore, awaited, SessionMiddleware),
        BARE: measure.without_sessions(awaited),
    }
    client = None
    if operation.calls:
        (kind,) = engine.servers
        client = CLIENTS[kind](measure.stored_value(engine), engine.server().url())
        taking_part[CLIENT] = _through_client(client, operation, runner)

    async def slice_of(do: Callable[[Any], Any], subjects: list[Any]) -> int:
        start = perf_counter_ns()
        for subject in subjects:
            await do(subject)
        return perf_counter_ns() - start

    try:
        times = measure.take_turns(
            taking_part, rounds, lambda do, subjects: runner.run(slice_of(do, subjects))
        )
    finally:
        if client is not None:
            runner.run(client.close())
    return measure.figures_of(times)


def _through_client(client: Any, operation: Operation, runner: asyncio.Runner) -> Contender:
    keys = (f"{number:040x}" for number in itertools.count())
    calls = [getattr(client, name) for name in operation.calls]

    def stored() -> str:
        key = next(keys)
        runner.run(client.create(key))
        return key

    kept = stored() if operation.before == LOGGED_IN and not operation.ends_session else None

    def prepare() -> str:
        return next(keys) if operation.before is None else kept or stored()

    async def do(key: str) -> None:
        for call in calls:
            await call(key)

    return Contender(prepare, do)


class AwaitedMongo(raw.Mongo):
    """See `raw.Mongo`. Its methods return what the client awaits."""

    def __init__(self, value: bytes, url: str) -> None:
        from pymongo import AsyncMongoClient

        super().__init__(value, url)
        self.client.close()
        self.client = AsyncMongoClient(url)
        self.collection = self.client[MONGODB_DATABASE][self.COLLECTION]

    async def close(self) -> None:  # type: ignore[override]
        await self.collection.drop()
        await self.client.close()


class AwaitedRedis(raw.RedisPy):
    """See `raw.RedisPy`. Its methods return what the client awaits."""

    def __init__(self, value: bytes, url: str) -> None:
        from redis import asyncio as redis

        super().__init__(value, url)
        super().close()
        self.client = redis.Redis.from_url(url)

    async def close(self) -> None:  # type: ignore[override]
        await self.client.aclose()


CLIENTS: dict[Any, Callable[[bytes, str], Any]] = {MongoDB: AwaitedMongo, Redis: AwaitedRedis}
"""The bare clients by the kind of server."""


def is_native(case: Case) -> bool:
    """Return whether the engine of a case awaits such a client, and nothing else."""
    return len(case.stores) == 1 and case.stores[0].server in CLIENTS and not case.registry
