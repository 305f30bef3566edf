"""The threads in which blocking clients run under ASGI: those of the package, and so many."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from django_sessionstores.storages import threads
from django_sessionstores.storages.threads import MOST_THREADS, in_thread
from tests.cases import Engine
from tests.storages.records import make_record


def package_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith(threads.__name__)}


class Default(ThreadPoolExecutor):
    """The default executor of a loop, which counts what it is asked to run."""

    submitted = 0

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.submitted += 1
        return super().submit(function, *args, **kwargs)


def test_a_store_that_hangs_leaves_the_default_executor_to_the_project() -> None:
    """A view that calls ``asyncio.to_thread()`` would wait as long as the requests before it."""
    goes_on = threading.Event()

    async def ask() -> list[bool]:
        blocked = [asyncio.create_task(in_thread(goes_on.wait)(60)) for _ in range(200)]
        try:
            assert await asyncio.wait_for(asyncio.to_thread(lambda: "view"), 20) == "view"
            assert len(package_threads()) == MOST_THREADS
        finally:
            goes_on.set()
        return await asyncio.gather(*blocked)

    assert asyncio.run(ask()) == [True] * 200


@pytest.mark.engines("cache", "file")
def test_no_storage_uses_the_default_executor(engine: Engine) -> None:
    """Which of them have a client that blocks is for each to say; all go the same way."""
    storage, record = engine.storage, make_record()

    async def use() -> int:
        default = Default()
        asyncio.get_running_loop().set_default_executor(default)
        await storage.acreate(record, record.last_activity)
        found = [await storage.aread(record.id) for _ in range(20)]
        assert all(each.payload == record.payload for each in found)
        await storage.adelete(record.id)
        return default.submitted

    assert asyncio.run(use()) == 0


def test_event_loops_that_end_leave_the_threads_to_the_next_ones() -> None:
    """``async_to_sync`` makes a loop for each call: their threads would add up."""
    for _ in range(2 * MOST_THREADS):
        asyncio.run(in_thread(int)())
    assert 0 < len(package_threads()) <= MOST_THREADS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    """Those of its parent do not come along, and it would wait for one of them for ever."""
    asyncio.run(in_thread(int)())
    child = os.fork()
    if not child:
        signal.alarm(20)
        done = 1
        try:
            assert asyncio.run(in_thread(threading.current_thread)()) in package_threads()
            done = 0
        finally:
            sys.stderr.flush()
            os._exit(done)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
