"""Nobody loses a write or is signed out when a replica set of MongoDB gets another primary.

A write is acknowledged when the majority of the members has it. These tests run with
``-m deployments``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.deployments import failovers
from tests.deployments.browsers import Habits
from tests.deployments.load import Load
from tests.deployments.setups import STORE_RETRY, Deployment, deployed, mongodb_setup
from tests.deployments.sites import KINDS

pytestmark = pytest.mark.deployments
UNAVAILABLE = 503


@pytest.fixture(params=["gthread", "uvicorn"], scope="module")
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    with deployed(mongodb_setup(), KINDS[request.param]) as running:
        yield running


@pytest.mark.parametrize(
    "break_it",
    [
        failovers.kill_member,
        failovers.kill_member_after_partition,
        failovers.step_down,
        failovers.hang_member,
    ],
)
def test_another_primary(deployment: Deployment, break_it: Callable[[Any], None]) -> None:
    with Load(deployment.site, habits=Habits(think=0.02)) as load:
        load.wait_for_sessions(50)
        break_it(deployment.stores["mongodb"])
        # Until each process has found out.
        time.sleep(STORE_RETRY + 1)
        back = time.monotonic()
        load.wait_for_sessions(50)
        assert load.errors(since=back) == {}, str(load)
    load.assert_all_is_well()
    assert load.errors().keys() <= {UNAVAILABLE}, str(load)
