"""Nobody sees another's session, loses a write or is signed out, whatever happens to the processes
and the stores of a site with visitors.

These tests run with ``-m deployments``; ``--all-stores`` adds more kinds of servers and stores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.deployments import faults
from tests.deployments.browsers import NONE, OK, SIGNED_OUT, Answer, Connection, address
from tests.deployments.load import Load
from tests.deployments.setups import SETUPS, STORE_RETRY, Deployment, deployed
from tests.deployments.sites import KINDS, Site
from tests.disks import CannotMount, Disk
from tests.services import Memcached

UNAVAILABLE: Final = 503
HUNG: Final = 8
"""Seconds that a store does not answer."""
AWAY: Final = 3
"""Seconds that a store refuses connections."""
FEW_LINES: Final = 10
"""More than a process logs in an outage that is told when it begins, each minute and at its end."""
ENOUGH_PLAIN_PAGES: Final = 30
"""More than two visitors get while a store hangs, if each page waits a second for a thread, and
fewer than a busy machine serves."""
CROWD: Final = 10
"""Browsers whose requests, two at a time, are more than the threads of a site."""
BALLAST: Final = 20_000
"""Bytes that do not fit into a full store."""
BALLAST_OF_MEMCACHED: Final = 400
"""It has some room left for sizes that it has not met yet."""

SHORT: Final = (
    {"gthread", "uvicorn"},
    {"redis", "postgresql", "memcached", "cached_db", "file"},
)
"""The kinds of servers and the stores of each CI run."""


def _pairs() -> Iterator[Any]:
    """Yield each kind of server with each set-up."""
    kinds, setups = SHORT
    for kind in KINDS.values():
        for setup in SETUPS.values():
            is_short = kind.name in kinds and setup.name in setups
            marks: list[Any] = [] if is_short else [pytest.mark.slow]
            yield pytest.param((kind, setup), marks=marks, id=f"{kind.name}-{setup.name}")


pytestmark = [
    pytest.mark.deployments,
    pytest.mark.parametrize("deployment", [*_pairs()], indirect=True, scope="module"),
]


@pytest.fixture(scope="module")
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """Yield a site that runs, for all tests on its kind."""
    kind, setup = request.param
    with deployed(setup, kind) as running:
        yield running


@pytest.fixture
def load(deployment: Deployment) -> Iterator[Load]:
    """Yield the load on the site, once its visitors have used some sessions."""
    with Load(deployment.site, plain_visitors=2) as visitors:
        visitors.wait_for_sessions()
        yield visitors


def servers(deployment: Deployment) -> dict[str, Any]:
    """Return the stores that are servers."""
    stores = deployment.stores.items()
    found = {name: store for name, store in stores if not isinstance(store, Disk)}
    return found or pytest.skip("A disk has no connections, and does not hang here")


def assert_nobody_is_harmed(load: Load, *errors: int, signed_out: bool = False) -> None:
    """Assert that no session was lost or mixed up, and that there were no other errors.

    ``signed_out`` says that the store has lost its sessions.
    """
    load.stop()
    load.assert_all_is_well(but={SIGNED_OUT} if signed_out else set())
    assert load.errors().keys() <= {*errors}, str(load)


# Processes -------------------------------------------------------------------------------------


def test_a_process_that_is_killed(deployment: Deployment, load: Load) -> None:
    """It loses nothing but the responses that it was about to send."""
    deployment.site.kill_worker()
    load.wait_for_sessions()
    assert_nobody_is_harmed(load, NONE)


def test_a_reload(deployment: Deployment, load: Load) -> None:
    """New processes serve the sessions that the old ones have begun."""
    deployment.site.reload()
    load.wait_for_sessions()
    assert_nobody_is_harmed(load, NONE)


# Stores ----------------------------------------------------------------------------------------


def test_connections_that_the_server_has_closed(deployment: Deployment, load: Load) -> None:
    """It or a firewall does so at night: the first visitors of the morning do not notice."""
    for store in servers(deployment).values():
        if not faults.closes_connections(store):
            pytest.skip(f"{store.name} has no command for it; a restart closes them as well")
        with load.paused():
            faults.close_connections(store)
        load.wait_for_sessions()
    assert_nobody_is_harmed(load)


def restart_under(load: Load, deployment: Deployment, *, killed: bool) -> None:
    """Restart each store, and assert that no request fails once it answers again."""
    for name, store in deployment.stores.items():
        if killed:
            store.kill()
            time.sleep(AWAY)
        store.restart()
        if deployment.setup.waits:
            time.sleep(STORE_RETRY + 1)
        back = time.monotonic()
        load.wait_for_sessions()
        assert load.errors(since=back) == {}, f"{name}: {load}"
    forgets = deployment.setup.forgets
    assert_nobody_is_harmed(load, UNAVAILABLE, signed_out=forgets)


def test_a_restart(deployment: Deployment, load: Load) -> None:
    """Everybody is signed in as before, if the store has kept the sessions."""
    servers(deployment)
    restart_under(load, deployment, killed=False)


def test_an_outage(deployment: Deployment, load: Load) -> None:
    """The store was killed, or its disk is gone. Everybody is signed in when it is back."""
    restart_under(load, deployment, killed=True)


def test_a_reload_after_an_outage(deployment: Deployment, load: Load) -> None:
    """The new processes do not know what the old ones have written during the outage."""
    for store in servers(deployment).values():
        store.pause()
        time.sleep(AWAY)
        store.resume()
        deployment.site.reload()
        load.wait_for_sessions()
    assert_nobody_is_harmed(load, NONE, UNAVAILABLE)


def test_a_process_that_starts_during_an_outage(deployment: Deployment, load: Load) -> None:
    """It serves pages without a session at once, and the others when the store is back."""
    for store in deployment.stores.values():
        store.kill()
        deployment.site.kill_worker()
        store.restart()
        load.wait_for_sessions()
    assert_nobody_is_harmed(load, NONE, UNAVAILABLE, signed_out=deployment.setup.forgets)


def test_an_outage_fills_no_log(deployment: Deployment, load: Load) -> None:
    """A line for each request would bury what else is wrong, and fill the disk."""
    before = len(deployment.site.log())
    for store in deployment.stores.values():
        store.kill()
        load.wait_for(100, "plain")
        store.restart()
    load.wait_for_sessions()
    load.stop()
    lines = deployment.site.lines_logged(before)
    assert max(lines.values(), default=0) < FEW_LINES, deployment.site.log()[before:][-3000:]


def test_a_store_that_hangs(deployment: Deployment, load: Load) -> None:
    """Pages without a session are served meanwhile, and everybody is signed in afterwards."""
    for name, store in servers(deployment).items():
        with Load(deployment.site, CROWD, plain_visitors=0) as crowd:
            crowd.wait_for_sessions()
            began = time.monotonic()
            store.pause()
            time.sleep(HUNG)
            ended = time.monotonic()
            store.resume()
        plain_pages = load.statuses(began, ended, plain=True)
        assert plain_pages.keys() == {OK}, name
        assert plain_pages[OK] > ENOUGH_PLAIN_PAGES, name
        assert_nobody_is_harmed(crowd, UNAVAILABLE)
        # Until each process has found out.
        time.sleep(STORE_RETRY + 1)
        back = time.monotonic()
        load.wait_for_sessions()
        assert load.errors(since=back) == {}, f"{name}: {load}"
    assert_nobody_is_harmed(load, UNAVAILABLE)


class Member:
    """Somebody who has signed in, apart from the load."""

    def __init__(self, site: Site, number: int) -> None:
        self._site = site
        self.cookies: dict[str, str] = {}
        assert self.get("login", number).is_good

    def get(self, page: str, *parts: object) -> Answer:
        connection = Connection(self._site.port, self.cookies)
        try:
            return connection.get(self._site.path(address(page, *parts)), page)
        finally:
            connection.close()


def test_a_full_store(deployment: Deployment, load: Load) -> None:
    """What does not fit is refused, and the rest goes on: reading, and above all signing out."""
    if deployment.setup.name == "cookie":
        pytest.skip("What a session holds is in the browser")
    is_cached = len(deployment.stores) > 1
    for name, store in deployment.stores.items():
        member = Member(deployment.site, 10**6)
        try:
            with faults.full(store):
                is_memcached = isinstance(store, Memcached)
                ballast = BALLAST_OF_MEMCACHED if is_memcached else BALLAST
                refused = member.get("fill", ballast).status
                assert refused == (OK if is_cached and name == "cache" else UNAVAILABLE)
                assert member.get("read").body["user"] == 10**6
                cookies = {**member.cookies}
                assert member.get("logout").is_good
                member.cookies = cookies
                assert member.get("read").body["user"] is None
        except (CannotMount, NotImplementedError) as reason:
            pytest.skip(str(reason))
        back = time.monotonic()
        load.wait_for_sessions()
        assert load.errors(since=back) == {}, f"{name}: {load}"
    assert_nobody_is_harmed(load, UNAVAILABLE)
