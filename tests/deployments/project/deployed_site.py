"""A small site for gunicorn and uvicorn: ``deployed_site:wsgi`` and ``deployed_site:asgi``.

The variable ``DEPLOYED_SITE`` has further settings of Django, as JSON. Each view is there as sync
and, below ``async/``, as async. Nobody needs a password, and users are in no database, so that
only the sessions depend on a store.
"""

import asyncio
import json
import os
import sys
from typing import Any

import django
from django.conf import settings
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path
from redis import Redis
from redis.cluster import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError

given: dict[str, Any] = json.loads(os.environ["DEPLOYED_SITE"])
if any("mysql" in database["ENGINE"] for database in given.get("DATABASES", {}).values()):
    import pymysql

    pymysql.install_as_MySQLdb()

settings.configure(
    **{
        "SECRET_KEY": "tests only",
        "ALLOWED_HOSTS": ["*"],
        "USE_TZ": True,
        "ROOT_URLCONF": __name__,
        "DATABASES": {"default": {"ENGINE": "django.db.backends.dummy"}},
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
        "INSTALLED_APPS": [
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django_sessionstores",
        ],
        "MIDDLEWARE": [
            "django_sessionstores.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        "AUTHENTICATION_BACKENDS": [f"{__name__}.Members"],
        "LOGGING": {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "process": {"format": "[%(process)d] %(levelname)s %(name)s %(message)s"}
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "process"}},
            "root": {"handlers": ["stderr"], "level": "WARNING"},
        },
        **given,
    }
)
django.setup()

from django.contrib.auth import alogin, alogout, login, logout  # noqa: E402 - models need Django
from django.contrib.auth.models import User  # noqa: E402
from django.contrib.auth.signals import user_logged_in  # noqa: E402

# It would save the user.
user_logged_in.disconnect(dispatch_uid="update_last_login")

MEMBERS = f"{__name__}.Members"
WAIT_MILLISECONDS = 500


class Members:
    """Everybody who has a number is a user."""

    def authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        return None

    def get_user(self, number: int) -> User:
        user = User(pk=number, username=f"member {number}", password="unusable")
        user._state.adding = False
        return user

    async def aget_user(self, number: int) -> User:
        return self.get_user(number)


def plain(request: HttpRequest) -> JsonResponse:
    """Tells which process answers. It does not touch the session."""
    return JsonResponse({"process": os.getpid()})


async def aplain(request: HttpRequest) -> JsonResponse:
    """Does the same, and needs a thread of the project's for it."""
    return JsonResponse({"process": await asyncio.to_thread(os.getpid)})


def log_in(request: HttpRequest, number: int) -> JsonResponse:
    login(request, Members().get_user(number), backend=MEMBERS)
    request.session["owner"] = number
    return JsonResponse({})


async def alog_in(request: HttpRequest, number: int) -> JsonResponse:
    await alogin(request, Members().get_user(number), backend=MEMBERS)
    await request.session.aset("owner", number)
    return JsonResponse({})


def log_out(request: HttpRequest) -> JsonResponse:
    logout(request)
    return JsonResponse({})


async def alog_out(request: HttpRequest) -> JsonResponse:
    await alogout(request)
    return JsonResponse({})


def _what_is_seen(user: Any, session: dict[str, Any]) -> JsonResponse:
    """Return whose page this is by either of the two that say so, and the counters."""
    counters = {name: value for name, value in session.items() if name.startswith("counter")}
    return JsonResponse({"user": user.pk, "owner": session.get("owner"), "counters": counters})


def read(request: HttpRequest) -> JsonResponse:
    return _what_is_seen(request.user, dict(request.session.items()))


async def aread(request: HttpRequest) -> JsonResponse:
    user = await request.auser()
    return _what_is_seen(user, dict(await request.session.aitems()))


def increment(request: HttpRequest, counter: str) -> JsonResponse:
    request.session[counter] = request.session.get(counter, 0) + 1
    return read(request)


async def aincrement(request: HttpRequest, counter: str) -> JsonResponse:
    await request.session.aset(counter, await request.session.aget(counter, 0) + 1)
    return await aread(request)


def fill(request: HttpRequest, size: int) -> JsonResponse:
    """Puts so many bytes into the session, which cannot be compressed."""
    request.session["ballast"] = os.urandom(size).hex()
    return JsonResponse({})


async def afill(request: HttpRequest, size: int) -> JsonResponse:
    await request.session.aset("ballast", os.urandom(size).hex())
    return JsonResponse({})


_ROUTES: list[tuple[str, Any, Any]] = [
    ("plain/", plain, aplain),
    ("login/<int:number>/", log_in, alog_in),
    ("logout/", log_out, alog_out),
    ("read/", read, aread),
    ("increment/<str:counter>/", increment, aincrement),
    ("fill/<int:size>/", fill, afill),
]
urlpatterns = [
    path(prefix + route, view)
    for route, *views in _ROUTES
    for prefix, view in zip(["", "async/"], views, strict=True)
]


def manage() -> None:
    """Run the command of Django that the process was given."""
    execute_from_command_line(["manage.py", *sys.argv[1:]])


class ReplicatedRedis(Redis):
    """A client whose writes fail unless a replica has them, too."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] != "EVALSHA":
            return super().execute_command(*args, **options)
        # On the connection of the write, which is what WAIT is about.
        with self.pipeline(transaction=False) as pipeline:
            pipeline.execute_command(*args)
            pipeline.execute_command("WAIT", 1, WAIT_MILLISECONDS)
            answer, replicas = pipeline.execute()
        if replicas < 1:
            raise RedisConnectionError("No replica has confirmed the write.")
        return answer


class ClusterClient(RedisCacheClient):
    """A client of all nodes of a Redis cluster."""

    def get_client(self, key: str | None = None, *, write: bool = False) -> Any:
        if not hasattr(self, "_cluster"):
            options = {
                name: value for name, value in self._pool_options.items() if "timeout" in name
            }
            self._cluster = RedisCluster.from_url(self._servers[0], **options)
        return self._cluster


class ClusterCache(RedisCache):
    """The cache that a project makes to keep its sessions in a Redis cluster."""

    def __init__(self, server: Any, parameters: dict[str, Any]) -> None:
        super().__init__(server, parameters)
        self._class = ClusterClient


# Last, because the caches above are made with them.
wsgi = WSGIHandler()
asgi = ASGIHandler()
