"""One flow, two drivers: behaviour written once for sync and async.

A flow is a generator that yields the storage calls it wants made and is sent their results; an
error of a call is thrown into it. Hand-kept async twins drift apart, and a flow cannot.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Mapping
from time import perf_counter
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Call(NamedTuple):
    """A call that a flow wants made: ``target.name(...)``, or ``target.aname(...)``."""

    target: Any
    name: str
    args: tuple[Any, ...]
    keywords: Mapping[str, Any] = MappingProxyType({})


Flow = Generator[Call, Any, T]


Watcher = Callable[[Call, float, object], None]
"""Told of a call when it is done: the call, its seconds, and its result or the exception."""
_watcher: Watcher | None = None


def watch(watcher: Watcher | None) -> None:
    """Have all calls told, or none. A watcher must neither wait nor raise."""
    global _watcher
    _watcher = watcher


class Pause:
    """Waiting, as a call that a flow can ask for."""

    @staticmethod
    def sleep(seconds: float) -> None:
        time.sleep(seconds)

    @staticmethod
    async def asleep(seconds: float) -> None:
        await asyncio.sleep(seconds)


def run(flow: Flow[T]) -> T:
    """Drive a flow with blocking calls."""
    try:
        call = next(flow)
        while True:
            watcher = _watcher
            started = perf_counter() if watcher else 0.0
            try:
                result = getattr(call.target, call.name)(*call.args, **call.keywords)
            except Exception as error:  # noqa: BLE001 - the flow decides
                if watcher:
                    watcher(call, perf_counter() - started, error)
                call = flow.throw(error)
            else:
                if watcher:
                    watcher(call, perf_counter() - started, result)
                call = flow.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def arun(flow: Flow[T]) -> T:
    """Drive a flow with awaited calls. A flow that is cancelled is closed at once."""
    try:
        call = next(flow)
        while True:
            watcher = _watcher
            started = perf_counter() if watcher else 0.0
            try:
                result = await getattr(call.target, "a" + call.name)(*call.args, **call.keywords)
            except Exception as error:  # noqa: BLE001 - the flow decides
                if watcher:
                    watcher(call, perf_counter() - started, error)
                call = flow.throw(error)
            else:
                if watcher:
                    watcher(call, perf_counter() - started, result)
                call = flow.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        flow.close()
