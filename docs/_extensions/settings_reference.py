"""Entries of the reference of settings, whose facts come from the package."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from docutils import nodes
from package_facts import STORAGES, Generated, unconnected
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from django_sessionstores import conf
from django_sessionstores.storages.base import Storage
from django_sessionstores.storages.registered import RegisteredStorage
from django_sessionstores.storages.sql.storage import DatabaseStorage

UNITS: Final = {
    "OUTAGE_RETRY_AFTER": "seconds",
    "MAX_SESSIONS": "sessions",
    "MEMORY_MAX_SESSIONS": "sessions",
    "CONFLICT_RETRIES": "retries",
    "COOKIE_MAX_PARTS": "cookies",
    "COOKIE_MAX_BYTES": "bytes",
}
"""What the options count that are whole numbers. Those that may be fractions are seconds."""

MIDDLEWARE: Final = {
    "ACTIVITY_INTERVAL",
    "ON_OUTAGE",
    "OUTAGE_RETRY_AFTER",
    "TRUSTED_PROXIES",
    "COOKIE_PARTITIONED",
    "COOKIE_MAX_PARTS",
    "EXPLAIN_ENDS",
    "NEW_SIGN_IN",
    "DEVICE_BINDING",
    "DEVICE_BINDING_LIFETIME",
    "END_WITHOUT_PROOF",
}
"""The options that have an effect under the package's middleware only."""


def lists(storage: Storage) -> bool:
    return storage.lists


def rotates(storage: Storage) -> bool:
    return storage.lists and not storage.holds_in_key


def decides(storage: Storage) -> bool:
    return storage.authoritative


NEEDS: Final[dict[str, Callable[[Storage], bool]]] = {
    "ACTIVITY_INTERVAL": lambda storage: storage.lists or not storage.holds_in_key,
    "ROTATE_AFTER": rotates,
    "ROTATION_GRACE": rotates,
    "TOMBSTONE_AGE": decides,
    "END_WITHOUT_PROOF": decides,
    "MAX_SESSIONS": lists,
    "ON_LIMIT": lists,
    "END_ON_PASSWORD_CHANGE": lists,
    "END_ON_DEACTIVATION": lists,
    "END_ON_DELETION": lists,
    "SITE": lists,
    "EXPLAIN_ENDS": decides,
    "NEW_SIGN_IN": lists,
    "MERGE": decides,
    "CONFLICT_RETRIES": decides,
    "TRUSTED_PROXIES": lambda storage: storage.keeps_client,
}
"""What a storage must be able to do, so that an option has an effect."""

WRITTEN: Final = {
    "DATABASE_TIMEOUT": "those on PostgreSQL, MySQL, MariaDB or MongoDB, also in a registry",
    "STORE_RETRY": "those on a server: Redis, memcached, PostgreSQL, MySQL, MariaDB or MongoDB, "
    "also in a registry",
    "TELL_ENDS": "those on Redis or PostgreSQL, also in a registry",
    "MERGE_WINDOW": "``cookie`` with a registry",
    "COOKIE_MAX_PARTS": "``cookie``",
    "COOKIE_MAX_BYTES": "``cookie``",
}
"""Engines of the options that no fact of the package tells."""

USED: Final = {
    name: frozenset(
        import_module(f"django_sessionstores.backends.{name}").SessionStore.settings_used
    )
    for name in {key.split("`")[2] for key in STORAGES}
}
"""The settings that each engine reads when it makes its storage."""


def engines(name: str) -> str:
    """Return the engines on which an option has an effect, as text of a page."""
    if name in WRITTEN:
        where = WRITTEN[name]
    elif name == "REGISTRY":
        where = _enumerated(each for each, storage in _plain() if not lists(storage))
    elif any(name in used for used in USED.values()):
        where = _reading(name)
    else:
        where = _able(NEEDS.get(name, lambda storage: True))
    return f"{where}; needs the package's middleware" if name in MIDDLEWARE else where


def _plain() -> list[tuple[str, Any]]:
    return [(name, each) for name, each in STORAGES.items() if ", registered" not in name]


