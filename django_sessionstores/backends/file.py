"""Sessions in files, under Django's ``SESSION_FILE_PATH``."""

import os
import tempfile
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from django_sessionstores.conf import engine_setting
from django_sessionstores.session import SessionStore as BaseSessionStore
from django_sessionstores.storages.file import FileStorage

FOLDER = "django_sessionstores"


def session_folder() -> Path:
    """The folder that holds the records, beside the files of Django's own engine.

    Raises ``ImproperlyConfigured`` if ``SESSION_FILE_PATH`` is set and not there. To create it
    would hide that a disk is not mounted, and log everyone out.
    """
    if configured := engine_setting("SESSION_FILE_PATH"):
        if not Path(configured).is_dir():
            raise ImproperlyConfigured(
                f"SESSION_FILE_PATH names {str(configured)!r}, which is not a folder. Create it "
                "or mount it."
            )
        return Path(configured) / FOLDER
    # The users of a machine share its temp folder, but not each other's sessions.
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir()) / (FOLDER + user)


class SessionStore(BaseSessionStore):
    """One file per session. ``manage.py clearsessions`` has to run as the site's user."""

    @classmethod
    def make_storage(cls) -> FileStorage:
        return FileStorage(session_folder())
