"""The set-up of the demo: folders, tables, users and a few sessions."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import Error as DatabaseError
from django.utils import timezone

from django_sessionstores.core.clock import now
from django_sessionstores.core.records import Client
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.operations.checks.configuration import parts
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.storages.base import Storage
from django_sessionstores.storages.registered import RegisteredStorage
from django_sessionstores.testing import HOUR, at
from testproject import engines
from testproject.crowd import DEVICES

# Everyone knows the passwords, so the demo listens only on the loopback address.
USERS: Final = ("demo", "staff")
"""The usernames, which are the passwords as well. The second user may use the admin."""

SEEDED_FOR: Final = timedelta(hours=1)
DEVICES_EACH: Final = 3


class SetUpFailed(Exception):
    """The demo cannot start. The message says why."""


def session_store() -> type[Any]:
    store: type[SessionBase] = import_module(settings.SESSION_ENGINE).SessionStore
    return store


def storage_by_id() -> Storage:
    """Return the storage in which sessions can be read by their ids."""
    storage: Storage = session_store().own_storage()
    return storage.registry if isinstance(storage, RegisteredStorage) else storage


def set_up() -> None:
    """Make the folders and tables, and read once from the store. Raises `SetUpFailed`."""
    try:
        for folder in _folders():
            folder.mkdir(parents=True, exist_ok=True)
        storage = storage_by_id()
        if not any(part.database() for part in parts(storage)):
            # Before migrate, which would wait for the store as well.
            storage.read("0" * 40)
        call_command("migrate", verbosity=0, interactive=False)
        if settings.DEMO.cache and settings.DEMO.cache["BACKEND"].endswith("DatabaseCache"):
            call_command("createcachetable", verbosity=0)
        storage.read("0" * 40)
    except DatabaseError as error:
        raise _set_up_error("The database cannot be used", error) from error
    except StorageUnavailable as error:
        raise _set_up_error("The store for sessions cannot be used", error) from error
    except OSError as error:
        raise _set_up_error("A folder cannot be made", error) from error
    except ImproperlyConfigured as error:
        raise SetUpFailed(f"{error}\n{_value()}") from error


def seed_users() -> None:
    """Create the users that do not exist yet."""
    users = get_user_model()._default_manager
    for name in USERS:
        if not users.filter(username=name).exists():
            is_staff = name == "staff"
            user = get_user_model()(username=name, is_staff=is_staff, is_superuser=is_staff)
            user.set_password(name)
            user.save()


def seed_sessions() -> int:
    """Create sessions of a visitor and of each user, and an expired one; return how many.

    They expire within an hour, so that they do not accumulate if the demo is started often.
    """
    if not session_store().storage().authoritative:
        return 0  # The sessions are in browsers, so none can be created here.
    users = get_user_model()._default_manager
    _seed(None, next(iter(DEVICES)), 1)
    for user in users.filter(username__in=USERS):
        for number, agent in enumerate([*DEVICES][:DEVICES_EACH], start=1):
            _seed(user, agent, number)
    seeded = 1 + DEVICES_EACH * len(USERS)
    if session_store().storage().self_expiring:
        return seeded
    expired = session_store()()
    expired["cart"] = {"apples": 9, "pears": 9, "plums": 9}
    expired.set_expiry(timezone.now() - timedelta(seconds=1))
    expired.save()
    return seeded + 1


def _seed(user: Any, agent: str, number: int) -> None:
    session = session_store()()
    client = Client(f"198.51.100.{number}", agent)
    session.policy = RequestPolicy(client=lambda: client)
    session["cart"] = {"apples": 1, "pears": 0, "plums": 2}
    if user is not None:
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.set_expiry(SEEDED_FOR)
    with at(now() - number * HOUR // 6):
        session.save()


def _folders() -> list[Path]:
    choice = settings.DEMO
    folders = [settings.FOLDER]
    if choice.engine == "file":
        folders.append(choice.sessions_folder)
    if choice.database["ENGINE"].endswith("sqlite3"):
        folders.append(choice.database["NAME"].parent)
    return folders


def _set_up_error(what: str, error: Exception) -> SetUpFailed:
    cures = engines.how_to_start(settings.DEMO.text)
    if isinstance(error, DatabaseError):
        cures += engines.how_to_make(settings.DEMO)
    return SetUpFailed("\n".join((f"{what}: {error}", _value(), *cures)))


def _value() -> str:
    return f"{engines.VARIABLE} is {settings.DEMO.text!r}."