def _able(needs: Callable[[Any], bool]) -> str:
    """Return the engines whose storages can do something, alone or with a registry."""
    never, registered = [], []
    for name, storage in _plain():
        if needs(storage):
            continue
        beside = RegisteredStorage(
            unconnected(storage), unconnected(DatabaseStorage), window=1
        )  # Only an engine that is a class lacks anything.
        (registered if needs(beside) else never).append(name)
    where = f"all except {_enumerated(never)}" if never else "all"
    return f"{where}; {_enumerated(registered)} only with a registry" if registered else where


def _reading(name: str) -> str:
    """Return the engines that read an option to make their storage.

    An engine that reads all options of another one can have that as a part.
    """
    reading = {engine for engine, used in USED.items() if name in used}
    parts = {engine for engine in reading if any(USED[other] < USED[engine] for other in reading)}
    where = _enumerated(f"``{engine}``" for engine in sorted(reading - parts))
    options = [
        f"``{option}``"
        for engine, option in (("cached_db", "CACHED_STORE"), ("cookie", "REGISTRY"))
        if engine in parts
    ]
    return f"{where}, also as {' or '.join(options)}" if options else where


def _enumerated(names: Iterable[str]) -> str:
    """Return a list as text, in which the stores of one engine stand together."""
    stores: dict[str, list[str]] = {}
    for engine, _, store in (name.partition(" on ") for name in names):
        stores.setdefault(engine, []).extend([store] if store else [])
    engines = [f"{engine} on {' or '.join(on)}" if on else engine for engine, on in stores.items()]
    *others, last = engines
    return f"{', '.join(others)} and {last}" if others else last


def kind(name: str) -> str:
    """Return the type and the unit of an option."""
    hint = typing.get_type_hints(vars(conf.Settings)[name].func)["return"]
    if hint is float:
        return "number of seconds"
    if hint == float | None:
        return "number of seconds, or ``None``"
    if hint is int:
        return f"whole number of {UNITS[name]}"
    if hint is str or hint is bool:
        return "string" if hint is str else "``True`` or ``False``"
    if hint.__origin__.__name__ == "Mapping":
        return "dict"
    return "list of strings" if hint.__args__ == (str,) else "list of strings and pairs"


def default(name: str) -> str:
    """Return the default of an option, as it would be written in settings."""
    value = getattr(conf.Settings(), name)
    return repr([] if value == () else value)


def checked_example(name: str, code: str) -> str:
    """Return an example as an entry of the dict. Raises ``ValueError`` if the option refuses it."""
    value = eval(code, {"__builtins__": {}})  # noqa: S307 - a page of this project
    with override_settings(SESSIONSTORES={name: value}):
        try:
            read = getattr(conf.Settings(), name)
        except ImproperlyConfigured as error:
            raise ValueError(f"{name} = {code}: {error}") from error
    if read == getattr(conf.Settings(), name):
        raise ValueError(f"{name} = {code} is the default.")
    return f'"{name}": {code}'


def entry(name: str, example: str) -> list[str]:
    """Return the entry of an option, as lines of a page."""
    option = vars(conf.Settings)[name]
    return [
        f".. _option-{name}:",
        "",
        f"``{name}``",
        f"   | Type: {kind(name)}",
        f"   | Default: ``{default(name)}``",
        f"   | Example: ``{checked_example(name, example)}``",
        f"   | Engines: {engines(name)}",
        "",
        *(f"   {line}" for line in (inspect.getdoc(option) or "").splitlines()),
        "",
    ]


class Options(Generated):
    """``.. options::``, with a line ``IDLE_TIMEOUT = 30 * 60`` for each option: its example."""

    has_content = True

    def lines(self) -> list[str]:
        lines: list[str] = []
        for line in self.content:
            name, _, example = line.partition(" = ")
            try:
                lines += entry(name, example)
            except (KeyError, ValueError) as error:
                raise self.error(f"{line}: {error}") from error
        return lines


class Default(SphinxRole):
    """``:default:`TOUCH_INTERVAL```, the default of an option."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        return [nodes.Text(default(self.text))], []


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("options", Options)
    app.add_role("default", Default())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
