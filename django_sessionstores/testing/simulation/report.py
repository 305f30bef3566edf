"""The report of a run: for each kind of fault, the smallest program that shows it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from .programs import Program, Result
from .random_programs import shrink

_LABELS: Final = (
    (re.compile(r"\b\w+:[a-z]\.\S+?(?=[ :)])"), "a request"),
    (re.compile(r"session \d+"), "a session"),
    (re.compile(r"browser \w\b"), "a browser"),
    (re.compile(r"(?:base|nest|[a-z])=.*"), "a value"),
    (re.compile(r"\(the last response.*"), ""),
    (re.compile(r"told \d+ times.*"), "told more than once"),
)


class Kind(NamedTuple):
    """Faults of one kind: the promise, the text without names, and the backend of the site."""

    promise: int
    text: str
    engine: str


class Finding(NamedTuple):
    """A kind of fault, how often it occurred, and the smallest program that shows it."""

    kind: Kind
    times: int
    program: Program
    result: Result


class Report:
    """Collect programs that fail, by kind of fault."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._times: Counter[Kind] = Counter()
        self._shortest: dict[Kind, tuple[Program, Result]] = {}

    def add(self, program: Program, result: Result) -> None:
        """Note a program that has broken promises, and tell it if it is the first of its kind.

        The smallest program follows in `tell`, but a long run may be stopped before that.
        """
        for kind in dict.fromkeys(_kinds(program.config.engine, result)):
            if not self._times[kind]:
                self._tell(f"Promise {kind.promise}, {kind.engine}: {kind.text}")
                self._tell(f"    --replay '{program}'")
            self._times[kind] += 1
            known = self._shortest.get(kind)
            if known is None or len(program.steps) < len(known[0].steps):
                self._shortest[kind] = program, result

    @property
    def kinds(self) -> int:
        """Return the number of kinds of faults."""
        return len(self._times)

    def findings(self) -> Iterator[Finding]:
        """Yield a finding for each kind of fault, the most frequent one first."""
        for kind, times in self._times.most_common():
            program, result = self._shortest[kind]
            engine = program.config.engine

            def is_same(result: Result, kind: Kind = kind, engine: str = engine) -> bool:
                return kind in _kinds(engine, result)

            program, result = shrink(program, result, is_same)
            yield Finding(kind, times, program, result)

    def tell(self) -> None:
        """Write the findings: for each kind, the promise and a program to replay."""
        for kind, times, program, result in self.findings():
            self._tell(f"{times} x promise {kind.promise}, {kind.engine}: {kind.text}")
            kinds = list(_kinds(kind.engine, result))
            self._tell(f"    {result.violations[kinds.index(kind)]}")
            self._tell(f"    --replay '{program}'")


def _kinds(engine: str, result: Result) -> Iterator[Kind]:
    for violation in result.violations:
        text = violation.text
        for pattern, name in _LABELS:
            text = pattern.sub(name, text)
        yield Kind(violation.promise, text[:90].strip(), engine)
