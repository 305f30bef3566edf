"""The command: choose cases, print the table."""

import argparse
import atexit
import cProfile
import json
import os
import pstats
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.core.management import call_command

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
if "SESSIONSTORES_TEST_FOLDER" not in os.environ:
    # On a disk, where sites keep files; the tests' own folder may be in memory.
    folder = tempfile.mkdtemp(prefix="sessions-benchmark-")
    os.environ["SESSIONSTORES_TEST_FOLDER"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
django.setup()

from tests.benchmark import (  # noqa: E402 - models need Django set up
    at_scale,
    awaited,
    ending,
    measure,
    sizes,
    targets,
)
from tests.benchmark.encryption import microseconds  # noqa: E402
from tests.benchmark.operations import OPERATIONS  # noqa: E402
from tests.benchmark.shares import shares  # noqa: E402
from tests.cases import CASES, Case, select  # noqa: E402

ENGINES = dict.fromkeys(case.engine for case in CASES)
PROFILED_REQUESTS = 3000
PROFILED_LINES = 25


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.benchmark", description=__doc__)
    parser.add_argument("--engine", help=f"only this engine: {', '.join(ENGINES)}")
    parser.add_argument("--store", help="only cases with this store or server: redis, sqlite")
    parser.add_argument("--rounds", type=int, default=200, help="turns of each contender (200)")
    parser.add_argument("--json", action="store_true", help="print figures for programs to read")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--profile", metavar="CASE", help="show where the time of a case goes")
    parser.add_argument(
        "--awaited", action="store_true", help="time async views, where a store has an async client"
    )
    parser.add_argument("--encryption", action="store_true", help="time the tokens of cookies")
    parser.add_argument(
        "--sessions", type=int, metavar="N", help="time lists and purges among N sessions"
    )
    parser.add_argument(
        "--ending", type=int, metavar="N", help="time ending, evicting and purging N and more"
    )
    parser.add_argument(
        "--bytes", type=int, metavar="N", help="measure the bytes of a session, with N sessions"
    )
    parser.add_argument("--shares", metavar="CASE", help="time a case without each of its parts")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Case]:
    try:
        if options.profile or options.shares:
            return select(options.profile or options.shares)
        of_engine = select(options.engine) if options.engine else select()
        of_store = select(options.store) if options.store else select()
    except ValueError as error:
        sys.exit(str(error))
    return [case for case in of_engine if case in of_store]


def rows(cases: list[Case], rounds: int, section: Any = measure) -> Iterator[dict[str, Any]]:
    """Yield one row for each operation on each case, as it becomes known.

    ``section`` is what times them: `measure` or `awaited`.
    """
    for case in cases:
        try:
            with measure.in_force(case) as engine:
                for operation, figures in section.figures(engine, rounds):
                    yield targets.row(case, operation.name, figures)
        except pytest.skip.Exception as reason:
            print(f"{case.id}: left out. {reason}", file=sys.stderr)


def show(row: dict[str, Any], previous: str | None) -> None:
    if row["case"] != previous:
        print(
            f"\n{row['case']:<32}{'session':>9}{'over client':>13}{'target':>8}"
            f"{'of Django':>11}{'target':>8}"
        )
    cells = [
        f"  {row['operation']:<30}{row['session_us']:>6.0f} us",
        _ratio(row["over_client"], 13),
        _ratio(row["over_client_target"], 8),
        _ratio(row["of_django"], 11),
        _ratio(row["of_django_target"], 8),
        "" if row["met"] else "  missed",
    ]
    print("".join(cells), flush=True)


def _ratio(value: float | None, width: int) -> str:
    return f"{'-' if value is None else format(value, '.2f'):>{width}}"


def profile(case: Case) -> None:
    with measure.in_force(case) as engine:
        for operation in OPERATIONS:
            contender = measure.through_middleware(engine.SessionStore, operation)
            subjects = [contender.prepare() for _ in range(PROFILED_REQUESTS)]
            contender.do(contender.prepare())
            profiler = cProfile.Profile()
            profiler.enable()
            for subject in subjects:
                contender.do(subject)
            profiler.disable()
            print(f"=== {case.id}, {operation.name}, {PROFILED_REQUESTS} requests")
            pstats.Stats(profiler).sort_stats("tottime").print_stats(PROFILED_LINES)
            engine.empty()


def show_shares(case: Case, rounds: int) -> None:
    with measure.in_force(case) as engine:
        for operation, costs in shares(engine, rounds):
            print(f"\n{case.id}, {operation.name}")
            for name, cost in costs.items():
                print(f"  {name:<20}{cost:>7.1f} us{cost / costs['session']:>7.0%}", flush=True)


def show_many(case: Case, number: int, section: Any) -> None:
    """Print the figures of a section about many sessions: `at_scale`, `ending` or `sizes`."""
    print(f"\n{case.id}, {number:,} sessions")
    with measure.in_force(case) as engine:
        if not (sizes.is_measured(engine) if section is sizes else engine.storage.lists):
            print("  not measured" if section is sizes else "  cannot list")
            return
        for figure in section.figures(engine, number):
            print(f"  {figure.name:<46}{figure.value:>9.1f} {figure.unit}", flush=True)


def main() -> int:
    # Ended by SIGTERM as by Ctrl-C, so that the servers are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = arguments()
    if options.encryption:
        print(f"{'':<18}{'here':>8}{'Django':>8}")
        for name, ours, djangos in microseconds(options.rounds):
            print(f"{name:<18}{ours:>8.1f}{djangos:>8.1f}")
        return 0
    cases = chosen(options)
    call_command("migrate", verbosity=0, interactive=False)
    if options.profile:
        for case in cases:
            profile(case)
        return 0
    if options.shares:
        for case in cases:
            show_shares(case, options.rounds)
        return 0
    for number, section in (
        (options.sessions, at_scale),
        (options.ending, ending),
        (options.bytes, sizes),
    ):
        if number:
            for case in cases:
                show_many(case, number, section)
            return 0
    measured: list[dict[str, Any]] = []
    section: Any = measure
    if options.awaited:
        cases, section = list(filter(awaited.is_native, cases)), awaited
    for row in rows(cases, options.rounds, section):
        if not options.json:
            show(row, measured[-1]["case"] if measured else None)
        measured.append(row)
    if options.json:
        print(json.dumps(measured, indent=1))
    else:
        met = sum(row["met"] for row in measured)
        print(f"\n{met} of {len(measured)} operations meet their targets.")
    return int(options.check and not all(row["met"] for row in measured))


if __name__ == "__main__":
    sys.exit(main())
