"""What a server answers about records and about itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ...core.flow import Call, Flow
from ...core.records import START_SIZE, Record, State, list_entry, unpack, unpack_start
from ...exceptions import UnreadablePayload
from .client import Server


def find(server: Server, ids: Sequence[str], *states: State) -> Flow[dict[str, Record]]:
    """Return the records with these ids, in these states or in any, without payloads.

    Takes two pipelines at most. The second one is for tombstones, and hardly ever for others.
    """
    keys = [server.key(each) for each in ids]
    starts = [("GETRANGE", key, 0, START_SIZE - 1) for key in keys]
    lengths = [("STRLEN", key) for key in keys]
    answers = yield Call(server, "ask_all", ([*starts, *lengths],))
    found, left = dict[str, Record](), list[str]()
    for each, start, length in zip(ids, answers[: len(ids)], answers[len(ids) :], strict=True):
        with suppress(UnreadablePayload, TypeError):  # Not bytes: another kind of value.
            record = unpack_start(each, start, length)
            if record is not None and record.state is State.LIVE:
                found[each] = list_entry(record)
            elif record is None or not states or record.state in states:
                left.append(each)
    if left:
        answers = yield Call(server, "ask_all", ([("GET", server.key(each)) for each in left],))
        for each, packed in zip(left, answers, strict=True):
            with suppress(UnreadablePayload, TypeError):
                record = unpack(each, packed)
                if not states or record.state in states:
                    found[each] = list_entry(record)
    return found


def eviction_policy(memory: Mapping[str, Any]) -> str:
    """Return the policy by which a full server drops keys, by what it says of its memory.

    It is empty if the server drops none, and if a cluster answers for each of its nodes.
    """
    policy = str(memory.get("maxmemory_policy", ""))
    return policy if memory.get("maxmemory") and policy != "noeviction" else ""


def may_evict(memory: Mapping[str, Any]) -> bool:
    """Return whether a server, or a node of a cluster, may drop keys that have no lifetime."""
    nodes = memory.values() if all(isinstance(each, dict) for each in memory.values()) else [memory]
    return any(eviction_policy(each).startswith("allkeys") for each in nodes)
