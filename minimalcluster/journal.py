"""Outcomes on disk: after ``kill -9`` of the master the same script goes on where it was.

::

    file    header: magic(8) salt(16) tag(16)
            record: type(1) length(4) tag(8) body tag(16)     ... appended, never changed
    RUN     one execute(): digest of source and function, digest of the arguments, how many
    KEYS    a digest of each argument, for runs whose arguments will have changed
    GRANT   attempt, first, count: what may still run somewhere after a restart
    DONE    first, count and the results' buffers
    FAILED  first, and the exception's description and buffers

Rules:

* An outcome is synced to disk before the node that brought it is told so (``Cluster._answer``).
* Records are pickles, so each has a tag by a key of this user (0600, in ~/.minimalcluster), over its
  position and content. A changed, moved or foreign record is refused with the reason. The last
  record may be torn, by a crash: it is dropped.
* A full disk stops the journal loudly, takes back what was half written, and leaves the run alone.
"""
from __future__ import absolute_import, division, print_function

import errno
import hashlib
import hmac
import io  # noqa: F401 # in a type comment
import json
import logging
import os
import struct
import threading
from collections import namedtuple

from . import errors, values
from .compat import WINDOWS, joined, pickle
from .protocol import hkdf_sha256

log = logging.getLogger("minimalcluster")

MAGIC = b"minijrn1"
RUN, KEYS, GRANT, DONE, FAILED = 1, 2, 3, 4, 5
#: Syncing more often costs more than the work that a crash within this time would repeat.
SYNC_SECONDS = 0.05
RECORD_BYTES_MAX = 1 << 31

_HEAD = struct.Struct(">BI")
_PLACE = struct.Struct(">Q")
_GRANT = struct.Struct(">QQQ")
_SPAN = struct.Struct(">QQ")
_HEAD_TAG, _TAG, _SALT, _KEY = 8, 16, 16, 16

Record = namedtuple("Record", "kind body at")
#: What a journal knows of a job.
#: done: (first, count, buffers), failed: (first, info, buffers), grants: (attempt, first, count).
Known = namedtuple("Known", "done failed grants")


