"""The packed form of records."""

from __future__ import annotations

import pytest

from django_sessionstores.core.records import Record, pack, unpack
from django_sessionstores.exceptions import UnreadablePayload

ID = "0" * 40


@pytest.mark.parametrize("offset", [0, 1], ids=["format", "state"])
def test_a_record_of_an_unknown_format_or_state_is_unreadable(offset: int) -> None:
    packed = bytearray(pack(Record(id=ID)))
    assert unpack(ID, bytes(packed)).id == ID
    packed[offset] = 99
    with pytest.raises(UnreadablePayload, match="unknown format"):
        unpack(ID, bytes(packed))
