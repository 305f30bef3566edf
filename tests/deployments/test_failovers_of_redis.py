"""Nobody loses a write or is signed out when another Redis becomes the primary, or slots move.

The replica has each write before its primary is killed, or writes are acknowledged only by both.
These tests run with ``-m deployments``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.deployments import failovers
from tests.deployments.browsers import Habits
from tests.deployments.load import Load
from tests.deployments.setups import CLUSTER, STORE_RETRY, Setup, deployed
from tests.deployments.sites import KINDS

pytestmark = pytest.mark.deployments


@pytest.mark.parametrize(
    ("setup", "store", "break_it"),
    [
        (failovers.SENTINELS["as they are"], "sentinel", failovers.kill_primary),
        (failovers.SENTINELS["WAIT 1"], "sentinel", failovers.kill_primary_after_partition),
        (CLUSTER, "cluster", failovers.kill_primary_of_cluster),
        (CLUSTER, "cluster", failovers.move_slots),
    ],
    ids=["primary killed", "without replication", "cluster", "slots moved"],
)
@pytest.mark.parametrize("server", ["gthread", "uvicorn"])
def test_another_primary(
    setup: Setup, store: str, break_it: Callable[[Any], None], server: str
) -> None:
    with (
        deployed(setup, KINDS[server]) as deployment,
        Load(deployment.site, habits=Habits(think=0.02)) as load,
    ):
        load.wait_for_sessions(50)
        break_it(deployment.stores[store])
        load.wait_for_sessions(50)
        # Until each process has found out.
        time.sleep(STORE_RETRY + 1)
        back = time.monotonic()
        load.wait_for_sessions(50)
        assert load.errors(since=back) == {}, str(load)
    load.assert_all_is_well()
