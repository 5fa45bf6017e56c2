"""A job's outcomes on disk: after ``kill -9`` of the master, the same script continues the job.

::

    file    header: magic(8) salt(16) tag(16)
            record: type(1) length(4) tag(8) body tag(16)     ... appended, never changed
    RUN     a run, which is one execute(): digest of source and function, digest of the arguments, their number
    KEYS    a digest of each argument, for later runs with other arguments
    GRANT   attempt, first, count: tasks that may still run on a node after a restart of the master
    DONE    first, count and the results' buffers
    FAILED  first, and the exception's description and buffers
    END     the run is over: no node works for it any more
    CALLS   of calls that were submitted one by one: their number, a key of each, and the results' buffers
    CALL_FAILED  a call's key, and the exception's description and buffers

Rules:

* An outcome is synced to disk before the node that sent it gets an acknowledgement (``Sessions._acknowledge``).
* A record is written at once, so that it is not lost if the master is killed. If the next master did not know an
  attempt, it would kill the tasks and run them again. Only a power cut can lose written records, those not synced.
* Records are pickles, so each has a tag, made with a key of this user (0600, see ``master_keys``) from its content
  and the tag before it. A file with a changed, moved or foreign record is refused with the reason. The last record may
  be torn by a crash: then it is dropped.
* A record with right tags is this user's, but another version may have written it, or another program with this key.
  What it says is checked all the same.
* A file is read record by record: when it is opened, to check all of it, and again for its outcomes. Only what callers
  ask for is kept in memory.
* If the disk is full, the journal logs an error, removes an incomplete record, and stops. The run goes on.
"""
from __future__ import absolute_import, division, print_function

import contextlib
import errno
import hashlib
import hmac
import io
import json
import os
import stat
import struct
import threading
from collections import namedtuple

from .. import errors
from ..compat import (  # fmt: skip
    NO_LOCKS,
    PY2,
    TAKEN,
    WINDOWS,
    integer_types,
    joined,
    lock_file,
    ordered_dict,
    text_type,
    unlock_file,
)
from ..logs import log
from ..payload import values
from ..wire import key_files
from ..wire.keys import hkdf_sha256
from .master_keys import HOME_VARIABLE, home

if not PY2:  # py2
    from typing import Any, Callable, Iterator  # noqa: F401 # novm

MAGIC = b"minijrn1"
RUN, KEYS, GRANT, DONE, FAILED, END, CALLS, CALL_FAILED = 1, 2, 3, 4, 5, 6, 7, 8
#: The environment variable with another folder for this user's key.
_ANOTHER_HOME = "set %s to a folder that only you can write to" % HOME_VARIABLE
#: Syncing more often would cost more time than repeating the work that a crash within this time loses.
SYNC_SECONDS = 0.05

_HEAD = struct.Struct(">BI")
_GRANT = struct.Struct(">QQQ")
_SPAN = struct.Struct(">QQ")
_COUNT = struct.Struct(">Q")
_HEAD_TAG, _TAG, _SALT, _KEY = 8, 16, 16, 16
_HEADER = len(MAGIC) + _SALT + _TAG
#: Bytes of a record besides its body.
_FRAME = _HEAD.size + _HEAD_TAG + _TAG
#: In a CALLS record, in place of the key of a call whose outcome is not to be kept.
NO_KEY = b"\0" * _KEY

#: at: its offset in the file. tag: the one over its content, which is the last part of a record.
Record = namedtuple("Record", "kind body at tag")
#: The outcomes of one record that no record before it has, by their indexes among the arguments of now.
#: spans: (first index, index in ``buffers`` of its result, count). size: the number of results in ``buffers``.
Done = namedtuple("Done", "spans size buffers")
Failed = namedtuple("Failed", "tasks info buffers")
#: One run in a journal. about: its RUN record. done: (first, count, buffers), failed: (first, info, buffers).
Run = namedtuple("Run", "about done failed ended")
#: Bytes of a file that are read at once, and bytes of records with results of calls that are kept in memory.
READ_BYTES = 1 << 20
KEPT_BYTES = 64 << 20


