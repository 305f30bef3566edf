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
from django.core.management.color import no_style

from . import layout, reports
from .layout import Screen

T = TypeVar("T")


class Terminal:
    """The output of a command at a verbosity."""

    def __init__(self, command: BaseCommand, verbosity: int, *, force_color: bool = False) -> None:
        self.verbosity = verbosity
        self._stdout = command.stdout
        self._stderr = command.stderr
        self._style = command.style
        self._has_colors = force_color or self._stdout.isatty()

    @property
    def screen(self) -> Screen:
        """What the results are laid out for."""
        return screen_of(self._stdout)

    def write(self, text: str) -> None:
        """Write a result, whatever the verbosity."""
        self._stdout.write(self.screen.encode(text))

    def lines(self, lines: Iterable[str]) -> None:
        """Write the lines of a result."""
        for line in lines:
            self._stdout.write(line)

    def fields(self, values: Mapping[str, str]) -> None:
        """Write a line for each name and value of a result."""
        self.lines(layout.fields(values, self.screen))

    def heading(self, text: str, *, is_result: bool = False) -> None:
        """Write a heading, unless the verbosity is 0 and the heading says nothing that was asked.

        ``is_result`` means that it does.
        """
        if self.verbosity > 0 or is_result:
            text = self.screen.encode(text)
            text = self._style.MIGRATE_HEADING(text) if self._has_colors else text
            self._stdout.write(text)

    def say(self, text: str, *, is_result: bool = False) -> None:
        """Write a sentence, unless the verbosity is 0 and it says nothing that was asked.

        ``is_result`` means that it does.
        """
        if self.verbosity > 0 or is_result:
            self._stdout.write(layout.wrap_text(text, self.screen))

    def warn(self, text: str) -> None:
        """Write a warning to stderr, unless the verbosity is 0."""
        if self.verbosity > 0:
            self._stderr.write(layout.wrap_text(text, screen_of(self._stderr)))

    def confirm(self, question: str) -> bool:
        """Return whether the operator answers yes. Raises ``CommandError`` without an operator."""
        try:
            answer = input(layout.wrap_text(f"{question} [y/N] ", self.screen))
        except (EOFError, RuntimeError):  # The latter if there is no standard input at all.
            self._stdout.write("")  # Ends the line of the question, which nobody has done.
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


def screen_of(stream: Any) -> Screen:
    """Return what a text for this stream is laid out for."""
    # A StringIO has no encoding, and can hold any text.
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return Screen(_columns_of(stream) if stream.isatty() else None, encoding)


def _columns_of(stream: Any) -> int:
    # Not only of stdout, which may be a pipe when stderr is not.
    with suppress(OSError, ValueError, AttributeError):
        if "COLUMNS" not in os.environ and (found := os.get_terminal_size(stream.fileno()).columns):
            return found
    return shutil.get_terminal_size().columns


def respect_no_color(command: BaseCommand, *, force_color: bool = False) -> None:
    """Write without colours if the environment variable ``NO_COLOR`` is set and not empty.

    Django does not know that convention, see https://no-color.org. ``--force-color`` overrides it.
    """
    if os.environ.get("NO_COLOR") and not force_color:
        command.style = no_style()
        command.stderr.style_func = None


def reword(error: CommandError, stream: Any) -> None:
    """Lay out the message of an error, which Django writes to a stream behind its class."""
    behind = f"{type(error).__name__}: "
    error.args = (layout.wrap_text(str(error), screen_of(stream), behind=behind),)
