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

_EXHAUSTIVE_HELP = (
    "try every pair of operations, and every fault; takes about five minutes per engine"
)
_ENGINE_HELP = (
    "only this backend, or the dotted path of a function that returns a storage (repeatable)"
)


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
    from .configuration import DRIVERS, ENGINES, MIDDLEWARES, Config
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
        exhaustive.check_setups(options.setup or ())
    report, started = Report(_tell), time.perf_counter()
    line = ProgressLine(sys.stderr)
    sites["progress"] = line.show
    points = 0
    if options.random:
        points += random_programs.explore(report.add, options.random, options.seed, **sites)
    if options.exhaustive:
        points += exhaustive.explore(
            report.add,
            setups=options.setup or exhaustive.SETUPS,
            preemptions=options.preemptions,
            **sites,
        )
        points += exhaustive.explore_faults(report.add, **sites)
        del sites["drivers"]
        points += exhaustive.explore_twins(report.add, **sites)
    line.clear()
    seconds = time.perf_counter() - started
    _tell(f"{points} steps in {seconds:.0f} s, {points / seconds:.0f} per second.")
    report.tell()
    _tell(f"{report.kinds} kinds of faults.")
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
    add("--preemptions", type=int, default=1, help="2: also interrupt the second operation")
    add("--setup", action="append", help="of the exhaustive run: only this setup (repeatable)")
    add("--random", type=int, metavar="STEPS", help="run random programs for so many steps")
    add("--seed", default="1", help="of the random programs")
    add("--engine", action="append", help=_ENGINE_HELP)
    add("--middleware", action="append", help="only this middleware: own or django")
    add("--driver", action="append", help="only views of this kind: sync or async")
    add("--replay", metavar="PROGRAM", help="run one program, and show its calls and answers")
    return parser


def _replay(line: str) -> int:
    from .programs import Program, run

    with _refusing():
        program = Program.parse(line)
        program.config.check()
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


if __name__ == "__main__":
    sys.exit(main())