class OutcomeLog(object):
    """The interface of a job's journal. The cluster calls ``sync`` before it acknowledges outcomes to nodes."""

    def grant(self, attempt, first, count):
        # type: (int, int, int) -> None
        """An attempt begins. If the master is killed, the next master may get its outcomes."""
        raise NotImplementedError

    def done(self, first, count, buffers):
        # type: (int, int, list[Any]) -> None
        raise NotImplementedError

    def failed(self, first, info, buffers):
        # type: (int, dict[str, Any], list[Any]) -> None
        raise NotImplementedError

    def sync(self):
        # type: () -> None
        """Return when everything that was written is on the disk."""
        raise NotImplementedError

    def close(self):
        # type: () -> None
        """The job is over. May be called again."""
        raise NotImplementedError


class Journal(OutcomeLog):
    """An open journal file. reading: do not write to it; a run may be using it.

    Raises JournalError if the file is not a journal of this user, or was changed.
    """

    dirty = False  # outcomes are written and not synced

    def __init__(self, path, reading=False):
        # type: (str, bool) -> None
        self.path = path
        self._lock = threading.RLock()  # the cluster's thread appends records, the user's closes the file
        self._syncing = threading.RLock()  # held during a sync, which may take long; records can be appended meanwhile
        self._stopped = self._reading = reading
        self._begun = False
        self._pid = os.getpid()
        self.runs_count = 0  # number of runs when the file was opened
        self.grants = []  # type: list[tuple] # (attempt, first, count); complete at the end of ``outcomes``
        self._keys_at = {}  # type: dict[str, int] # digest of arguments -> offset of the record with their keys
        self._decoded = ordered_dict()  # type: dict # offset of a record -> (its size, its results)
        self._decoded_bytes = 0
        self._file, made = _opened(path, reading)
        try:
            self._load()
        except BaseException as error:
            if made and isinstance(error, errors.JournalError):
                _remove_new(self._file, path)
            self._file.close()
            raise

    # -- reading ----------------------------------------------------------------------------------

    def _load(self):
        # type: () -> None
        size = self._file.seek(0, os.SEEK_END)
        start = _Blocks(self._file, 0).take(_HEADER)
        if len(start) < _HEADER and MAGIC.startswith(start[: len(MAGIC)]):
            if self._reading:
                raise errors.JournalError("%s is empty: a run could not write to it, or has only begun" % self.path)
            start = self._new()
            size = len(start)
        if len(start) < _HEADER or not start.startswith(MAGIC):
            raise errors.JournalError("%s is no journal of this version; give another path, or remove it" % self.path)
        head = start[: _HEADER - _TAG]
        self._set_key(head)
        if not hmac.compare_digest(self._tag(b"head", head)[:_TAG], start[len(head) :]):
            text = "%s was changed, or written by another user (with another %s): it is not opened; give another path"
            raise errors.JournalError(text % (self.path, _key_path()))
        self._good, self._before = _HEADER, start[len(head) :]
        for record in self._records(_HEADER, size):
            self._good, self._before = record.at + _FRAME + len(record.body), record.tag
            self._note(record)
        if self._good < size and not self._reading:
            torn = size - self._good
            log.warning("the journal %s ends in a torn record of %d bytes; it is dropped", self.path, torn)
            self._cut(self._good)
        self._file.seek(self._good)

    def _note(self, record):
        # type: (Record) -> None
        """Count runs, and note where the keys of arguments are: after the first run with these arguments."""
        if record.kind == RUN:
            self.runs_count += 1
            with self._understanding(record):
                self._arguments = _about(record.body)["arguments"]
        elif record.kind == KEYS and self.runs_count:
            self._keys_at[self._arguments] = record.at

    @contextlib.contextmanager
    def _understanding(self, record):
        # type: (Record) -> Iterator[None]
        """Raises JournalError in place of the error of taking apart what is no record as this version writes it."""
        try:
            yield
        except (struct.error, ValueError, LookupError, TypeError, RuntimeError) as error:
            raise errors.JournalError(
                "the record at byte %d of %s is none that this version can have written (%s); give another path, or "
                "remove it" % (record.at, self.path, error)
            )

    def _set_key(self, head):
        # type: (bytes) -> None
        self._key = hkdf_sha256(_user_key(), head[len(MAGIC) :], b"minimalcluster journal", 32)

    def _new(self):
        # type: () -> bytes
        head = MAGIC + os.urandom(_SALT)
        self._set_key(head)
        data = head + self._tag(b"head", head)[:_TAG]
        self._cut(0)
        try:
            _write(self._file, data)
            os.fsync(self._file.fileno())
        except (OSError, IOError) as error:
            error.filename = self.path  # the next run overwrites an incomplete header
            raise
        _sync_folder(self.path)
        return data

    def _records(self, at, size):
        # type: (int, int) -> Iterator[Record]
        """The complete records from this offset on, each checked by its tags. size: of the file."""
        blocks = _Blocks(self._file, at - _TAG)
        before, number = blocks.take(_TAG), 0
        while size - at >= _HEAD.size + _HEAD_TAG:
            start = blocks.take(_HEAD.size + _HEAD_TAG)
            head, head_tag, body_at = start[: _HEAD.size], start[_HEAD.size :], at + len(start)
            if not hmac.compare_digest(self._tag(b"record", before, head)[:_HEAD_TAG], head_tag):
                if blocks.only_zeros_from(body_at - 1):
                    return
                raise self._changed(number, at)
            kind, length = _HEAD.unpack(head)
            end = body_at + length + _TAG
            if end > size:
                return
            body, tag = blocks.take(length), blocks.take(_TAG)
            if not hmac.compare_digest(self._tag(b"body", before, head, body)[:_TAG], tag):
                # A power cut can leave this: the file had grown, but its last part was not written.
                if end == size or blocks.only_zeros_from(end - 1):
                    return
                raise self._changed(number, at)
            yield Record(kind, body, at, tag)
            at, before, number = end, tag, number + 1

    def _changed(self, number, at):
        # type: (int, int) -> errors.JournalError
        return errors.JournalError(
            "record %d of %s, at byte %d, was changed since it was written: the journal is not used; "
            "remove it to run everything again" % (number, self.path, at)
        )

    def _tag(self, *parts):
        # type: (*bytes) -> bytes
        return _digest(self._key, b"".join(parts))

    def _read_again(self):
        # type: () -> Iterator[Record]
        """The records up to the end of the last one that this journal has read or written."""
        try:
            for record in self._records(_HEADER, self._good):
                yield record
        finally:
            self._file.seek(self._good)

    def _record(self, at):
        # type: (int) -> Record
        """The record at this offset. Other records may be appended meanwhile."""
        with self._lock:
            try:
                for record in self._records(at, self._good):
                    return record
                raise self._changed(0, at)
            finally:
                self._file.seek(self._good)

    def outcomes(self, target, arguments, keys, total):
        # type: (str, str, Callable[[], list[bytes]], int) -> Iterator[Done | Failed]
        """Outcomes of earlier runs of the same function for these ``total`` arguments; the first one of each argument.

        keys() returns the arguments' digests; it is called only if the arguments have changed. At the end, ``grants``
        has the attempts that may still run.
        """
        place = None  # type: Callable[[int], list[int]] | None
        positions = None  # type: dict | None
        taken = bytearray(total)
        count = 0  # of the arguments of the run at hand
        for record in self._read_again():
            if record.kind == RUN:
                with self._understanding(record):
                    about = _about(record.body)
                    same, count, place = about["arguments"] == arguments, about["count"], None
                    if about["target"] == target and same:
                        place, count = _same, min(count, total)
                    elif about["target"] == target and about["arguments"] in self._keys_at:
                        positions = _positions(keys()) if positions is None else positions
                        place = _Moved(self._record(self._keys_at[about["arguments"]]).body, positions)
            elif place is not None and record.kind in (DONE, FAILED):
                with self._understanding(record):
                    outcome = (_new_done if record.kind == DONE else _new_failed)(record.body, place, taken, count)
                if outcome is not None:
                    yield outcome
            elif place is _same and record.kind == GRANT:
                with self._understanding(record):
                    attempt, first, size = _GRANT.unpack(record.body)
                    self.grants.append((attempt,) + _checked_span(first, size, count))
            elif place is _same and record.kind == END:
                del self.grants[:]  # this run has also taken over, or ended, the attempts of killed runs before

    def runs(self, with_buffers=True):
        # type: (bool) -> Iterator[Run]
        """The runs in the file, in order. with_buffers=False: without results, for ``journal show``."""
        run = None  # type: Run | None
        for record in self._read_again():
            body = record.body
            if record.kind == RUN:
                if run is not None:
                    yield run
                with self._understanding(record):
                    run = Run(_about(body), [], [], False)
            elif record.kind == END and run is not None:
                run = run._replace(ended=True)
            elif record.kind == DONE and run is not None:
                with self._understanding(record):
                    span = _span(body, run.about["count"])
                    run.done.append(span + (_unpacked(body[_SPAN.size :]) if with_buffers else [],))
            elif record.kind == FAILED and run is not None:
                with self._understanding(record):
                    run.failed.append(_failure(body, run.about["count"]))
        if run is not None:
            yield run

    def calls(self):
        # type: () -> tuple[dict, dict]
        """(key -> arguments of ``result`` for each call that is done, key -> (info, buffers) of each that failed)."""
        done, failed = {}, {}  # type: dict, dict
        for record in self._read_again():
            body = record.body
            if record.kind == CALLS:
                with self._understanding(record):
                    for place in range(_calls_count(body)):
                        at = _COUNT.size + place * _KEY
                        done[body[at : at + _KEY]] = (record.at, place)
            elif record.kind == CALL_FAILED:
                with self._understanding(record):
                    failed[body[:_KEY]] = _unpacked_failure(body[_KEY:])
        done.pop(NO_KEY, None)
        return done, failed

    def result(self, at, place):
        # type: (int, int) -> object
        """A call's result, or values.Misfit. Records are kept for a while: the next result is often in the same one."""
        found = self._decoded.pop(at, None)
        if found is None:
            record = self._record(at)
            body = record.body
            with self._understanding(record):
                count = _calls_count(body)
                buffers = _unpacked(body[_COUNT.size + count * _KEY :])
            results = values.decode_results(buffers, count)
            if count == 1:
                return results[0]
            found = len(body), results
            self._decoded_bytes += len(body)
        while self._decoded and self._decoded_bytes > KEPT_BYTES:
            oldest = next(iter(self._decoded))
            self._decoded_bytes -= self._decoded.pop(oldest)[0]
        self._decoded[at] = found
        return found[1][place]

    # -- writing ----------------------------------------------------------------------------------

    def begin(self, target, arguments, count, name, keys):
        # type: (str, str, int, str, Callable[[], list[bytes]]) -> None
        """A new run of the function ``name``. target, arguments: the digests that ``outcomes`` takes."""
        about = {"target": target, "arguments": arguments, "count": count, "name": name}
        self._append(RUN, [json.dumps(about, sort_keys=True).encode("ascii")])
        if arguments not in self._keys_at:
            self._append(KEYS, [b"".join(keys())])
        self._begun = True
        self.sync()

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
            self.dirty = self.dirty or kind != GRANT  # a GRANT alone needs no sync

    def sync(self):
        # type: () -> None
        """Return when all records are on the disk; or the journal has stopped, and has logged an error."""
        with self._syncing:
            with self._lock:
                if self._stopped or not self.dirty:
                    return
                self.dirty = False
            try:
                os.fsync(self._file.fileno())
            except (OSError, IOError) as error:
                with self._lock:
                    self._stop(error)

    def _stop(self, error):
        # type: (BaseException) -> None
        self._stopped, self.dirty = True, False
        log.error(
            "the journal %s has stopped: %s. The run goes on; its outcomes from now on are not in the journal",
            self.path, error,
        )  # fmt: skip
        try:
            self._cut(self._good)
        except (OSError, IOError):
            pass  # the next run drops the incomplete record

    def _cut(self, size):
        # type: (int) -> None
        self._file.seek(size)
        self._file.truncate()
        os.fsync(self._file.fileno())

    def close(self):
        # type: () -> None
        """End the run. The next one will not wait for its attempts. May be called again."""
        if self._pid != os.getpid():  # in a forked process: the records and the lock are the parent's
            self._file.close()
            return
        if self._lock._is_owned() or self._syncing._is_owned():  # type: ignore[attr-defined]
            return  # a finalizer can call this inside ``_append``, in the same thread; the job's end closes the file
        if self._begun:
            self._append(END, [])
        self.sync()
        with self._syncing, self._lock:
            self._stopped, self.dirty = True, False
            if not self._file.closed:
                unlock_file(self._file)
            self._file.close()


