"""Run the simulation from the command line."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings

from ...exceptions import MissingExtra
from .configuration import DRIVERS, ENGINES, MIDDLEWARES
from .setups import SETUPS, check_setups

_EXHAUSTIVE_HELP = (
    "try every pair of operations, and every fault; takes about five minutes per engine"
)
_PREEMPTIONS_HELP = (
    "2: also interrupt the second operation, which takes many times as long; choose one engine, "
    "one middleware, one driver and a few setups"
)
_SETUP_HELP = (
    "of the exhaustive run: only what is tried after these steps (repeatable): "
    + ", ".join(map(repr, SETUPS))
)
_ENGINE_HELP = (
    f"only this backend (repeatable): {', '.join(ENGINES)}, or the dotted path of a function that "
    "returns a storage"
)
_SOURCE_HELP = (
    "of the random programs: 'any', in which anything may happen (the default), or "
    "'half-rotations', in which requests meet while one of them gives their session another key"
)
_ONLY = "only this {1} (repeatable): {0}"
_PROGRESS_HELP = (
    "write a line to stderr for every N steps of a random run, and for every N pairs of operations "
    "of an exhaustive one; without this, the progress is only shown at a terminal"
)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be 1 or more")
    return number


def set_up() -> None:
    """Configure Django, unless it is configured already."""
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            DATABASES={},
            INSTALLED_APPS=[
                "django.contrib.auth",
                "django.contrib.contenttypes",
                "django_sessionstores",
            ],
            SECRET_KEY="not of any site",  # noqa: S106 - the simulated site sets its own
            USE_TZ=True,
        )
    django.setup()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulation; return the exit status, which is 1 if a promise was broken."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.exhaustive or options.random or options.replay):
        parser.error("Say what to run: --exhaustive, --random STEPS or --replay PROGRAM.")
    set_up()
    try:
        return _replay(options.replay) if options.replay else _explore(options)
    except (_Refused, MissingExtra) as error:
        parser.error(str(error))


def _explore(options: argparse.Namespace) -> int:
    from . import exhaustive, random_programs
    from .configuration import Config
    from .half_rotations import HALF_ROTATIONS
    from .programs import Amount
    from .progress import ProgressLine
    from .report import Report

    sites: dict[str, Any] = {
        "engines": options.engine or ENGINES,
        "middlewares": options.middleware or MIDDLEWARES,
        "drivers": options.driver or DRIVERS,
    }
    with _refusing():
        for site in itertools.product(*sites.values()):
            Config(*site).check()
        check_setups(options.setup or ())
    line = ProgressLine(sys.stderr, options.progress)

    def tell(text: str) -> None:
        line.clear()
        _tell(text)

    report, started, amount = Report(tell), time.perf_counter(), Amount()
    sites["progress"] = line.show
    if options.random:
        source = HALF_ROTATIONS if options.source == "half-rotations" else random_programs.ANY
        amount += random_programs.explore(
            report.add, options.random, options.seed, source=source, **sites
        )
    if options.exhaustive:
        amount += exhaustive.explore(
            report.add,
            setups=options.setup or SETUPS,
            preemptions=options.preemptions,
            **sites,
        )
        amount += exhaustive.explore_faults(report.add, **sites)
        del sites["drivers"]
        amount += exhaustive.explore_twins(report.add, **sites)
    seconds = time.perf_counter() - started
    tell(
        f"{amount.programs} programs with {amount.points} steps in {seconds:.0f} s, "
        f"{amount.points / seconds:.0f} steps per second."
    )
    report.tell()
    tell(f"{report.kinds} kinds of faults.")
    return bool(report.kinds)


class _Refused(Exception):
    """The arguments name something that does not exist."""


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise _Refused(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m django_sessionstores.testing.simulation", description=__doc__
    )
    add = parser.add_argument
    add("--exhaustive", action="store_true", help=_EXHAUSTIVE_HELP)
    add("--preemptions", type=int, default=1, metavar="N", help=_PREEMPTIONS_HELP)
    add("--setup", action="append", metavar="NAME", help=_SETUP_HELP)
    add("--random", type=int, metavar="STEPS", help="run random programs for so many steps")
    add("--seed", default="1", help="of the random programs")
    add("--source", choices=("any", "half-rotations"), default="any", help=_SOURCE_HELP)
    add("--engine", action="append", help=_ENGINE_HELP)
    add("--middleware", action="append", help=_ONLY.format(" or ".join(MIDDLEWARES), "middleware"))
    add("--driver", action="append", help=_ONLY.format(" or ".join(DRIVERS), "kind of views"))
    add("--progress", type=_positive, metavar="N", help=_PROGRESS_HELP)
    add("--replay", metavar="PROGRAM", help="run one program, and show its calls and answers")
    return parser


def _replay(line: str) -> int:
    from .programs import Program, run

    with _refusing():
        program = Program.parse(line)
        program.check()
    result = run(program)
    for call in result.trace:
        _tell(call)
    for request in result.requests:
        cookie = "" if request.cookie is None else f", cookie {request.cookie[:8] or 'deleted'}"
        error = "" if request.error is None else f", {request.error!r}"
        _tell(f"{request}: {request.status}{cookie}{error}")
    for violation in result.violations:
        _tell(str(violation))
    return bool(result.violations)


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    # A file or a pipe would otherwise get all lines at the end, and none if the run is killed.
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
