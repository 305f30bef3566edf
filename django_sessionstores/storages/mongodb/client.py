"""The server that sessions are in, and the clients that send it commands."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Final, NoReturn, Protocol, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from django.utils.translation import gettext_noop
from pymongo import AsyncMongoClient, MongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    DocumentTooLarge,
    InvalidName,
    InvalidURI,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
)
from pymongo.read_concern import ReadConcern

from ...conf import engine_setting_name, settings, stated_options
from ...core.phrases import Phrase
from ...exceptions import PayloadTooLarge, StorageFull, StorageUnavailable, UnreadablePayload
from ..breaker import Breaker
from ..inspection import Members
from ..loops import LoopClients
from ..outage_log import OutageLog
from ..outcomes import Unconfirmed
from ..threads import in_thread
from .faults import (
    DIRECT,
    DUPLICATE_KEY,
    MAJORITY,
    NO_COLLECTION,
    TOO_LARGE,
    UNKNOWN_FIELDS,
    code_of,
    fault_of,
    index_of,
    is_answer,
    is_of_id,
    label_of,
    was_sent,
)
from .loops import Awaited, MongoClients

Blocking: TypeAlias = Collection[dict[str, Any]]

_ERRORS: Final = (PyMongoError, BSONError, OSError)
_CLOSE_SECONDS: Final = 1.0
"""How long closing a client waits for a server that does not answer."""
ELECTION_SECONDS: Final = 15.0
"""How long a request waits for a command of a replica set, if the project does not say it."""
_TIMEOUTS: Final = ("serverSelectionTimeoutMS", "connectTimeoutMS", "waitQueueTimeoutMS")
"""The options of the client that limit how long a command waits before it is sent."""
_MONITORING: Final = "serverMonitoringMode"
_NOT_AN_ADDRESS: Final = (
    "is not an address of MongoDB. Write 'mongodb://USER:PASSWORD@HOST:PORT/DATABASE', or "
    "'mongodb+srv://...', and percent-encode what is special in a URL."
)
_TLS_FILES: Final = frozenset({"tlscafile", "tlscertificatekeyfile", "tlscrlfile"})
_NOT_PRIMARY: Final = frozenset({"RSSecondary", "RSArbiter", "RSOther", "RSGhost"})
"""The client's names for members of a replica set that are not its primary."""
_READY: Final = frozenset({"RSPrimary", "RSSecondary", "RSArbiter"})
"""The client's names for members that take part in a majority."""
_MEMBER_SECONDS: Final = 3.0
"""How long a member has to answer before it counts as one that does not."""
_POLL_SECONDS: Final = 0.05
_COLLECTION_OPTIONS: Final[dict[str, Any]] = {
    # Milliseconds, not ``datetime``, which takes longer and ends in the year 9999.
    "codec_options": CodecOptions(
        document_class=dict,
        datetime_conversion=DatetimeConversion.DATETIME_MS,
        # A damaged text must not make the whole answer unreadable.
        unicode_decode_error_handler="replace",
    ),
    # Whatever the address says: a session that was just saved must be found, and a primary that is
    # about to be replaced must not acknowledge what the next one does not have.
    "read_preference": ReadPreference.PRIMARY,
    "read_concern": ReadConcern("local"),
    "write_concern": WriteConcern("majority"),
}


def check_address(uri: str, entry: str) -> None:
    """Raise ``ImproperlyConfigured`` if an address cannot be taken apart as it was meant.

    The text of the error may quote a password.
    """
    try:
        path = urlsplit(uri).path
    except ValueError:
        raise ImproperlyConfigured(f"{entry} {_NOT_AN_ADDRESS}") from None
    # pymongo ends a password at a slash, and takes what follows for the database.
    if "@" in path:
        raise ImproperlyConfigured(f"{entry} {_NOT_AN_ADDRESS}")


def hosts_of(uri: str) -> list[str]:
    """Return the servers in an address, in an order of their own. An empty address has none."""
    hosts = urlsplit(uri).netloc.rpartition("@")[2].lower().split(",") if uri else []
    return sorted(map(_short_name, hosts))


def _short_name(host: str) -> str:
    return host.removesuffix(":27017")


def timeout_for(uri: str) -> float:
    """Return how many seconds a request waits for a command; 0 for no limit.

    If the project does not say it, it is long enough for the members of a replica set to elect
    another primary, which begin after 10 seconds, unless the replica set says otherwise.
    """
    stated = stated_options(["DATABASE_TIMEOUT"])
    seconds = settings.DATABASE_TIMEOUT
    parts = urlsplit(uri)
    is_replicated = "," in parts.netloc or "+srv" in parts.scheme or "replicaset=" in uri.lower()
    return seconds if stated or not is_replicated else max(seconds, ELECTION_SECONDS)


