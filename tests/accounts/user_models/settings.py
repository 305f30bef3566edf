"""The site of `tests.accounts.user_models`."""

import os

from tests.accounts.user_models import VARIABLE, WITHOUT_ADMIN
from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as _APPS
from tests.settings import TEMPLATES as _TEMPLATES

KIND = os.environ[VARIABLE]
AUTH_USER_MODEL = "user_models.User"
AUTHENTICATION_BACKENDS = ["tests.accounts.user_models.places.Backend"]
INSTALLED_APPS = [
    *(app for app in _APPS if not (app.endswith("admin") and KIND in WITHOUT_ADMIN)),
    "tests.accounts.user_models",
]
TEMPLATES = _TEMPLATES
MIDDLEWARE = [
    "django_sessionstores.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
SESSION_ENGINE = "django_sessionstores.backends.db"
ROOT_URLCONF = "tests.accounts.user_models.urls"
SILENCED_SYSTEM_CHECKS = ["auth.E003", "auth.W004"]
# No migrations: the tables of the models as they are.
MIGRATION_MODULES = {
    app.rpartition(".")[2]: None for app in INSTALLED_APPS if app != "django_sessionstores"
}
_PORT = os.environ.get("SESSIONSTORES_TEST_USERS_POSTGRESQL")
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": _PORT,
        "USER": "postgres",
        "NAME": f"users_{KIND}",
        # So that an error of the database would end the transaction of a request.
        "ATOMIC_REQUESTS": True,
    }
    if _PORT
    else {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "ATOMIC_REQUESTS": True}
}
