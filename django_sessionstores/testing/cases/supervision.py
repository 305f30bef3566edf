"""The process in which backends run: another one tells how it ended, whatever a backend does."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

FAILED: Final = 1
COULD_NOT_RUN: Final = 2

_PASSED_ON: Final = ("SIGTERM", "SIGHUP")
"""The signals to the command that its child gets. A terminal sends Ctrl-C to both."""
_SIGNALLED: Final = 128
"""What shells add to the number of the signal that ended a process."""


class Progress:
    """What a process is doing, in memory that it shares with its forks and that outlives it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    @property
    def case(self) -> str:
        """The case that is running, with its backend; empty if none is."""
        return self._memory[1:].rstrip(b"\0").decode(errors="ignore")

    @case.setter
    def case(self, case: str) -> None:
        text = case.encode()[: len(self._memory) - 1]
        self._memory[1:] = text.ljust(len(self._memory) - 1, b"\0")

    @property
    def exit_code(self) -> int | None:
        """The exit code of the command; ``None`` if it is not known yet."""
        return self._memory[0] - 1 if self._memory[0] else None

    @exit_code.setter
    def exit_code(self, code: int) -> None:
        self._memory[0] = code + 1


progress: Final = Progress()


def supervise(command: Callable[[], NoReturn]) -> NoReturn:
    """Run a command in a fork of this process, and end with the exit code of its `progress`.

    A backend that calls ``os._exit(0)`` ends the fork, and not the command. Without forks, as on
    Windows, the command runs in this process.
    """
    if not hasattr(os, "fork"):
        command()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        command()
    with _passing_signals_to(child):
        _, status = os.waitpid(child, 0)
    sys.exit(_exit_code(os.waitstatus_to_exitcode(status)))


@contextlib.contextmanager
def _passing_signals_to(child: int) -> Iterator[None]:
    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    for name in _PASSED_ON:
        number = getattr(signal, name)
        before[number] = signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_code(ended: int) -> int:
    """Return the exit code of the command, after the fork has ended with this code or signal."""
    if progress.exit_code is not None:
        return progress.exit_code
    if ended == -signal.SIGINT:
        return _SIGNALLED + signal.SIGINT
    how = f"by signal {-ended}" if ended < 0 else f"with exit code {ended}"
    place = f"in the case {progress.case}" if progress.case else "before the first case"
    sys.stderr.write(
        f"The process was ended {how} {place}, so there are no results. Look for what ends it, "
        "such as os._exit() in the backend.\n"
    )
    return FAILED if progress.case else COULD_NOT_RUN
