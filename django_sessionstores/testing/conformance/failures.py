"""Errors in tests: expecting one, and making a storage raise one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...exceptions import StorageUnavailable


class RaisedError:
    """The error that a block has raised."""

    error: BaseException | None = None
    """None until the block has ended."""

    def __str__(self) -> str:
        return str(self.error)


@contextmanager
def raises(error: type[BaseException]) -> Iterator[RaisedError]:
    """Raise ``AssertionError`` unless the block raises this error.

    pytest and unittest have the same, but the suite must depend on neither.
    """
    raised = RaisedError()
    try:
        yield raised
    except error as caught:
        raised.error = caught
        return
    raise AssertionError(f"{error.__name__} was not raised")


def break_call(name: str) -> None:
    """Raise `StorageUnavailable`, as a hook before the calls of a storage."""
    raise StorageUnavailable(f"{name}: broken by a test")
