"""Checks of the folders that hold sessions: where they are, and whether they are there."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
    """Check that ``SESSION_FILE_PATH`` names a folder, which the engine must not make."""
    return [
        engine_error(
            Phrase(
                _(
                    "%(setting)s names %(folder)s, which is not a folder. Mount its disk, or, if "
                    "the site is new, create it."
                ),
                setting=each.setting,
                folder=each.around,
            )
        )
        for each in _folders(usable_storage())
        if each.is_nowhere
    ]


@checks.register
def check_mount_point(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that ``SESSION_FILE_PATH`` goes away with its disk, so that new processes notice it."""
    return [
        checks.Warning(
            Phrase(
                _(
                    "Sessions are in %(store)s, at the mount point of a disk. If the disk is not "
                    "mounted, a process that starts then begins anew, and all users are signed out."
                ),
                store=each.store,
            ),
            hint=Phrase(
                _("Create a folder on the disk, such as %(folder)s, and set %(setting)s to it."),
                folder=each.around / "sessions",
                setting=each.setting,
            ),
            id="sessionstores.W034",
        )
        for each in _folders(production_storage())
        if os.path.ismount(each.around)
    ]


@checks.register(deploy=True)
def check_folder(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the folder of sessions exists below ``SESSION_FILE_PATH``.

    If not, that may be on a disk that is not mounted.
    """
    return [
        checks.Warning(
            Phrase(
                _("The folder of sessions, %(folder)s, does not exist. See %(setting)s."),
                folder=each.path,
                setting=each.setting,
            ),
            hint=Phrase(
                _(
                    "If the site has had sessions, mount the disk or restore the folder. If the "
                    "site is new, create the folder, or wait for the first session."
                )
            ),
            id="sessionstores.W035",
        )
        for each in _folders(usable_storage())
        if each.is_missing and not each.is_nowhere
    ]


class _Folder(NamedTuple):
    """A folder that has sessions, and not only copies, which may get lost."""

    path: Path
    setting: str
    store: str
    is_made_with_parents: bool

    @property
    def around(self) -> Path:
        """The folder that the setting names."""
        return self.path.parent

    @property
    def is_nowhere(self) -> bool:
        """Whether the folder cannot be made, because the one around it does not exist."""
        return not self.is_made_with_parents and not _may_be(self.around, os.stat, stat.S_ISDIR)

    @property
    def is_missing(self) -> bool:
        """Whether the folder is known not to exist."""
        return not _may_be(self.path, os.lstat)


def _may_be(
    path: Path,
    look: Callable[[Path], os.stat_result],
    is_right: Callable[[int], bool] = lambda mode: True,
) -> bool:
    """Return whether there is something at a path, or whether this process cannot know.

    The storage itself reports what the process may not see.
    """
    try:
        return is_right(look(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _folders(storage: Storage | None) -> Iterator[_Folder]:
    for part in parts(storage):
        is_cache = isinstance(part, CacheStorage)
        if part.temporary or (isinstance(part, CacheStorage) and part.holds_copies):
            continue
        if found := part.folder():
            # Django's cache makes its folder itself.
            yield _Folder(Path(found[0]), found[1], part.describe(), is_made_with_parents=is_cache)
