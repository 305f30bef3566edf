"""Flows: behaviour that is written once for sync and async code.

A flow is a generator that yields the storage calls that it needs. A driver makes the calls, sends
their results into the flow and throws their errors into it: `run` for sync code, `arun` for async
code. Two versions that are kept equal by hand would drift apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from time import perf_counter
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class Call(msgspec.Struct, frozen=True):
    """A call that a flow asks for: ``target.name(...)``, or ``target.aname(...)`` in async code.

    It is a msgspec struct because each request makes some of them, and creating a named tuple takes
    three times as long.
    """

    target: Any
    name: str
    args: tuple[Any, ...]
    keywords: dict[str, Any] = {}


Flow = Generator[Call, Any, T]


Watcher = Callable[[Call, float, object], None]
"""A function that is called after each call of a flow, with the call, its duration in seconds, and
its result or exception."""
_watcher: Watcher | None = None


def watch(watcher: Watcher | None) -> None:
    """Report all calls to a watcher. Pass ``None`` to stop.

    The watcher must neither wait nor raise an exception.
    """
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


def in_event_loop() -> bool:
    """Return whether the current thread runs an event loop, so that async code has called this."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run(flow: Flow[T]) -> T:
    """Run a flow with blocking calls, and return its result."""
    if _watcher is not None:
        flow = _report_calls(flow, _watcher)
    try:
        call = next(flow)
        while True:
            try:
                result = getattr(call.target, call.name)(*call.args, **call.keywords)
            except Exception as error:  # noqa: BLE001 - the flow decides
                call = flow.throw(error)
            else:
                call = flow.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        # The traceback of an error that the flow has caught may keep this frame alive.
        call = result = None  # type: ignore[assignment]


async def arun(flow: Flow[T]) -> T:
    """Run a flow with awaited calls, and return its result.

    If the task is cancelled, the flow gets the ``CancelledError``. It may ask for the calls that
    release what it holds, and must raise the error again.
    """
    if _watcher is not None:
        flow = _report_calls(flow, _watcher)
    try:
        call = next(flow)
        while True:
            try:
                result = await getattr(call.target, "a" + call.name)(*call.args, **call.keywords)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the flow decides
                call = flow.throw(error)
            else:
                call = flow.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        call = result = None  # type: ignore[assignment]
        flow.close()


def _report_calls(flow: Flow[T], watcher: Watcher) -> Flow[T]:
    """Return the same flow with each of its calls reported to a watcher.

    A call lasts from when it is yielded until the driver sends its result.
    """
    try:
        call = next(flow)
        while True:
            started = perf_counter()
            try:
                result = yield call
            except asyncio.CancelledError as error:
                call = flow.throw(error)
            except Exception as error:  # noqa: BLE001 - the flow decides
                watcher(call, perf_counter() - started, error)
                call = flow.throw(error)
            else:
                watcher(call, perf_counter() - started, result)
                call = flow.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        call = result = None  # type: ignore[assignment]
        flow.close()
