"""The results of backends as text and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import django

from .backend import Backend
from .running import Outcome, Result
from .simulation import Simulation

Results = Mapping[Backend, Sequence[Result]]
Simulations = Mapping[Backend, Simulation]


def as_table(results: Results, simulations: Simulations) -> str:
    """Return a table of the cases for each backend, with the number of the promise."""
    return "\n".join(
        line
        for backend in results
        for line in _table(backend, results[backend], simulations.get(backend))
    )


def as_json(results: Results, simulations: Simulations) -> str:
    """Return the results as JSON: for each backend, each case by its name."""
    backends: dict[str, Any] = {}
    for backend in results:
        entry = backends[backend.engine] = {
            "middleware": backend.middleware_name,
            "cases": {result.case.name: _entry(result) for result in results[backend]},
        }
        if simulation := simulations.get(backend):
            entry["simulation"] = {
                "result": simulation.outcome.value,
                "detail": simulation.detail,
            }
    return json.dumps({"django": django.__version__, "backends": backends}, indent=2)


def _entry(result: Result) -> dict[str, Any]:
    return {
        "promise": result.case.promise,
        "subject": result.case.subject,
        "meaning": result.case.meaning,
        "result": result.outcome.value,
        "detail": result.detail,
    }


def _table(
    backend: Backend, results: Sequence[Result], simulation: Simulation | None
) -> Iterator[str]:
    yield f"{backend.engine}, with {backend.middleware_name}"
    width = max(len(result.case.name) for result in results)
    for result in results:
        beginning = f"  {result.case.name:{width}}  {result.case.promise:>2}  "
        yield beginning + _said(result)
    counts = Counter(result.outcome for result in results)
    counted = (each for each in Outcome if counts[each] or each is not Outcome.NOT_RUN)
    yield "  " + ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in counted)
    if simulation:
        yield f"  simulation: {_said(simulation)}"
    yield ""


def _said(result: Result | Simulation) -> str:
    return ": ".join(filter(None, (result.outcome.value, result.detail)))
