"""One flow, two drivers: behaviour written once for sync and async.

A flow is a generator that yields the storage calls it wants made and is sent their results; an
error of a call is thrown into it. Hand-kept async twins drift apart, and a flow cannot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

T = TypeVar("T")
S = TypeVar("S")
P = ParamSpec("P")


class Call(NamedTuple):
    """A call that a flow wants made: ``target.name(*args)``, or ``target.aname(*args)``."""

    target: Any
    name: str
    args: tuple[Any, ...]


Flow = Generator[Call, Any, T]


def run(flow: Flow[T]) -> T:
    """Drive a flow with blocking calls."""
    try:
        call = next(flow)
        while True:
            try:
                result = getattr(call.target, call.name)(*call.args)
            except Exception as error:  # noqa: BLE001 - the flow decides
                call = flow.throw(error)
            else:
                call = flow.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def arun(flow: Flow[T]) -> T:
    """Drive a flow with awaited calls."""
    try:
        call = next(flow)
        while True:
            try:
                result = await getattr(call.target, "a" + call.name)(*call.args)
            except Exception as error:  # noqa: BLE001 - the flow decides
                call = flow.throw(error)
            else:
                call = flow.send(result)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def sync(flow: Callable[Concatenate[S, P], Flow[T]]) -> Callable[Concatenate[S, P], T]:
    """The blocking method that a flow method makes."""

    def method(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(flow(self, *args, **kwargs))

    method.__doc__ = flow.__doc__
    return method


def asynchronous(
    flow: Callable[Concatenate[S, P], Flow[T]],
) -> Callable[Concatenate[S, P], Awaitable[T]]:
    """The coroutine method that a flow method makes."""

    async def method(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await arun(flow(self, *args, **kwargs))

    method.__doc__ = flow.__doc__
    return method
