"""File systems that tests mount, fill and take away. They need root, on Linux."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.test import override_settings

from django_sessionstores.backends.file import SessionStore
from django_sessionstores.storages.caches.file_cache import from_cache
from django_sessionstores.storages.files.storage import FileStorage
from django_sessionstores.storages.layered import LayeredStorage
from django_sessionstores.storages.memory import MemoryStorage

FILES = "django.core.cache.backends.filebased.FileBasedCache"


@contextlib.contextmanager
def storage_on(kind: str, place: Path) -> Iterator[FileStorage]:
    """Yield a storage whose folder is at a place, or below it; or that of copies."""
    with override_settings(
        SESSION_FILE_PATH=place, CACHES={"default": {"BACKEND": FILES, "LOCATION": place}}
    ):
        if kind == "file":
            yield SessionStore.make_storage()
        elif kind == "folder itself":
            yield FileStorage(place)
        else:
            storage = from_cache("default")
            if kind == "copies":
                LayeredStorage(storage, MemoryStorage(10), lease=60, retry=1)
            yield storage


KINDS = pytest.mark.parametrize("kind", ["file", "folder itself", "cache", "copies"])


@contextlib.contextmanager
def tiny_disk(path: Path, size: str = "64k") -> Iterator[Callable[[str], None]]:
    """Mount a file system at ``path``, and yield a function that mounts it again with options."""
    _require_root()
    path.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
    try:
        yield lambda option: _run("mount", "-o", f"remount,{option}", str(path))
    finally:
        _run("umount", str(path))


class Disk:
    """A file system that can be mounted and taken away, and keeps its files meanwhile."""

    def __init__(self, place: Path, keep: Path) -> None:
        self.place = place
        self._keep = keep
        self.is_mounted = False

    def mount(self) -> None:
        _run("mount", "--bind", str(self._keep), str(self.place))
        self.is_mounted = True

    def unmount(self) -> None:
        _run("umount", str(self.place))
        self.is_mounted = False


@contextlib.contextmanager
def removable_disk(tmp_path: Path) -> Iterator[Disk]:
    """Yield a disk that is mounted at a folder below ``tmp_path``."""
    place, keep = tmp_path / "mount point", tmp_path / "keep"
    place.mkdir()
    with tiny_disk(keep, "8m"):
        disk = Disk(place, keep)
        disk.mount()
        try:
            yield disk
        finally:
            if disk.is_mounted:
                disk.unmount()


def _require_root() -> None:
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("only root of a Linux may mount a file system")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        pytest.skip(f"{command[0]} is not possible here")
