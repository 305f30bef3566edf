"""Fixtures that every test file shares."""

import contextvars
import functools
import gc
import importlib
import importlib.metadata
import os
import signal
import sys
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tests import BYTECODE, ROOT

# Before what is imported here, so that it is kept as well. Without any bytecode, which many
# containers forbid beside the sources, each worker and each subprocess would compile Django, the
# package and the tests anew, which took more than a hundred seconds of processor time.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode, sys.pycache_prefix = False, BYTECODE
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = BYTECODE

import hypothesis
import pytest
from asgiref.sync import AsyncSingleThreadContext
from django.conf import settings
from django.core.management import call_command
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.test import override_settings

from django_sessionstores.storages import copies, outage_log
from tests import cases, services
from tests.browser import Chromium, Site, serve

# Before a test imports it: its tests fail with what they have compared.
pytest.register_assert_rewrite("django_sessionstores.testing")

# Queries are counted from the first second on: this process is as one that began long ago.
copies._process_began = 0

# redis-py asks for its own version with each connection, which reads and parses a file.
importlib.metadata.version = functools.cache(importlib.metadata.version)

# A busy machine is slow to draw values and to run an example, which is no fault of the code.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "short", hypothesis.settings.get_profile("busy"), max_examples=40
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-stores",
        action="store_true",
        help="run the tests on every combination of engine and stores, not on each kind only, "
        "and those that take long",
    )
    parser.addoption(
        "--other-stores",
        action="store_true",
        help="the same without the combinations and parameters that are run without an option",
    )
    parser.addoption(
        "--packages",
        action="store_true",
        help="also run the tests of other packages on the engines, some minutes",
    )


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of workers: three for each processor, because tests wait for servers.

    There are at most eight, because each worker starts servers of its own. Tests of deployments
    have two for each processor, because their sites have several processes each. If the command
    line names only tests in one or two files, there are none: a worker runs whole files, so
    workers would take longer to start than they save.
    """
    named = {Path(each.partition("::")[0]) for each in config.args}
    if len(named) <= 2 and all(path.is_file() for path in named):
        return 0
    each = 2 if "deployments" in config.option.markexpr else 3
    return min(8, each * (os.cpu_count() or 1))


def pytest_configure(config: pytest.Config) -> None:
    # A time limit ends a test run by SIGTERM: as with Ctrl-C, the servers must be stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    services.templates()  # Before there are workers, which inherit it.
    is_long = config.getoption("--all-stores") or config.getoption("--other-stores")
    hypothesis.settings.load_profile("busy" if is_long else "short")


def pytest_unconfigure(config: pytest.Config) -> None:
    services.stop_all()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while tests are collected, and never again among what was collected.

    There are some twenty thousand tests, and each worker collects all of them. While they run,
    garbage is looked for less often than by default, which took a twentieth of the simulation.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        gc.enable()


@pytest.hookimpl(specname="pytest_collection")
def compile_a_share(session: pytest.Session) -> None:
    """Import a share of the test modules in each worker, so that it compiles no others.

    All workers collect all tests, and without bytecode each would compile all modules.
    """
    config = session.config
    if not hasattr(config, "workerinput") or config.args_source is config.ArgsSource.ARGS:
        return
    number = int(config.workerinput["workerid"].removeprefix("gw"))
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    for path in paths[number :: config.workerinput["workercount"]]:
        # What cannot be imported is reported by its collection.
        with suppress(Exception, pytest.skip.Exception):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run each test in a context of its own.

    Each change of CACHES leaves variables in the context, which asgiref carries along at every
    step between sync and async: after a thousand tests that took most of the time.

    One thread has the event loops of all calls of ``async_to_sync``, one after the other. A thread
    for each call takes longer than most calls.
    """
    runner = item.config.pluginmanager.get_plugin("runner")

    def run() -> list[pytest.TestReport]:
        with AsyncSingleThreadContext():
            return runner.runtestprotocol(item, nextitem=nextitem, log=False)

    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in contextvars.copy_context().run(run):
        if report.when == "call" or not report.passed or _wants_each_report(item.config):
            item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _wants_each_report(config: pytest.Config) -> bool:
    """Return whether reports of fixtures that have passed are needed, too.

    A worker sends each report to the process that prints them, which takes both of them a third of
    a millisecond, and only these options show more than failures of fixtures.
    """
    option = config.option
    is_shown = option.durations is not None or bool(option.xmlpath)
    return is_shown or not hasattr(config, "workerinput")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test per case of a test that uses `engine`; see the marker ``engines``."""
    if "engine" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("engines")
        selected = cases.select(*(marker.args if marker else ()))
        if metafunc.definition.get_closest_marker("authoritative"):
            selected = [case for case in selected if case.engine != "cookie" or case.registry]
        if metafunc.definition.get_closest_marker("payload_stored"):
            selected = [case for case in selected if case.engine != "cookie"]
        if not metafunc.config.getoption("--all-stores"):
            kept = cases.representatives(selected)
            _count(metafunc.config, _NARROWED, len(kept) < len(selected))
            others = [case for case in selected if case not in kept]
            is_other = metafunc.config.getoption("--other-stores")
            # A test that has no others is seldom about stores: it may find something elsewhere.
            selected = others if is_other and others else kept
        metafunc.parametrize("engine", selected, ids=lambda case: case.id, indirect=True)


_LEFT_OUT: Final = "tests that were left out"
_NARROWED: Final = "test functions that ran on some of their cases only"
_COUNTS: Final = pytest.StashKey[dict[str, int]]()


def _count(config: pytest.Config, what: str, number: int) -> None:
    """Count something for the summary; in a worker, for the process that writes it."""
    counts = getattr(config, "workeroutput", None)
    if counts is None:
        counts = config.stash.setdefault(_COUNTS, {})
    counts[what] = counts.get(what, 0) + number


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process whole files; of those about deployments, all tests of one site."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, rest = nodeid.partition("::")
            return rest.partition("[")[2] if file.endswith(_DIVIDED) else file

        def _assign_work_unit(self, node: Any) -> None:
            """Forget the files that a process is done with, and give it the next one.

            The scheduler counts the tests in all of its files after each test.
            """
            assigned = self.assigned_work[node]
            for file in [file for file, tests in assigned.items() if all(tests.values())]:
                del assigned[file]
            super()._assign_work_unit(node)

    return Scheduler(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Keep what a worker has counted. Each of them collects all tests, so one is enough."""
    found = getattr(node, "workeroutput", {})
    node.config.stash[_COUNTS] = {what: found.get(what, 0) for what in (_LEFT_OUT, _NARROWED)}


