"""Sessions of engines that were in use before, and how to look at what happens to them."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.file import SessionStore as DjangoFileStore
from django.test import override_settings

DJANGO = "django.contrib.sessions.backends"
OURS = "django_sessionstores.backends"


@contextmanager
def migrating(*entries: Any, **options: Any) -> Iterator[None]:
    """``MIGRATE_FROM``, besides what the case has set."""
    others = getattr(settings, "SESSIONSTORES", {})
    with override_settings(SESSIONSTORES={**others, "MIGRATE_FROM": list(entries), **options}):
        yield


def django_store(name: str) -> Any:
    """Return one of Django's engines, in the folder that the settings say now."""
    if name == "file":
        # Django remembers the folder of the first settings that it saw.
        DjangoFileStore._storage_path = settings.SESSION_FILE_PATH
        os.makedirs(settings.SESSION_FILE_PATH, exist_ok=True)
    return import_module(f"{DJANGO}.{name}").SessionStore


def empty_django() -> None:
    from django.contrib.sessions.models import Session

    Session.objects.all().delete()


def empty_folder() -> None:
    """Make a folder for session files, if the case has made none."""
    shutil.rmtree(settings.SESSION_FILE_PATH, ignore_errors=True)
    os.makedirs(settings.SESSION_FILE_PATH)


def at_django(name: str, **data: Any) -> str:
    """Return the key of a session that Django's engine has stored."""
    session = django_store(name)()
    session.update({"cart": {"apples": 1}, **data})
    session.save()
    return str(session.session_key)


@contextmanager
def before(source: Any, name: str, action: Callable[[], object]) -> Iterator[None]:
    """Have something happen right before a call of a previous backend, once."""
    original, pending = getattr(source, name), [action]

    def call(*args: Any) -> Any:
        if pending:
            pending.pop()()
        return original(*args)

    setattr(source, name, call)
    try:
        yield
    finally:
        delattr(source, name)


@contextmanager
def after(source: Any, name: str, action: Callable[[], object]) -> Iterator[None]:
    """The same, right after the call."""
    original, pending = getattr(source, name), [action]

    def call(*args: Any) -> Any:
        result = original(*args)
        if pending:
            pending.pop()()
        return result

    setattr(source, name, call)
    try:
        yield
    finally:
        delattr(source, name)
