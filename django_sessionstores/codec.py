"""From a session's dict to the sealed payload that a storage keeps, and back.

A payload is ``format, flags, key id, nonce, ciphertext and tag``: 34 bytes more than the
serialised data. It opens only under the session id that it was sealed for.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .compact import compact, expand
from .exceptions import PayloadTooLarge, UnreadablePayload, UnserializableValue
from .merge import apply, same
from .records import Record, SecretBytes, SecretText, key_of
from .serializers import TypedSerializer

_FORMAT: Final = 1
_COMPRESSED: Final = 0x80
_SERIALIZER_BITS: Final = 0x7F
_KEY_ID_SIZE: Final = 4
_HEAD_SIZE: Final = 2 + _KEY_ID_SIZE
_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16

COMPRESS_FROM: Final = 1024
"""Bytes of serialised data from which compression is tried. Below, it costs more than it saves."""
MOST_BARE: Final = 1_048_576
"""Bytes of serialised data that a `BareCodec` takes, and to which it inflates what it opens."""


class Serializer(Protocol):
    """What ``SESSION_SERIALIZER`` names, see Django's documentation."""

    def dumps(self, obj: Any) -> bytes: ...
    def loads(self, data: bytes) -> Any: ...


class KeyRing:
    """Encryption keys derived from secrets: the first seals, all open.

    Every session has a subkey of its own, a keyed BLAKE2b digest of its id (half a microsecond).
    With one AES key for all sessions, random nonces would be safe for 2**32 saves in total
    (NIST SP 800-38D, 8.3), which 50 million busy sessions reach.
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

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self)}>"

    def seal(self, session_id: str, flags: int, data: bytes) -> bytes:
        """``data`` encrypted, ``flags`` legible, both bound to the id."""
        head = bytes((_FORMAT, flags)) + self._newest
        nonce = os.urandom(_NONCE_SIZE)
        cipher = _cipher(self._keys[self._newest], session_id)
        return head + nonce + cipher.encrypt(nonce, data, head + session_id.encode())

    def digest(self, text: str) -> bytes:
        """8 bytes that stand for a text, and do not tell it to who has no key."""
        key = self._keys[self._newest]
        return hashlib.blake2b(text.encode(), digest_size=8, key=key, person=b"digest").digest()

    def successors(self, key: str, moment: int) -> Iterator[str]:
        """What key a session may have got that was renewed at a moment: one for each secret.

        Made from the old key, so that who still carries that can be led to the new one, while no
        store holds either. Who has the old key and no secret cannot make it.
        """
        for secret in self._keys.values():
            digest = hashlib.blake2b(digest_size=32, key=secret, person=b"renewal")
            digest.update(f"{moment} {key}".encode())
            yield SecretText(key_of(digest.digest()))

    def is_newest(self, payload: bytes) -> bool:
        """Whether the payload was sealed under the key that seals now."""
        return payload[2:_HEAD_SIZE] == self._newest

    def open(self, session_id: str, payload: bytes) -> tuple[int, bytes]:
        """Flags and data. Raises `UnreadablePayload`."""
        if len(payload) < _HEAD_SIZE + _NONCE_SIZE + _TAG_SIZE:
            raise UnreadablePayload("payload is cut short")
        head, nonce = payload[:_HEAD_SIZE], payload[_HEAD_SIZE : _HEAD_SIZE + _NONCE_SIZE]
        if head[0] != _FORMAT:
            raise UnreadablePayload("payload is of an unknown format")
        key = self._keys.get(head[2:])
        if key is None:
            raise UnreadablePayload("payload is sealed under an unknown key")
        try:
            data = _cipher(key, session_id).decrypt(
                nonce, payload[_HEAD_SIZE + _NONCE_SIZE :], head + session_id.encode()
            )
        except InvalidTag:
            raise UnreadablePayload("payload was altered or belongs to another session") from None
        return head[1], SecretBytes(data)


def _cipher(key: bytes, session_id: str) -> AESGCM:
    return AESGCM(hashlib.blake2b(session_id.encode(), key=key, digest_size=32).digest())


class Snapshot(NamedTuple):
    """A session's data as bytes, and the number of the serializer that reads them."""

    serializer: int
    data: bytes

    def __repr__(self) -> str:
        # Error reports show local variables.
        return f"<Snapshot of {len(self.data)} bytes>"


