"""The binding of a session: the key of its device, as it is stored in the data of the session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from .device_keys import DeviceKey, decode_base64url, encode_base64url, id_of_bytes, key_of_bytes
from .headers import InvalidProof

BINDING: Final = "_session_binding"
"""The key of the session data for the binding."""


class Binding(NamedTuple):
    """The key of a device, and what the device has shown with it. Moments are in milliseconds."""

    key_bytes: bytes
    """The key as `DeviceKey.to_bytes` has made it."""
    answered: int
    """When the last challenge was made that the device has answered."""
    enforced: int
    """From when on requests need the bound cookie. The browser may have sent requests before it got
    its first one."""

    @property
    def id(self) -> str:
        """The id of the binding, which browsers call the identifier of the session."""
        return id_of_bytes(self.key_bytes)

    @property
    def key(self) -> DeviceKey:
        """The key. Reading it takes a hundred times as long as the id."""
        return key_of_bytes(self.key_bytes)

    def to_text(self) -> str:
        """Return the value in the data of the session, which every serializer keeps."""
        return f"{self.enforced} {self.answered} {encode_base64url(self.key_bytes)}"


def binding_of(data: Mapping[str, Any]) -> Binding | None:
    """Return the binding in the data of a session; ``None`` if the session is not bound."""
    text = data.get(BINDING)
    if not isinstance(text, str):
        return None
    try:
        enforced, answered, key = text.split(" ")
        return Binding(decode_base64url(key), int(answered), int(enforced))
    except ValueError:  # Other code has put it there.
        return None


def merge_bindings(base: Any, mine: Any, theirs: Any) -> Any:
    """Return the binding to store if two requests have changed it; see `merge.MergeFunction`.

    Raises `InvalidProof` if the other request has bound the session to another key, or has answered
    the same challenge or a later one: then this request comes too late.
    """
    own, stored = binding_of({BINDING: mine}), binding_of({BINDING: theirs})
    if own is None or stored is None:
        return mine
    if own.key_bytes != stored.key_bytes or own.answered <= stored.answered:
        raise InvalidProof("challenge has been answered")
    return mine
