"""Names of other packages that these do not document: each is listed, and is as it was read.

The sizes of the package's own modules, classes and functions are limited as well.

A failure here means that a new version of a package has changed one of them. Read its code, correct
the module that uses it, and then the version in ``CONTRIBUTING.rst``.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import weakref
from collections.abc import Iterator
from http.cookies import Morsel
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from asgiref.sync import SyncToAsync
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.core.asgi import get_asgi_application
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.management import BaseCommand
from django.core.signals import request_finished, request_started
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.test import override_settings
from django.urls import path

from django_sessionstores.core import login_keys
from tests import ROOT
from tests.services import Memcached, Redis, shared_service

PACKAGE: Final = ROOT / "django_sessionstores"
LISTED: Final = (ROOT / "CONTRIBUTING.rst").read_text(encoding="utf-8")


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for file in PACKAGE.rglob("*.py"):
        yield file, ast.parse(file.read_text(encoding="utf-8"))


def names_defined(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) in {"self", "cls"}
        ):
            yield node.attr


def names_used(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"getattr", "hasattr"}
            and isinstance(node.args[1], ast.Constant)
        ):
            yield str(node.args[1].value)


# The list of the options: it has one property for each, and nothing else.
LISTS = {"options.py: Settings"}


def test_modules_classes_and_functions_stay_short() -> None:
    """The limits in lines. What grows beyond them does more than one thing: divide it."""
    too_long = []
    for file, tree in modules():
        if len(file.read_text(encoding="utf-8").splitlines()) > 600:
            too_long.append(file.name)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                limit = 350 if isinstance(node, ast.ClassDef) else 60
                if (node.end_lineno or 0) - node.lineno >= limit:
                    too_long.append(f"{file.name}: {node.name}")
    assert set(too_long) == LISTS


def test_each_private_name_of_others_is_listed() -> None:
    """One that has the same name as one of the package's own is not found by this."""
    defined, used = set[str](), set[str]()
    for _, tree in modules():
        defined |= set(names_defined(tree))
        used |= set(names_used(tree))
    # Models, named tuples and os document these.
    public = {
        "_exit",
        "_asdict",
        "_replace",
        "_meta",
        "_base_manager",
        "_default_manager",
        "_state",
    }
    private = {each for each in used if each.startswith("_") and not each.startswith("__")}
    assert {each for each in private - defined - public if f"``{each}``" not in LISTED} == set()


def test_the_versions_that_were_read_are_listed() -> None:
    """Packages that follow one another quickly are listed by the version that was read last."""
    for package in ("asgiref", "redis", "pymemcache", "pymongo"):
        major = version(package).partition(".")[0]
        assert f"{package} {major}." in LISTED, f"{package} {version(package)} was not read"


# asgiref ------------------------------------------------------------------------------------------

contexts: list[Any] = []


def note(**kwargs: Any) -> None:
    contexts.append(SyncToAsync.thread_sensitive_context.get(None))


async def view(request: Any) -> HttpResponse:
    note()
    await asyncio.create_task(_note_later())
    await asyncio.to_thread(note)
    return HttpResponse()


async def _note_later() -> None:
    note()


urlpatterns = [path("", view)]


def test_an_asgi_request_has_one_context_of_asgiref() -> None:
    """It is the same in the view, its tasks and threads, and for both signals of the request. It
    ends with the request, and another request has another one."""

    async def serve() -> None:
        handler = get_asgi_application()
        messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Any:
            if (message := next(messages, None)) is None:
                await asyncio.sleep(60)
            return message

        async def send(message: Any) -> None:
            pass

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
        await handler(scope, receive, send)

    request_started.connect(note)
    request_finished.connect(note)
    try:
        with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=settings.MIDDLEWARE[:1]):
            for _ in range(2):
                asyncio.run(serve())
    finally:
        request_started.disconnect(note)
        request_finished.disconnect(note)
    assert SyncToAsync.thread_sensitive_context.get(None) is None
    first, second = contexts[:5], contexts[5:]
    assert len(first) == len(second) == 5
    assert None not in contexts
    assert all(each is first[0] for each in first)
    assert all(each is second[0] for each in second)
    assert first[0] is not second[0]
    weakref.ref(first[0])  # They are keys of a WeakKeyDictionary.


# Django, its caches and the clients ---------------------------------------------------------------


def test_the_keys_of_a_login() -> None:
    """The package has no others, and writes them in one place."""
    keys = (SESSION_KEY, BACKEND_SESSION_KEY, HASH_SESSION_KEY)
    assert keys == (login_keys.USER_ID, login_keys.USER_BACKEND, login_keys.USER_HASH)
    written = {
        str(file.relative_to(PACKAGE))
        for file, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in keys
    }
    assert {each for each in written if not each.startswith("testing/")} == {"core/login_keys.py"}


def test_django() -> None:
    made = {name for name in inspect.getsource(BaseDatabaseWrapper.__init__).split() if "." in name}
    for name in ("run_on_commit", "savepoint_ids", "savepoint_state", "commit_on_exit"):
        assert any(each.startswith(f"self.{name}") for each in made)
    assert HttpResponse()._resource_closers == []  # type: ignore[attr-defined]
    assert list(inspect.signature(CsrfViewMiddleware._reject).parameters) == [  # type: ignore[attr-defined]
        *("self", "request", "reason")
    ]
    assert "_messages" in inspect.getsource(importlib.import_module("django.contrib.messages.api"))
    from django.contrib.admin import site

    assert isinstance(site._registry, dict)
    assert not BaseCommand._called_from_command_line  # type: ignore[attr-defined]
    assert {"path", "samesite"} < set(Morsel._reserved)  # type: ignore[attr-defined]
    assert {"secure", "httponly"} <= set(Morsel._flags)  # type: ignore[attr-defined]


def test_the_caches_of_django(tmp_path: Path) -> None:
    cache: Any = LocMemCache("internals", {})
    cache.set("a", 1)
    with cache._lock:
        assert not cache._has_expired(":1:a")
        assert isinstance(cache._cache[":1:a"], bytes)
    assert cache._max_entries == 300
    assert FileBasedCache(str(tmp_path), {})._dir == str(tmp_path)  # type: ignore[attr-defined]
    from django.core.cache.backends.memcached import PyMemcacheCache

    address = shared_service(Memcached).addresses[0]
    memcached: Any = PyMemcacheCache(address, {"OPTIONS": {"timeout": 3}})
    assert memcached.client_servers == [address]
    assert memcached._options["timeout"] == 3
    assert memcached._cache.hasher.get_node("a") in memcached._cache.clients


def test_redis() -> None:
    from redis import Redis as Client
    from redis.asyncio import Redis as AwaitedClient
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    backoff = NoBackoff()
    retry: Any = Retry(backoff, 3)
    assert (retry._backoff, retry._retries) == (backoff, 3)
    url = shared_service(Redis).url()
    pool: Any = Client.from_url(url).connection_pool
    assert pool.connection_kwargs["port"] == shared_service(Redis).port

    async def connect() -> None:
        client: Any = AwaitedClient.from_url(url)
        await client.ping()
        pool = client.connection_pool
        (connection,) = [*pool._available_connections, *pool._in_use_connections]
        assert connection._writer.get_extra_info("socket") is not None
        assert connection._reader is not None
        await client.aclose()

    asyncio.run(connect())


def test_channels() -> None:
    from channels.auth import UserLazyObject
    from django.utils.functional import empty

    assert UserLazyObject()._wrapped is empty
