"""The benchmark runs and gives every figure. How large they are is no test's business."""

import json
import subprocess
import sys
from typing import Any
from unittest import mock

import pytest

from tests import upstream
from tests.benchmark import measure, shares
from tests.benchmark.operations import OPERATIONS
from tests.cases import select

pytestmark = pytest.mark.slow

TINY = ("--rounds", "1")


def benchmark(*arguments: str) -> str:
    """Return what the command prints, from a process of its own: it goes on where tests end."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmark", *TINY, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=upstream.ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("selection", "case"),
    [
        (("--engine", "memory"), "memory"),
        (("--engine", "file"), "file"),
        (("--engine", "db", "--store", "sqlite"), "db:sqlite"),
        (("--engine", "db", "--store", "postgresql"), "db:postgresql"),
        (("--store", "cookie:unregistered"), "cookie:unregistered"),
        (("--engine", "cookie", "--store", "sqlite"), "cookie:sqlite"),
        (("--store", "mongodb:mongodb"), "mongodb:mongodb"),
        (("--store", "mongodb:mongodb", "--awaited"), "mongodb:mongodb"),
        (("--store", "cache:redis-cache", "--awaited"), "cache:redis-cache"),
    ],
)
def test_every_operation_of_a_case_has_every_figure(selection: tuple[str, ...], case: str) -> None:
    """A figure that is missing would be a target that nobody looks at any more."""
    rows: list[dict[str, Any]] = json.loads(benchmark("--json", *selection))

    assert [row["case"] for row in rows] == [case] * len(OPERATIONS)
    assert [row["operation"] for row in rows] == [operation.name for operation in OPERATIONS]
    for row in rows:
        compared = {"session_us"}
        if case != "mongodb:mongodb" and "--awaited" not in selection:
            compared |= {"django_us", "of_django"}
        # Django has no registry, and no engine for MongoDB. A session that is not touched asks
        # nothing of a client, and these two have none.
        if case not in {"cookie:sqlite", "mongodb:mongodb"}:
            compared.add("of_django_target")
        if row["operation"] != "untouched" and case not in {"memory", "cookie:unregistered"}:
            compared |= {"client_us", "over_client"}
        assert {name for name in compared if not isinstance(row[name], float)} == set()


def test_the_targets_of_the_documentation_are_looked_at() -> None:
    """A target that goes with no operation, for a name that was changed, would always be met."""
    rows = json.loads(benchmark("--json", "--engine", "file"))

    assert {row["operation"]: row["over_client_target"] for row in rows} == {
        "untouched": None,
        "read": 6.0,
        "first write": None,
        "read and write": 1.3,
        "login": None,
        "logout": None,
    }


def test_the_table_has_a_line_for_each_operation() -> None:
    """The documented command prints a table, not JSON."""
    table = benchmark("--engine", "memory")

    for operation in OPERATIONS:
        assert f"\n  {operation.name} " in table
    assert f" of {len(OPERATIONS)} operations meet their targets." in table


def test_every_part_of_a_request_has_its_share() -> None:
    """The explanations in the documentation say what each part takes; so must the command."""
    printed = benchmark("--shares", "file").split("\n\n")

    for operation, said in zip(OPERATIONS, printed, strict=True):
        assert f"file, {operation.name}\n" in said
        names = ["session", "the same in memory", *shares.PARTS]
        if operation.calls:
            names += ["client", "client in between"]
        assert [name for name in names if f"\n  {name} " not in said] == []


@pytest.mark.parametrize("part", shares.PARTS)
def test_what_is_timed_without_a_part_is_without_it(part: str) -> None:
    """A part that goes by another name meanwhile would be said to cost nothing."""
    replaced = mock.Mock()
    with measure.in_force(select("memory")[0]) as engine:
        for operation in OPERATIONS:
            target, name, value = shares.PARTS[part](operation)
            replaced.side_effect = value
            contender = shares.without(engine, operation, (target, name, replaced))
            original = getattr(target, name)
            contender.do(contender.prepare())
            assert getattr(target, name) == original

    assert replaced.called


@pytest.mark.parametrize("store", ["file", "db:sqlite", "cache:redis-cache", "mongodb:mongodb"])
def test_lists_and_purges_at_scale(store: str) -> None:
    """Every line, and half of the sessions purged by it."""
    lines = benchmark("--store", store, "--sessions", "300").splitlines()

    assert lines[1] == f"{store}, 300 sessions"
    if store == "cache:redis-cache":
        assert len([line for line in lines if "p99 of a login" in line]) == 3
        return
    assert len(lines) in {24, 26}  # Of a few sessions, a purge may be over before a login is.
    (longest,) = [line for line in lines if "its longest batch" in line]
    assert float(longest.split()[-2]) > 0


@pytest.mark.parametrize(
    "store", ["file", "db:postgresql", "cache:redis-cache", "cache:memcached", "memory"]
)
def test_bytes_of_sessions(store: str) -> None:
    """Every line. A session takes some hundred bytes, and in a file some thousand."""
    lines = benchmark("--store", store, "--bytes", "200").splitlines()

    assert lines[1] == f"{store}, 200 sessions"
    figures = [float(line.split()[-2]) for line in lines[2:] if line.endswith(" bytes")]
    if store == "memory":
        assert lines[2] == "  not measured"
        return
    assert len(figures) == 6
    assert all(100 < each < 20_000 for each in figures)


@pytest.mark.parametrize(
    "store", ["memory", "db:sqlite", "db:postgresql", "cookie:sqlite", "mongodb:mongodb"]
)
def test_ending_many(store: str) -> None:
    """Every line. What the lines count, the command itself asserts."""
    lines = benchmark("--store", store, "--ending", "30").splitlines()

    assert lines[1] == f"{store}, 30 sessions"
    assert lines[2].startswith("  end 30 sessions of a user ")
    assert lines[5].split() == ["logins", "until", "the", "limit", "is", "kept", "1.0"]
    assert len(lines) == (7 if store.startswith("db:") else 6)
