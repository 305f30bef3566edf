"""The configuration of a simulated site: its backend, its middleware and its settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple

from django.utils.module_loading import import_string

from . import language, users

ENGINES: Final = ("memory", "db", "cache", "cached_db", "cache_registry", "cookie_registry")
MIDDLEWARES: Final = ("own", "django")
DRIVERS: Final = ("sync", "async")
START: Final = 1_800_000_000_000
"""The time at which a world begins, in milliseconds since the epoch."""
ROTATE_AFTER: Final = 1000
GRACE: Final = 60
WEEKS: Final = 4 * 7 * 86_400
"""Seconds after which every session has expired."""

BACKENDS: Final = f"{__package__}.engines"
"""The package of the backends that the settings name."""


class Config(NamedTuple):
    """The configuration of a site: its backend, its middleware, its kind of views, and options.

    The backend is one of `ENGINES`, or the dotted path of a function that returns an empty storage.
    The options are those of `language.OPTIONS`, without the sign.
    """

    engine: str = "memory"
    middleware: str = "own"
    driver: str = "sync"
    options: frozenset[str] = frozenset()

    def check(self) -> None:
        """Raise ``ValueError`` if there is no such site; the text names the valid choices."""
        if "." in self.engine:
            _check_function(self.engine)
        elif self.engine not in ENGINES:
            raise ValueError(
                f"{self.engine!r} is not an engine. The engines are: {', '.join(ENGINES)}. For a "
                "storage of your own, give the dotted path of a function that returns it."
            )
        for value, choices in ((self.middleware, MIDDLEWARES), (self.driver, DRIVERS)):
            if value not in choices:
                raise ValueError(f"{value!r} must be one of: {', '.join(choices)}.")
        for option in self.options:
            language.check_word(f"+{option}", language.OPTIONS, "an option of a site")

    def __str__(self) -> str:
        options = "".join(f" +{each}" for each in sorted(self.options))
        return f"{self.engine} {self.middleware} {self.driver}{options}"

    @classmethod
    def parse(cls, text: str) -> Config:
        """Return the config that ``str()`` turned into this text; raise ``ValueError``."""
        try:
            engine, kind, driver, *options = text.split()
        except ValueError:
            raise ValueError(
                f"{text!r} must begin with an engine, a middleware and a kind of views, such as "
                "'db own sync'."
            ) from None
        return cls(engine, kind, driver, frozenset(each.removeprefix("+") for each in options))

    @property
    def is_registered(self) -> bool:
        """Return whether the storage of the data has a registry in the database."""
        if "." in self.engine:
            return not _lists(self.engine)
        return self.engine == "cache_registry"

    @property
    def is_transactional(self) -> bool:
        """Return whether a rollback undoes saves."""
        return self.is_registered or self.engine in {"db", "cached_db", "cookie_registry"}

    @property
    def hides_writes(self) -> bool:
        """Return whether saves are hidden from others until the transaction commits."""
        return self.engine in {"db", "cached_db", "cookie_registry"}

    @property
    def rotates(self) -> bool:
        """Return whether keys are rotated because of their age."""
        return self.engine != "cookie_registry" and "idle" not in self.options

    @property
    def rotates_in_two_steps(self) -> bool:
        """Return whether others may see a rotation before the old key is superseded."""
        return "2step" in self.options

    @property
    def idle_seconds(self) -> int:
        """Return ``IDLE_TIMEOUT``, in seconds, for sites with the option ``idle``."""
        return 100_000

    def settings(self) -> dict[str, Any]:
        """Return the settings of the site."""
        options: dict[str, Any] = {
            "ROTATE_AFTER": ROTATE_AFTER,
            "ROTATION_GRACE": GRACE,
            # Longer than a program takes: entries older than the window would be read unmerged.
            "MERGE_WINDOW": 10 * WEEKS,
        }
        if self.options & {"limit", "refuse"}:
            options["MAX_SESSIONS"] = 2
            options["ON_LIMIT"] = "refuse" if "refuse" in self.options else "end_oldest"
        if "idle" in self.options:
            # A rotation would save the session anyway.
            options |= {"IDLE_TIMEOUT": self.idle_seconds, "ROTATE_AFTER": 0}
        if "merge" in self.options:
            options["MERGE"] = {"m": _merge}
        if "memory" in self.options:
            options["MIGRATE_FROM"] = [f"{BACKENDS}.previous"]
        if "cookie" in self.options:
            options["MIGRATE_FROM"] = [f"{BACKENDS}.previous_in_cookie"]
        own = "django_sessionstores.middleware.SessionMiddleware"
        django = "django.contrib.sessions.middleware.SessionMiddleware"
        in_key = self.engine == "cookie_registry"
        return {
            "SESSION_ENGINE": f"{BACKENDS}.{'in_cookie' if in_key else 'plain'}",
            "MIDDLEWARE": [own if self.middleware == "own" else django],
            "AUTHENTICATION_BACKENDS": [users.BACKEND],
            "SECRET_KEY": "the first key of the simulated site",
            "SECRET_KEY_FALLBACKS": [],
            "SESSION_COOKIE_NAME": "sessionid",
            "SESSIONSTORES": options,
        }


@cache
def _lists(path: str) -> bool:
    """Return whether the storage that this function returns lists its sessions."""
    return bool(import_string(path)().lists)


def _check_function(path: str) -> None:
    """Raise ``ValueError`` if a path does not lead to a function that returns a storage."""
    from .internals import Storage
    from .restoring import can_be_restored

    try:
        function = import_string(path)
    except ModuleNotFoundError as error:
        problem = f"{path!r} cannot be imported: {error}."
        if path.startswith(f"{error.name}."):
            problem += (
                " Run the command in the folder from which your project imports it, or add that "
                "folder to PYTHONPATH."
            )
        raise ValueError(problem) from error
    except Exception as error:
        raise ValueError(f"{path!r} cannot be imported: {_summary_of(error)}") from error
    if not callable(function):
        raise ValueError(f"{path!r} is {function!r}, and must be a function.")  # noqa: TRY004
    try:
        storage = function()
    except Exception as error:
        raise ValueError(
            f"{path!r} fails when it is called without arguments: {_summary_of(error)}"
        ) from error
    if not isinstance(storage, Storage):
        kind = "the class " if isinstance(storage, type) else ""
        raise ValueError(  # noqa: TRY004 - the value of an argument
            f"{path!r} returns {kind}{storage!r}, and must return an object of a subclass of "
            f"{Storage.__module__}.{Storage.__qualname__}."
        )
    try:
        is_restored = can_be_restored(storage, START)
    except Exception as error:
        raise ValueError(
            f"{path!r} returns a storage that fails at the first calls: {_summary_of(error)}"
        ) from error
    if not is_restored:
        raise ValueError(
            f"{path!r} returns a storage that does not keep all its state in dicts, lists and sets "
            "that are its attributes. The simulation undoes its own reads by restoring these, so "
            "it would report faults that do not exist. Test this storage with the conformance "
            "suite only."
        )


def _summary_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class MergeFailed(Exception):
    """The error of the site's merge function."""


failing_merges: list[Callable[[], bool]] = []
"""The merge function fails if one of these functions returns true."""


def _merge(base: object, mine: object, theirs: object) -> object:
    if any(fails() for fails in failing_merges):
        raise MergeFailed
    return mine
