"""Checks of the folders that hold sessions, one test per id."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from django.test import override_settings

from django_sessionstores.operations.checks.engine import check_engine
from django_sessionstores.operations.checks.folders import (
    check_file_path,
    check_folder,
    check_mount_point,
    check_place,
)
from tests.operations.checks.configurations import ENGINES, ids

FILES = "django.core.cache.backends.filebased.FileBasedCache"


@contextmanager
def site(name: str, place: Path | None) -> Iterator[Any]:
    """Yield the engine of a site whose sessions, or copies of them, are below a folder."""
    with override_settings(
        SESSION_ENGINE=ENGINES + name,
        SESSION_FILE_PATH=place,
        CACHES={"default": {"BACKEND": FILES, "LOCATION": place}},
    ):
        yield import_module(ENGINES + name).SessionStore


@pytest.mark.usefixtures("production")
def test_file_path_should_be_chosen(tmp_path):
    """W004: folders for temporary files are emptied by restarts and cleaning jobs."""
    with override_settings(SESSION_ENGINE=ENGINES + "file", SESSION_FILE_PATH=None):
        assert ids(check_file_path) == ["sessionstores.W004"]
    with override_settings(SESSION_ENGINE=ENGINES + "file", SESSION_FILE_PATH=tmp_path):
        assert ids(check_file_path) == []


def test_a_path_must_lead_to_a_folder(tmp_path: Path) -> None:
    """E005: to create it would hide that a disk is not mounted."""
    with site("file", tmp_path / "unmounted"):
        (message,) = check_place(None)
        assert ids(check_engine) == ids(check_folder) == []
    assert message.id == "sessionstores.E005"
    assert str(tmp_path / "unmounted") in message.msg
    for name in ("cache", "cached_db"):
        with site(name, tmp_path / "made by the cache"):
            assert ids(check_place) == []
    with site("file", tmp_path):
        assert ids(check_place) == []


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize("name", ["file", "cache", "cached_db"])
def test_sessions_should_not_be_at_a_mount_point(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W034: it is there without its disk, too, so that a new process takes the site for new."""
    with site(name, tmp_path):
        assert ids(check_mount_point) == []
        monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path)
        messages = check_mount_point(None)
    if name == "cached_db":  # Copies may get lost.
        assert messages == []
    else:
        assert [each.id for each in messages] == ["sessionstores.W034"]
        assert str(tmp_path / "sessions") in messages[0].hint


@pytest.mark.parametrize("name", ["file", "cache", "cached_db"])
def test_a_folder_that_is_missing_is_told(name: str, tmp_path: Path) -> None:
    """W035: a process that has just begun cannot know whether there were sessions in it."""
    with site(name, tmp_path / "place") as engine:
        (tmp_path / "place").mkdir()
        expected = [] if name == "cached_db" else ["sessionstores.W035"]
        assert ids(check_folder) == expected
        if name == "cached_db":
            return
        (message,) = check_folder(None)
        folder, setting = engine.own_storage().folder()
        assert folder in message.msg
        assert setting in message.msg
        engine().create()
        assert ids(check_folder) == []
        shutil.rmtree(folder)
        assert ids(check_folder) == expected
        Path(folder).mkdir()
        assert ids(check_folder) == []
        shutil.rmtree(tmp_path / "place")
        assert ids(check_folder) == (expected if name == "cache" else [])


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="permissions of Unix")
@pytest.mark.parametrize("name", ["file", "cache"])
def test_a_folder_that_cannot_be_seen_is_not_called_missing(name: str, tmp_path: Path) -> None:
    """Neither E005 nor W035: somebody has given it to another user, which the storage reports."""
    with TemporaryDirectory() as place, site(name, Path(place, "sessions", "disk")) as engine:
        Path(place).chmod(0o755)
        Path(place, "sessions", "disk").mkdir(parents=True)
        engine().create()
        assert ids(check_place) == ids(check_folder) == []
        for hidden in ("sessions/disk", "sessions"):
            Path(place, hidden).chmod(0)
            with as_nobody():
                assert ids(check_place) == ids(check_folder) == []
            Path(place, hidden).chmod(0o700)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up the rights of root, if this process has them."""
    is_root = os.geteuid() == 0
    if is_root:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if is_root:
            os.setresuid(0, 0, 0)


def test_temporary_files_may_be_missing() -> None:
    """The system removes them whenever it likes; W004 tells of that."""
    with site("file", None):
        assert ids(check_place) == ids(check_mount_point) == ids(check_folder) == []