_DIVIDED: Final = ("deployments/test_faults.py", "deployments/test_failovers_of_redis.py")
"""Files of which each process gets the tests with the same parameters, and not all tests."""

_LONGEST: Final = (
    "test_suites",
    "test_upstream",
    "test_outages",
    "test_simulation",
    "test_closed_connections",
    "test_races",
    "test_channels",
    "admin.test_pages",
    "redis.test_rights",
    "devices.test_views",
    "redis.test_loops",
    "management.test_sessions",
    "test_outage_lines",
    "test_locales",
    "memcached.test_storage",
    "test_cases",
    "test_what_would_break",
    "test_mistakes",
    "test_themes",
    "test_bad_input",
    "test_hung_servers",
    "test_conformance",
    "test_cache_keys",
    "test_types",
    "test_database_cache",
    "test_limits",
    "test_free_rows",
    "test_transactions",
    "redis.test_storage",
    "test_rotation",
    "test_changes",
    "test_docs",
    "sql.test_rights",
    "test_user_models",
    "test_internals",
    "test_lazy",
    "test_isolation",
    "test_depth",
    "files.test_storage",
    "test_recent_authentication",
    "sql.test_storage",
    "test_inventory",
    "test_tutorial",
    "test_demo",
    "test_services",
    "test_site",
    "test_demo_in_browser",
)
"""The modules that take longest. A worker that began one of them last would keep all the others
waiting. Those that wait for most of their time take turns with those that compute, because there
are more workers than processors."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first, and leave out what takes long and rarely tells anything new.

    A file that the command line names is run whole.
    """
    places = {name: place for place, name in enumerate(_LONGEST)}

    def place(item: pytest.Item) -> int:
        module = item.nodeid.partition("::")[0].removesuffix(".py").split("/")
        return min(places.get(module[-1], 99), places.get(".".join(module[-2:]), 99))

    items.sort(key=place)  # What is shuffled stays so among itself.
    named = {Path(each.partition("::")[0]).resolve() for each in config.invocation_params.args}
    rest = {item for item in items if _is_left_out(item, named)}
    if config.getoption("--other-stores") and not config.getoption("--all-stores"):
        rest |= _repeated(item for item in items if item.path not in named)
    if rest:
        config.hook.pytest_deselected(items=list(rest))
        items[:] = [item for item in items if item not in rest]
        _count(config, _LEFT_OUT, len(rest))


