"""The codecs: from a session's dict to the encrypted payload that a storage keeps, and back.

A payload consists of format, flags, key id, nonce, ciphertext and tag. It has 34 bytes more than
the serialised data. It can only be decrypted with the session id for which it was encrypted.
"""

from __future__ import annotations

import hashlib
import os
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..core.records import (
    Record,
    SecretBytes,
    SecretDict,
    SecretText,
    key_of,
)
from ..exceptions import (
    ForeignPayload,
    PayloadTooLarge,
    UnreadablePayload,
    UnserializableValue,
)
from . import merge
from .compact import compact, expand
from .deep_calls import with_enough_stack
from .serializers import TypedSerializer

_QUOTE_NO_VALUES: Final = frozenset({TypedSerializer.__module__, "json.encoder"})
"""The modules whose ``TypeError`` names types only."""
_FORMAT: Final = 1
_COMPRESSED: Final = 0x80
_COMPACT: Final = 0x40
_SERIALIZER_BITS: Final = 0x3F
_KEY_ID_SIZE: Final = 4
_HEAD_SIZE: Final = 2 + _KEY_ID_SIZE
_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16

COMPRESS_FROM: Final = 1024
"""The bytes of serialised data from which on compression is tried. For less data, it costs more
than it saves."""
MAX_UNENCRYPTED: Final = 1_048_576
"""The maximum size of the serialised data of an `UnencryptedCodec`, in bytes."""


class Serializer(Protocol):
    """A serializer as ``SESSION_SERIALIZER`` names it, see Django's documentation."""

    def dumps(self, obj: Any) -> bytes: ...
    def loads(self, data: bytes) -> Any: ...


class KeyRing:
    """Encryption keys that are derived from secrets. The first key encrypts; all keys decrypt.

    Every session has a subkey, a keyed BLAKE2b digest of its id, which takes half a microsecond.
    With one AES key for all sessions, random nonces would be safe for 2**32 saves in total
    (NIST SP 800-38D, 8.3), a number that 50 million busy sessions reach.
    """

    def __init__(self, secrets: Iterable[str | bytes]) -> None:
        self._keys: dict[bytes, bytes] = {}
        for secret in secrets:
            material = secret.encode() if isinstance(secret, str) else secret
            key = HKDF(SHA256(), 32, salt=None, info=b"django_sessionstores payload").derive(
                material
            )
            self._keys.setdefault(
                hashlib.blake2b(key, digest_size=_KEY_ID_SIZE, person=b"key id").digest(), key
            )
        if not self._keys:
            raise ValueError("a key ring needs at least one secret")
        self._newest = next(iter(self._keys))
        # Copying a hash object is a third faster than creating one.
        self._subkeys = {
            each: hashlib.blake2b(digest_size=32, key=key) for each, key in self._keys.items()
        }
        self._rotations = [
            hashlib.blake2b(digest_size=32, key=key, person=b"rotation")
            for key in self._keys.values()
        ]

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self)}>"

    @property
    def ids(self) -> tuple[bytes, ...]:
        """The ids of the keys, 4 bytes each, that of the first key first. They are not secret."""
        return tuple(self._keys)

    def encrypt(self, session_id: str, flags: int, data: bytes) -> bytes:
        """Return the encrypted ``data`` after the readable ``flags``, both bound to the id."""
        head = bytes((_FORMAT, flags)) + self._newest
        nonce = os.urandom(_NONCE_SIZE)
        cipher = _cipher(self._subkeys[self._newest], session_id)
        return head + nonce + cipher.encrypt(nonce, data, head + session_id.encode())

    def digest(self, text: str) -> bytes:
        """Return 8 bytes that stand for a text. They do not reveal it without a key."""
        key = self._keys[self._newest]
        data = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, digest_size=8, key=key, person=b"digest").digest()

    def signatures(self, purpose: str, data: bytes) -> Iterator[bytes]:
        """Yield the signature of data for a purpose by each key: 16 bytes, the first key first."""
        head = purpose.encode("utf-8", "surrogatepass") + b"\0"
        for key in self._keys.values():
            yield hashlib.blake2b(
                head + data, digest_size=16, key=key, person=b"signature"
            ).digest()

    def successors(self, key: str, nonce: int) -> Iterator[SecretText]:
        """Yield the keys that a session may have got in a rotation: one for each secret.

        The new key is derived from the old key and a secret, so that a request with the old key can
        be given the new one although no store has either.
        """
        for each in self._rotations:
            digest = each.copy()
            digest.update(f"{nonce} {key}".encode())
            yield SecretText(key_of(digest.digest()))

    def is_newest(self, payload: bytes) -> bool:
        """Return whether the payload was encrypted with the first key."""
        return payload[2:_HEAD_SIZE] == self._newest

    def decrypt(self, session_id: str, payload: bytes) -> tuple[int, bytes]:
        """Return the flags and the data of a payload. Raises `UnreadablePayload`."""
        if len(payload) < _HEAD_SIZE + _NONCE_SIZE + _TAG_SIZE:
            raise UnreadablePayload("payload is cut short")
        head, nonce = payload[:_HEAD_SIZE], payload[_HEAD_SIZE : _HEAD_SIZE + _NONCE_SIZE]
        if head[0] != _FORMAT:
            raise UnreadablePayload("payload is of an unknown format")
        subkeys = self._subkeys.get(head[2:])
        if subkeys is None:
            raise ForeignPayload("payload is encrypted under an unknown key")
        try:
            data = _cipher(subkeys, session_id).decrypt(
                nonce, payload[_HEAD_SIZE + _NONCE_SIZE :], head + session_id.encode()
            )
        except InvalidTag:
            raise UnreadablePayload("payload was altered or belongs to another session") from None
        return head[1], SecretBytes(data)


