"""A low load for a long time: whether a process takes more and more of anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.deployments.browsers import Habits
from tests.deployments.figures import Row
from tests.deployments.load import Load
from tests.deployments.setups import SETUPS, Deployment, deployed
from tests.deployments.sites import KINDS

SAMPLES: Final = 10
SOAKS: Final = (("uvicorn", "redis", False), ("gthread", "postgresql", True))
"""The kinds of servers, what they keep sessions in, and whether expired ones are purged."""
_LIFETIME: Final = 60
"""Seconds until a session expires that its user has left."""
_HABITS: Final = Habits(think=0.1, leaves=0.3)


def rows(minutes: float, package: Path | None, show: Callable[[str], None]) -> Iterator[Row]:
    """Yield what the processes of each site take, from time to time."""
    for kind, setup, purges in SOAKS:
        with (
            deployed(
                SETUPS[setup], KINDS[kind], package, SESSION_COOKIE_AGE=_LIFETIME
            ) as deployment,
            Load(deployment.site, 6, habits=_HABITS, plain_think=0.1) as load,
        ):
            began = time.monotonic()
            for number in range(SAMPLES + 1):
                until = began + number * minutes * 60 / SAMPLES
                while time.monotonic() < until:
                    if purges:
                        deployment.site.manage("clearsessions")
                    time.sleep(min(2, max(0, until - time.monotonic())))
                yield _sample(deployment, (time.monotonic() - began) / 60)
            load.stop()
            show(f"{kind}, {setup}: {load}")


def _sample(deployment: Deployment, minute: float) -> Row:
    ports = [port for store in deployment.stores.values() for port in store.ports]
    usage = deployment.site.usage(ports).values()
    return {
        "Server": deployment.site.kind.name,
        "Store": deployment.setup.name,
        "Minute": f"{minute:.1f}",
        "Memory, MB": _per_process(each.memory_kb // 1024 for each in usage),
        "Descriptors": _per_process(each.descriptors for each in usage),
        "Connections": _per_process(each.connections for each in usage),
    }


def _per_process(figures: Iterator[int]) -> str:
    return " + ".join(map(str, figures))
