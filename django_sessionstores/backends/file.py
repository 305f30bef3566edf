"""The session engine ``file``: sessions in files, under Django's ``SESSION_FILE_PATH``."""

import os
import tempfile
from pathlib import Path

from ..conf import engine_setting_name, file_path
from ..sessions import SessionStore as BaseSessionStore
from ..storages.files.storage import FileStorage

FOLDER = "django_sessionstores"


def session_folder() -> Path:
    """Return the folder of the records. It is beside the files of Django's own engine."""
    if configured := file_path():
        return Path(configured) / FOLDER
    # The users of a machine share its folder for temporary files, but must not share sessions.
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir()) / (FOLDER + user)


class SessionStore(BaseSessionStore):
    """A session in a file. ``manage.py clearsessions`` must run as the user that runs the site."""

    settings_used = ("SESSION_FILE_PATH",)

    @classmethod
    def make_storage(cls) -> FileStorage:
        return FileStorage(
            session_folder(),
            setting=engine_setting_name("SESSION_FILE_PATH"),
            is_temporary=not file_path(),
        )