class Duplicate(Exception):
    """A document with the same ``_id`` exists."""


class Absent(Exception):
    """There is no such collection."""


class UnknownField(Exception):
    """The server does not know a field of a ``command``."""


class Clients(Protocol):
    """Where clients come from: the address in the settings, or a client of the project's."""

    entry: str
    """The setting to look at."""
    hosts: list[str]
    """The servers that are named."""

    def blocking(self) -> MongoClient[dict[str, Any]]:
        """Return the blocking client. Raises ``ImproperlyConfigured``."""

    def awaited(self) -> AsyncMongoClient[dict[str, Any]] | None:
        """Return a client for the running loop; ``None`` if a thread must do the work."""

    def close(self) -> None:
        """Close the blocking client, unless it is the project's."""


class OwnClients:
    """Clients for an address, which connect when they are used."""

    def __init__(self, uri: str, timeout: float, entry: str) -> None:
        self._uri, self.entry = uri, entry
        self.hosts = hosts_of(uri)
        # As the client compares them. It looks up a name of DNS to read an address by itself.
        stated = {name.lower(): value for name, value in parse_qsl(urlsplit(uri).query)}
        milliseconds = round(timeout * 1000)
        self._options = {
            name: milliseconds for name in _TIMEOUTS if milliseconds and name.lower() not in stated
        }
        self._stated = stated
        self._client: MongoClient[dict[str, Any]] | None = None
        self._process = 0

    def blocking(self) -> MongoClient[dict[str, Any]]:
        client, process = self._client, os.getpid()
        # That of a parent process has its sockets and locks.
        if client is None or self._process != process:
            client = self._make(MongoClient)
            self._client, self._process = client, process
        return client

    def awaited(self) -> AsyncMongoClient[dict[str, Any]] | None:
        # A monitor that waits for news from the server has a connection that nobody else can close,
        # and needs another one. Polling, it has one, which a loop that has ended leaves in a pool.
        mode = {} if _MONITORING.lower() in self._stated else {_MONITORING: "poll"}
        client: AsyncMongoClient[dict[str, Any]] = self._make(AsyncMongoClient, **mode)
        return client

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._process == os.getpid():
            with suppress(*_ERRORS), pymongo.timeout(_CLOSE_SECONDS):
                client.close()

    def _make(self, kind: Any, **options: Any) -> Any:
        try:
            return kind(self._uri, connect=False, **self._options, **options)
        except Exception as error:
            problem = self._problem(error)
            if not problem:
                raise
            raise ImproperlyConfigured(f"{self.entry} {problem}") from None

    def _problem(self, error: Exception) -> str:
        """Return what is wrong with the address, without the text of the error.

        That may quote a part of a password.
        """
        text = str(error).lower()
        names = sorted(name for name in self._stated if name in text)
        if isinstance(error, ConfigurationError | ValueError | TypeError):
            if names and not isinstance(error, InvalidURI):
                names_of_all = ", ".join(names)
                return (
                    f"has an option that pymongo refuses: {names_of_all}. Correct it, or remove it."
                )
            return _NOT_AN_ADDRESS
        # What reads certificates may be of another package, and has errors of its own.
        files = sorted(_TLS_FILES & (set(names) or self._stated.keys()))
        paths = ", ".join(f"{name}={self._stated[name]}" for name in files)
        if not paths:
            return ""
        return (
            f"names a file that cannot be used: {paths}. Correct the path, or put a file with "
            "certificates there that this process may read."
        )


class GivenClient:
    """A client that the project has made. Only the project closes it."""

    def __init__(self, path: str, entry: str) -> None:
        self.entry = entry
        try:
            found = import_string(path)
        except ImportError as error:
            raise ImproperlyConfigured(
                f"{entry} names something that cannot be imported: {error}."
            ) from error
        if not isinstance(found, MongoClient) and callable(found):
            found = found()
        if not isinstance(found, MongoClient):
            raise ImproperlyConfigured(
                f"{entry} must name a pymongo.MongoClient, or a function that returns one, not "
                f"{type(found).__name__}."
            )
        self._client: MongoClient[dict[str, Any]] = found
        hosts = found.topology_description.server_descriptions()
        self.hosts = sorted(_short_name(f"{host}:{port}") for host, port in hosts)

    def blocking(self) -> MongoClient[dict[str, Any]]:
        return self._client

    def awaited(self) -> None:
        return None

    def close(self) -> None:
        pass


