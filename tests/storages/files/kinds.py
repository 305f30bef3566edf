"""The kinds of storages that have files: where their folders are."""

import contextlib
from collections.abc import Iterator
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
