"""Calls that need much of Python's stack, made wherever the caller is on it.

Reading a value of 400 lists inside each other takes hundreds of levels of the stack. A view may be
called so deep on the stack, for example from a template or a recursive function, that too few are
left. A session that could be saved must be readable there as well, so the call is made again in a
thread of its own, whose stack is empty.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def with_enough_stack(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function as one that does not need the stack of its caller.

    It is called again in a thread if it raises ``RecursionError``. If it does so there as well, it
    needs more than a whole stack, and ``ValueError`` is raised. ``RecursionError`` is only raised
    if too little is left to start a thread.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except RecursionError:
            pass
        return call_in_thread(function, *args, **kwargs)

    return call


def call_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what the function returns in a thread of its own, see `with_enough_stack`."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function(*args, **kwargs))
        except RecursionError:
            errors.append(ValueError("the value is nested too deeply"))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the caller
            errors.append(error)

    thread = threading.Thread(target=run, name="django_sessionstores deep call")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
