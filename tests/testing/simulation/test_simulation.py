"""The simulation on the package: short runs, the programs that have failed, and the machinery."""

from __future__ import annotations

import io
import random
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

import pytest

from django_sessionstores.core.records import Record
from django_sessionstores.storages.base import Outcome, Storage, Taken, Updated
from django_sessionstores.storages.memory import MemoryStorage
from django_sessionstores.testing.simulation import (
    exhaustive,
    language,
    random_programs,
)
from django_sessionstores.testing.simulation.__main__ import main
from django_sessionstores.testing.simulation.configuration import ENGINES, Config
from django_sessionstores.testing.simulation.half_rotations import HALF_ROTATIONS
from django_sessionstores.testing.simulation.history import Violation
from django_sessionstores.testing.simulation.operations import OPERATIONS
from django_sessionstores.testing.simulation.programs import Amount, Program, Result, run
from django_sessionstores.testing.simulation.random_programs import Source, shrink
from django_sessionstores.testing.simulation.report import Report
from django_sessionstores.testing.simulation.scheduler import Scheduler, Stuck, drive
from django_sessionstores.testing.simulation.setups import SETUPS
from django_sessionstores.testing.simulation.site import site as world_of
from django_sessionstores.testing.simulation.site_storages import stores_of
from django_sessionstores.testing.simulation.views import spelling
from tests.testing.simulation.known import OTHER, PROGRAMS, USER, VISITOR
from tests.testing.simulation.test_planted_faults import tell_twice

HERE: Final = __name__
SEEDS: Final = (
    ("1", 10_000),
    *(pytest.param(each, 50_000, marks=pytest.mark.slow) for each in ("1", "2", "3", "4")),
)
"""Of the random programs, with their steps. Other seeds may find what is not known yet."""
PAIRS: Final = [
    pytest.param(
        backend,
        setup,
        marks=() if (backend, setup) == ("memory", "moved") else pytest.mark.slow,
    )
    for backend in ENGINES
    for setup in ("visitor", "moved")
    if (backend, setup) != ("cookie_registry", "moved")  # Which has no such site.
]
"""The engines and setups of the pairs. Those that are not marked are the fewest."""
FAULTS: Final = [
    pytest.param(each, marks=() if each == "cookie_registry" else pytest.mark.slow)
    for each in ENGINES
]


def result_of(line: str) -> Result:
    return run(Program.parse(line))


def broken(line: str) -> list[str]:
    return [str(each) for each in result_of(line).violations]


def storage() -> MemoryStorage:
    """Return a storage such as a third party would test with the simulation."""
    return MemoryStorage(1000)


class _Unlisted(MemoryStorage):
    lists = indexes_users = False


def unlisted() -> MemoryStorage:
    """Return a storage without a list, which needs a registry."""
    return _Unlisted(1000)


class _Forgetful(MemoryStorage):
    def update(self, record: Record, base: Record, now: int) -> Outcome:
        return Updated(record)


class _Elsewhere(MemoryStorage):
    """Its records are not in an attribute of its own, like those of a server or in files."""

    def __init__(self, *, only_changes: bool) -> None:
        super().__init__(1000)
        self._server = MemoryStorage(1000)
        self._only_changes = only_changes

    def create(self, record: Record, now: int) -> Updated | Taken:
        create = super().create if self._only_changes else self._server.create
        return create(record, now)

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        self._server.create(record, now)
        return Updated(record)

    def read(self, session_id: str) -> Record | None:
        return self._server.read(session_id) or super().read(session_id)


def on_a_server() -> MemoryStorage:
    """Return a storage whose records the simulation cannot restore."""
    return _Elsewhere(only_changes=False)


def changed_in_place() -> MemoryStorage:
    """Return a storage whose changed records the simulation cannot restore."""
    return _Elsewhere(only_changes=True)


def unwritten() -> Storage:
    """Return a storage without methods."""
    return _Listed()


class _Listed(Storage):
    lists = True


FOUND: Final = 3


def a_dict() -> dict[str, object]:
    """Return a dict instead of a storage."""
    return {}


def a_class() -> type[MemoryStorage]:
    """Without the brackets after the name of the class."""
    return MemoryStorage


def in_need(size: int) -> MemoryStorage:
    """Return a storage that cannot be made without knowing its size."""
    return MemoryStorage(size)


def forgetful() -> MemoryStorage:
    """Return a storage with a fault, which any program finds."""
    return _Forgetful(1000)


class TestProgramsThatHaveFailed:
    @pytest.mark.parametrize("name", PROGRAMS)
    def test_nothing_is_broken(self, name: str) -> None:
        assert broken(PROGRAMS[name]) == []


