"""The progress of a run, for a user who waits at a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TextIO, TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""A function that gets a description of the work, the amount done, and the total."""

_SECONDS: Final = 0.2
"""Seconds between two changes of the line."""


def silent(what: str, done: int, total: int) -> None:
    """Show nothing."""


class ProgressLine:
    """A line that shows the progress at a terminal.

    Elsewhere it shows nothing, unless ``every`` is given: then there is a line of its own whenever
    so much more is done.
    """

    def __init__(self, stream: TextIO, every: int | None = None) -> None:
        self._stream = stream
        self._is_shown = stream.isatty()
        self._every = every
        self._next = 0.0
        self._shown = "", 0
        """The work that the last line of its own was about, and how many of them it had."""

    def show(self, what: str, done: int, total: int) -> None:
        """Write the progress, at a terminal at most a few times per second."""
        line = f"{what}: {done:,} of {total:,} ({done / total:.0%})"
        if self._every is not None:
            reached = what, done // self._every
            if reached != self._shown:
                self._shown = reached
                self.clear()
                self._stream.write(f"{line}\n")
                self._stream.flush()
        if self._is_shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS
            self._write(line)

    def clear(self) -> None:
        """Remove the line before other output."""
        if self._is_shown:
            self._write("")

    def _write(self, line: str) -> None:
        # Return to the start of the line, and clear the rest of it.
        self._stream.write(f"\r{line}\x1b[K")
        self._stream.flush()
