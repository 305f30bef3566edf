"""The table of packages in the documentation: what was measured, and why it differs."""

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from tests.packages.expected import expected, expected_tests
from tests.packages.runner import SuiteRun
from tests.packages.suites import ALL, SUITES, Suite
from tests.sdists import ROOT

PAGE = ROOT / "docs" / "reference" / "compatibility.rst"
MEASURED = Path(__file__).with_name("measured.json")
_WIDTH = 100
BEGIN, END = ".. packages-begin\n", ".. packages-end\n"

Figures = dict[str, dict[str, Any]]
"""By package: its version, and by backend the tests that ran and those that failed."""


def read_figures() -> Figures:
    """Return what was measured last; nothing of a package that has another version now."""
    found: Figures = {}
    if MEASURED.is_file():
        found = json.loads(MEASURED.read_text(encoding="utf-8"))
    versions = {suite.package: suite.version for suite in SUITES}
    return {
        package: entry
        for package, entry in found.items()
        if versions.get(package) == entry["version"]
    }


def write_figures(suite: Suite, backend: str, run: SuiteRun) -> None:
    """Write down one run beside those that were measured before."""
    figures = read_figures()
    entry = figures.setdefault(suite.package, {"version": suite.version, "backends": {}})
    entry["backends"][backend] = {
        "ran": run.ran,
        "failed": len(run.failed),
        "unexplained": len(run.failed - expected_tests(suite.package, backend)),
    }
    MEASURED.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_page() -> None:
    """Put the table of what was measured last into the documentation."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page_with_table(text), encoding="utf-8")


def page_with_table(text: str) -> str:
    """Return the page with a new table in the place of the one that it has."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n" + "\n".join(_lines(read_figures())) + f"\n\n{END}{after}"


def _lines(figures: Mapping[str, Any]) -> list[str]:
    measured = [(suite, figures.get(suite.package, {}).get("backends", {})) for suite in SUITES]
    lines = [
        f"* {suite.package} {suite.version}: {_verdict(results)}" for suite, results in measured
    ]
    lines += ["", "Tests that fail here, and in brackets on Django's counterpart:", ""]
    lines += [".. list-table::", "   :header-rows: 1", ""]
    lines += _row("Package", "Tests", *(_heading(backend) for backend in COUNTERPARTS))
    for suite, results in measured:
        ran = max((result["ran"] for result in results.values()), default="")
        failed = [
            f"{_failed(results, backend)} ({_failed(results, djangos)})"
            for backend, djangos in COUNTERPARTS.items()
        ]
        lines += _row(suite.package, ran, *failed)
    if all(
        _failed(results, "db") == _failed(results, "db under our middleware")
        for _suite, results in measured
    ):
        lines += ["", "Under the package's middleware, the figures of ``db`` are the same."]
    lines += ["", "These tests fail for a reason that is known:", ""]
    seen = []
    for suite in SUITES:
        for backend in ALL:
            for entry in expected(suite.package, backend):
                if entry not in seen:
                    seen.append(entry)
                    names = ", ".join(map(_heading, entry.backends))
                    text = f"* {entry.package} on {names}: {len(entry.tests)}. {entry.reason}"
                    lines += wrap(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    results = [result for entry in figures.values() for result in entry["backends"].values()]
    if any(result["unexplained"] for result in results):
        lines += ["", "The others are defects that are being repaired."]
    return lines


COUNTERPARTS = {
    "db": "Django's db",
    "cache": "Django's cache",
    "cookie": "Django's signed_cookies",
}
"""The backends that the table shows, with those of Django's that they take the place of."""


def _failed(results: Mapping[str, Any], backend: str) -> int | str:
    return results[backend]["failed"] if backend in results else "?"


def _verdict(results: Mapping[str, Any]) -> str:
    """Return whether a package works, in words."""
    if not COUNTERPARTS.keys() | {"Django's db"} <= results.keys():
        return "not tested."
    # With cookies, Django's own engine is no measure: what fails there fails for users.
    measures = COUNTERPARTS | {"cookie": "Django's db"}
    worse = [
        f"but not fully on {_heading(backend)} (tests that fail: {results[backend]['failed']})"
        for backend, measure in measures.items()
        if results[backend]["failed"] > results[measure]["failed"]
    ]
    return ", ".join(["works", *worse]) + "."


def _heading(backend: str) -> str:
    owner, _, name = backend.rpartition("Django's ")
    first, _, rest = name.partition(" ")
    return f"{'Django ' if owner or backend.startswith('Django') else ''}``{first}`` {rest}".strip()


def _row(first: object, *others: object) -> list[str]:
    return [f"   * - {first}", *(f"     - {cell}".rstrip() for cell in others)]
