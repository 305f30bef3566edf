"""The command that holds session backends to the cases."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .backend import Backend
    from .report import Results

PASSED: Final = 0
FAILED: Final = 1
COULD_NOT_RUN: Final = 2

_EPILOG: Final = (
    "The settings are those of DJANGO_SETTINGS_MODULE. Without it, minimal settings are used, with "
    "SQLite and a local-memory cache. Databases are test databases. Caches, folders and servers "
    "are those of the settings, and each case removes its sessions. The exit code is 0 if no case "
    "has failed, 1 if one has, and 2 if the cases could not be run."
)


class _CouldNotRun(Exception):
    """The cases could not be run, for the reason in the message."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    if not (options.engine or options.list):
        parser.error("Name a session backend, such as django.contrib.sessions.backends.db.")
    try:
        with _site():
            return _list() if options.list else _hold(options)
    except _CouldNotRun as error:
        if options.traceback and error.__cause__:
            traceback.print_exception(error.__cause__)
        sys.stderr.write(f"{error}\n")
        return COULD_NOT_RUN


@contextmanager
def _site() -> Iterator[None]:
    from .site import Site

    site = Site()
    try:
        site.set_up()
    except Exception as error:
        raise _CouldNotRun(
            f"The project could not be set up: {type(error).__name__}: {error}"
        ) from error
    try:
        yield
    finally:
        site.tear_down()


def _list() -> int:
    from .catalog import CASES

    for case in CASES.values():
        sys.stdout.write(f"{case.name} ({case.promise}): {case.meaning}\n")
    return PASSED


def _hold(options: argparse.Namespace) -> int:
    from .catalog import CASES
    from .report import as_json, as_table
    from .running import Outcome, run_cases
    from .simulation import Simulation, simulate

    names = options.case or list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        raise _CouldNotRun(f"There is no case {unknown[0]!r}. --list shows the cases.")
    cases = [CASES[name] for name in names]
    simulations: dict[Backend, Simulation] = {}
    # What a backend prints is not part of the results.
    with redirect_stdout(sys.stderr):
        backends = [_backend(engine, options.middleware) for engine in options.engine]
        results = {backend: list(run_cases(backend, cases)) for backend in backends}
        if options.simulation:
            simulations = {backend: simulate(backend, options.simulation) for backend in backends}
    if options.traceback:
        _write_tracebacks(results)
    write = as_json if options.json else as_table
    sys.stdout.write(write(results, simulations) + "\n")
    outcomes = [
        *(result.outcome for backend in backends for result in results[backend]),
        *(simulation.outcome for simulation in simulations.values()),
    ]
    return FAILED if Outcome.FAILED in outcomes else PASSED


def _write_tracebacks(results: Results) -> None:
    for backend, each in results.items():
        for result in each:
            if result.error:
                sys.stderr.write(f"{backend.engine}, {result.case.name}:\n")
                traceback.print_exception(result.error)


def _backend(engine: str, middleware: str | None) -> Backend:
    from django.core.exceptions import ImproperlyConfigured

    from .backend import Backend
    from .running import settings_of

    try:
        backend = Backend(engine, middleware)
        with settings_of(backend):
            backend.try_out()
    except (ImportError, ImproperlyConfigured, NotImplementedError) as error:
        raise _CouldNotRun(f"{engine} cannot be used: {type(error).__name__}: {error}") from error
    except (Exception, SystemExit) as error:
        # The message of an error may contain a session key or session data.
        raise _CouldNotRun(
            f"{engine} could not store a session: {type(error).__name__}. Check that its settings "
            "are set and that its store answers. --traceback shows where the error was raised."
        ) from error
    return backend


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m django_sessionstores.testing",
        description="Hold session backends, of any package, to the promises of a session.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("engine", nargs="*", metavar="SESSION_ENGINE", help="dotted path of a session backend")
    add("--case", action="append", metavar="NAME", help="only this case (repeatable)")
    add("--list", action="store_true", help="list the cases, and run none")
    add("--json", action="store_true", help="write the results as JSON")
    add("--traceback", action="store_true", help="write the tracebacks of errors, too")
    add("--middleware", metavar="PATH", help="session middleware, instead of the project's")
    add(
        "--simulation",
        type=_steps,
        metavar="STEPS",
        help="also run the simulation for so many steps, if the backend is one of this package",
    )
    return parser


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps, such as 20000.")
    return int(text)
