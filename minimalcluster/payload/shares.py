"""Objects that many tasks use: sent once to each node, kept there in a file, mapped by its worker processes.

A ``Shared`` handle pickles as its name. In a worker process the name becomes the object again, as it was when it was
shared: its buffers (NumPy's arrays, with pickle protocol 5) are read-only views of the file, the same memory in
every process; the rest of it is unpickled once per process.

Unasked only what nobody can change is shared, and only the very same object again: see ``Repeats``.
"""
from __future__ import absolute_import, division, print_function

import errno
import logging
import mmap
import os
import sys
import threading
import weakref

from ..compat import PY2, SCALARS, pickle, text_type
from ..errors import StateError
from .scratch import ENDING, PART_ENDING, Scratch

#: A cache line; NumPy likes its data aligned.
ALIGNMENT = 64
#: An argument from this size on is looked at for repetition (joblib's max_nbytes).
LARGE_BYTES = 1 << 20
#: How much is shared unasked at most, at a time; and how large an object is kept for the case that it comes again.
REPEATS_BYTES_MAX = 1 << 30
KEPT_BYTES_MAX = 64 << 20
#: After so many journeys of one large object its owner is told of ``share``.
JOURNEYS_MAX = 8

log = logging.getLogger("minimalcluster")

#: Set by the worker process, and by an engine's tasks, which may run in the master's own process: name -> object.
resolver = None  # type: object
#: Whether this process is a node's worker process and nothing else.
in_worker_process = False
_handles = weakref.WeakValueDictionary()  # type: weakref.WeakValueDictionary # name -> Shared, in the master's process


class Shared(object):
    """Use it as an argument, or inside one; the function gets the object. ``drop()`` frees the nodes' copies."""

    def __init__(self, name, value, drop):
        # type: (str, object, object) -> None
        self.name, self._value, self._drop = name, value, drop
        _handles.setdefault(name, self)  # another master may have one of an equal object

    def get(self):
        # type: () -> object
        """The object itself, here."""
        return self._value

    def drop(self):
        # type: () -> None
        """No task needs it any more. Tasks that come later with this handle fail."""
        if self._drop is not None:
            drop, self._drop = self._drop, None
            if _handles.get(self.name) is self:
                del _handles[self.name]
            drop(self.name)  # type: ignore[operator]

    def __reduce__(self):
        # type: () -> tuple
        if self._drop is None:
            raise StateError("the shared object %s was dropped" % self.name)
        _handles.setdefault(self.name, self)
        return resolve, (self.name,)

    def __repr__(self):
        # type: () -> str
        return "<Shared %s: %s>" % (self.name, type(self._value).__name__)


def is_handle(name):
    # type: (str) -> bool
    return name in _handles


def resolve(name):
    # type: (str) -> object
    """What a pickled handle becomes: called by unpickling."""
    handle = _handles.get(name)
    if handle is not None:
        return handle.get()
    if resolver is not None:
        return resolver(name)  # type: ignore[operator]
    raise StateError("the shared object %s is not known here; was it dropped?" % name)


class Unasked(Shared):
    """For an argument that came again: lives as long as the calls that have it. Each call gets what it may write to."""

    def __del__(self):
        # type: () -> None
        self.drop()

    def __reduce__(self):
        # type: () -> tuple
        return resolve_own, Shared.__reduce__(self)[1]


def resolve_own(name):
    # type: (str) -> object
    """What an ``Unasked`` becomes: text and bytes as they are, an array as a copy of the call's own."""
    value = resolve(name)
    return value if isinstance(value, (bytes, text_type)) else value.copy("K")  # type: ignore[attr-defined]


def in_older_protocol(info, protocol):
    # type: (dict, int) -> list
    """The buffers of a kept object for a Python that cannot read them: of what was shared, not of what it is now."""
    return [pickle.dumps(load(info), protocol)]


def load(info):
    # type: (dict) -> object
    """The object in a file that ``Files.keep`` wrote."""
    return rebuilt(read(info))


def rebuilt(views):
    # type: (list) -> object
    """The object of the buffers that ``dump`` made."""
    if PY2:  # py2
        return pickle.loads(views[0].tobytes())
    if len(views) == 1:
        return pickle.loads(views[0])
    return pickle.loads(views[0], buffers=views[1:])  # novm