class Journal(object):
    """An open journal file. Raises JournalError for one that is not ours or was changed."""

    def __init__(self, path):
        # type: (str) -> None
        self.path = path
        self._lock = threading.Lock()  # appended to in the cluster's thread, closed in the user's
        self._pending = []  # type: list[bytes]
        self._stopped = False
        self._keys_of = {}  # type: dict[str, bytes] # arguments' digest -> their keys
        self._file = _opened(path)
        try:
            self._records = self._load()
        except BaseException:
            self._file.close()
            raise

    # -- reading ----------------------------------------------------------------------------------

    def _load(self):
        # type: () -> list[Record]
        head_size = len(MAGIC) + _SALT + _TAG
        data = self._file.read()
        user_key = _user_key()
        if len(data) < head_size:
            if not MAGIC.startswith(data[: len(MAGIC)]):
                raise errors.JournalError("%s is no journal; give another path, or remove it" % self.path)
            salt = os.urandom(_SALT)
            self._key = hkdf_sha256(user_key, salt, b"minimalcluster journal", 32)
            head = MAGIC + salt
            self._cut(0)
            self._file.write(head + self._tag(b"head", head)[:_TAG])
            _sync(self._file)
            self._good, self._count = head_size, 0
            return []
        head, salt = data[: len(MAGIC) + _SALT], data[len(MAGIC) : len(MAGIC) + _SALT]
        if head[: len(MAGIC)] != MAGIC:
            raise errors.JournalError("%s is no journal of this version; give another path, or remove it" % self.path)
        self._key = hkdf_sha256(user_key, salt, b"minimalcluster journal", 32)
        if not hmac.compare_digest(self._tag(b"head", head)[:_TAG], data[len(head) : head_size]):
            raise errors.JournalError("%s was written by another user or was changed: it is not opened" % self.path)
        records, self._good = self._records_in(data, head_size)
        self._count = len(records)
        if self._good < len(data):
            torn = len(data) - self._good
            log.warning("the journal %s ends in a torn record of %d bytes; it is dropped", self.path, torn)
            self._cut(self._good)
        self._file.seek(self._good)
        return records

    def _records_in(self, data, at):
        # type: (bytes, int) -> tuple[list[Record], int]
        records = []  # type: list[Record]
        while len(data) - at >= _HEAD.size + _HEAD_TAG:
            body_at = at + _HEAD.size + _HEAD_TAG
            head = data[at : at + _HEAD.size]
            expected = self._tag(b"record", head, len(records))[:_HEAD_TAG]
            if not hmac.compare_digest(expected, data[at + _HEAD.size : body_at]):
                if not data[at:].strip(b"\0"):
                    break  # the file had grown and the data had not been written
                raise self._changed(len(records), at)
            kind, size = _HEAD.unpack(head)
            end = body_at + size + _TAG
            if end > len(data):
                break
            body = data[body_at : body_at + size]
            if not hmac.compare_digest(self._tag(b"body", head + body, len(records))[:_TAG], data[end - _TAG : end]):
                if end == len(data):
                    break
                raise self._changed(len(records), at)
            records.append(Record(kind, body, at))
            at = end
        return records, at

    def _changed(self, number, at):
        # type: (int, int) -> errors.JournalError
        return errors.JournalError(
            "record %d of %s, at byte %d, was changed since it was written: the journal is not used; "
            "remove it to run everything again" % (number, self.path, at)
        )

    def _tag(self, what, data, number=0):
        # type: (bytes, bytes, int) -> bytes
        return hmac.new(self._key, what + _PLACE.pack(number) + data, hashlib.sha256).digest()

    def runs(self):
        # type: () -> list[dict]
        """Each execute() in it: its RUN record with the Known of it, in order; for ``journal show``."""
        runs = []  # type: list[dict]
        for record in self._records:
            if record.kind == RUN:
                runs.append(dict(json.loads(record.body.decode("ascii")), known=Known([], [], [])))
            elif record.kind == KEYS:
                self._keys_of[runs[-1]["arguments"]] = record.body
            else:
                _take_in(runs[-1]["known"], record)
        return runs

    def known(self, target, arguments, count, keys):
        # type: (str, str, int, object) -> Known
        """What earlier runs of the same function know of these arguments, by their positions now.

        keys() gives the arguments' digests; it is only asked when the arguments have changed.
        """
        known = Known({}, {}, [])
        positions = None  # type: dict | None
        for run in self.runs():
            if run["target"] != target:
                continue
            if run["arguments"] == arguments:
                place = _same  # type: object
                known.grants.extend(run["known"].grants)
            elif run["arguments"] in self._keys_of:
                if positions is None:
                    positions = {key: index for index, key in enumerate(keys())}  # type: ignore[operator]
                place = _Moved(self._keys_of[run["arguments"]], positions)
            else:
                continue
            _add(known, run["known"], place)
        return known

    # -- writing ----------------------------------------------------------------------------------

    def begin(self, target, arguments, count, name, keys):
        # type: (str, str, int, str, object) -> None
        """A new run of the function ``name``. Its digests are what ``known`` will be asked for."""
        about = {"target": target, "arguments": arguments, "count": count, "name": name}
        self._append(RUN, [json.dumps(about, sort_keys=True).encode("ascii")])
        if arguments not in self._keys_of:
            self._append(KEYS, [b"".join(keys())])  # type: ignore[operator]
        self.sync()

    def grant(self, attempt, first, count):
        # type: (int, int, int) -> None
        self._append(GRANT, [_GRANT.pack(attempt, first, count)])

    def done(self, first, count, buffers):
        # type: (int, int, list) -> None
        self._append(DONE, [_SPAN.pack(first, count)] + _packed(buffers))

    def failed(self, first, info, buffers):
        # type: (int, dict, list) -> None
        described = json.dumps(info).encode("ascii")
        self._append(FAILED, [_SPAN.pack(first, len(described)), described] + _packed(buffers))

    def _append(self, kind, parts):
        # type: (int, list) -> None
        body = joined(parts)
        head = _HEAD.pack(kind, len(body))
        with self._lock:
            if self._stopped:
                return
            number = self._count
            self._count += 1
            tags = self._tag(b"record", head, number)[:_HEAD_TAG], self._tag(b"body", head + body, number)[:_TAG]
            self._pending.append(head + tags[0] + body + tags[1])

    @property
    def dirty(self):
        # type: () -> bool
        return bool(self._pending)

    def sync(self):
        # type: () -> None
        """Everything so far is on the disk when this returns, or the journal has stopped and said so."""
        with self._lock:
            if self._stopped or not self._pending:
                return
            data, self._pending = b"".join(self._pending), []
            try:
                self._file.write(data)
                _sync(self._file)
                self._good += len(data)
            except (OSError, IOError) as error:
                self._stop(error)

    def _stop(self, error):
        # type: (BaseException) -> None
        self._stopped = True
        log.error(
            "the journal %s has stopped: %s. The run goes on; what it does from here on is not in the journal",
            self.path, error,
        )  # fmt: skip
        try:
            self._cut(self._good)
        except (OSError, IOError):
            pass  # a torn tail, which the next opening drops

    def _cut(self, size):
        # type: (int) -> None
        self._file.seek(size)
        self._file.truncate()

    def close(self):
        # type: () -> None
        self.sync()
        with self._lock:
            self._stopped = True
            self._file.close()


