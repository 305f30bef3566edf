"""A small disk of its own, which can be full, and be taken away and brought back."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.services import Service, run, temporary_folder


class CannotMount(Exception):
    """Only root may, and not in every container."""

    def __init__(self) -> None:
        super().__init__("may not mount a file system")


class Disk(Service):
    """A disk of some megabytes at `path`, in memory.

    If this process may not mount file systems, it is a folder, which is never full.
    """

    name = "disk"

    def __init__(self, megabytes: int = 8, owner: str | None = None) -> None:
        self.ports = []
        self._options = f"size={megabytes}m,mode=700" + (f",uid={owner}" if owner else "")
        self.is_mounted = False

    def start(self) -> Self:
        folder = temporary_folder()
        folder.chmod(0o711)
        self._kept, self.path = folder / "kept", folder / "disk"
        for each in (self._kept, self.path):
            each.mkdir()
        with contextlib.suppress(CannotMount):
            _mount("-t", "tmpfs", "-o", self._options, "tmpfs", str(self._kept))
            self.is_mounted = True
            self._bind()
        return self

    def stop(self) -> None:
        if self.is_mounted:
            self.is_mounted = False
            for each in (self.path, self._kept):
                subprocess.run(["umount", "--lazy", str(each)], capture_output=True)
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def _bind(self) -> None:
        _mount("--bind", str(self._kept), str(self.path))

    def kill(self) -> None:
        """Take it away. What a site sees is the empty folder below it, or none."""
        if self.is_mounted:
            run("umount", "--lazy", str(self.path))
        else:
            self.path.rename(self._kept / "taken away")

    def restart(self) -> None:
        """Bring it back, with what was on it."""
        if self.is_mounted:
            self._bind()
        else:
            (self._kept / "taken away").rename(self.path)

    def pause(self) -> None:
        raise NotImplementedError("A disk that hangs cannot be made here.")

    resume = pause

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Let there be no byte left meanwhile."""
        if not self.is_mounted:
            raise CannotMount
        ballast = self.path / "ballast"
        try:
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
            yield
        finally:
            ballast.unlink()


def _mount(*arguments: str) -> None:
    if sys.platform != "linux" or os.geteuid():
        raise CannotMount
    if subprocess.run(["mount", *arguments], capture_output=True).returncode:
        raise CannotMount


def owner_of(path: Path) -> str:
    """Return the number of the user that a folder belongs to."""
    return str(path.stat().st_uid)