class Server:
    """The collection of sessions, through the clients of this process."""

    def __init__(self, clients: Clients, database: str, collection: str, timeout: float) -> None:
        self._clients = clients
        self._names = (database, collection)
        self._timeout = timeout
        self._log = OutageLog(self.describe)
        # A write waits for the majority as well, without which a primary still answers reads.
        self._reading, self._writing = Breaker(self._log), Breaker(self._log)
        self._blocking: tuple[Any, Blocking] | None = None
        self._loops: LoopClients[Awaited] = LoopClients(MongoClients(self._connect_loop))
        self._database = self.collection().database.name
        options = self.collection().database.client.options
        # As the client has read them. It ignores those that it does not understand, and 0 means
        # without a limit.
        self._client_limits_time = bool(options.timeout or options.pool_options.socket_timeout)
        self._is_direct = bool(options.direct_connection)

    def describe(self) -> str:
        """Return which server this is."""
        return Phrase(
            gettext_noop(
                "MongoDB %(hosts)s (collection %(collection)s of the database %(database)s)"
            ),
            hosts=",".join(self._clients.hosts),
            collection=repr(self._names[1]),
            database=repr(self._database),
        )

    @property
    def is_native(self) -> bool:
        """Whether commands can be awaited without a thread."""
        return isinstance(self._clients, OwnClients)

    @property
    def limits_time(self) -> bool:
        """Whether there is a limit to how long a command takes."""
        return bool(self._timeout) or self._client_limits_time

    def at_most(self, seconds: float) -> float:
        """Return these seconds, or how long a request waits for a command, if that is shorter."""
        return min(seconds, self._timeout or seconds)

    @property
    def is_replicated(self) -> bool:
        """Whether the server is anything but a single one that belongs to no replica set."""
        known = self.collection().database.client.topology_description
        return known.topology_type_name != "Single" or any(
            each.replica_set_name for each in known.server_descriptions().values()
        )

    def members(self) -> Members | None:
        """Return the members of the replica set; ``None`` if the client knows of none.

        A client connects to each by itself, and a new one has not heard from all yet.
        """
        client = self.collection().database.client
        until = time.monotonic() + _MEMBER_SECONDS
        while True:
            known = client.topology_description
            servers = known.server_descriptions().values()
            silent = [each for each in servers if each.server_type_name not in _READY]
            if all(each.error for each in silent) or time.monotonic() >= until:
                break
            time.sleep(_POLL_SECONDS)
        if not known.topology_type_name.startswith("ReplicaSet"):
            return None
        names = sorted(f"{host}:{port}" for host, port in (each.address for each in silent))
        return Members(len(servers), names)

    def collection(self) -> Blocking:
        """Return the collection of the blocking client. Raises ``ImproperlyConfigured``."""
        client = self._clients.blocking()
        if self._blocking is None or self._blocking[0] is not client:
            self._blocking = client, _collection_of(client, *self._names)
        return self._blocking[1]

    def awaited_collection(
        self, *, at_once: bool = False
    ) -> AsyncCollection[dict[str, Any]] | None:
        """Return the collection for the running loop; ``None`` if a thread must do the work.

        See `LoopClients.client_of_running_loop`.
        """
        awaited = self._loops.client_of_running_loop(at_once=at_once)
        return awaited and awaited.collection

    def ask(self, name: str, *arguments: Any, seconds: float = 0, **options: Any) -> Any:
        """Return the answer to one command, which a method of the collection sends.

        ``command`` as the name is the method of the database.

        Raises `Duplicate`, `Absent`, `StorageUnavailable`, `StorageFull`, `PayloadTooLarge`, and
        `UnreadablePayload` if the answer is not valid. ``was_sent`` of an error is about this
        command alone. ``seconds`` are how long it may take, if not as long as that of a request.
        """
        began = self._begin(name)
        try:
            with self._limit(seconds):
                answer = _method(self.collection(), name)(*arguments, **options)
                if name in _CURSORS:
                    answer = answer.to_list()
            self._require_primary(self.collection())
        except BaseException as error:
            self._end_failed(error, began, name)
            raise
        self._note_success(name)
        return answer

    async def aask(self, name: str, *arguments: Any, seconds: float = 0, **options: Any) -> Any:
        """See `ask`."""
        collection = self.awaited_collection()
        if collection is None:
            return await in_thread(self.ask)(name, *arguments, seconds=seconds, **options)
        began = self._begin(name)
        try:
            with self._limit(seconds):
                answer = _method(collection, name)(*arguments, **options)
                answer = await (answer.to_list() if name in _CURSORS else answer)
            self._require_primary(collection)
        except BaseException as error:
            self._end_failed(error, began, name)
            raise
        self._note_success(name)
        return answer

    def close(self) -> None:
        """Close the clients that this process has made."""
        self._blocking = None
        self._clients.close()
        self._loops.close()

    def _connect_loop(self) -> Awaited | None:
        client = self._clients.awaited()
        if client is None:
            return None
        return Awaited(_collection_of(client, *self._names), client._topology)

    def _limit(self, seconds: float) -> AbstractContextManager[None]:
        if not seconds and (not self._timeout or self._client_limits_time):
            return nullcontext()
        return pymongo.timeout(seconds or self._timeout)

    def _require_primary(self, collection: Any) -> None:
        """Raise the error of a write if the only server is not the primary.

        The client asks it nevertheless if the address says so. What it has may be outdated.
        """
        if not self._is_direct:
            return
        known = collection.database.client.topology_description.server_descriptions()
        if any(each.server_type_name in _NOT_PRIMARY for each in known.values()):
            raise NotPrimaryError(DIRECT)

    def _begin(self, name: str) -> float:
        """Return the time, see `Breaker.begin`. A call that may not pass sends nothing."""
        try:
            return self._breaker_of(name).begin()
        except StorageUnavailable as refusal:
            refusal.was_sent = False
            raise

    def _breaker_of(self, name: str) -> Breaker:
        return self._reading if name in _READS else self._writing

    def _note_success(self, name: str) -> None:
        self._note_answer(name)
        if self._log.is_open:
            self._log.succeeded(name)

    def _note_answer(self, name: str) -> None:
        self._reading.answered()
        if name not in _READS:
            self._writing.answered()

    def _end_failed(self, error: BaseException, began: float, name: str) -> None:
        """End a call, and raise what its error says of the server, if it is about that."""
        self._breaker_of(name).ended(began)
        if isinstance(error, _ERRORS):
            self._fail(error, began, name)

    def _fail(self, error: Exception, began: float, name: str) -> NoReturn:
        """Raise the exception that an error of the client means, see `ask`."""
        code, answered = code_of(error), is_answer(error)
        if answered:
            self._note_answer(name)
        if code == DUPLICATE_KEY and is_of_id(error):
            raise Duplicate from None
        if code == NO_COLLECTION:
            raise Absent from None
        if name == "command" and code in UNKNOWN_FIELDS:
            raise UnknownField from None
        if code in TOO_LARGE or isinstance(error, DocumentTooLarge):
            raise PayloadTooLarge(
                f"{self.describe()} cannot store a session of this size. Store less in the session."
            ) from None
        if isinstance(error, BSONError):
            raise UnreadablePayload("document is damaged") from None
        fault = fault_of(error)
        kind = StorageFull if fault.is_full else StorageUnavailable
        if isinstance(error, BulkWriteError) and error.details.get("nRemoved"):
            kind = Unconfirmed
        rights = f"db.grantRolesToUser(USER, [{{role: 'readWrite', db: {self._database!r}}}])"
        values = {"entry": self._clients.entry, "rights": rights, "index": index_of(error)}
        cure = fault.cure.format(**values)
        if fault.may_be_of_majority and name not in _READS:
            cure = f"{cure} {MAJORITY}"
        failure = kind(f"{self.describe()}: {fault.meaning} ({label_of(error)}). {cure}")
        failure.was_sent = was_sent(error)
        # A pool that is used up says nothing about the server.
        if not (answered or isinstance(error, WaitQueueTimeoutError)):
            self._breaker_of(name).failed(began, failure)
        # What the client says of the same fault differs from one call to the next.
        reason = "" if fault.is_unknown else f"{self.describe()}: {fault.meaning}"
        self._log.failed(failure, name if answered else None, reason)
        # The text of an answer quotes the command.
        raise failure from (None if answered or isinstance(error, OperationFailure) else error)


_READS: Final = frozenset({"find_one", "find", "aggregate", "count_documents", "command"})
"""The methods that do not wait for the majority."""
_CURSORS: Final = frozenset({"find", "list_indexes", "aggregate"})
"""The methods that return a cursor. Of these, only ``find`` is awaited."""


def _method(collection: Any, name: str) -> Any:
    """Return the method of a collection, or of its database, with this name."""
    return getattr(collection.database if name == "command" else collection, name)


def _collection_of(client: Any, database: str, collection: str) -> Any:
    """Return the collection of sessions of a client of either kind."""
    try:
        found = client.get_database(database) if database else client.get_default_database()
        return found.get_collection(collection, **_COLLECTION_OPTIONS)
    except ConfigurationError:
        raise ImproperlyConfigured(
            f"No database for sessions is named. Set {engine_setting_name('MONGODB_DATABASE')}."
        ) from None
    except InvalidName as error:
        names = " or ".join(map(engine_setting_name, ("MONGODB_DATABASE", "MONGODB_COLLECTION")))
        raise ImproperlyConfigured(
            f"{names} is not a name that MongoDB accepts: {error}."
        ) from None