def _repeated(items: Iterable[pytest.Item]) -> set[pytest.Item]:
    """Return the tests that have run without an option, and whose function has slow ones.

    As with engines, those are the others, and a test without others may find something elsewhere.
    """
    functions: dict[str, dict[bool, list[pytest.Item]]] = {}
    for item in items:
        of_function = functions.setdefault(item.nodeid.partition("[")[0], {True: [], False: []})
        of_function[item.get_closest_marker("slow") is not None].append(item)
    return {item for each in functions.values() if each[True] for item in each[False]}


def _is_left_out(item: pytest.Item, named: Collection[Path]) -> bool:
    """Return whether a test runs only if an option or marker asks for it.

    Tests of other packages take many minutes, so that naming their file is not enough. Those of
    deployments would be disturbed by others at the same time.
    """
    config = item.config
    if item.get_closest_marker("deployments") and "deployments" not in config.option.markexpr:
        return True
    if item.get_closest_marker("all_packages"):
        return "all_packages" not in config.option.markexpr
    if item.get_closest_marker("packages"):
        return not config.getoption("--packages") and "packages" not in config.option.markexpr
    if config.getoption("--all-stores") or item.path in named:
        return False
    is_other: bool = config.getoption("--other-stores")
    case = getattr(getattr(item, "cls", None), "case", None)
    if isinstance(case, cases.Case):
        return (case.id in cases.KINDS) is is_other
    return not is_other and item.get_closest_marker("slow") is not None


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, django_db_blocker: Any) -> None:
    """Make the tables of the default database, whichever tests use it.

    This replaces pytest-django's fixture, which makes a second database beside the one in the
    settings, and none if only tests outside a transaction use it. The database in the settings
    is a temporary file already.
    """
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0, interactive=False)


@receiver(setting_changed)
def _forget_djangos_folder(*, setting: str, **kwargs: Any) -> None:
    """Let Django's ``file`` engine look for its folder: it remembers the first one that it saw."""
    if setting == "SESSION_FILE_PATH":
        from django.contrib.sessions.backends.file import SessionStore

        with suppress(AttributeError):
            del SessionStore._storage_path


@pytest.fixture(autouse=True)
def _empty_memory() -> Iterator[None]:
    """Leave nothing in this process for the next test.

    It would count sessions as a user's, and get the line that an outage is over.
    """
    yield
    cases.empty_memory()
    outage_log._renew_lock()


@pytest.fixture
def engine(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: Any
) -> Iterator[cases.Engine]:
    """Yield a case in force, with an empty store. The test runs once for each case.

    ``@pytest.mark.engines("redis", "db")`` picks cases by engine, store, server or id.
    ``@pytest.mark.authoritative`` leaves out what cannot end a session, and
    ``@pytest.mark.payload_stored`` what leaves the payload to the browser.
    ``@pytest.mark.private_servers`` gives the test servers of its own, to be paused and killed;
    ``@pytest.mark.private_servers({Redis: partial(Redis, maxmemory="3mb")})`` says which.

    No transaction is around the test: other threads and processes see what it writes. What it
    writes besides sessions and users it has to remove.
    """
    from django_sessionstores.storages.sql import deadline

    # What a process knows of a database would otherwise be what another test has done to it.
    deadline._breakers.clear()
    marker = request.node.get_closest_marker("private_servers")
    private = (marker.args[0] if marker.args else True) if marker else False
    with django_db_blocker.unblock(), cases.activate(request.param, private=private) as active:
        yield active
        cases.remove_users()  # Another file of tests may use the same names.


