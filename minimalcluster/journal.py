"""Outcomes on disk: after ``kill -9`` of the master the same script goes on where it was.

::

    file    header: magic(8) salt(16) tag(16)
            record: type(1) length(4) tag(8) body tag(16)     ... appended, never changed
    RUN     one execute(): digest of source and function, digest of the arguments, how many
    KEYS    a digest of each argument, for runs whose arguments will have changed
    GRANT   attempt, first, count: what may still run somewhere after a restart
    DONE    first, count and the results' buffers
    FAILED  first, and the exception's description and buffers
    END     the run is over: nobody works for it any more
    CALLS   of calls that were submitted one by one: how many, a key of each, and the results' buffers
    CALL_FAILED  a call's key, and the exception's description and buffers

Rules:

* An outcome is synced to disk before the node that brought it is told so (``Cluster._answer``).
* A record is written at once, so that a killed master has lost none: of an attempt that it does not
  know, the next one would kill the tasks and run them again. Only a power cut takes what is not synced.
* Records are pickles, so each has a tag by a key of this user (0600, in ~/.minimalcluster), over its
  content and the tag before it. A changed, moved or foreign record is refused with the reason. The
  last record may be torn, by a crash: it is dropped.
* A full disk stops the journal loudly, takes back what was half written, and leaves the run alone.
"""
from __future__ import absolute_import, division, print_function

import errno
import hashlib
import hmac
import io
import json
import logging
import os
import stat
import struct
import threading
from collections import namedtuple

from . import errors, values
from .compat import WINDOWS, joined
from .protocol import hkdf_sha256

log = logging.getLogger("minimalcluster")

MAGIC = b"minijrn1"
RUN, KEYS, GRANT, DONE, FAILED, END, CALLS, CALL_FAILED = 1, 2, 3, 4, 5, 6, 7, 8
#: Syncing more often costs more than the work that a crash within this time would repeat.
SYNC_SECONDS = 0.05

_HEAD = struct.Struct(">BI")
_GRANT = struct.Struct(">QQQ")
_SPAN = struct.Struct(">QQ")
_COUNT = struct.Struct(">Q")
_HEAD_TAG, _TAG, _SALT, _KEY = 8, 16, 16, 16
_HEADER = len(MAGIC) + _SALT + _TAG
#: In place of the key of a call whose outcome nobody wanted, among others that somebody did.
NOBODYS = b"\0" * _KEY

Record = namedtuple("Record", "kind body at")
#: What a journal knows of a job.
#: done: (first, count, buffers), failed: (first, info, buffers), grants: (attempt, first, count).
Known = namedtuple("Known", "done failed grants")


