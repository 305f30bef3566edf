"""The tables of session backends in the documentation, made by the command that they describe.

``uv run python -m tests.testing.comparison`` rewrites them.
"""

import datetime
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

import django

from tests import ROOT

PAGE: Final = ROOT / "docs" / "reference" / "comparison.rst"
BEGIN, END = ".. results-begin\n", ".. results-end\n"

DJANGO, OWN = "django.contrib.sessions.backends.", "django_sessionstores.backends."
ENGINES: Final = [
    *(DJANGO + name for name in ("db", "cache", "cached_db", "file", "signed_cookies")),
    *(OWN + name for name in ("db", "cache", "cached_db", "file", "cookie", "memory")),
]
"""The backends that need no server."""
REGISTERED: Final = f"{OWN}cookie with a registry"
"""The name of ``cookie`` with ``REGISTRY``, beside that of ``cookie`` alone."""
SUBJECTS: Final = {
    "storage": "Storage",
    "lifetime": "Lifetimes",
    "keys": "Keys",
    "login": "Logins and new keys",
    "ending": "Logouts and other ends",
    "parallel": "Parallel requests",
    "data": "Data",
    "cookies": "Cookies",
    "objects": "Session objects",
    "twins": "Async methods",
    "transactions": "Transactions",
}
_MARKS: Final = {"passed": "yes", "failed": "**no**", "does not apply": "\\-"}


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, without the settings of the tests."""
    inherited = {name: os.environ[name] for name in os.environ if name != "DJANGO_SETTINGS_MODULE"}
    return subprocess.run(
        [sys.executable, "-m", "django_sessionstores.testing", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=inherited | environment,
    )


def results_of(*arguments: str, **environment: str) -> dict[str, dict[str, Any]]:
    """Return the cases of each backend as the command tells them as JSON."""
    done = run_command(*arguments, "--json", **environment)
    assert done.returncode in {0, 1}, done.stderr
    backends = json.loads(done.stdout)["backends"]
    return {engine: entry["cases"] for engine, entry in backends.items()}


def all_results() -> dict[str, dict[str, Any]]:
    """Return the results of all backends that need no server, and of one with a registry."""
    results = results_of(*ENGINES)
    settings = "tests.testing.registry_settings"
    (registered,) = results_of(f"{OWN}cookie", DJANGO_SETTINGS_MODULE=settings).values()
    names = [*results]
    names.insert(names.index(f"{OWN}cookie") + 1, REGISTERED)
    results[REGISTERED] = registered
    return {name: results[name] for name in names}


def page_with_results(text: str, results: dict[str, dict[str, Any]]) -> str:
    """Return the page with these results in the place of those that it has."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n" + "\n".join(_lines(results)) + f"\n\n{END}{after}"


def _lines(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield from _summary(results)
    cases: dict[str, Any] = next(iter(results.values()))
    for subject, title in SUBJECTS.items():
        yield from ("", title, "~" * len(title), "")
        named = {name: case for name, case in cases.items() if case["subject"] == subject}
        columns = " ".join(["40", *(["6"] * (1 + len(results)))])
        yield from _table(f":widths: {columns}")
        yield _row("Case", "Promise", *map(_heading, results))
        for name, case in named.items():
            marks = (_MARKS[cases[name]["result"]] for cases in results.values())
            yield _row(f"``{name}``: {_escaped(case['meaning'])}", case["promise"], *marks)
        yield from _seen(results, list(named))


def _summary(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield from _table(":widths: 61 13 13 13")
    yield _row("Backend", "Passed", "Failed", "Does not apply")
    for engine, cases in results.items():
        counts = (sum(case["result"] == mark for case in cases.values()) for mark in _MARKS)
        yield _row(_marked(engine), *counts)


def _seen(results: dict[str, dict[str, Any]], names: list[str]) -> Iterator[str]:
    """Yield what was seen in the cases that failed."""
    lines = []
    for name in names:
        seen: dict[str, list[str]] = {}
        for engine, cases in results.items():
            if cases[name]["result"] == "failed":
                seen.setdefault(cases[name]["detail"], []).append(_heading(engine))
        lines += [
            f"* ``{name}``: {_escaped(detail)} ({', '.join(engines)})"
            for detail, engines in seen.items()
        ]
    if lines:
        yield from ("", "What was seen where a case failed:", "", *lines)


def _table(*options: str) -> Iterator[str]:
    yield from (".. csv-table::", "   :header-rows: 1", *(f"   {each}" for each in options), "")


def _row(*cells: Any) -> str:
    texts = (str(cell).replace('"', '""') for cell in cells)
    return "   " + ",".join(f'"{text}"' if "," in text or '"' in text else text for text in texts)


def _heading(engine: str) -> str:
    return f"{_package(engine)} {_marked(_name(engine))}"


def _package(engine: str) -> str:
    return "Django's" if engine.startswith(DJANGO) else "this package's"


def _name(engine: str) -> str:
    return engine.rpartition(".")[2]


def _marked(engine: str) -> str:
    """Return a name as code, without what is said about its settings."""
    name, space, settings = engine.partition(" ")
    return f"``{name}``{space}{settings}"


def _escaped(text: str) -> str:
    return text.replace("*", "\\*")


def main() -> None:
    """Write the tables, and when and on what they were made."""
    text = page_with_results(PAGE.read_text(encoding="utf-8"), all_results())
    version = ".".join(map(str, sys.version_info[:2]))
    made = f"on {datetime.datetime.now(tz=datetime.UTC).date()}, with Django {django.__version__}"
    sentence = f"The tables were made {made} and Python {version}."
    PAGE.write_text(
        re.sub("^The tables were made.*", sentence, text, flags=re.MULTILINE), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