def _same(index):
    # type: (int) -> list[int]
    """Where the argument with this index in an earlier run is now, if the arguments are the same."""
    return [index]


class _Moved(object):
    """The indexes now of an argument of an earlier run; [] if it is not among the arguments any more."""

    def __init__(self, keys, positions):
        # type: (bytes, dict) -> None
        self._keys, self._positions = keys, positions

    def __call__(self, index):
        # type: (int) -> list[int]
        return self._positions.get(self._keys[index * _KEY : (index + 1) * _KEY], [])


def _positions(keys):
    # type: (list) -> dict
    """key -> indexes of the arguments with this key."""
    positions = {}  # type: dict
    for index, key in enumerate(keys):
        positions.setdefault(key, []).append(index)
    return positions


def _about(body):
    # type: (bytes) -> dict[str, Any]
    """What a RUN record says of its run."""
    about = json.loads(body.decode("ascii"))
    texts = [about[name] for name in ("target", "arguments", "name")]
    if not all(isinstance(text, (str, text_type)) for text in texts) or not isinstance(about["count"], integer_types):
        raise ValueError("no run")
    return about


def _span(body, most):
    # type: (bytes, int) -> tuple[int, int]
    """(first, count) of a DONE record. most: how many arguments there are."""
    first, count = _SPAN.unpack(body[: _SPAN.size])
    return _checked_span(first, count, most)


