"""Django's backend ``file``."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from bisect import bisect_right
from pathlib import Path

from django.conf import settings as django_settings
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop

from ...conf import file_path
from ...core import lifetime
from ...core.phrases import Phrase
from ...core.records import SecretText, is_well_formed, session_id
from ...storages.files.disk import mount_point_of
from .base import Claim, Entry, PreviousSession
from .django_backend import DjangoSource, session_or_error, translate_errors


class FileSource(DjangoSource):
    """Django's ``file``."""

    def __init__(self, engine: type[SessionBase]) -> None:
        super().__init__(engine)
        self._folder = Path(file_path() or tempfile.gettempdir())
        if not _may_be_folder(self._folder):
            raise ImproperlyConfigured(
                f"The previous backend's SESSION_FILE_PATH is {str(self._folder)!r}, which is not "
                "a folder."
            )
        self._mount_point = mount_point_of(str(self._folder))
        self._listed: list[SecretText] = []

    def describe(self) -> str:
        return Phrase(
            gettext_noop("the files of Django's engine in %(folder)s"), folder=str(self._folder)
        )

    def find(self, key: str) -> PreviousSession | None:
        # There is no variable for the path, and none for the text until all is done, because error
        # reports show variables.
        with translate_errors(self):
            try:
                saved = int(self._path(key).stat().st_mtime * 1000)
                text = self._path(key).read_text("ascii", "replace")
            except FileNotFoundError:
                self._require_folder()
                return None
        if not text:
            return None  # The placeholder of a session that is being created.
        data = self._decode(text)
        expires = lifetime.expires_at(data.get("_session_expiry"), saved, self._age)
        return self._session(data, saved, expires, text)

    def remove(self, key: str) -> None:
        with translate_errors(self):
            try:
                self._path(key).unlink()
            except FileNotFoundError:
                self._require_folder()

    def try_to_remove(self, unused: str) -> None:
        with translate_errors(self):
            if not os.access(self._folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self._folder))

    def scan(self, cursor: str, limit: int) -> tuple[list[Entry], str]:
        if not cursor:
            # All names at once, because a folder has no order to continue in. 100,000 take 10 MB.
            self._listed = self._keys()
        start = bisect_right(self._listed, cursor)
        keys = self._listed[start : start + limit + 1]
        entries = [
            Entry(SecretText(key), session_id(key), session_or_error(self.find, key))
            for key in keys[:limit]
        ]
        return entries, SecretText(keys[limit - 1]) if len(keys) > limit else ""

    def count(self) -> int:
        return len(self._keys())

    def claim(self, locator: str, found: PreviousSession) -> Claim:
        with translate_errors(self):
            try:
                if self._path(locator).read_text("ascii", "replace") != found.seen:
                    return Claim.CHANGED
                self._path(locator).unlink()
            except FileNotFoundError:
                self._require_folder()
                return Claim.GONE
        return Claim.REMOVED

    def _keys(self) -> list[SecretText]:
        prefix = django_settings.SESSION_COOKIE_NAME
        with translate_errors(self):
            self._require_folder()
            names = [path.name for path in self._folder.iterdir()]
        keys = (SecretText(name[len(prefix) :]) for name in names if name.startswith(prefix))
        # The folder also has files that are being written.
        return sorted(key for key in keys if is_well_formed(key))

    def _require_folder(self) -> None:
        """Raise ``OSError`` if the folder is missing, or its disk, which was mounted, is not."""
        if not (self._folder.is_dir() and os.path.ismount(self._mount_point)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._folder))

    def _path(self, key: str) -> Path:
        return self._folder / f"{django_settings.SESSION_COOKIE_NAME}{key}"


def _may_be_folder(path: Path) -> bool:
    """Return whether there is a folder at a path, or whether this process may not look."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except PermissionError:
        return True  # Each call says so, with the cure.
    except OSError:
        return False
