"""Measure what faults of stores cost a site: ``python -m tests.deployments --help``."""

import argparse
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.deployments import failovers, figures, soak
from tests.deployments.figures import Lengths, Row, table
from tests.deployments.setups import SETUPS, deployed
from tests.deployments.sites import KINDS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.deployments", description=__doc__)
    parser.add_argument("--server", action="append", choices=KINDS, help="gthread and uvicorn")
    parser.add_argument("--store", action="append", choices=SETUPS, help="all of them")
    parser.add_argument("--hang", type=float, default=20, help="seconds that a store hangs (20)")
    parser.add_argument("--outage", type=float, default=30, help="seconds that it is gone (30)")
    parser.add_argument(
        "--failovers",
        nargs="*",
        choices=failovers.STORES,
        help="of Redis and MongoDB, or one of them, in place of the above",
    )
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="a low load for this time")
    parser.add_argument("--package", type=Path, help="a checkout whose package is measured")
    parser.add_argument("--rst", action="store_true", help="print a table for the documentation")
    return parser.parse_args()


def measured(options: argparse.Namespace) -> Iterator[Row]:
    if options.soak:
        yield from soak.rows(options.soak, options.package, _say)
        return
    for server in options.server or ("gthread", "uvicorn"):
        if options.failovers is not None:
            yield from failovers.rows(KINDS[server], options.package, options.failovers)
            continue
        for store in options.store or SETUPS:
            with deployed(SETUPS[store], KINDS[server], options.package) as deployment:
                yield from figures.rows(deployment, Lengths(options.hang, options.outage))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _told(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows, and show each as it becomes known."""
    for row in rows:
        _say(", ".join(f"{heading}: {cell}" for heading, cell in row.items()))
        yield row


def main() -> None:
    # Ended by SIGTERM as by Ctrl-C, so that the servers are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = arguments()
    print(table([*_told(measured(options))], rst=options.rst))


if __name__ == "__main__":
    main()