def _checked_span(first, count, most):
    # type: (int, int, int) -> tuple[int, int]
    if not count or first + count > most:
        raise ValueError("%d tasks from %d on, of %d" % (count, first, most))
    return first, count


def _failure(body, most):
    # type: (bytes, int) -> tuple[int, dict, list]
    """(index, description, buffers) of a FAILED record."""
    (first,) = _COUNT.unpack(body[: _COUNT.size])
    _checked_span(first, 1, most)
    return (first,) + _unpacked_failure(body[_COUNT.size :])


def _calls_count(body):
    # type: (bytes) -> int
    """The number of calls in a CALLS record."""
    (count,) = _COUNT.unpack(body[: _COUNT.size])
    if count * _KEY > len(body):
        raise ValueError("%d calls" % count)
    return int(count)


def _new_done(body, place, taken, most):
    # type: (bytes, Callable[[int], list[int]], bytearray, int) -> Done | None
    first, count = _span(body, most)
    if place is _same and not taken.count(b"\1", first, first + count):
        spans = [(first, 0, count)]
        taken[first : first + count] = b"\1" * count
    else:
        spans = []
        for offset in range(count):
            for index in place(first + offset):
                if not taken[index]:
                    taken[index] = 1
                    _add(spans, index, offset)
    return Done(spans, count, _unpacked(body[_SPAN.size :])) if spans else None


