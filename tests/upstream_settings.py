"""Settings for Django's own ``runtests.py``, run by `tests.upstream`: its own, and our engine."""

import os
import sys

import django.contrib.sessions.middleware
from django.contrib.auth import hashers
from django.utils.module_loading import import_string

# On the path there, not here: the module is part of Django's tests.
from test_sqlite import *  # noqa: F403

SESSION_ENGINE = os.environ["UPSTREAM_SESSION_ENGINE"]
if os.environ["UPSTREAM_MIDDLEWARE"]:
    # The tests name the class in MIDDLEWARE, and import it themselves as well.
    _middleware = import_string(os.environ["UPSTREAM_MIDDLEWARE"])
    django.contrib.sessions.middleware.SessionMiddleware = _middleware
# Tests of logins hash with the default, which took most of their time.
hashers.PBKDF2PasswordHasher.iterations = 1
SESSION_CACHE_ALIAS = "sessions"
SESSIONSTORES = {"REGISTRY": "db"}  # For the engines that need one.
SESSION_FILE_PATH = os.environ["UPSTREAM_FOLDER"]
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    SESSION_CACHE_ALIAS: {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": os.environ["UPSTREAM_REDIS_URL"],
    },
}

# runtests.py overwrites INSTALLED_APPS with a list of its own, and there is no option to add to
# it. Settings are read before that, so there is still time to append to the list.
_apps = sys.modules["__main__"].__dict__.get("ALWAYS_INSTALLED_APPS", [])
if "django_sessionstores" not in _apps:
    _apps.append("django_sessionstores")
