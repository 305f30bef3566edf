"""What this process may not write in the folder, for example because a command ran as root."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from django.test import override_settings

from django_sessionstores.backends.file import SessionStore, session_folder
from django_sessionstores.storages.files.storage import FileStorage
from django_sessionstores.testing import now
from tests.storages.records import make_record

ID = "3f" + "0" * 38

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")

PLACES = {
    "a shard": lambda folder: folder / "3f",
    "the lock of a shard": lambda folder: folder / "3f/.lock",
    "a record": lambda folder: folder / "3f" / ID,
    "the index": lambda folder: folder / "users",
    "a part of the index": lambda folder: next((folder / "users").glob("??")),
    "an entry that is not a link": lambda folder: _as_a_file(next(folder.glob("users/??/*"))),
    "the sites": lambda folder: folder / "users/.sites",
    "a site": lambda folder: next((folder / "users/.sites").iterdir()),
    "the mark of a complete index": lambda folder: folder / "users/.complete",
}


def _as_a_file(entry: Path) -> Path:
    """Make an entry a file of its own, and return its path."""
    entry.unlink()
    entry.touch()
    return entry


@pytest.fixture
def storage() -> Iterator[FileStorage]:
    # Not below tmp_path, which only root may enter.
    with TemporaryDirectory() as place, override_settings(SESSION_FILE_PATH=place):
        Path(place).chmod(0o755)
        storage = SessionStore.make_storage()
        storage.create(make_record(ID, user_id="7"), now())
        yield storage


@contextmanager
def owner_of_all_but(path: Path | None) -> Iterator[str]:
    """Let this process own the folder, without the rights of root, and all in it except a path.

    Yields the words that describe the obstacle. Without root, the process owns the path as well,
    but may not use it.
    """
    folder = Path(session_folder())
    if os.geteuid() != 0:
        if path is not None:
            path.chmod(0)
        try:
            yield f"Allow its owner to, with chmod -R u+rwX {folder}."
        finally:
            if path is not None:
                path.chmod(0o700)
        return
    for each in (folder, *folder.rglob("*")):
        if each != path:
            os.chown(each, 65534, -1)
    os.setresuid(65534, 65534, 0)
    try:
        yield "It belongs to the user 0. Make the user 65534 the owner of the folder and of all in"
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.parametrize("find", PLACES.values(), ids=PLACES)
def test_whatever_a_request_needs_is_looked_at(
    storage: FileStorage, find: Callable[[Path], Path]
) -> None:
    """The doctor would find nothing, while logins, saves and logouts fail."""
    path = find(Path(session_folder()))
    with owner_of_all_but(path) as words:
        assert f"This process may not write to {path}. {words}" in storage.write_obstacle()


def test_the_owner_of_all_has_no_obstacle(storage: FileStorage) -> None:
    with owner_of_all_but(None):
        assert storage.write_obstacle() == ""


def test_an_own_folder_that_is_read_only(storage: FileStorage) -> None:
    """To make its owner the owner would change nothing."""
    folder = Path(session_folder())
    with owner_of_all_but(None):
        (folder / "users").chmod(0o500)
        try:
            obstacle = storage.write_obstacle()
            assert f"{folder}/users. Allow its owner to, with chmod -R u+rwX {folder}." in obstacle
        finally:
            (folder / "users").chmod(0o700)


def test_a_folder_with_very_many_files_takes_no_longer(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """System checks look as well, whenever a command starts."""
    folder, access, asked = Path(session_folder()), os.access, []
    for number in range(100):
        (folder / "3f" / f"3f{number:038x}").touch()
    monkeypatch.setattr(
        os, "access", lambda path, rights: asked.append(path) or access(path, rights)
    )
    assert storage.write_obstacle() == ""
    assert len([path for path in asked if path.startswith(f"{folder}/3f/")]) == 10