def _add(spans, index, place):
    # type: (list, int, int) -> None
    """Add one more result: to the last span, if it continues that."""
    if spans and (index, place) == (spans[-1][0] + spans[-1][2], spans[-1][1] + spans[-1][2]):
        index, place, count = spans.pop()
        spans.append((index, place, count + 1))
    else:
        spans.append((index, place, 1))


def _new_failed(body, place, taken, most):
    # type: (bytes, Callable[[int], list[int]], bytearray, int) -> Failed | None
    first, info, buffers = _failure(body, most)
    tasks = [index for index in place(first) if not taken[index]]
    for index in tasks:
        taken[index] = 1
    return Failed(tasks, info, buffers) if tasks else None


def _packed(buffers):
    # type: (list) -> list
    return [struct.pack(">I%dQ" % len(buffers), len(buffers), *map(len, buffers))] + list(buffers)


def _unpacked(body):
    # type: (bytes) -> list
    view = memoryview(body)
    (count,) = struct.unpack(">I", body[:4])
    at = 4 + 8 * count
    if at > len(body):
        raise ValueError("%d buffers" % count)
    buffers = []
    for length in struct.unpack(">%dQ" % count, body[4:at]):
        buffers.append(view[at : at + length])
        at += length
    if at != len(body):
        raise ValueError("buffers of other sizes")
    return buffers


