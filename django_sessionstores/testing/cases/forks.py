"""Keys that two processes draw which were the same process a moment ago."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import time
from contextlib import suppress
from typing import Any, Final
from unittest import mock

_KEYS: Final = 3
_TIME_LIMIT: Final = 5


def keys_of_forks(store: type[Any], number: int = 2) -> list[list[str]]:
    """Return keys that so many forks of this process draw, each in the same state.

    The forks have the same counters, clock and seed. So they draw the same keys if keys are made of
    these, as processes do that are started alike. A fork that fails has no keys.
    """
    if not hasattr(os, "fork"):
        return []
    moment = time.time()
    return [_keys_of_fork(store, moment) for _ in range(number)]


def _keys_of_fork(store: type[Any], moment: float) -> list[str]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(_drawn_keys(store, moment)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        is_readable, _, _ = select.select([reader], [], [], _TIME_LIMIT)
        text = os.read(reader, 65_536) if is_readable else b""
    finally:
        os.close(reader)
        # It may wait for a lock that a thread had at the time of the fork.
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return [str(key) for key in json.loads(text or b"[]")]


def _drawn_keys(store: type[Any], moment: float) -> list[str]:
    random.seed(0)
    keys = []
    with (
        mock.patch.object(time, "time", return_value=moment),
        mock.patch.object(time, "time_ns", return_value=int(moment * 1e9)),
        # Where that is enough, the fork does not use the connections of its parent.
        mock.patch.object(store, "exists", return_value=False),
        mock.patch.object(store, "save"),
    ):
        for _ in range(_KEYS):
            session = store()
            session.create()
            keys.append(session.session_key)
    return [key for key in keys if key]