class TestShortRuns:
    @pytest.mark.parametrize(("backend", "setup"), PAIRS)
    def test_pairs(self, backend: str, setup: str) -> None:
        found: list[str] = []
        amount = exhaustive.explore(
            lambda program, result: found.append(f"{program} {result.violations[0]}"),
            setups=[setup],
            engines=[backend],
            middlewares=["own"],
            drivers=["sync"],
        )
        assert amount.points > 1000
        assert found == []

    @pytest.mark.parametrize("backend", FAULTS)
    def test_faults(self, backend: str) -> None:
        found: list[str] = []
        exhaustive.explore_faults(
            lambda program, result: found.append(f"{program} {result.violations[0]}"),
            engines=[backend],
            middlewares=["own"],
            drivers=["sync"],
        )
        assert found == []

    @pytest.mark.parametrize(("seed", "steps"), SEEDS)
    def test_random_programs(self, seed: str, steps: int) -> None:
        found: list[str] = []
        random_programs.explore(
            lambda program, result: found.append(f"{program} {result.violations[0]}"), steps, seed
        )
        assert found == []

    @pytest.mark.parametrize(
        ("seed", "steps"),
        [
            ("1", 20_000),
            pytest.param("2", 100_000, marks=pytest.mark.slow),
        ],
    )
    def test_half_rotations(self, seed: str, steps: int) -> None:
        found: list[str] = []
        amount = random_programs.explore(
            lambda program, result: found.append(f"{program} {result.violations[0]}"),
            steps,
            seed,
            source=HALF_ROTATIONS,
            engines=["cache_registry"],
        )
        assert amount.points >= steps
        assert found == []

    @pytest.mark.parametrize(
        "function", [pytest.param("storage", marks=pytest.mark.slow), "unlisted"]
    )
    def test_random_programs_on_a_storage_of_others(self, function: str) -> None:
        found: list[str] = []
        random_programs.explore(
            lambda program, result: found.append(f"{program} {result.violations[0]}"),
            10_000,
            "1",
            engines=[f"{HERE}.{function}"],
        )
        assert found == []

    @pytest.mark.slow
    def test_sync_and_async_make_the_same_calls(self) -> None:
        found: list[str] = []
        exhaustive.explore_twins(
            lambda program, result: found.append(f"{program} {result.violations[0]}")
        )
        assert found == []


@pytest.mark.parametrize("driver", ["sync", "async"])
@pytest.mark.parametrize("kind", ["own", "django"])
@pytest.mark.parametrize("backend", [*ENGINES, f"{HERE}.storage"])
class TestWhatNobodyMayFindWrong:
    """Programs without a fault: the model must not see any."""

    @pytest.mark.parametrize(
        "steps",
        [
            USER,
            f"{USER} 1:x.poll 1* 2:x.put.a 2* 3:x.nested 3* 4:x.drop.a 4* >4 5:x.logout 5* >5",
            f"{USER} 1:x.put.a 1 2:x.put.b 2* 1* >1 >2 3:x.read",
            f"{USER} +1001 1:x.read 1* >1 +61 2:x.read 2* >2",
            f"{OTHER} {USER} 1:x.password 1* >1 2:y.poll 2* >2",
            f"{OTHER} {USER} 1:x.others 1* >1 2:y.poll 2* >2",
            f"{USER} 1:x.logout 1* >1 2:x.put.a 2* >2 3:x.login.2 3* >3 4:x.poll",
            f"{USER} 1:o.end.x 1* 2:x.poll 2* >2 3:o.purge",
            f"{USER} +2419200 1:o.purge 1* 2:x.poll",
            f"{USER} 1:x.put.a 1 1! 2:x.poll 2*",
            f"{USER} 1:x.put.a 1 1- 1* >1 2:x.poll",
            f"{USER} secret 1:x.poll 1* >1 2:x.put.a",
            f"{VISITOR} 1:x.put.a+save 1* >1 2:x.login.1+save 2* >2 3:x.cycle 3* >3 4:x.poll",
        ],
    )
    def test_nothing_is_broken(self, backend: str, kind: str, driver: str, steps: str) -> None:
        assert broken(f"{backend} {kind} {driver}: {steps}") == []


