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
    """A line that shows the progress at a terminal. Elsewhere it shows nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_shown = stream.isatty()
        self._next = 0.0

    def show(self, what: str, done: int, total: int) -> None:
        """Write the progress, at most a few times per second."""
        if self._is_shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS
            self._write(f"{what}: {done:,} of {total:,} ({done / total:.0%})")

    def clear(self) -> None:
        """Remove the line before other output."""
        if self._is_shown:
            self._write("")

    def _write(self, line: str) -> None:
        # Return to the start of the line, and clear the rest of it.
        self._stream.write(f"\r{line}\x1b[K")
        self._stream.flush()