class Journal(object):
    """An open journal file; with ``reading`` it is left as it is, and may be in use by a run.

    Raises JournalError for one that is not ours or was changed.
    """

    def __init__(self, path, reading=False):
        # type: (str, bool) -> None
        self.path = path
        self._lock = threading.RLock()  # appended to in the cluster's thread, closed in the user's
        self.dirty = False  # something is written and not synced
        self._stopped = self._reading = reading
        self._begun = False
        self._keys_of = {}  # type: dict[str, bytes] # arguments' digest -> their keys
        self._file = _opened(path, reading)
        try:
            self._records = self._load()
        except BaseException:
            self._file.close()
            raise

    # -- reading ----------------------------------------------------------------------------------

    def _load(self):
        # type: () -> list[Record]
        data = self._file.read()
        if len(data) < _HEADER and MAGIC.startswith(data[: len(MAGIC)]):
            if self._reading:
                raise errors.JournalError("%s is empty: a run could not write to it, or has only begun" % self.path)
            data = self._new()
        if len(data) < _HEADER or not data.startswith(MAGIC):
            raise errors.JournalError("%s is no journal of this version; give another path, or remove it" % self.path)
        head = data[: _HEADER - _TAG]
        self._key = _key_for(head)
        if not hmac.compare_digest(self._tag(b"head", head)[:_TAG], data[len(head) : _HEADER]):
            text = "%s was changed, or written by another user (with another %s): it is not opened; give another path"
            raise errors.JournalError(text % (self.path, _key_path()))
        records, self._good = self._records_in(data)
        if self._good < len(data) and not self._reading:
            torn = len(data) - self._good
            log.warning("the journal %s ends in a torn record of %d bytes; it is dropped", self.path, torn)
            self._cut(self._good)
        self._file.seek(self._good)
        self._before = data[self._good - _TAG : self._good]
        return records

    def _new(self):
        # type: () -> bytes
        head = MAGIC + os.urandom(_SALT)
        self._key = _key_for(head)
        data = head + self._tag(b"head", head)[:_TAG]
        self._cut(0)
        try:
            _write(self._file, data)
            os.fsync(self._file.fileno())
        except (OSError, IOError) as error:
            error.filename = self.path  # what is there of it, the next run writes anew
            raise
        _sync_folder(self.path)
        return data

    def _records_in(self, data):
        # type: (bytes) -> tuple[list[Record], int]
        """All records that are whole, and where the last of them ends."""
        records = []  # type: list[Record]
        at = _HEADER
        solid = len(data.rstrip(b"\0"))  # after a power cut: the file had grown, the rest had not been written
        while len(data) - at >= _HEAD.size + _HEAD_TAG:
            before, body_at = data[at - _TAG : at], at + _HEAD.size + _HEAD_TAG
            head = data[at : at + _HEAD.size]
            expected = self._tag(b"record", before, head)[:_HEAD_TAG]
            if not hmac.compare_digest(expected, data[at + _HEAD.size : body_at]):
                if solid < body_at:
                    break
                raise self._changed(len(records), at)
            kind, size = _HEAD.unpack(head)
            end = body_at + size + _TAG
            if end > len(data):
                break
            body = data[body_at : body_at + size]
            if not hmac.compare_digest(self._tag(b"body", before, head, body)[:_TAG], data[end - _TAG : end]):
                if end == len(data) or solid < end:
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

    def _tag(self, *parts):
        # type: (*bytes) -> bytes
        return hmac.new(self._key, b"".join(parts), hashlib.sha256).digest()

    def runs(self):
        # type: () -> list[dict]
        """Each execute() in it: its RUN record with the Known of it, in order; for ``journal show``."""
        runs = []  # type: list[dict]
        for record in self._records:
            if record.kind == RUN:
                runs.append(dict(json.loads(record.body.decode("ascii")), known=Known([], [], []), ended=False))
            elif record.kind == KEYS:
                self._keys_of[runs[-1]["arguments"]] = record.body
            elif record.kind == END:
                runs[-1]["ended"] = True
            elif record.kind not in (CALLS, CALL_FAILED):
                _take_in(runs[-1]["known"], record)
        return runs

    def calls(self):
        # type: () -> Known
        """The outcomes of calls, by their keys: done has (buffers, place in them), failed (info, buffers)."""
        known = Known({}, {}, [])
        for record in self._records:
            body = record.body
            if record.kind == CALLS:
                (count,) = _COUNT.unpack(body[: _COUNT.size])
                end = _COUNT.size + count * _KEY
                buffers = _unpacked(body[end:])
                for place, at in enumerate(range(_COUNT.size, end, _KEY)):
                    known.done[body[at : at + _KEY]] = (buffers, place)
            elif record.kind == CALL_FAILED:
                known.failed[body[:_KEY]] = _unpacked_failure(body[_KEY:])
        known.done.pop(NOBODYS, None)
        return known

    def known(self, target, arguments, keys):
        # type: (str, str, object) -> Known
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
                if run["ended"]:
                    del known.grants[:]  # also those of a killed run before: this one adopted them or let them go
            elif run["arguments"] in self._keys_of:
                if positions is None:
                    positions = {}
                    for index, key in enumerate(keys()):  # type: ignore[operator]
                        positions.setdefault(key, []).append(index)
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
        self.forget()
        self._begun = True
        self.sync()

    def forget(self):
        # type: () -> None
        """The records that were read: whoever wanted them has been told."""
        self._records = []

    def grant(self, attempt, first, count):
        # type: (int, int, int) -> None
        self._append(GRANT, [_GRANT.pack(attempt, first, count)])

    def done(self, first, count, buffers):
        # type: (int, int, list) -> None
        self._append(DONE, [_SPAN.pack(first, count)] + _packed(buffers))

    def failed(self, first, info, buffers):
        # type: (int, dict, list) -> None
        self._append(FAILED, [_COUNT.pack(first)] + _packed_failure(info, buffers))

    def calls_done(self, keys, buffers):
        # type: (list, list) -> None
        self._append(CALLS, [_COUNT.pack(len(keys))] + keys + _packed(buffers))

    def call_failed(self, key, info, buffers):
        # type: (bytes, dict, list) -> None
        self._append(CALL_FAILED, [key] + _packed_failure(info, buffers))

    def _append(self, kind, parts):
        # type: (int, list) -> None
        body = joined(parts)
        head = _HEAD.pack(kind, len(body))
        with self._lock:
            if self._stopped:
                return
            head_tag = self._tag(b"record", self._before, head)[:_HEAD_TAG]
            tag = self._tag(b"body", self._before, head, body)[:_TAG]
            try:
                _write(self._file, head + head_tag + body + tag)
            except (OSError, IOError) as error:
                self._stop(error)
                return
            self._good += len(head) + _HEAD_TAG + len(body) + _TAG
            self._before = tag
            self.dirty = self.dirty or kind != GRANT  # that one costs no sync of its own

    def sync(self):
        # type: () -> None
        """Everything so far is on the disk when this returns, or the journal has stopped and said so."""
        with self._lock:
            if self._stopped or not self.dirty:
                return
            self.dirty = False
            try:
                os.fsync(self._file.fileno())
            except (OSError, IOError) as error:
                self._stop(error)

    def _stop(self, error):
        # type: (BaseException) -> None
        self._stopped, self.dirty = True, False
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
        os.fsync(self._file.fileno())

    def close(self):
        # type: () -> None
        """May be called again. The run that has begun is over: its attempts are not waited for by the next one."""
        if self._lock._is_owned():  # type: ignore[attr-defined]
            return  # garbage is collected in the middle of a record, an iterator with it: the end of its job is to come
        if self._begun:
            self._append(END, [])
        self.sync()
        with self._lock:
            self._stopped, self.dirty = True, False
            _unlock(self._file)
            self._file.close()


