"""The keys of sessions and of their index in Redis.

Every key has a tag in braces, of which there are `TAGS`. The tag of a session is the beginning of
its id. A cluster keeps what has the same tag on one node, so that one script writes a session and
its place in the index there.
"""

from __future__ import annotations

import hashlib
from binascii import crc_hqx
from collections.abc import Iterator
from itertools import product
from string import ascii_letters, digits
from typing import Final, NamedTuple

from ...core.records import ID_SIZE, is_session_id, pack_site

TAG_BITS: Final = 9
TAGS: Final = 1 << TAG_BITS
_SLOTS: Final = 16_384
_ID_BITS: Final = 8 * ID_SIZE
_TAG_SIZE: Final = len("{ab}")
PLACE_BITS: Final = 47
"""The bits after the tag by which the scripts find the bucket of a member."""
PLACES: Final = 1 << PLACE_BITS
"""The number of places in a directory; each bucket has those of a range."""
MEMBER_SIZE: Final = ID_SIZE - 1
"""The bytes of an id that are not in the tag; the first bit of them is."""
USER_SIZE: Final = 3
"""The bytes that stand for a user in the members of the index of users."""
_USER_BITS: Final = 8 * USER_SIZE - 1
_PLACES_OF_USER: Final = 1 << (PLACE_BITS - _USER_BITS)
_REST: Final = _ID_BITS - (PLACE_BITS - _USER_BITS)
"""The bits of a session id that are not in the place of its user's member."""


def _draw_tags() -> tuple[bytes, ...]:
    """Return texts that a cluster spreads evenly over its slots, in the order of the slots.

    So each node has as many of them as its share of the slots, however few sessions there are.
    """
    found: dict[int, bytes] = {}
    for letters in product(ascii_letters + digits, repeat=2):
        text = "".join(letters).encode()
        # The function by which a cluster finds the slot of a tag.
        found.setdefault(crc_hqx(text, 0) % _SLOTS * TAGS // _SLOTS, text)
    return tuple(found[number] for number in range(TAGS))


TAG_TEXTS: Final = _draw_tags()


class Place(NamedTuple):
    """Where the members of an index begin that a caller wants."""

    tag: int
    number: int
    """The place in the directory of the tag; see `PLACES`."""

    @classmethod
    def of_id(cls, number: int) -> Place:
        """Return the place of a session id, which is given as a number."""
        rest = number >> (_ID_BITS - TAG_BITS - PLACE_BITS)
        return cls(rest >> PLACE_BITS, rest & (PLACES - 1))

    @property
    def first_id(self) -> int:
        """The first session id that has this place."""
        place = (self.tag << PLACE_BITS) + self.number
        return place << (_ID_BITS - TAG_BITS - PLACE_BITS)


class User(NamedTuple):
    """The place of a user in the index of users."""

    tag: int
    prefix: bytes
    """The beginning of the members of this user, and hardly ever of another one."""

    @classmethod
    def of(cls, user_id: str) -> User:
        # The scripts have no other digest.
        digest = hashlib.sha1(user_id.encode(), usedforsecurity=False).digest()
        number = int.from_bytes(digest[:2], "big")
        return cls(number >> (16 - TAG_BITS), digest[1 : 1 + USER_SIZE])

    def places_from(self, number: int) -> tuple[int, int]:
        """Return the first place of this user's sessions from an id on, and the one behind all."""
        return self._first + (number >> _REST), self._first + _PLACES_OF_USER

    def id_at(self, place: int) -> int:
        """Return the first session id that has a place of this user, as a number."""
        return (place - self._first) << _REST

    @property
    def _first(self) -> int:
        return int.from_bytes(self.prefix, "big") % (1 << _USER_BITS) * _PLACES_OF_USER


def member_of(session_id: str) -> bytes:
    """Return the member of a session in the index of sessions."""
    return bytes.fromhex(session_id[2:])


def tag_of(session_id: str) -> int:
    """Return the number of the tag of a session."""
    return int(session_id[:3], 16) >> (12 - TAG_BITS)


def id_of(tag: int, member: bytes) -> str:
    """Return the session id of a member of the index of sessions."""
    return f"{tag >> (TAG_BITS - 8):02x}{member.hex()}"


def _tagged(prefix: bytes, tag: int) -> bytes:
    return b"%b{%b}" % (prefix, TAG_TEXTS[tag])


def record_key(prefix: bytes, session_id: str) -> bytes:
    """Return the key of the record of a session. A text that is not an id has an unused key."""
    if not is_session_id(session_id):
        return b"%b?%b" % (prefix, session_id.encode(errors="replace"))
    return b"%b{%b}%b" % (prefix, TAG_TEXTS[tag_of(session_id)], member_of(session_id))


def sessions_key(prefix: bytes, site: int, tag: int) -> bytes:
    """Return the key of the directory of sessions of a site with this tag."""
    return b"%bi%b" % (_tagged(prefix, tag), pack_site(site))


def users_key(prefix: bytes, site: int, tag: int) -> bytes:
    """Return the key of the directory of users of a site with this tag."""
    return b"%bu%b" % (_tagged(prefix, tag), pack_site(site))


def sites_key(prefix: bytes) -> bytes:
    """Return the key of the set of the sites that have an index."""
    return _tagged(prefix, 0) + b"sites"


def lock_key(prefix: bytes, site: int) -> bytes:
    """Return the key of the lock of the request that rebuilds the index of a site."""
    return b"%block%b" % (_tagged(prefix, 0), pack_site(site))


def progress_key(prefix: bytes, site: int) -> bytes:
    """Return the key of what says how far a rebuild of the index of a site has come."""
    return b"%bprogress%b" % (_tagged(prefix, 0), pack_site(site))


def ids_in(prefix: bytes, keys: list[bytes]) -> Iterator[str]:
    """Yield the ids of the records among some keys that begin with a prefix."""
    begin, size = len(prefix) + _TAG_SIZE, len(prefix) + _TAG_SIZE + MEMBER_SIZE
    for key in keys:
        if len(key) == size and (tag := _NUMBERS.get(key[len(prefix) : begin])) is not None:
            session_id = id_of(tag, key[begin:])
            if tag_of(session_id) == tag:
                yield session_id


_NUMBERS: Final = {b"{%b}" % text: number for number, text in enumerate(TAG_TEXTS)}