class TestTransactions:
    @pytest.mark.parametrize("backend", ["db", "cached_db", "cache_registry", "cookie_registry"])
    @pytest.mark.parametrize(
        "steps",
        [
            f"{USER} 1:x.put.a@atomic 1 2:x.read 2* 1*",
            f"{USER} 1:x.put.a@rollback 1*",
            f"{OTHER} {USER} 1:x.others@atomic 1* >1",
        ],
    )
    def test_nothing_is_broken(self, backend: str, steps: str) -> None:
        assert broken(f"{backend} own sync: {steps}") == []

    def test_a_write_waits_for_the_transaction_that_has_the_row(self) -> None:
        result = result_of(f"db own sync: {USER} 1:x.put.a+save@atomic 1 1 2:x.put.b 2 2 2 1* 2*")
        waiting = next(at for at, each in enumerate(result.trace) if "waits for" in each)
        assert result.trace[waiting].startswith("2: ")
        assert result.violations == []


class TestMachinery:
    def test_a_program_is_the_same_each_time(self) -> None:
        line = f"cached_db own async: {USER} +1001 1:x.read 1 2:x.put.a 2* 1*"
        assert result_of(line).trace == result_of(line).trace

    def test_a_program_survives_being_printed(self) -> None:
        line = f"db own sync +2step +limit: {VISITOR}"
        assert str(Program.parse(line)) == line

    def test_shrinking_leaves_what_is_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tell_twice(monkeypatch)
        program = Program.parse(
            f"memory own sync: {OTHER} {USER} 3:y.put.a 3* 1:x.flush 4:y.read 2:o.end.x 2* 4* 1*"
        )

        def tells_twice(result: Result) -> bool:
            return any(each.promise == 10 for each in result.violations)

        shorter, result = shrink(program, run(program), tells_twice)
        assert len(shorter.steps) < 8
        assert tells_twice(result)

    def test_the_command_replays(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--replay", f"memory own sync: {VISITOR}"]) == 0
        assert "memory.create" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--exhaustive", "--engine", "redis"], "memory, db, cache, cached_db"),
            (["--exhaustive", "--engine", "no.such.function"], "No module named 'no'. Run the"),
            (["--replay", "no.such.function own sync: 1:x.read"], "No module named 'no'. Run the"),
            (["--random", "10", "--engine", f"{HERE}.missing"], 'does not define a "missing"'),
            (["--random", "10", "--engine", f"{HERE}.FOUND"], "must be a function"),
            (["--random", "10", "--engine", f"{HERE}.a_dict"], "a_dict' returns {}, and must"),
            (["--random", "10", "--engine", f"{HERE}.a_class"], "returns the class <class"),
            (["--random", "10", "--engine", f"{HERE}.in_need"], "missing 1 required positional"),
            (["--random", "10", "--engine", f"{HERE}.on_a_server"], "does not keep all its state"),
            (["--random", "10", "--engine", f"{HERE}.changed_in_place"], "conformance suite only"),
            (["--random", "10", "--engine", f"{HERE}.unwritten"], "fails at the first calls: Not"),
            (["--random", "10", "--middleware", "none"], "own, django"),
            (["--random", "10", "--driver", "none"], "sync, async"),
            (["--exhaustive", "--setup", "none"], "visitor, user"),
            (["--replay", "nonsense"], "'db own sync'"),
            (["--replay", "redis own sync: 1:x.read"], "memory, db, cache"),
        ],
    )
    def test_the_command_names_what_there_is(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        told = " ".join(capsys.readouterr().err.split())
        assert arguments[-1].split()[0].rstrip(":") in told
        assert says in told

    @pytest.mark.parametrize(
        ("program", "says"),
        [
            ("db own sync +fast: 1:x.read", "'+fast' is not an option of a site"),
            ("db own sync: 1:x.dance", "no operation 'dance'. There are: read, poll"),
            ("db own sync: 1:x.login", "is written 'login.PK[.ORDER]'"),
            ("db own sync: 1:x.login.1.first.more", "is written 'login.PK[.ORDER]'"),
            ("db own sync: 1:x.login.1.foo", "'foo' is not ORDER. There are: first."),
            ("db own sync: 1:x.login.9", "'9' is not PK. There are: 1, 2."),
            ("db own sync: 1:o.end_all.me", "'me' is not PK. There are: 1, 2."),
            ("db own sync: 1:x.put", "is written 'put.KEY[.KEY...]'"),
            ("db own sync: 1:x.put.a.basket", "'basket' is not KEY. There are: base, a, b, c"),
            ("db own sync: 1:o.end.o", "'o' is not the name of a browser"),
            ("db own sync: 1:o.wait.long", "'long' is not a number of seconds"),
            ("db own async: 1:x.put.a@atomic", "'@atomic' needs sync views"),
            ("db own sync: 1:o.read", "'read' is not a call of an operator. There are: end, "),
            ("db own sync: 1:o.purge+save", "'+save' is for views of browsers"),
            ("db own sync: 1:o.purge@again", "'@again' sets a key of the session"),
            ("db own sync: 1:read", "'1:read' does not begin a request, as '2:x.put.a' does"),
            ("db own sync: secret:x.read", "'secret:x.read' does not begin a request"),
            ("db own sync: away.cash", "'cash' is not a store of this site. There are: database."),
            ("cached_db own sync: back.db", "There are: cache, database."),
            ("db own sync +memory: away.x", "There are: previous, database."),
            (f"{HERE}.unlisted own sync: away.x", "There are: storage, registry."),
            ("db own sync: skew.2.much", "must end with a number of milliseconds"),
            ("db own sync: previous.x.1", "needs a site with the option '+memory' or '+cookie'"),
            ("db own sync +memory: previous.x.3", "'3' is not a user. There are: 0, 1, 2."),
            ("db own sync: begin.1", "needs a site of 'cached_db' with the option '+workers'"),
            ("cached_db own sync +workers: cut.2", "'2' is not a process. There are: 0, 1."),
            ("db own sync: a:x.read b*", "'b*' is not a step"),
            ("db own sync: 1:x.put.a+wait", "'+wait' is not an end of a view"),
            ("db own sync: 1:x.put.a@home", "'@home' is not a transaction"),
            ("db own sync: 1:x.read dance", "'dance' is not a step"),
            ("db own sync: away", "wrong number of arguments"),
        ],
    )
    def test_a_word_that_does_not_exist_is_refused(
        self, capsys: pytest.CaptureFixture[str], program: str, says: str
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["--replay", program])
        assert says in " ".join(capsys.readouterr().err.split())

    def test_every_word_of_the_language_is_accepted(self) -> None:
        """The documentation lists them, and a typing error must not be taken for one."""
        words = {"[": "", "]": "", "...": "", "KEY": "a", "PK": "1", "ORDER": "first"}
        words |= {"BROWSER": "x", "SECONDS": "1"}
        views = [spelling(name) for name in OPERATIONS]
        for word, value in words.items():
            views = [each.replace(word, value) for each in views]
        views += [f"put.{'.'.join(language.KEYS)}"]
        views += [f"put.a{end}" for end in (*language.ENDS, *language.TRANSACTIONS)]
        steps = [f"{number}:x.{view}" for number, view in enumerate(views)]
        steps += [each.replace("STORE", "cache") for each in language.STEPS]
        for option in language.OPTIONS:
            steps_here = [
                each
                for each in steps
                if not each.startswith("previous.") or option in {"+memory", "+cookie"}
                if not each.startswith(("begin.", "cut.", "join.")) or option == "+workers"
            ]
            Program.parse(f"cached_db own sync {option}: {' '.join(steps_here)}").check()

    def test_every_store_is_one_of_a_site(self) -> None:
        found: set[str] = set()
        for engine in (*ENGINES, f"{HERE}.unlisted"):
            found |= set(stores_of(Config(engine, options=frozenset({"memory"}))))
        assert found == language.STORES.keys()

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--random", "500"],
            ["--random", "500", "--source", "half-rotations"],
            ["--exhaustive", "--setup", "idle for long", "--middleware", "own", "--driver", "sync"],
        ],
        ids=["random", "half-rotations", "exhaustive"],
    )
    def test_what_a_run_has_found_can_be_replayed(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
    ) -> None:
        monkeypatch.setattr(exhaustive, "explore_faults", lambda found, **sites: Amount())
        monkeypatch.setattr(exhaustive, "explore_twins", lambda found, **sites: Amount())
        main([*arguments, "--engine", f"{HERE}.forgetful"])
        found = re.findall(r"--replay '(.+)'$", capsys.readouterr().out, re.MULTILINE)
        assert found
        for line in found:
            assert main(["--replay", line]) == 1

    @pytest.mark.parametrize("site", ["memory own async", "cached_db django sync"])
    @pytest.mark.parametrize(
        "source", [random_programs.ANY, HALF_ROTATIONS], ids=["any", "half-rotations"]
    )
    def test_drawn_programs_have_no_word_that_is_refused(self, site: str, source: Source) -> None:
        with world_of(config := Config.parse(site)) as new_world:
            for seed in range(100):
                program, _result = random_programs.draw(source, new_world(), random.Random(seed))
                program.check()
        assert program.config == config

    def test_a_fault_where_nothing_can_fail_is_told_as_such(self) -> None:
        trace = result_of(f"memory own sync: {VISITOR} 1:x.read 1 1- 1*").trace
        assert trace[-1] == "1: the view ends (which cannot fail)"

    def test_a_method_that_was_not_written_is_named(self) -> None:
        with pytest.raises(NotImplementedError, match=r"_Listed must have the method scan\(\)"):
            _Listed().scan("", 1, None)

    def test_the_help_names_engines_and_setups(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="0"):
            main(["--help"])
        told = " ".join(capsys.readouterr().out.split())
        assert all(f"'{each}'" in told for each in SETUPS)
        assert all(each in told for each in (*ENGINES, "own or django", "sync or async"))

    def test_a_heading_ends_with_a_word(self) -> None:
        """The kinds of faults are told by the beginning of their texts."""
        violation = Violation(1, f"{'It says a lot of words. ' * 4}In the end")
        told: list[str] = []
        program = Program.parse(f"memory own sync: {VISITOR}")
        Report(told.append).add(program, Result([violation], 0, [], []))
        assert told[0].endswith(" It says a lot ...")

    def test_without_its_extra_the_command_says_how_to_install_it(self) -> None:
        without = (
            "import runpy, sys; sys.modules['greenlet'] = None; sys.argv[1:] = ['--random', '1']"
        )
        run_it = "runpy.run_module('django_sessionstores.testing.simulation', run_name='__main__')"
        done = subprocess.run(
            [sys.executable, "-c", f"{without}; {run_it}"], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert 'pip install "django-sessionstores[simulation]"' in done.stderr
        assert "Traceback" not in done.stderr

    def test_at_a_terminal_the_command_shows_how_far_it_is(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arguments = ["--exhaustive", "--engine", "memory", "--setup", "idle for long"]
        arguments += ["--middleware", "own", "--driver", "sync"]
        monkeypatch.setattr(exhaustive, "explore_faults", lambda found, **sites: Amount())
        monkeypatch.setattr(exhaustive, "explore_twins", lambda found, **sites: Amount())
        assert main(arguments) == 0
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        assert main(arguments) == 0
        assert "Pairs of operations: 0 of 4 (0%)" in capsys.readouterr().err

    def test_into_a_file_each_line_is_written_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run may take hours, and may be killed."""
        file = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(file)))  # type: ignore[arg-type]
        assert main(["--replay", f"memory own sync: {VISITOR}"]) == 0
        assert b"memory.create" in file.getvalue()

    def test_the_first_program_of_each_kind_of_fault_is_told_when_it_is_found(self) -> None:
        told: list[str] = []
        report = Report(told.append)
        for _ in range(2):
            report.add(
                Program.parse(f"{HERE}.forgetful own sync: {VISITOR}"),
                run(Program.parse(f"{HERE}.forgetful own sync: {VISITOR} 1:x.put.a 1*")),
            )
        assert told[0].startswith("Promise 1, ")
        assert told[1].startswith("    --replay '")
        assert len(told) == 2 * report.kinds

    def test_without_a_terminal_the_command_writes_lines_if_asked(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arguments = ["--exhaustive", "--engine", "memory", "--setup", "idle for long"]
        arguments += ["--middleware", "own", "--driver", "sync", "--progress", "2"]
        monkeypatch.setattr(exhaustive, "explore_faults", lambda found, **sites: Amount())
        monkeypatch.setattr(exhaustive, "explore_twins", lambda found, **sites: Amount())
        assert main(arguments) == 0
        told = capsys.readouterr()
        assert told.err.splitlines() == [
            "Pairs of operations: 0 of 4 (0%)",
            "Pairs of operations: 2 of 4 (50%)",
        ]
        assert told.out.startswith("21 programs with ")

    def test_actors_that_wait_for_each_other_are_found(self) -> None:
        scheduler = Scheduler()
        scheduler.start("a", lambda: scheduler.wait(lambda: False, "waits for nothing"))
        with pytest.raises(Stuck):
            scheduler.finish("a")

    def test_a_killed_actor_makes_no_further_call(self) -> None:
        scheduler, calls = Scheduler(), []

        def work() -> None:
            try:
                scheduler.point("first")
                calls.append("first")
            finally:
                scheduler.point("second")
                calls.append("second")

        scheduler.start("a", work).kill()
        assert calls == []

    def test_a_coroutine_must_not_need_a_loop(self) -> None:
        class Forever:
            def __await__(self) -> Any:
                yield self

        async def wait() -> None:
            await Forever()

        with pytest.raises(RuntimeError, match="event loop"):
            drive(wait())

    def test_random_programs_repeat_by_their_seed(self) -> None:
        def lines(seed: str) -> list[str]:
            found: list[str] = []
            note: Callable[[Program, Result], None] = lambda p, r: found.append(str(p))  # noqa: E731
            random_programs.explore(note, 5000, seed, options=["limit"])
            return found

        assert lines("a") == lines("a")
