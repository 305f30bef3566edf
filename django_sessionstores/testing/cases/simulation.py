"""The simulation of a backend, beside its cases."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

from django.conf import ENVIRONMENT_VARIABLE

from .backend import OWN, Backend
from .running import Outcome

_ENGINES = {
    **{name: name for name in ("memory", "db", "cache", "cached_db")},
    "cookie": "cookie_registry",
}
"""What the simulation calls the package's backends. The others need a server or files."""


@dataclass(frozen=True)
class Simulation:
    """The result of a simulation."""

    outcome: Outcome
    detail: str = ""


def simulate(backend: Backend, steps: int) -> Simulation:
    """Run the simulation of a backend in a process of its own, because it has its own settings."""
    if not backend.engine.startswith(OWN):
        return Simulation(Outcome.DOES_NOT_APPLY, "The simulation knows this package only.")
    engine = _ENGINES.get(backend.engine.removeprefix(OWN))
    if engine is None:
        return Simulation(Outcome.DOES_NOT_APPLY, "The simulation cannot stop calls of its store.")
    command = [sys.executable, "-m", "django_sessionstores.testing.simulation"]
    command += ["--random", str(steps), "--engine", engine]
    environment = {key: value for key, value in os.environ.items() if key != ENVIRONMENT_VARIABLE}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)  # noqa: S603
    if done.returncode == 0:
        return Simulation(Outcome.PASSED)
    lines = (done.stdout if done.returncode == 1 else done.stderr).strip().splitlines()
    return Simulation(Outcome.FAILED, lines[-1] if lines else f"Exit code {done.returncode}.")
