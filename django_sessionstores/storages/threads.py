"""The threads of the package, in which the calls of blocking clients run under ASGI.

The default executor of an event loop belongs to the project: with the package's calls in it, a
server that hangs would keep ``asyncio.to_thread()`` of a view waiting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from asgiref.sync import sync_to_async

P = ParamSpec("P")
T = TypeVar("T")

MOST_THREADS: Final = 32
"""As many as the default executor has at most. A process has them for all of its event loops."""


def _start() -> None:
    """Begin without threads, as a forked process must: it does not have those of its parent."""
    global _executor
    _executor = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix=__name__)


_executor: ThreadPoolExecutor
_start()

if hasattr(os, "register_at_fork"):  # Not on Windows, where nothing forks.
    os.register_at_fork(after_in_child=_start)


def in_thread(method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return the async twin of a method, which runs it in one of the package's threads."""
    return sync_to_async(method, thread_sensitive=False, executor=_executor)
