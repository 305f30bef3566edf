"""A small Django site. What differs from case to case is in `tests.cases`."""

import contextlib
import os

from tests.services import temporary_folder

# A subprocess of a test finds here what its parent has made: the database, session files.
FOLDER = os.environ.get("SESSIONSTORES_TEST_FOLDER") or str(temporary_folder())
# Of several that share a run, each has a folder of its own, and its subprocesses the same.
_worker = os.environ.get("PYTEST_XDIST_WORKER")
if _worker and os.path.basename(FOLDER) != _worker:
    FOLDER = os.path.join(FOLDER, _worker)
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)
os.environ["SESSIONSTORES_TEST_FOLDER"] = FOLDER

with contextlib.suppress(ImportError):
    import pymysql

    pymysql.install_as_MySQLdb()

SECRET_KEY = "tests only"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "tests.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"{FOLDER}/default.sqlite3",
        # A file, not memory: threads and subprocesses of a test use it too, and wait their turn.
        "OPTIONS": {"timeout": 30},
    }
}
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django_sessionstores",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "static/"
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
SESSION_ENGINE = "django_sessionstores.backends.memory"
# Log-ins should cost what sessions cost, not what hashing a password does.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
