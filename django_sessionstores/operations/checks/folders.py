"""Checks of the folders that hold sessions: where they are, and whether they are there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django.core import checks
from django.utils.translation import gettext_noop as _

from ...core.phrases import Phrase
from ...storages.base import CacheStorage, Storage
from .configuration import parts, production_storage, usable_storage
from .engine import engine_error


@checks.register
def check_file_path(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the project sets the folder of session files."""
    if not any(part.temporary for part in parts(production_storage())):
        return []
    return [
        checks.Warning(
            Phrase(
                _(
                    "Sessions are in the system's folder for temporary files, which a restart or a "
                    "cleaning job may empty."
                )
            ),
            hint=Phrase(_("Set SESSION_FILE_PATH to a folder that only the site's user can read.")),
            id="sessionstores.W004",
        )
    ]


@checks.register
def check_place(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the folder in which a storage makes its own exists, if that must not be made."""
    return [
        engine_error(
            Phrase(_("%(folder)s is not a folder. Create it, or mount its disk."), folder=place)
        )
        for part, place in _places(usable_storage())
        if _is_missing(part, place)
    ]


@checks.register
def check_mount_point(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that a folder goes away with its disk, so that new processes notice it."""
    return [
        checks.Warning(
            Phrase(
                _(
                    "Sessions are in %(store)s, at the mount point of a disk. If the disk is not "
                    "mounted, a process that starts then begins anew, and all users are signed out."
                ),
                store=part.describe(),
            ),
            hint=Phrase(
                _("Create a folder on the disk, such as %(folder)s, and set that instead."),
                folder=place / "sessions",
            ),
            id="sessionstores.W034",
        )
        for part, place in _places(production_storage())
        if os.path.ismount(place)
    ]


@checks.register(deploy=True)
def check_folder(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the folder of sessions exists. It may be on a disk that is not mounted."""
    return [
        checks.Warning(
            Phrase(_("The folder of sessions, %(folder)s, does not exist."), folder=part.folder()),
            hint=Phrase(
                _(
                    "If the site has had sessions, mount the disk or restore the folder. If the "
                    "site is new, create the folder, or wait for the first session."
                )
            ),
            id="sessionstores.W035",
        )
        for part, place in _places(usable_storage())
        if not os.path.lexists(str(part.folder())) and not _is_missing(part, place)
    ]


def _places(storage: Storage | None) -> Iterator[tuple[Storage, Path]]:
    """Yield the storages that keep sessions in a folder, and the folder around that.

    Copies may get lost, and temporary files as well.
    """
    for part in parts(storage):
        folder = part.folder()
        is_copy = isinstance(part, CacheStorage) and part.holds_copies
        if folder is not None and not part.temporary and not is_copy:
            yield part, Path(folder).parent


def _is_missing(storage: Storage, place: Path) -> bool:
    """Return whether the folder around that of a storage is missing and will not be made."""
    # Django's cache makes its folder itself.
    return not isinstance(storage, CacheStorage) and not place.is_dir()
