"""Disks in memory, which tests mount, fill, take away and bring back. That needs root, on Linux."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.services import Service, temporary_folder


class CannotMount(Exception):
    """Only root may, and not in every container."""

    def __init__(self) -> None:
        super().__init__("may not mount a file system")


class Disk(Service):
    """A disk of some megabytes at `path`, which can be taken away and keeps its files meanwhile.

    If this process may not mount file systems, it is a folder, which is never full.
    """

    name = "disk"

    def __init__(self, megabytes: int = 8, owner: str | None = None) -> None:
        self.ports = []
        self._megabytes, self._owner = megabytes, owner
        self.is_mountable = False

    def start(self) -> Self:
        folder = temporary_folder()
        folder.chmod(0o711)
        self._kept, self.path = folder / "kept", folder / "disk"
        for each in (self._kept, self.path):
            each.mkdir()
        with contextlib.suppress(CannotMount):
            mount_memory(self._kept, f"{self._megabytes}m,mode=700", self._owner)
            self.is_mountable = True
            self._bind()
        return self

    def stop(self) -> None:
        if self.is_mountable:
            self.is_mountable = False
            for each in (self.path, self._kept):
                unmount(each)
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def _bind(self) -> None:
        _mount("--bind", str(self._kept), str(self.path))

    def kill(self) -> None:
        """Take it away. What a site sees is the empty folder below it, or none."""
        if self.is_mountable:
            unmount(self.path)
        else:
            self.path.rename(self._kept / "taken away")

    def restart(self) -> None:
        """Bring it back, with what was on it."""
        if self.is_mountable:
            self._bind()
        else:
            (self._kept / "taken away").rename(self.path)

    def pause(self) -> None:
        raise NotImplementedError("A disk that hangs cannot be made here.")

    resume = pause

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Let there be no byte left meanwhile. Raises `CannotMount`."""
        if not self.is_mountable:
            raise CannotMount
        with full(self.path):
            yield


@contextlib.contextmanager
def tiny_disk(path: Path, size: str = "64k") -> Iterator[Callable[[str], None]]:
    """Mount a file system at ``path``, and yield a function that mounts it again with options.

    Skips the test if this process may not.
    """
    path.mkdir()
    with skipping():
        mount_memory(path, size)
    try:
        yield lambda option: _mount("-o", f"remount,{option}", str(path))
    finally:
        unmount(path)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """Let there be no byte left on the disk of a folder meanwhile."""
    ballast = folder / "ballast"
    try:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            for size in (1024 * 1024, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass
        yield
    finally:
        ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def skipping() -> Iterator[None]:
    """Skip the test if this process may not mount what the context mounts."""
    try:
        yield
    except CannotMount as reason:
        pytest.skip(str(reason))


def mount_memory(place: Path, size: str, owner: str | None = None) -> None:
    """Mount an empty file system at a folder. Raises `CannotMount`.

    ``size`` may be followed by further options, and ``owner`` is the name or number of a user.
    """
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    if owner:
        shutil.chown(place, int(owner) if owner.isdigit() else owner)


def unmount(place: Path) -> None:
    """Unmount what is mounted at a folder, if anything is. Files that are open stay so."""
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True)


def _mount(*arguments: str) -> None:
    if sys.platform != "linux" or os.geteuid():
        raise CannotMount
    if subprocess.run(["mount", *arguments], capture_output=True).returncode:
        raise CannotMount


def owner_of(path: Path) -> str:
    """Return the number of the user that a folder belongs to."""
    return str(path.stat().st_uid)
