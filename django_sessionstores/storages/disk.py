"""What the file storage and its index ask of a disk beyond single system calls."""

from __future__ import annotations

import heapq
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

POLL_SECONDS: Final = 0.0005
"""Between two looks at whether another process is done."""

_NAMES: Final = 10_000
"""How many names of a folder are kept in memory."""

if sys.platform == "win32":
    _SHARING_TRIES: Final = 50

    def insist(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Windows refuses to replace a file that is being read, and to open one that is being
        replaced. Both last for microseconds, but look like a lasting refusal."""
        for _ in range(_SHARING_TRIES):
            try:
                return call(*args, **kwargs)
            except PermissionError:
                time.sleep(POLL_SECONDS)
        return call(*args, **kwargs)

else:

    def insist(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call that on Windows others may be in the way of for a moment."""
        return call(*args, **kwargs)


def names_in(folder: str, *, after: str = "", prefix: str = "") -> Iterator[str]:
    """The names in a folder that begin with ``prefix`` and come after ``after``, in order.

    In bounded memory: a larger folder is read several times. One that is not there has none.
    """
    while True:
        try:
            with os.scandir(folder) as entries:
                wanted = (
                    entry.name
                    for entry in entries
                    if entry.name > after and entry.name.startswith(prefix)
                )
                names = heapq.nsmallest(_NAMES, wanted)
        except FileNotFoundError:
            return
        yield from names
        if len(names) < _NAMES:
            return
        after = names[-1]