@pytest.fixture(params=["django.contrib.sessions", "django_sessionstores"])
def middleware(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the session middleware in force, first Django's and then the package's.

    ``@pytest.mark.usefixtures("middleware")`` holds a test to be true under both.
    """
    path = f"{request.param}.middleware.SessionMiddleware"
    _, *others = settings.MIDDLEWARE
    with override_settings(MIDDLEWARE=[path, *others]):
        yield path


@pytest.fixture
def in_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each session object count as one of a request, whose response can send a new key."""
    from django_sessionstores.sessions import SessionStore

    monkeypatch.setattr(SessionStore, "_can_send_key", lambda session: True)


@pytest.fixture
def outages_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first success end an outage, for tests that do not move the clock."""
    monkeypatch.setattr(outage_log, "QUIET", 0.0)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """Yield the browser of a test file; each of its tests makes windows of its own."""
    with Chromium() as browser:
        yield browser


@pytest.fixture
def served(site: Any) -> Iterator[Site]:
    """Yield the site of a test file on a server, which must not have met an error in the end."""
    with serve() as running:
        yield running
    assert running.errors == []


@pytest.fixture
def user(django_db_setup: None, django_db_blocker: Any) -> Iterator[Any]:
    """Yield a user in the default database, for tests without a transaction."""
    from django.contrib.auth import get_user_model

    with django_db_blocker.unblock():
        user = get_user_model()._default_manager.create(username="ada")
        yield user
        cases.remove_users()


_MAX_REASONS = 5


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell what was left out and skipped, and how many of Django's tests each engine passed."""
    _tell_left_out(terminalreporter)
    _tell_skipped(terminalreporter)
    _tell_upstream(terminalreporter)


def _tell_left_out(terminalreporter: Any) -> None:
    counts = terminalreporter.config.stash.get(_COUNTS, {})
    sentences = []
    if number := counts.get(_LEFT_OUT, 0):
        sentences.append(f"{number} tests were left out")
    if number := counts.get(_NARROWED, 0):
        sentences.append(
            f"{number} test functions ran on some combinations of engine and store only"
        )
    if sentences:
        terminalreporter.write_line(
            f"{', and '.join(sentences)}. See --all-stores, --packages, and the markers "
            "all_packages and deployments."
        )


def _tell_skipped(terminalreporter: Any) -> None:
    reasons: Counter[str] = Counter()
    ids = {case.id for case in cases.CASES}
    for report in terminalreporter.getreports("skipped"):
        _file, _line, reason = report.longrepr
        reason = reason.removeprefix("Skipped: ")
        first, _space, rest = reason.partition(" ")
        if first in ids:
            reason = f"the engine {rest}"
        reasons[reason] += 1
    if not reasons:
        return
    terminalreporter.section("Skipped tests, by reason")
    # One line for the rest says less than the only reason in it.
    shown = len(reasons) if len(reasons) <= _MAX_REASONS else _MAX_REASONS - 1
    for reason, number in reasons.most_common(shown):
        terminalreporter.write_line(f"{number:>5}  {reason}")
    if others := len(reasons) - shown:
        rest = sum(number for _, number in reasons.most_common()[shown:])
        terminalreporter.write_line(f"{rest:>5}  for {others} other reasons, which -rs lists")


def _tell_upstream(terminalreporter: Any) -> None:
    passed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for outcome in ("passed", "failed", "error", "skipped", "xfailed"):
        for report in terminalreporter.getreports(outcome):
            file, *names = report.nodeid.split("::")
            if file.endswith("test_upstream.py") and len(names) == 2:
                passed[names[0]] += outcome == "passed"
                total[names[0]] += 1
    if total:
        terminalreporter.section("Django's SessionTestsMixin")
        for name in sorted(total):
            terminalreporter.write_line(f"{passed[name]:>3} of {total[name]}  {name}")