def _cipher(subkeys: hashlib.blake2b, session_id: str) -> AESGCM:
    digest = subkeys.copy()
    digest.update(session_id.encode())
    return AESGCM(digest.digest())


class Snapshot(msgspec.Struct, frozen=True):
    """The serialised data of a session, and the number of the serializer that reads it."""

    serializer: int
    data: bytes

    def __repr__(self) -> str:
        # Error reports show local variables.
        return f"<Snapshot of {len(self.data)} bytes>"


def _reason(error: Exception, value: object) -> str:
    """Return why a value cannot be serialised, without a part of it.

    The text of an error may quote the value, unless the package's serializer or Python's encoder of
    JSON has raised it for a type.
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if isinstance(error, TypeError) and frame.f_globals.get("__name__") in _QUOTE_NO_VALUES:
        return str(error)
    return f"serializing this {type(value).__name__} raises {type(error).__name__}"


class Codec:
    """Serialises, compresses and encrypts session data, and reverses that.

    ``serializers`` maps numbers to serializers, and ``writes`` is the number of the serializer for
    new payloads. Each payload has the number of its serializer, so that the same serializer reads
    it, as long as the number stands for the same one.
    """

    def __init__(self, keys: KeyRing, serializers: Mapping[int, Serializer], writes: int) -> None:
        self._keys = keys
        self._writes = writes
        used = serializers[writes]
        # Not of a subclass, which may write something else.
        self._own = {
            number for number, each in serializers.items() if type(each) is TypedSerializer
        }
        # Equal values have equal bytes, which other serializers do not guarantee.
        self._is_exact = writes in self._own
        # The package's own serializer sees to the stack, and to `SecretDict`, itself.
        self._dumps = used.dumps if self._is_exact else with_enough_stack(_of_dict(used.dumps))
        self._dumps_change = used.dumps_change if isinstance(used, TypedSerializer) else self._dumps
        self._loads = {
            number: each.loads if number in self._own else with_enough_stack(each.loads)
            for number, each in serializers.items()
        }

    def serialize(self, data: Mapping[Any, Any]) -> Snapshot:
        """Return the serialised form of a session's dict.

        Raises `UnserializableValue`, which names the key of the value that cannot be serialised.
        """
        try:
            return Snapshot(self._writes, self._dumps(data))
        except Exception as error:  # noqa: BLE001 - whatever a serializer raises for a value
            problem = self._problem(data, error)
        # Error reports show the variables of each frame, including the frames of causes.
        del data
        raise UnserializableValue(problem)

    def serialize_change(self, change: Mapping[Any, Any]) -> Snapshot:
        """Return the serialised form of a change, see `merge.changes`.

        Raises `UnserializableValue` for values that `serialize` accepts only if a serializer of the
        project accepts them there and not here.
        """
        try:
            return Snapshot(self._writes, self._dumps_change(change))
        except Exception as error:  # noqa: BLE001 - whatever a serializer raises for a value
            problem = f"A change of the session cannot be saved: {_reason(error, change)}."
        del change  # Error reports show local variables.
        raise UnserializableValue(problem)

    def lacks(self, snapshot: Snapshot, key: bytes) -> bool:
        """Return whether a dict certainly lacks a key. Takes less than to deserialise it.

        ``key`` is in UTF-8. Return ``False`` if the dict may have the key.
        """
        return snapshot.serializer in self._own and key not in snapshot.data

    def _problem(self, data: Mapping[Any, Any], error: Exception) -> str:
        """Return a message that says which value cannot be serialised, and why.

        ``error`` is the exception for the whole dict.
        """
        for key, value in data.items():
            try:
                self._dumps({key: value})
            except Exception as reason:  # noqa: BLE001
                return (
                    f"session[{key!r}] cannot be saved: {_reason(reason, value)}. Store a simpler "
                    "value, or choose another SESSION_SERIALIZER."
                )
        return f"The session cannot be saved: {_reason(error, data)}."

    def deserialize(self, snapshot: Snapshot) -> dict[Any, Any]:
        """Return the dict of a snapshot, a new dict at each call. Raises `UnreadablePayload`."""
        try:
            loads = self._loads[snapshot.serializer]
        except KeyError:
            raise UnreadablePayload("payload was written by an unknown serializer") from None
        try:
            loaded = loads(snapshot.data)
        except RecursionError:
            # It says nothing about the data, which must not be taken for damaged.
            raise RecursionError("no stack is left in which to read the session") from None
        except Exception as error:  # noqa: BLE001 - whatever a serializer raises for its bytes
            # Neither its text nor its frames, because both may show the data.
            name = type(error).__name__
            raise UnreadablePayload(f"payload does not deserialize ({name})") from None
        if isinstance(loaded, dict):
            return loaded
        del loaded  # Error reports show local variables.
        raise UnreadablePayload("payload is not a dict")

    def matches(self, snapshot: Snapshot, data: Mapping[Any, Any]) -> bool:
        """Return whether ``data`` would be stored as the same data as that of the snapshot.

        The order of the session's own keys does not count. Data that cannot be serialised does not
        match.
        """
        if snapshot.serializer == self._writes:
            try:
                dumped = self._dumps(data)
            except Exception:  # noqa: BLE001 - saving it will raise the error
                return False
            if dumped == snapshot.data:
                return True
            if self._is_exact and len(dumped) != len(snapshot.data):
                return False
            del dumped  # Error reports show local variables.
        before = SecretDict(self.deserialize(snapshot))
        return before.keys() == data.keys() and all(
            self.is_same(value, data[key]) for key, value in before.items()
        )

    def is_same(self, a: object, b: object) -> bool:
        """Return whether two values of one key would be stored as the same."""
        if merge.is_same(a, b):
            return True
        if self._is_exact:
            return False
        try:
            return self._dumps({"": a}) == self._dumps({"": b})
        except Exception:  # noqa: BLE001 - saving it will raise the error
            return False

    def encrypt(self, session_id: str, snapshot: Snapshot) -> bytes:
        """Return the payload of a session for a storage."""
        flags, data = snapshot.serializer, snapshot.data
        short: bytes | None = None
        if len(data) >= COMPRESS_FROM:
            short, how = zlib.compress(data, level=1), _COMPRESSED
        elif snapshot.serializer in self._own:
            short, how = compact(data), _COMPACT
        if short is not None and len(short) < len(data):
            return self._keys.encrypt(session_id, flags | how, short)
        return self._keys.encrypt(session_id, flags, data)

    def is_newest(self, payload: bytes) -> bool:
        """Return whether the payload was encrypted with the first key, see `KeyRing.is_newest`."""
        return self._keys.is_newest(payload)

    def decrypt(self, session_id: str, payload: bytes) -> Snapshot:
        """Return the snapshot in a payload, for `deserialize`.

        Raises `UnreadablePayload`, with the reason, for anything but a payload of this session. The
        size after decompression has no limit: only a process that has a key can make a payload, and
        the data has been in the memory of such a process.
        """
        flags, data = self._keys.decrypt(session_id, payload)
        if flags & _COMPRESSED:
            try:
                data = zlib.decompress(data)
            except zlib.error:
                raise UnreadablePayload("payload does not decompress") from None
        elif flags & _COMPACT:
            data = SecretBytes(expand(memoryview(data), COMPRESS_FROM))
        return Snapshot(flags & _SERIALIZER_BITS, data)


class UnencryptedCodec(Codec):
    """Makes payloads that are not encrypted, for a storage that encrypts whole records itself.

    Such a record travels in a cookie, and anyone on the way can see its length. So the data of this
    package's serializer is made shorter by `compact`, which does not reveal secrets by the length,
    and is not compressed as a whole. The data of other serializers stays as it is, because only
    they know where one value ends and the next begins.
    """

    def encrypt(self, session_id: str, snapshot: Snapshot) -> bytes:
        """Return the payload. Raises `PayloadTooLarge` above `MAX_UNENCRYPTED` bytes of data."""
        size = len(snapshot.data)
        if size > MAX_UNENCRYPTED:
            raise PayloadTooLarge(
                f"The session takes {size} bytes, and {MAX_UNENCRYPTED} are the most for a cookie, "
                "however short it gets. Store less in it, or choose another SESSION_ENGINE."
            )
        short = compact(snapshot.data) if snapshot.serializer in self._own else None
        if short is None:
            return SecretBytes(bytes((snapshot.serializer,)) + snapshot.data)
        return SecretBytes(bytes((snapshot.serializer | _COMPRESSED,)) + short)

    def is_newest(self, payload: bytes) -> bool:
        return True

    def decrypt(self, session_id: str, payload: bytes) -> Snapshot:
        if not payload:
            raise UnreadablePayload("payload is cut short")
        payload = SecretBytes(payload)
        flags, data = payload[0], memoryview(payload)[1:]
        if flags & _COMPRESSED:
            return Snapshot(flags & _SERIALIZER_BITS, expand(data, MAX_UNENCRYPTED))
        return Snapshot(flags, bytes(data))


def _of_dict(dumps: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return the function as one for data in a `SecretDict`: some serializers keep the class."""
    return lambda data: dumps(dict(data) if type(data) is SecretDict else data)


def change_context(record_id: str, version: int) -> str:
    """Return the text to which an encrypted change is bound."""
    return f"{record_id} change {version}"


def newest_data(record: Record, payloads: Codec, encrypted: Codec) -> Snapshot:
    """Return the newest data of a record: its payload with the pending changes applied.

    Raises `UnreadablePayload`.
    """
    snapshot = payloads.decrypt(record.id, record.payload)
    if not record.pending:
        return snapshot
    data = SecretDict(encrypted.deserialize(snapshot))
    for version, change in record.pending:
        opened = encrypted.decrypt(change_context(record.id, version), change)
        merge.apply(encrypted.deserialize(opened), data)
    return encrypted.serialize(data)
