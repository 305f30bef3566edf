"""The settings of the demo. The type checker uses them as well.

They are only for a site on this machine: ``DEBUG`` is on, and the secret key and the passwords are
not secret.
"""

import contextlib
import os
from pathlib import Path

from testproject import engines

with contextlib.suppress(ImportError):
    import pymysql

    pymysql.install_as_MySQLdb()

BASE_DIR = Path(__file__).resolve().parent.parent
# Ignored by git.
FOLDER = BASE_DIR / ".cache" / "demo"

DEMO = engines.parse(os.environ.get(engines.VARIABLE) or engines.DEFAULT, FOLDER)

DEBUG = True
SECRET_KEY = "the key of a demo, known to everyone"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

# --- Sessions: the settings that a project needs for an engine -----------------------------

SESSION_ENGINE = f"django_sessionstores.backends.{DEMO.engine}"
SESSION_CACHE_ALIAS = "sessions" if DEMO.cache else "default"
SESSION_FILE_PATH = str(DEMO.sessions_folder) if DEMO.engine == "file" else None
SESSIONSTORES = {
    "REGISTRY": DEMO.registry,
    "CACHED_STORE": DEMO.cached_store,
    "MONGODB_URI": DEMO.mongodb,
    "STATISTICS": True,
    "EXPLAIN_ENDS": 60 * 60,
}

# --- The rest is an ordinary site ----------------------------------------------------------

DATABASES = {"default": DEMO.database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
if DEMO.cache:
    CACHES["sessions"] = DEMO.cache

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_sessionstores",
    "testproject",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django_sessionstores.middleware.SessionMiddleware",
    # With this, the pages of the admin and of devices are in the language of the browser.
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
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
ROOT_URLCONF = "testproject.urls"
LOGIN_URL = "sync:page"
WSGI_APPLICATION = "testproject.wsgi.application"
ASGI_APPLICATION = "testproject.asgi.application"
# Everyone knows the passwords, so a slow hash would only delay the demo.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
