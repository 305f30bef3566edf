"""The command that holds session backends to the cases."""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NoReturn, TextIO

from .limits import TIME_LIMIT, TimeOver, time_limit
from .supervision import COULD_NOT_RUN, FAILED, progress, supervise

if TYPE_CHECKING:
    from .backend import Backend
    from .case import Case
    from .report import Results
    from .running import Outcome, Result

PASSED: Final = 0

_EPILOG: Final = (
    "The settings are those of DJANGO_SETTINGS_MODULE. Without it, minimal settings are used, with "
    "SQLite and a local-memory cache. Databases are test databases. Caches, folders and servers "
    "are those of the settings, and each case removes its sessions. The exit code is 0 if all "
    "cases were run and none has failed, 1 if one has, and 2 if cases could not be run."
)
_EXIT_LIMIT: Final = 2
"""The seconds that the threads of a backend have for their own end."""
_LAST_RESORT: Final = 4
"""The number of time limits after which a backend that cannot be stopped ends the process."""


class _CouldNotRun(Exception):
    """The cases could not be run, for the reason in the message."""


def run() -> NoReturn:
    """Run the command, and end the process with its exit code, whatever a backend does to it."""
    options = _options(None)
    supervise(lambda: _run_and_exit(options))


def _run_and_exit(options: argparse.Namespace) -> NoReturn:
    """Run the command, and end the process with its exit code, whatever still runs in it."""
    code = progress.exit_code = _exit_code_of(options)
    hard_end = threading.Timer(_EXIT_LIMIT, os._exit, [code])
    hard_end.daemon = True
    hard_end.start()
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    From here on, the standard output of the process is its standard error.
    """
    return _exit_code_of(_options(arguments))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    if not (options.engine or options.list):
        parser.error("Name a session backend, such as django.contrib.sessions.backends.db.")
    for names in filter(None, (options.engine, options.case)):
        _leave_out_repeated(names)
    return options


def _exit_code_of(options: argparse.Namespace) -> int:
    with _results_only() as results:
        try:
            with _site(options.time_limit):
                code = _list(results) if options.list else _hold(options, results)
                # What ends the process from here on does not change it.
                progress.exit_code = code
                return code
        except _CouldNotRun as error:
            if options.traceback and error.__cause__:
                traceback.print_exception(error.__cause__)
            sys.stderr.write(f"{error}\n")
            return COULD_NOT_RUN


def _leave_out_repeated(names: list[str]) -> None:
    for name in sorted({name for name in names if names.count(name) > 1}):
        sys.stderr.write(f"{name} is named more than once. It is run once.\n")
    names[:] = dict.fromkeys(names)


@contextmanager
def _results_only() -> Iterator[TextIO]:
    """Yield a file for the results, which is the standard output.

    What settings and backends print goes to the standard error from then on, until the process
    ends: by ``print()``, by the file descriptor, or by a process of their own.
    """
    sys.stdout.flush()
    duplicate = os.dup(1)
    os.dup2(2, 1)
    encoding = sys.stdout.encoding
    with os.fdopen(duplicate, "w", encoding=encoding, errors="backslashreplace") as results:
        yield results


@contextmanager
def _site(seconds: float) -> Iterator[None]:
    from .site import Site

    site = Site()
    try:
        site.set_up()
    except (Exception, SystemExit) as error:
        raise _CouldNotRun(
            f"The project could not be set up: {type(error).__name__}: {error}"
        ) from error
    try:
        yield
    finally:
        try:
            with time_limit(seconds):
                site.tear_down()
        except (Exception, SystemExit, TimeOver) as error:  # noqa: BLE001 - the results stay
            sys.stderr.write(f"Test databases could not be removed: {type(error).__name__}.\n")


def _list(results: TextIO) -> int:
    from .catalog import CASES

    results.writelines(f"{case.name} ({case.promise}): {case.meaning}\n" for case in CASES.values())
    return PASSED


def _hold(options: argparse.Namespace, output: TextIO) -> int:
    from .catalog import CASES
    from .report import as_json, as_table
    from .simulation import Simulation, simulate

    names = options.case or list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        raise _CouldNotRun(f"There is no case {unknown[0]!r}. --list shows the cases.")
    cases = [CASES[name] for name in names]
    backends = [_backend(engine, options) for engine in options.engine]
    results = {backend: list(_run(backend, cases, options.time_limit)) for backend in backends}
    simulations: dict[Backend, Simulation] = {}
    if options.simulation:
        simulations = {backend: simulate(backend, options.simulation) for backend in backends}
    if options.traceback:
        _write_tracebacks(results)
    write = as_json if options.json else as_table
    output.write(write(results, simulations) + "\n")
    output.flush()
    return _exit_code(
        [
            *(result.outcome for backend in backends for result in results[backend]),
            *(simulation.outcome for simulation in simulations.values()),
        ]
    )


def _run(backend: Backend, cases: Sequence[Case], seconds: float) -> Iterator[Result]:
    """Run cases. A backend that cannot even be stopped ends the process, with a traceback."""
    from .running import run_cases

    results = run_cases(backend, cases, seconds)
    try:
        for case in cases:
            progress.case = f"{case.name} of {backend.engine}"
            faulthandler.dump_traceback_later(_LAST_RESORT * seconds, exit=True)
            yield next(results)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _exit_code(outcomes: Collection[Outcome]) -> int:
    from .running import Outcome

    if Outcome.FAILED in outcomes:
        return FAILED
    return COULD_NOT_RUN if Outcome.NOT_RUN in outcomes else PASSED


def _write_tracebacks(results: Results) -> None:
    for backend, each in results.items():
        for result in each:
            if result.error:
                sys.stderr.write(f"{backend.engine}, {result.case.name}:\n")
                traceback.print_exception(result.error)


def _backend(engine: str, options: argparse.Namespace) -> Backend:
    from django.core.exceptions import ImproperlyConfigured

    from ...exceptions import SessionStoresError
    from .backend import Backend
    from .running import settings_of

    try:
        with time_limit(options.time_limit):
            backend = Backend(engine, options.middleware)
            with settings_of(backend):
                backend.try_out()
    except TimeOver as error:
        raise _CouldNotRun(
            f"{engine} had not stored a session after {options.time_limit} seconds. --traceback "
            "shows what it did."
        ) from error
    except (ImportError, ImproperlyConfigured, NotImplementedError) as error:
        raise _CouldNotRun(f"{engine} cannot be used: {type(error).__name__}: {error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # The message of another error may contain a session key or session data.
        said = f": {error}" if isinstance(error, SessionStoresError) else "."
        raise _CouldNotRun(
            f"{engine} could not store a session: {type(error).__name__}{said} Check that its "
            "settings are set and that its store answers. --traceback shows where the error was "
            "raised."
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
    add(
        "--time-limit",
        type=_seconds,
        default=TIME_LIMIT,
        metavar="SECONDS",
        help="stop a case after so many seconds (default: %(default)s)",
    )
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


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < 10**6:
            return int(text) if text.isdecimal() else float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, such as 30.")
