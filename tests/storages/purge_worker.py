"""Purge in small batches, and print a line after each.

Run as ``python -m tests.storages.purge_worker CASE``.
"""

import sys

from django_sessionstores.core.clock import now
from tests.cases import attach


def main(case: str) -> None:
    with attach(case) as engine:
        while removed := engine.storage.purge(now(), 3):
            print(removed, flush=True)
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
