"""The nodes of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.cluster import RedisCluster
from redis.exceptions import RedisClusterException

from ..inspection import draw_ids


def ids_of_nodes(client: Any, key_of: Callable[[str], bytes]) -> dict[str, str]:
    """Return a session id for each primary of a cluster; one for any other server.

    ``key_of`` returns the key of a session. See `Storage.nodes`.
    """
    if not isinstance(client, RedisCluster):
        return draw_ids([""], lambda _: "")

    def node_of(session_id: str) -> str:
        try:
            node = client.get_node_from_key(key_of(session_id))  # type: ignore[no-untyped-call]
        except RedisClusterException:  # It knows of no node for the key.
            return ""
        return str(node.name)

    names = [node.name for node in client.get_primaries()]  # type: ignore[no-untyped-call]
    return draw_ids(names, node_of)