def _same(index):
    # type: (int) -> list[int]
    return [index]


class _Moved(object):
    """Where an argument of an earlier run stands among those of now; nowhere when it is there no more."""

    def __init__(self, keys, positions):
        # type: (bytes, dict) -> None
        self._keys, self._positions = keys, positions

    def __call__(self, index):
        # type: (int) -> list[int]
        return self._positions.get(self._keys[index * _KEY : (index + 1) * _KEY], [])


def _take_in(known, record):
    # type: (Known, Record) -> None
    body = record.body
    if record.kind == GRANT:
        known.grants.append(_GRANT.unpack(body))
    elif record.kind == DONE:
        first, count = _SPAN.unpack(body[: _SPAN.size])
        known.done.append((first, count, _unpacked(body[_SPAN.size :])))
    elif record.kind == FAILED:
        (first,) = _COUNT.unpack(body[: _COUNT.size])
        known.failed.append((first,) + _unpacked_failure(body[_COUNT.size :]))


def _add(known, run, place):
    # type: (Known, Known, object) -> None
    """Outcomes by their positions now: index -> (buffers, skip) or (info, buffers). The first outcome stays."""
    for first, count, buffers in run.done:
        for offset in range(count):
            for index in place(first + offset):  # type: ignore[operator]
                if index not in known.failed:
                    known.done.setdefault(index, (buffers, offset))
    for first, info, buffers in run.failed:
        for index in place(first):  # type: ignore[operator]
            if index not in known.done:
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


def _packed_failure(info, buffers):
    # type: (dict, list) -> list
    described = json.dumps(info).encode("ascii")
    return [_COUNT.pack(len(described)), described] + _packed(buffers)


def _unpacked_failure(body):
    # type: (bytes) -> tuple[dict, list]
    (size,) = _COUNT.unpack(body[: _COUNT.size])
    at = _COUNT.size + size
    return json.loads(body[_COUNT.size : at].decode("ascii")), _unpacked(body[at:])


# -- keys of content ------------------------------------------------------------------------------


def content_key(*parts):
    # type: (*bytes) -> bytes
    return hashlib.sha256(b"".join(parts)).digest()[:_KEY]


# -- files ----------------------------------------------------------------------------------------


