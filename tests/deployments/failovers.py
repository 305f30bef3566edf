"""A Redis primary fails over to its replica while the site is used, and slots of a cluster move."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.deployments.browsers import LOST, MIX_UP, SIGNED_OUT, UNDONE, Habits
from tests.deployments.figures import Row
from tests.deployments.load import Load
from tests.deployments.setups import CLUSTER, Setup, deployed, sentinel_setup
from tests.deployments.sites import Kind
from tests.services import Redis, RedisCluster, RedisSentinel, Sentinel, wait_until

_BROWSERS: Final = 8
_MOVED_SLOTS: Final = 2000
_OLD_PRIMARY_IS_BACK: Final = 5
"""Seconds for which an old primary and the new one run beside each other."""

_PARTITION: Final = 3
"""Seconds without replication."""
_LINK: Final = "replication"
"""A user of Redis, whom the primary can disconnect."""

# With one replica, there are no writes until the old primary is back as the new replica.
_MIN_REPLICAS: Final = {"min_replicas_to_write": "1", "min_replicas_max_lag": "1"}
SENTINELS: Final[Mapping[str, Setup]] = {
    "as they are": sentinel_setup(),
    "min-replicas-to-write 1": sentinel_setup(**_MIN_REPLICAS),
    "WAIT 1": sentinel_setup(waits=True),
}


def _is_primary(node: Redis) -> bool:
    return "role:master" in node.cli("info", "replication")


def _wait_for_failover(service: RedisSentinel) -> None:
    """Wait until each sentinel names the replica to those who ask for the primary."""
    question = ("sentinel", "get-master-addr-by-name", Sentinel.MASTER)
    wait_until(
        lambda: all(
            sentinel.cli(*question).split()[1:] == [str(service.replica.port)]
            for sentinel in service.sentinels
        ),
        "the replica is the primary",
    )


def kill_primary(service: RedisSentinel) -> None:
    """End the primary, which comes back as a replica of the one that has taken its place.

    It has lost its data, so it must not be back before it has been replaced.
    """
    service.master.kill()
    _wait_for_failover(service)
    service.master.restart()


def kill_primary_after_partition(service: RedisSentinel) -> None:
    """End the primary after some seconds in which its replica could not reach it."""
    master, replica = service.master, service.replica
    master.cli("acl", "setuser", _LINK, "on", "nopass", "allcommands", "allchannels", "allkeys")
    replica.cli("config", "set", "masterauth", "any")
    replica.cli("config", "set", "masteruser", _LINK)
    master.cli("client", "kill", "type", "replica")
    wait_until(replica.answers, "the replica has connected as this user")
    master.cli("acl", "deluser", _LINK)
    time.sleep(_PARTITION)
    kill_primary(service)


def hang_primary(service: RedisSentinel) -> None:
    """Let the primary hang until it has been replaced. It does not know that when it is back."""
    service.master.pause()
    _wait_for_failover(service)
    service.master.resume()
    time.sleep(_OLD_PRIMARY_IS_BACK)


def kill_primary_of_cluster(service: RedisCluster) -> None:
    primary, *others = service.members
    primary.kill()
    wait_until(
        lambda: sum(map(_is_primary, others)) == 3 and _is_whole(others[0]),
        "a replica is the primary",
    )
    primary.restart()


def move_slots(service: RedisCluster) -> None:
    """Move slots with their keys from one primary to another."""
    origin, target = service.members[1:3]
    origin.cli(
        *("--cluster", "reshard", origin.addresses[0], "--cluster-yes"),
        *("--cluster-from", origin.cli("cluster", "myid")),
        *("--cluster-to", target.cli("cluster", "myid")),
        *("--cluster-slots", str(_MOVED_SLOTS)),
    )


def _is_whole(node: Redis) -> bool:
    return "cluster_state:ok" in node.cli("cluster", "info")


EVENTS: Final[Mapping[str, tuple[str, Callable[[Any], None]]]] = {
    "primary killed": ("sentinel", kill_primary),
    "primary killed after 3 s without replication": ("sentinel", kill_primary_after_partition),
    "primary hung, and back": ("sentinel", hang_primary),
    "cluster: primary killed": ("cluster", kill_primary_of_cluster),
    "cluster: slots moved": ("cluster", move_slots),
}


def rows(kind: Kind, package: Path | None = None) -> Iterator[Row]:
    """Yield a row of the table for each event, and for each way to protect writes from it."""
    for event, (store, break_it) in EVENTS.items():
        setups = SENTINELS if store == "sentinel" else {"as they are": CLUSTER}
        for writes, setup in setups.items():
            with (
                deployed(setup, kind, package) as deployment,
                Load(deployment.site, _BROWSERS, habits=Habits(think=0.02)) as load,
            ):
                load.wait_for_sessions(200)
                began = time.monotonic()
                break_it(deployment.stores[store])
                load.wait_for_sessions(200, seconds=120)
            yield {
                "Server": kind.name,
                "Event": event,
                "Writes": writes,
                "Acknowledged increments": str(load.good("increment")),
                LOST.capitalize(): str(load.wrongs[LOST]),
                SIGNED_OUT.capitalize(): str(load.wrongs[SIGNED_OUT]),
                "Mix-ups, logouts undone": str(load.wrongs[MIX_UP] + load.wrongs[UNDONE]),
                "Errors": str(sum(load.errors().values())),
                "Seconds with errors": f"{load.last_error(began):.1f}",
            }
