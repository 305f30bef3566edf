"""Directives and a role that take facts from the package, so that no page can contradict it."""

from __future__ import annotations

import inspect
import typing
from typing import Any, Final

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from django_sessionstores import conf, signals
from django_sessionstores.storages.base import CacheStorage, Storage
from django_sessionstores.storages.cookie import CookieStorage
from django_sessionstores.storages.database import DatabaseStorage
from django_sessionstores.storages.database_cache import DatabaseCacheStorage
from django_sessionstores.storages.file import FileStorage
from django_sessionstores.storages.file_cache import FileCacheStorage
from django_sessionstores.storages.layered import Layered
from django_sessionstores.storages.memcached import MemcachedStorage
from django_sessionstores.storages.memory import MemoryStorage
from django_sessionstores.storages.portable import LocMemStorage, PortableStorage
from django_sessionstores.storages.redis import RedisStorage
from django_sessionstores.storages.registered import Registered


def _unconnected(kind: type[Storage]) -> Any:
    """A storage of which only what its class declares may be asked."""
    return kind.__new__(kind)


STORAGES: Final[dict[str, type[Storage] | Storage]] = {
    "``memory``": MemoryStorage,
    "``file``": FileStorage,
    "``db``": DatabaseStorage,
    "``cache`` on Redis": RedisStorage,
    "``cache`` on memcached": MemcachedStorage,
    "``cache`` on DatabaseCache": DatabaseCacheStorage,
    "``cache`` on FileBasedCache": FileCacheStorage,
    "``cache`` on LocMemCache": LocMemStorage,
    "``cache`` on another cache": PortableStorage,
    "``cached_db``": Layered(CacheStorage(), _unconnected(DatabaseStorage), lease=1, retry=1),
    "``cookie``": CookieStorage,
    "``cookie``, registered in ``db`` or ``cached_db``": Registered(
        CookieStorage(), _unconnected(DatabaseStorage), window=1
    ),
    "``cookie``, registered in ``cache`` on Redis": Registered(
        CookieStorage(), _unconnected(RedisStorage), window=1
    ),
    "``cache`` on memcached or another cache, registered in ``db``": Registered(
        _unconnected(MemcachedStorage), _unconnected(DatabaseStorage), window=1
    ),
}

FLAGS: Final = {
    "authoritative": "Sessions can be ended, no change is lost",
    "shared": "Seen by all processes",
    "durable": "Never evicted, survives a restart",
    "self_expiring": "Drops expired sessions itself",
    "lists": "Tells which sessions there are",
    "indexes_users": "Users and counts from an index",
}


def storage_matrix() -> list[str]:
    """What each storage declares of itself, as the lines of a table."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    lines += _row("Engine and store", *FLAGS.values())
    for name, storage in STORAGES.items():
        # Of a class, what depends on a setting is a property, and so a yes.
        lines += _row(name, *("yes" if getattr(storage, flag) else "no" for flag in FLAGS))
    return lines


def _row(first: str, *others: str) -> list[str]:
    return [f"   * - {first}", *(f"     - {cell}" for cell in others)]


def options() -> list[str]:
    """Every option with its type, default and meaning, as the lines of a definition list."""
    lines: list[str] = []
    for name, option in vars(conf.Settings).items():
        if not name.isupper():
            continue
        lines += [
            f".. _option-{name}:",
            "",
            f"``{name}``",
            f"   | Type: {_type(option.func)}",
            f"   | Default: ``{default(name)}``",
            "",
            *(f"   {line}" for line in (inspect.getdoc(option) or "").splitlines()),
            "",
        ]
    return lines


def reasons(of: str) -> list[str]:
    """What the signals call the causes of ends and rejections, as the lines of a table."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 20 80", ""]
    lines += _row("``reason``", "What it says")
    for name, meaning in getattr(signals, of).items():
        lines += _row(f"``{name}``", meaning)
    return lines


def default(name: str) -> str:
    """The default of an option, as it would be written in settings."""
    return repr(getattr(conf.Settings(), name))


def _type(function: Any) -> str:
    kind = typing.get_type_hints(function)["return"]
    names = {float: "number", int: "whole number", str: "string", bool: "``True`` or ``False``"}
    if kind in names:
        return names[kind]
    if kind == float | None:
        return "number or ``None``"
    return {"Sequence": "list or tuple of strings", "Mapping": "dict"}[kind.__origin__.__name__]


class _Generated(SphinxDirective):
    """Puts lines made from the package in the place of the directive."""

    def lines(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        container = nodes.Element()
        source = StringList(self.lines(), source="generated from the package")
        self.state.nested_parse(source, self.content_offset, container)
        return container.children


class StorageMatrix(_Generated):
    """``.. storage-matrix::``"""

    lines = staticmethod(storage_matrix)


class Options(_Generated):
    """``.. options::``"""

    lines = staticmethod(options)


class Reasons(_Generated):
    """``.. reasons:: END_REASONS``"""

    required_arguments = 1

    def lines(self) -> list[str]:
        return reasons(self.arguments[0])


class Default(SphinxRole):
    """``:default:`TOUCH_INTERVAL```, the default of an option."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        return [nodes.Text(default(self.text))], []


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("storage-matrix", StorageMatrix)
    app.add_directive("options", Options)
    app.add_directive("reasons", Reasons)
    app.add_role("default", Default())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
