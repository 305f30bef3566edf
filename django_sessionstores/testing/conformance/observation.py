"""Watching storages: the calls they get, the storages inside them, and what is logged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar, Token
from typing import Any
from unittest import mock

from asgiref.sync import sync_to_async

from ...core.flow import in_event_loop
from ...storages.base import Storage
from ...storages.contract import STORE_CALLS

Hook = Callable[[str], None]
"""A function that is called with the name of a storage's method."""

# The calls that are under way, each with its storage and the name of the method.
_open_calls: ContextVar[tuple[tuple[Storage, str], ...]] = ContextVar("open_calls", default=())


@contextmanager
def observed(
    *storages: Storage, before: Hook | None = None, after: Hook | None = None
) -> Iterator[list[str]]:
    """Watch the calls of storages; yield a list that grows by the name of each call.

    An async twin is listed under its blocking name. The hooks run, blocking, before and after each
    call and get the same name. Calls that a storage makes to itself are not watched, because it may
    hold a lock. The exception is the default `Storage.rotate`: the hooks run for its calls.
    """
    watch = _Watch(before, after)
    with ExitStack() as stack:
        for storage in storages:
            for name in STORE_CALLS:
                if hasattr(storage, name):
                    blocking, awaited = watch.blocking(storage, name), watch.awaited(storage, name)
                    stack.enter_context(mock.patch.object(storage, name, blocking))
                    stack.enter_context(mock.patch.object(storage, "a" + name, awaited))
        yield watch.calls


class _Watch:
    """The calls of watched storages, and the hooks around them."""

    def __init__(self, before: Hook | None, after: Hook | None) -> None:
        self.calls: list[str] = []
        self._before = before
        self._after = after

    def blocking(self, storage: Storage, name: str) -> Callable[..., Any]:
        """Return a method that replaces a blocking method of a storage."""
        method = getattr(storage, name)

        def call(*args: Any) -> Any:
            token, has_hooks = self._enter(storage, name)
            # In an event loop, a hook could not make awaited calls of its own. It has run for the
            # async call that this call is part of.
            has_hooks = has_hooks and not in_event_loop()
            try:
                if self._before and has_hooks:
                    self._before(name)
                result = method(*args)
                if self._after and has_hooks:
                    self._after(name)
                return result
            finally:
                _open_calls.reset(token)

        return call

    def awaited(self, storage: Storage, name: str) -> Callable[..., Any]:
        """Return a method that replaces the async twin of a method of a storage."""
        method = getattr(storage, "a" + name)

        async def call(*args: Any) -> Any:
            token, has_hooks = self._enter(storage, name)
            try:
                if self._before and has_hooks:
                    await sync_to_async(self._before)(name)
                result = await method(*args)
                if self._after and has_hooks:
                    await sync_to_async(self._after)(name)
                return result
            finally:
                _open_calls.reset(token)

        return call

    def _enter(self, storage: Storage, name: str) -> tuple[Token[Any], bool]:
        """Note that a call begins; return the token that ends it, and whether the hooks run."""
        outer_calls = _open_calls.get()
        if not outer_calls:
            self.calls.append(name)
        own = [outer for one, outer in outer_calls if one is storage]
        is_default_rotate = set(own) == {"rotate"} and type(storage).rotate is Storage.rotate
        has_hooks = not own or (is_default_rotate and name != "rotate")
        return _open_calls.set((*outer_calls, (storage, name))), has_hooks


def inner_storages(storage: Storage) -> list[Storage]:
    """Return the storages inside a storage, at any depth, without the storage itself."""
    inner = [value for value in vars(storage).values() if isinstance(value, Storage)]
    deeper = [each for one in inner for each in inner_storages(one)]
    return list(dict.fromkeys([*inner, *deeper]))


def stores_of(storage: Storage) -> list[Storage]:
    """Return a storage and those inside it, without those that hold their records in the keys."""
    return [one for one in (storage, *inner_storages(storage)) if not one.holds_in_key]


@contextmanager
def suspicious_messages() -> Iterator[list[str]]:
    """Yield a list that grows by the messages logged on ``django.security.SuspiciousSession``."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Handler()
    logger = logging.getLogger("django.security.SuspiciousSession")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
