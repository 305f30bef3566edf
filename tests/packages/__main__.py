"""Run the tests of other packages by hand: ``python -m tests.packages --help``."""

import argparse
import time

import pytest

from tests.packages.backends import BACKENDS
from tests.packages.expected import expected_tests
from tests.packages.runner import run_suite
from tests.packages.suites import ALL, SUITES
from tests.packages.table import write_figures, write_page


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.packages",
        description="Run the tests of other packages on Django's session backends and on ours.",
    )
    parser.add_argument("--package", action="append", choices=[each.package for each in SUITES])
    parser.add_argument("--backend", action="append", choices=ALL)
    parser.add_argument(
        "--table", action="store_true", help="measure, and write the figures into the documentation"
    )
    parser.add_argument("--write", action="store_true", help="only write what was measured last")
    parser.add_argument("--output", action="store_true", help="show what the tests print")
    options = parser.parse_args()
    if not options.write:
        measure(options)
    if options.write or options.table:
        write_page()


def measure(options: argparse.Namespace) -> None:
    for suite in SUITES:
        for backend in ALL:
            if options.package and suite.package not in options.package:
                continue
            if options.backend and backend not in options.backend:
                continue
            began = time.monotonic()
            try:
                run = run_suite(suite, BACKENDS[backend])
            except pytest.skip.Exception as reason:
                print(f"{suite.package}: {reason}", flush=True)
                continue
            seconds = time.monotonic() - began
            if options.output:
                print(run.output)
            print(
                f"{suite.package} {suite.version}, {backend}: {run.ran} tests, "
                f"{len(run.failed)} failed, {seconds:.0f} s",
                flush=True,
            )
            known = expected_tests(suite.package, backend)
            for test in sorted(run.failed - known):
                print(f"    not expected: {test}", flush=True)
            for test in sorted(known - run.failed):
                print(f"    does not fail any more: {test}", flush=True)
            if options.table:
                write_figures(suite, backend, run)


if __name__ == "__main__":
    main()