def read(info):
    # type: (dict) -> list
    """The buffers of a kept object: views of the file, not copies (but on 2.7, which cannot)."""
    with open(info["path"], "rb") as file:
        view = memoryview(file.read() if PY2 else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # py2
    views, at = [], 0
    for size in info["sizes"]:
        views.append(view[at : at + size])
        at += _aligned(size)
    return views


def _aligned(size):
    # type: (int) -> int
    return -(-size // ALIGNMENT) * ALIGNMENT


class _Seen(object):
    """A large argument of calls that are under way; as long as it lives, no other object has this one's id."""

    journeys = 1

    def __init__(self, value):
        # type: (object) -> None
        self._value = value

    def get(self):
        # type: () -> object
        return self._value


class Repeats(object):
    """Large arguments that come again while calls with them are under way: then they are shared, unasked.

    Only what nobody can change: bytes, text and read-only arrays of just these types; and by identity, not by content.
    """

    def __init__(self, share):
        # type: (object) -> None
        self._share = share  # value -> Unasked
        self._lock = threading.RLock()  # garbage may be collected in here, whose ``__del__`` makes a call
        self._known = weakref.WeakValueDictionary()  # type: weakref.WeakValueDictionary # id -> _Seen or Unasked
        self._latest = None  # type: object
        self._told = False

    def swapped(self, arguments):
        # type: (object) -> tuple
        """(the arguments, handles in place of those that come again; what to keep until the call is over)."""
        held, large = [], {}  # type: list, dict # by id: what comes twice in one call is one object there, too
        for each in arguments:  # type: ignore[attr-defined]
            if _is_large(each) and id(each) not in large:
                large[id(each)] = self._swapped(each, held)
        return [large.get(id(each), each) for each in arguments] if large else arguments, held  # type: ignore[attr-defined]

    def _swapped(self, value, held):
        # type: (object, list) -> object
        with self._lock:
            known = self._known.get(id(value))
            if known is None:
                known = _Seen(value)
            elif isinstance(known, _Seen) and _size(value) + self._bytes() <= REPEATS_BYTES_MAX:
                try:
                    known = self._share(value)  # type: ignore[operator]
                except (OSError, IOError):
                    pass  # no room on the disk: it travels as it is
            self._known[id(value)] = known
            held.append(known)
            self._latest = known if _size(value) <= KEPT_BYTES_MAX else None
            return known if isinstance(known, Unasked) else value

    def _bytes(self):
        # type: () -> int
        return sum(_size(known.get()) for known in list(self._known.values()) if isinstance(known, Unasked))

    def count(self, arguments, held, packed_size):
        # type: (object, list, object) -> None
        """Say once that ``share`` exists if one of these, of a large call, goes on many journeys at a time.

        packed_size: tells how many bytes an argument has as a pickle.
        """
        if self._told:
            return
        with self._lock:
            for value in arguments:  # type: ignore[attr-defined]
                if type(value) in SCALARS or callable(value):
                    continue
                known = self._known.setdefault(id(value), _Seen(value))
                held.append(known)
                known.journeys = getattr(known, "journeys", 0) + 1
                if known.journeys > JOURNEYS_MAX and not self._told and isinstance(known, _Seen):
                    self._tell(value, packed_size(value))  # type: ignore[operator]

    def _tell(self, value, size):
        # type: (object, int) -> None
        if size >= LARGE_BYTES:
            self._told = True
            text = "the same %s of %.1f MB was sent %d times: with share(it) in its place it is sent once to each node"
            log.warning(text, type(value).__name__, size / 1e6, JOURNEYS_MAX)

    def drop(self):
        # type: () -> None
        """No call needs them any more."""
        self._latest = None


def _is_large(value):
    # type: (object) -> bool
    """Large, and never another one later."""
    kind = type(value)
    if kind is bytes or kind is text_type:
        return len(value) >= LARGE_BYTES  # type: ignore[arg-type]
    return kind.__name__ == "ndarray" and _is_constant_array(value)


def _is_constant_array(value):
    # type: (object) -> bool
    kind = getattr(sys.modules.get("numpy"), "ndarray", None)
    if kind is None or type(value) is not kind or _size(value) < LARGE_BYTES or value.dtype.hasobject:  # type: ignore[attr-defined]
        return False
    base = value  # a read-only view of what can be written changes, too
    while type(base) is kind:
        if base.flags.writeable:  # type: ignore[attr-defined]
            return False
        base = base.base  # type: ignore[attr-defined]
    return base is None or type(base) is bytes


def _size(value):
    # type: (object) -> int
    return len(value) if isinstance(value, (bytes, text_type)) else value.nbytes  # type: ignore[attr-defined]


class Files(object):
    """The shared objects that a process keeps for others: below a folder of its own, removed at the end."""

    def __init__(self):
        # type: () -> None
        self._scratch = Scratch()
        self._paths = {}  # type: dict[str, str]

    def keep(self, name, buffers):
        # type: (str, list) -> dict
        """Write the buffers; what ``load`` needs to know. Raises OSError with the file's name, leaves no torn file."""
        if os.path.basename(name) != name:
            raise OSError(errno.EINVAL, "no name of a shared object", name)
        path = os.path.join(self._scratch.path(), name + ENDING)
        part = path[: -len(ENDING)] + PART_ENDING
        try:
            with open(part, "wb") as file:
                for buffer in buffers:
                    file.write(buffer)
                    file.write(b"\0" * (_aligned(len(buffer)) - len(buffer)))
            os.rename(part, path)
        except BaseException as error:
            if os.path.exists(part):
                os.remove(part)
            if isinstance(error, (OSError, IOError)) and error.filename is None:
                error.filename = path  # a full disk is not named
            raise
        self._paths[name] = path
        return {"found": True, "path": path, "sizes": [len(buffer) for buffer in buffers]}

    def discard(self, name):
        # type: (str) -> None
        path = self._paths.pop(name, None)
        if path is not None and self._scratch.is_ours():
            try:
                os.remove(path)
            except OSError:
                pass  # Windows, while a process maps it; close() removes it

    def close(self):
        # type: () -> None
        self._scratch.close()
