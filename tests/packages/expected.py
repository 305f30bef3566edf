"""The tests of other packages that are known to fail, see ``expected.toml``."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("expected.toml")


@dataclass(frozen=True)
class Failures:
    """Tests of one package that fail for one reason."""

    package: str
    backends: tuple[str, ...]
    reason: str
    tests: frozenset[str]


@cache
def failures() -> tuple[Failures, ...]:
    """Return everything that is known to fail."""
    entries = tomllib.loads(FILE.read_text(encoding="utf-8"))["failures"]
    return tuple(
        Failures(
            entry["package"],
            tuple(entry["backends"]),
            entry["reason"].strip(),
            frozenset(entry["tests"]),
        )
        for entry in entries
    )


def expected(package: str, backend: str) -> list[Failures]:
    """Return what is known to fail of this package's tests on this backend."""
    return [entry for entry in failures() if entry.package == package and backend in entry.backends]


def expected_tests(package: str, backend: str) -> frozenset[str]:
    """Return the ids of the tests in `expected`."""
    return frozenset().union(*(entry.tests for entry in expected(package, backend)))
