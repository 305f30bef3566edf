"""``python -m tests.purge_worker CASE``: purges in small batches and prints a line after each."""

import sys

from django_sessionstores.session import now
from tests.cases import attach


def main(case: str) -> None:
    with attach(case) as engine:
        while removed := engine.storage.purge(now(), 3):
            print(removed, flush=True)
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
