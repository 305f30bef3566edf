"""The storage that the tests of files look at."""

from pathlib import Path

import pytest

from django_sessionstores.storages.files.storage import FileStorage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def storage(folder: Path) -> FileStorage:
    return FileStorage(folder)