def _packed_failure(info, buffers):
    # type: (dict, list) -> list
    described = json.dumps(info).encode("ascii")
    return [_COUNT.pack(len(described)), described] + _packed(buffers)


def _unpacked_failure(body):
    # type: (bytes) -> tuple[dict, list]
    (size,) = _COUNT.unpack(body[: _COUNT.size])
    at = _COUNT.size + size
    info = json.loads(body[_COUNT.size : at].decode("ascii"))
    if not isinstance(info, dict):
        raise ValueError("no exception")
    return info, _unpacked(body[at:])


# -- tags, and keys of content --------------------------------------------------------------------


def _digest(key, data):
    # type: (bytes, bytes) -> bytes
    if hasattr(hmac, "digest"):  # since 3.7, faster
        return hmac.digest(key, data, "sha256")  # novm
    return hmac.new(key, data, hashlib.sha256).digest()


def content_key(*parts):
    # type: (*bytes) -> bytes
    return hashlib.sha256(b"".join(parts)).digest()[:_KEY]


# -- files ----------------------------------------------------------------------------------------


class _Blocks(object):
    """Reads a file from ``at`` on in large blocks. Other code may read or append between two calls."""

    def __init__(self, file, at):
        # type: (io.FileIO, int) -> None
        self._file, self._next = file, at
        self._data, self._at = b"", 0

    def take(self, count):
        # type: (int) -> bytes
        """The next ``count`` bytes; fewer at the end of the file."""
        if len(self._data) - self._at < count:
            parts = [self._data[self._at :]]
            missing = count - len(parts[0])
            self._file.seek(self._next)
            while missing > 0:
                parts.append(self._file.read(max(missing, READ_BYTES)))
                if not parts[-1]:
                    break
                self._next += len(parts[-1])
                missing -= len(parts[-1])
            self._data, self._at = b"".join(parts), 0
        found = self._data[self._at : self._at + count]
        self._at += len(found)
        return found

    def only_zeros_from(self, at):
        # type: (int) -> bool
        self._data, self._at, self._next = b"", 0, at
        return not any(piece.strip(b"\0") for piece in iter(lambda: self.take(READ_BYTES), b""))


def _opened(path, reading=False):
    # type: (str, bool) -> tuple[io.FileIO, bool]
    """(the locked file, whether it is new). It has no buffer, since close() would repeat a write that failed."""
    try:
        descriptor, made = _descriptor_of(path, reading)
    except (OSError, IOError) as error:
        if error.errno == errno.ELOOP:
            raise errors.JournalError("%s is a symbolic link: a journal must be a file of its own" % path)
        raise
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):  # a folder can be opened for reading
        os.close(descriptor)
        raise errors.JournalError("%s is a folder: a journal must be a file" % path)
    file = io.open(descriptor, "rb" if reading else "r+b", buffering=0)  # noqa: SIM115
    try:
        if not reading:
            _lock(file, path)
    except BaseException:
        if made:
            _remove_new(file, path)
        file.close()
        raise
    return file, made


