"""Running the calls of a test: blocking or awaited, and in threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.sync import async_to_sync
from django.db import connections


class Twin:
    """Call the blocking methods of an object or, if ``awaited``, their async twins.

    An attribute without a twin is returned as it is. ``set`` is the name of
    ``session[key] = value``. ``drive`` turns an async function into a blocking one; the default
    runs every call in an event loop of its own.
    """

    def __init__(
        self, target: Any, awaited: bool, drive: Callable[[Any], Any] = async_to_sync
    ) -> None:
        self.target = target
        self._awaited = awaited
        self._drive = drive

    def __getattr__(self, name: str) -> Any:
        if self._awaited and hasattr(type(self.target), "a" + name):
            return self._drive(getattr(self.target, "a" + name))
        return getattr(self.target, "__setitem__" if name == "set" else name)


def in_threads(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run functions at the same time, each in a thread of its own, and return their results."""

    def call(function: Callable[[], Any]) -> Any:
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(call, functions))