class Codec:
    """Serialise, compress and seal, and the way back.

    ``serializers`` maps a number, which goes into the payload, to each serializer that can be
    read; ``writes`` is the number of the one that writes. So a payload is read by the serializer
    that wrote it, as long as its number stands for the same one.
    """

    def __init__(self, keys: KeyRing, serializers: Mapping[int, Serializer], writes: int) -> None:
        self._keys = keys
        self._serializers = serializers
        self._writes = writes
        self._dumps = serializers[writes].dumps

    def freeze(self, data: Mapping[Any, Any]) -> Snapshot:
        """Serialise a session's dict.

        Raises `UnserializableValue`, which names the key of the value that cannot be kept.
        """
        try:
            return Snapshot(self._writes, self._dumps(data))
        except Exception as error:  # noqa: BLE001 - whatever a serializer raises for a value
            problem = self._problem(data, error)
        # Error reports show the variables of each frame, those of causes included.
        del data
        raise UnserializableValue(problem)

    def _problem(self, data: Mapping[Any, Any], error: Exception) -> str:
        """Which value cannot be kept, and why; ``error`` is that of the whole."""
        for key, value in data.items():
            try:
                self._dumps({key: value})
            except Exception as reason:  # noqa: BLE001
                return (
                    f"session[{key!r}] cannot be saved: {reason}. Store a simpler value, or choose "
                    "another SESSION_SERIALIZER."
                )
        return f"The session cannot be saved: {error}."

    def thaw(self, snapshot: Snapshot) -> dict[Any, Any]:
        """The dict of a snapshot, a new one at each call. Raises `UnreadablePayload`."""
        try:
            loads = self._serializers[snapshot.serializer].loads
        except KeyError:
            raise UnreadablePayload("payload was written by an unknown serializer") from None
        try:
            loaded = loads(snapshot.data)
        except Exception as error:  # noqa: BLE001 - whatever a serializer raises for its bytes
            # Not its text nor its frames: they may show the data.
            name = type(error).__name__
            raise UnreadablePayload(f"payload does not deserialize ({name})") from None
        if isinstance(loaded, dict):
            return loaded
        del loaded  # Error reports show local variables.
        raise UnreadablePayload("payload is not a dict")

    def matches(self, snapshot: Snapshot, data: Mapping[Any, Any]) -> bool:
        """Whether ``data`` is still what the snapshot holds; order does not count.

        One serialisation where nothing changed. Data that cannot be serialised does not match.
        """
        if snapshot.serializer == self._writes:
            try:
                if self._dumps(data) == snapshot.data:
                    return True
            except Exception:  # noqa: BLE001 - saving it will say what is wrong with it
                return False
        return same(self.thaw(snapshot), data)

    def seal(self, session_id: str, snapshot: Snapshot) -> bytes:
        """The payload that a storage keeps."""
        flags, data = snapshot
        if len(data) >= COMPRESS_FROM:
            compressed = zlib.compress(data, level=1)
            if len(compressed) < len(data):
                flags |= _COMPRESSED
                data = compressed
        return self._keys.seal(session_id, flags, data)

    def is_newest(self, payload: bytes) -> bool:
        """Whether the payload needs no sealing anew, see `KeyRing.is_newest`."""
        return self._keys.is_newest(payload)

    def open(self, session_id: str, payload: bytes) -> Snapshot:
        """The snapshot that was sealed, to be thawed.

        Raises `UnreadablePayload`, with the reason, for anything but a payload of this session.
        Has no bound for what it inflates to: only who has a key can make a payload, and what was
        sealed has been in the memory of a process like this one.
        """
        flags, data = self._keys.open(session_id, payload)
        if flags & _COMPRESSED:
            try:
                data = zlib.decompress(data)
            except zlib.error:
                raise UnreadablePayload("payload does not decompress") from None
        return Snapshot(flags & _SERIALIZER_BITS, data)


class BareCodec(Codec):
    """Payloads that are not sealed, for a storage that seals whole records by itself.

    Such a record is sent about, and anybody on the way sees how long it is. So what the package's
    own serializer writes is compacted (see `compact`), and not compressed. What other serializers
    write stays as it is: where one value ends and the next begins is theirs to know.
    """

    def __init__(self, keys: KeyRing, serializers: Mapping[int, Serializer], writes: int) -> None:
        super().__init__(keys, serializers, writes)
        # Not of a subclass, which may write whatever it likes.
        self._own = {
            number for number, each in serializers.items() if type(each) is TypedSerializer
        }

    def seal(self, session_id: str, snapshot: Snapshot) -> bytes:
        """The payload. Raises `PayloadTooLarge` above `MOST_BARE` bytes."""
        size = len(snapshot.data)
        if size > MOST_BARE:
            raise PayloadTooLarge(
                f"The session takes {size} bytes, and {MOST_BARE} are the most for a cookie, "
                "however short it gets. Store less in it, or choose another SESSION_ENGINE."
            )
        short = compact(snapshot.data) if snapshot.serializer in self._own else None
        if short is None:
            return SecretBytes(bytes((snapshot.serializer,)) + snapshot.data)
        return SecretBytes(bytes((snapshot.serializer | _COMPRESSED,)) + short)

    def is_newest(self, payload: bytes) -> bool:
        return True

    def open(self, session_id: str, payload: bytes) -> Snapshot:
        if not payload:
            raise UnreadablePayload("payload is cut short")
        payload = SecretBytes(payload)
        flags, data = payload[0], memoryview(payload)[1:]
        if flags & _COMPRESSED:
            return Snapshot(flags & _SERIALIZER_BITS, expand(data, MOST_BARE))
        return Snapshot(flags, bytes(data))


def change_context(record_id: str, version: int) -> str:
    """What a sealed change is bound to."""
    return f"{record_id} change {version}"


def newest_data(record: Record, payloads: Codec, sealed: Codec) -> Snapshot:
    """The newest data that a record tells of: its payload, and the changes since.

    Raises `UnreadablePayload`.
    """
    snapshot = payloads.open(record.id, record.payload)
    if not record.pending:
        return snapshot
    data = sealed.thaw(snapshot)
    for version, change in record.pending:
        opened = sealed.open(change_context(record.id, version), change)
        apply(sealed.thaw(opened), data)
    return sealed.freeze(data)