def _descriptor_of(path, reading):
    # type: (str, bool) -> tuple[int, bool]
    if not (reading or os.path.exists(path)):
        try:
            return _descriptor(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), True
        except (OSError, IOError) as error:
            if error.errno != errno.EEXIST:  # another run has just made it
                raise
    return _descriptor(path, os.O_RDONLY if reading else os.O_RDWR), False


def _remove_new(file, path):
    # type: (io.FileIO, str) -> None
    """Remove a new, empty file."""
    if WINDOWS:
        file.close()  # Windows cannot remove an open file
    os.remove(path)


def _descriptor(path, flags):
    # type: (str, int) -> int
    return os.open(path, flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _lock(file, path):
    # type: (io.FileIO, str) -> None
    """Lock the file. Raises JournalError if another run has the lock, or locking fails."""
    try:
        found = lock_file(file)
    except (OSError, IOError) as error:
        raise errors.JournalError("%s cannot be locked, so other runs could write to it: %s" % (path, error))
    if found == NO_LOCKS:
        log.warning("the file system of %s has no locks: make sure that no two runs write to it at once", path)
    elif found == TAKEN:
        text = "%s is in use by another run, a process it left behind, or other calls of this one; give each its own"
        raise errors.JournalError(text % path)


def _write(file, data):
    # type: (io.FileIO, bytes) -> None
    """Write all data: one write to a file without a buffer may write only a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _sync_folder(path):
    # type: (str) -> None
    """Sync the folder, so that the file's name is on the disk, too. Not on Windows, which cannot."""
    if WINDOWS:
        return
    descriptor = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _key_path():
    # type: () -> str
    return os.path.join(home(), "journal.key")


def _user_key():
    # type: () -> bytes
    """This user's key for journals: made once, 0600 in a 0700 folder. Raises JournalError if others can read it."""
    path = _key_path()
    if not os.environ.get(HOME_VARIABLE) and not os.path.isabs(os.path.expanduser("~")):
        raise errors.JournalError("journals need a key of yours, and you have no home: " + _ANOTHER_HOME)
    try:
        if not os.path.isdir(home()):
            os.mkdir(home(), 0o700)
        if os.path.islink(path):
            raise errors.JournalError("%s is a symbolic link: the key must be a file of its own; remove it" % path)
        with _opened_key(path) as file:
            return _key_in(file, path)
    except (OSError, IOError) as error:
        text = "journals need a key of yours in %s, which cannot be made or read: %s. If it never can: %s"
        raise errors.JournalError(text % (path, error, _ANOTHER_HOME))


def _key_in(file, path):
    # type: (io.FileIO, str) -> bytes
    try:
        key_files.check_private(os.fstat(file.fileno()), path)
    except errors.KeyFileError as error:
        raise errors.JournalError("journals need a key of yours: %s. If you cannot: %s" % (error, _ANOTHER_HOME))
    key = file.read()
    if not key:
        lock_file(file, wait=True)  # new, or left empty by a crash. Two runs at once must make one key
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
    """Open for writing only if there is no key yet: later the folder may be read-only."""
    writing = not os.path.exists(path) or not os.path.getsize(path)
    return io.open(
        _descriptor(path, os.O_RDWR | os.O_CREAT if writing else os.O_RDONLY), "r+b" if writing else "rb", buffering=0
    )


def outcomes(run):
    # type: (Run) -> list[tuple]
    """(task, {"value": result} or {"error": type, "text": message}) of each task, sorted, for ``journal export``."""
    found = {}  # type: dict
    for first, count, buffers in run.done:
        for task, result in enumerate(values.decode_results(buffers, count), first):
            found.setdefault(task, shown(result))
    for task, info, _ in run.failed:
        found.setdefault(task, shown_failure(info))
    return sorted(found.items(), key=lambda pair: pair[0])


def shown(result):
    # type: (object) -> dict
    if isinstance(result, values.Misfit):
        return {"error": "RemoteError", "text": str(result.error)}
    return {"value": result}


def shown_failure(info):
    # type: (dict) -> dict
    return {"error": info.get("type"), "text": info.get("text")}
