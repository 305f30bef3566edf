"""Operations on files and folders that take more than a single system call."""

from __future__ import annotations

import contextlib
import heapq
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

POLL_SECONDS: Final = 0.0005
"""The pause between two checks whether another process is done."""

_NAMES: Final = 10_000
"""How many names of a folder are kept in memory."""

# One call reads nearly every session. A buffer of this size costs no more than a small one.
_READ_SIZE: Final = 65_536

_FOLDERS_BY_FD: Final = {os.stat, os.unlink} <= os.supports_dir_fd and os.listdir in os.supports_fd
_BINARY: Final = getattr(os, "O_BINARY", 0)  # Windows would translate line ends.
READ: Final = os.O_RDONLY | _BINARY
CHANGE: Final = os.O_RDWR | _BINARY
WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY

if sys.platform == "win32":
    _SHARING_TRIES: Final = 50

    def insist(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of a call that other processes may refuse for a moment.

        Windows refuses to replace a file that is being read, and to open one that is being
        replaced. Both last for microseconds, but look like a lasting refusal.
        """
        for _ in range(_SHARING_TRIES):
            try:
                return call(*args, **kwargs)
            except PermissionError:
                time.sleep(POLL_SECONDS)
        return call(*args, **kwargs)

else:

    def insist(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of a call that, on Windows, other processes may refuse for a moment."""
        return call(*args, **kwargs)


def names_in(folder: str, *, after: str = "", prefix: str = "") -> Iterator[str]:
    """Yield the names in a folder that begin with ``prefix`` and sort after ``after``, in order.

    In bounded memory: a larger folder is read several times. A missing folder has no names.
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


def names_in_any_order(folder: str | int) -> list[str]:
    """Return all names in a folder, or in that of a descriptor. A missing folder has none."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def is_empty(folder: str) -> bool:
    """Return whether a folder has nothing in it."""
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def is_read_only(path: str) -> bool:
    """Return whether the file system of a path is mounted read-only, as far as known."""
    # Windows has no such call.
    found = getattr(os, "statvfs", None)
    return found is not None and bool(found(path).f_flag & os.ST_RDONLY)


def file_system_id(path: str) -> int:
    """Return the id of the file system of a path; 0 if it has none.

    A device number is given again to the next file system, this id is not.
    """
    # Windows has no such call.
    found = getattr(os, "statvfs", None)
    return 0 if found is None else int(found(path).f_fsid)


def mount_point_of(path: str) -> str:
    """Return the folder at which the file system is mounted that a path is on."""
    path = os.path.realpath(path)
    while not os.path.ismount(path) and (parent := os.path.dirname(path)) != path:
        path = parent
    return path


@contextlib.contextmanager
def open_folder(folder: str) -> Iterator[tuple[int | None, str]]:
    """Open a folder for as long as the context lasts, to name the files in it without its path.

    Provides the descriptor to pass as ``dir_fd``, and what to put in front of a name. Without
    descriptors of folders, as on Windows, they are ``None`` and the path.
    """
    if not _FOLDERS_BY_FD:
        yield None, f"{folder}/"
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        yield fd, ""
    finally:
        os.close(fd)


def stats_in(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the names in a folder with what ``os.stat`` says of each, in any order.

    A missing folder has no names. Made for very many names: to ask the entries of ``os.scandir``,
    or for paths, takes a third longer.
    """
    with contextlib.suppress(FileNotFoundError), open_folder(folder) as (place, front):
        for name in names_in_any_order(folder if place is None else place):
            try:
                found = os.stat(front + name, dir_fd=place)
            except FileNotFoundError:
                continue
            yield name, found


@contextlib.contextmanager
def open_file(path: str, flags: int = CHANGE) -> Iterator[int]:
    """Open a file for as long as the context lasts, and provide its descriptor."""
    fd = insist(os.open, path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def read_beginning(path: str, size: int) -> bytes:
    """Return the first bytes of a file: ``size`` of them, or all if there are fewer."""
    # Without `open_file`, which takes as long as the read.
    fd = insist(os.open, path, READ)
    try:
        return os.read(fd, size)
    finally:
        os.close(fd)


def read_rest(fd: int) -> bytes:
    """Return what follows the current position of an open file."""
    data = os.read(fd, _READ_SIZE)
    # Only the end of a file makes a read short.
    if len(data) < _READ_SIZE:
        return data
    chunks = [data]
    while chunk := os.read(fd, _READ_SIZE):
        chunks.append(chunk)
    return b"".join(chunks)


def write_all(fd: int, data: bytes) -> None:
    """Write all bytes to an open file."""
    # A disk that is nearly full accepts a part first, and refuses the rest.
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def overwrite(fd: int, offset: int, data: bytes) -> None:
    """Write bytes over those of an open file that begin at ``offset``."""
    os.lseek(fd, offset, os.SEEK_SET)
    write_all(fd, data)
