"""A primary of Redis or MongoDB fails while the site is used, and slots of a Redis cluster move."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.deployments.browsers import LOST, MIX_UP, SIGNED_OUT, UNDONE, Habits
from tests.deployments.figures import Row
from tests.deployments.load import Load
from tests.deployments.setups import CLUSTER, Setup, deployed, mongodb_setup, sentinel_setup
from tests.deployments.sites import Kind
from tests.services import (
    MongoDB,
    MongoReplicaSet,
    Redis,
    RedisCluster,
    RedisSentinel,
    Sentinel,
    wait_until,
)

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


def _is_replaced(service: MongoReplicaSet, primary: MongoDB) -> bool:
    try:
        return service.primary is not primary
    except LookupError:
        return False


def _wait_for_another(service: MongoReplicaSet, primary: MongoDB) -> None:
    wait_until(lambda: _is_replaced(service, primary), "another member is the primary")


def kill_member(service: MongoReplicaSet) -> None:
    """End the primary, which comes back as a secondary with what it has on its disk."""
    primary = service.primary
    primary.kill()
    _wait_for_another(service, primary)
    primary.restart()
    service.wait_until_whole()


def kill_member_after_partition(service: MongoReplicaSet) -> None:
    """End the primary after some seconds in which the others did not get what it has written."""
    primary = service.primary
    others = [each for each in service.members if each is not primary]
    point = {"configureFailPoint": "stopReplProducer"}
    for each in others:
        assert each.ask({**point, "mode": "alwaysOn"}).get("ok")
    time.sleep(_PARTITION)
    primary.kill()
    for each in others:
        assert each.ask({**point, "mode": "off"}).get("ok")
    _wait_for_another(service, primary)
    primary.restart()
    service.wait_until_whole()


def step_down(service: MongoReplicaSet) -> None:
    """Let the primary hand over to another member, as before an upgrade."""
    primary = service.primary
    command = {"replSetStepDown": 30, "secondaryCatchUpPeriodSecs": 20}
    said = primary.ask(command, seconds=30)
    assert said.get("ok"), said
    _wait_for_another(service, primary)
    service.wait_until_whole()


def hang_member(service: MongoReplicaSet) -> None:
    """Let the primary hang until it has been replaced. It does not know that when it is back."""
    primary = service.primary
    primary.pause()
    _wait_for_another(service, primary)
    primary.resume()
    time.sleep(_OLD_PRIMARY_IS_BACK)
    service.wait_until_whole()


def _is_whole(node: Redis) -> bool:
    return "cluster_state:ok" in node.cli("cluster", "info")


EVENTS: Final[Mapping[str, tuple[str, Callable[[Any], None]]]] = {
    "primary killed": ("sentinel", kill_primary),
    "primary killed after 3 s without replication": ("sentinel", kill_primary_after_partition),
    "primary hung, and back": ("sentinel", hang_primary),
    "cluster: primary killed": ("cluster", kill_primary_of_cluster),
    "cluster: slots moved": ("cluster", move_slots),
    "mongodb: primary killed": ("mongodb", kill_member),
    "mongodb: primary killed after 3 s without replication": (
        "mongodb",
        kill_member_after_partition,
    ),
    "mongodb: primary steps down": ("mongodb", step_down),
    "mongodb: primary hung, and back": ("mongodb", hang_member),
}
STORES: Final[Mapping[str, Mapping[str, Setup]]] = {
    "sentinel": SENTINELS,
    "cluster": {"as they are": CLUSTER},
    "mongodb": {
        "replaced after 1 s": mongodb_setup(),
        "replaced after 10 s": mongodb_setup(patience=10),
    },
}
"""How writes are protected, or how long it takes until a primary is replaced."""


def rows(
    kind: Kind, package: Path | None = None, stores: Collection[str] | None = None
) -> Iterator[Row]:
    """Yield a row of the table for each event, and for each way to protect writes from it.

    Of all stores, or of some of `STORES`.
    """
    for event, (store, break_it) in EVENTS.items():
        if stores and store not in stores:
            continue
        for writes, setup in STORES[store].items():
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
                "Longest pause": f"{load.longest_pause(began):.1f}",
            }
