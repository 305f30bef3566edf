"""The terminal or pipe of a command: its output, and its questions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from django.core.management.base import BaseCommand, CommandError

from . import reports

T = TypeVar("T")


class Terminal:
    """The output of a command at a verbosity."""

    def __init__(self, command: BaseCommand, verbosity: int) -> None:
        self.verbosity = verbosity
        self._stdout = command.stdout
        self._stderr = command.stderr
        self._style = command.style

    @property
    def width(self) -> int | None:
        """Return the columns of the terminal; ``None`` for a pipe, for which nothing is cut."""
        return width(self._stdout)

    def write(self, text: str) -> None:
        """Write a result, whatever the verbosity."""
        self._stdout.write(text)

    def lines(self, lines: Iterable[str]) -> None:
        """Write the lines of a result."""
        for line in lines:
            self._stdout.write(line)

    def fields(self, values: Mapping[str, str]) -> None:
        """Write a line for each name and value of a result."""
        self.lines(reports.fields(values, self.width))

    def heading(self, text: str) -> None:
        """Write a heading, unless the verbosity is 0."""
        if self.verbosity > 0:
            text = self._style.MIGRATE_HEADING(text) if self._stdout.isatty() else text
            self._stdout.write(text)

    def say(self, text: str) -> None:
        """Write a sentence, unless the verbosity is 0."""
        if self.verbosity > 0:
            self._stdout.write(reports.wrap_text(text, self.width))

    def warn(self, text: str) -> None:
        """Write a warning to stderr, unless the verbosity is 0."""
        if self.verbosity > 0:
            self._stderr.write(reports.wrap_text(text, width(self._stderr)))

    def confirm(self, question: str) -> bool:
        """Return whether the operator answers yes. Raises ``CommandError`` without an operator."""
        try:
            answer = input(reports.wrap_text(f"{question} [y/N] ", self.width))
        except (EOFError, RuntimeError):  # The latter if there is no standard input at all.
            raise CommandError("Not running in a terminal. Use --no-input to confirm.") from None
        except (KeyboardInterrupt, UnicodeDecodeError):
            return False
        return answer.strip().lower() in {"y", "yes"}

    def with_progress(self, items: Iterable[T], total: Callable[[], int]) -> Iterable[T]:
        """Return the items, with a progress bar on a terminal, see `reports.with_progress`."""
        if not self._stderr.isatty():
            return items
        draw = partial(self._stderr.write, style_func=str, ending="")
        return reports.with_progress(items, total, draw)


@contextmanager
def exit_if_pipe_closes(output: Any) -> Iterator[None]:
    """Exit with code 1 and without a traceback if a pipe is closed before everything is written."""
    try:
        try:
            yield
        finally:
            output.flush()
    except BrokenPipeError:
        # The rest is written when the process ends, which would fail once more.
        with suppress(OSError), Path(os.devnull).open("w", encoding="utf-8") as null:
            os.dup2(null.fileno(), output.fileno())
        raise SystemExit(1) from None


def width(stream: Any) -> int | None:
    """Return the columns of a stream's terminal; ``None`` if the stream is not a terminal."""
    return shutil.get_terminal_size().columns if stream.isatty() else None