def _opened(path, reading=False):
    # type: (str, bool) -> io.FileIO
    """Without a buffer: one that could not be written would be tried again when the file is closed."""
    flags = os.O_RDONLY if reading else os.O_RDWR | os.O_CREAT
    try:
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except (OSError, IOError) as error:
        if error.errno == errno.ELOOP:
            raise errors.JournalError("%s is a symbolic link: a journal must be a file of its own" % path)
        raise
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):  # which can be opened, to be read
        os.close(descriptor)
        raise errors.JournalError("%s is a folder: a journal must be a file" % path)
    file = io.open(descriptor, "rb" if reading else "r+b", buffering=0)  # noqa: SIM115
    try:
        if not reading:
            _lock(file)
    except (OSError, IOError):
        file.close()
        text = "%s is in use by another run, a process it left behind, or other calls of this one; give each its own"
        raise errors.JournalError(text % path)
    return file


def _lock(file, wait=False):
    # type: (object, bool) -> None
    """Until it is closed, also by the end of the process."""
    if WINDOWS:
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))  # type: ignore[attr-defined]


def _unlock(file):
    # type: (io.FileIO) -> None
    """A process that was forked meanwhile has the file open too, and would keep the lock."""
    if not (WINDOWS or file.closed):
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_UN)


def _write(file, data):
    # type: (io.FileIO, bytes) -> None
    """All of it: a file without a buffer may take a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _sync_folder(path):
    # type: (str) -> None
    """The file's name too is on the disk, where the system can do that."""
    if WINDOWS:
        return
    descriptor = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _key_for(head):
    # type: (bytes) -> bytes
    return hkdf_sha256(_user_key(), head[len(MAGIC) :], b"minimalcluster journal", 32)


def _key_path():
    # type: () -> str
    return os.path.join(os.path.expanduser("~"), ".minimalcluster", "journal.key")


def _user_key():
    # type: () -> bytes
    """This user's key for journals: made once, 0600 in a 0700 folder. Raises JournalError when others can read it."""
    path = _key_path()
    try:
        os.mkdir(os.path.dirname(path), 0o700)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise errors.JournalError("journals need a key of yours in %s, which cannot be made: %s" % (path, error))
    if os.path.islink(path):
        raise errors.JournalError("%s is a symbolic link: the key must be a file of its own; remove it" % path)
    with _opened_key(path) as file:
        about = os.fstat(file.fileno())
        if not WINDOWS and (about.st_mode & 0o077 or about.st_uid != os.getuid()):
            raise errors.JournalError("%s can be read by others; run: chmod 600 %s" % (path, path))
        _lock(file, wait=True)  # two first runs at once make one key; and none is left empty by a crash
        key = file.read()
        if not key:
            key = os.urandom(32)
            _write(file, key)
            os.fsync(file.fileno())
            _sync_folder(path)
    if len(key) != 32:
        raise errors.JournalError("%s is damaged; remove it, and the journals that it belongs to" % path)
    return key


def _opened_key(path):
    # type: (str) -> io.FileIO
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    return io.open(os.open(path, flags, 0o600), "r+b", buffering=0)


def results_of(known):
    # type: (Known) -> dict
    """index -> result, or values.Misfit, for what is done; each chunk is unpickled once."""
    counts, decoded = {}, {}  # type: dict, dict
    for buffers, offset in known.done.values():
        counts[id(buffers)] = max(counts.get(id(buffers), 0), offset + 1)
    results = {}
    for index, (buffers, offset) in known.done.items():
        if id(buffers) not in decoded:
            decoded[id(buffers)] = values.decode_results(buffers, counts[id(buffers)])
        results[index] = decoded[id(buffers)][offset]
    return results


def outcomes(known):
    # type: (Known) -> list[tuple]
    """(task, {"value": its result} or {"error": type, "text": message}) in the tasks' order, for ``journal export``.

    known: of a run; or of calls, whose keys stand for tasks.
    """
    placed = known
    if isinstance(known.done, list):
        placed = Known({}, {}, [])
        _add(placed, known, _same)
    found = {}  # type: dict
    for task, (info, _) in placed.failed.items():
        found[task] = {"error": info.get("type"), "text": info.get("text")}
    for task, result in results_of(placed).items():
        misfit = isinstance(result, values.Misfit)
        found[task] = {"error": "RemoteError", "text": str(result.error)} if misfit else {"value": result}
    return sorted(found.items(), key=lambda pair: pair[0])