def _same(index):
    # type: (int) -> int | None
    return index


class _Moved(object):
    """Where an argument of an earlier run stands among those of now; None when it is there no more."""

    def __init__(self, keys, positions):
        # type: (bytes, dict) -> None
        self._keys, self._positions = keys, positions

    def __call__(self, index):
        # type: (int) -> int | None
        return self._positions.get(self._keys[index * _KEY : (index + 1) * _KEY])


def _take_in(known, record):
    # type: (Known, Record) -> None
    body = record.body
    if record.kind == GRANT:
        known.grants.append(_GRANT.unpack(body))
    elif record.kind == DONE:
        first, count = _SPAN.unpack(body[: _SPAN.size])
        known.done.append((first, count, _unpacked(body[_SPAN.size :])))
    elif record.kind == FAILED:
        first, size = _SPAN.unpack(body[: _SPAN.size])
        at = _SPAN.size + size
        info = json.loads(body[_SPAN.size : at].decode("ascii"))
        known.failed.append((first, info, _unpacked(body[at:])))


def _add(known, run, place):
    # type: (Known, Known, object) -> None
    """Outcomes by their positions now: index -> (buffers, skip) or (info, buffers). The first outcome stays."""
    for first, count, buffers in run.done:
        for offset in range(count):
            index = place(first + offset)  # type: ignore[operator]
            if index is not None and index not in known.failed:
                known.done.setdefault(index, (buffers, offset))
    for first, info, buffers in run.failed:
        index = place(first)  # type: ignore[operator]
        if index is not None and index not in known.done:
            known.failed.setdefault(index, (info, buffers))


def _packed(buffers):
    # type: (list) -> list
    return [struct.pack(">I%dQ" % len(buffers), len(buffers), *map(len, buffers))] + list(buffers)


def _unpacked(body):
    # type: (bytes) -> list
    view = memoryview(body)
    (count,) = struct.unpack(">I", body[:4])
    at = 4 + 8 * count
    buffers = []
    for length in struct.unpack(">%dQ" % count, body[4:at]):
        buffers.append(view[at : at + length])
        at += length
    return buffers


# -- keys of content ------------------------------------------------------------------------------


def argument_keys(arguments):
    # type: (object) -> list[bytes]
    """16 bytes for each argument: equal for equal pickles."""
    return [hashlib.sha256(pickle.dumps(value, 2)).digest()[:_KEY] for value in arguments]  # type: ignore[attr-defined]


def digest(parts):
    # type: (object) -> str
    """A hex digest of byte strings; their borders count."""
    made = hashlib.sha256()
    for part in parts:  # type: ignore[attr-defined]
        made.update(_PLACE.pack(len(part)))
        made.update(part)
    return made.hexdigest()


# -- files ----------------------------------------------------------------------------------------


def _opened(path):
    # type: (str) -> io.BufferedRandom
    """For reading and appending, by this process alone, readable by its user alone."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        file = os.fdopen(os.open(path, flags, 0o600), "r+b")
    except (OSError, IOError) as error:
        if error.errno == errno.ELOOP:
            raise errors.JournalError("%s is a symbolic link: a journal must be a file of its own" % path)
        raise
    try:
        _lock(file)
    except (OSError, IOError):
        file.close()
        raise errors.JournalError("%s is in use by another run; two cannot share a journal" % path)
    return file


def _lock(file):
    # type: (object) -> None
    if WINDOWS:
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined]


def _sync(file):
    # type: (object) -> None
    file.flush()  # type: ignore[attr-defined]
    os.fsync(file.fileno())  # type: ignore[attr-defined]


def _user_key():
    # type: () -> bytes
    """This user's key for journals: made once, 0600 in a 0700 folder. Raises JournalError when others can read it."""
    folder = os.path.join(os.path.expanduser("~"), ".minimalcluster")
    path = os.path.join(folder, "journal.key")
    if not os.path.isdir(folder):
        os.mkdir(folder, 0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
    else:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(32))
    about = os.lstat(path)
    if not WINDOWS and (about.st_mode & 0o077 or about.st_uid != os.getuid() or os.path.islink(path)):
        raise errors.JournalError("%s can be read by others; run: chmod 600 %s" % (path, path))
    with open(path, "rb") as file:
        key = file.read()
    if len(key) != 32:
        raise errors.JournalError("%s is damaged; remove it, and the journals that it belongs to" % path)
    return key


def results_of(known):
    # type: (Known) -> dict
    """index -> result, for what is done; each chunk is unpickled once."""
    decoded = {}  # type: dict
    results = {}
    for index, (buffers, offset) in known.done.items():
        if id(buffers) not in decoded:
            decoded[id(buffers)] = values.decode_results(buffers)
        results[index] = decoded[id(buffers)][offset]
    return results
