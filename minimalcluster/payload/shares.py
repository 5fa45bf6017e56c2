"""Shared objects: sent once to each node, kept there in a file, and mapped by its worker processes.

A ``Shared`` handle is pickled as its name. In a worker process the name becomes the object again, as it was when it was
shared: its buffers (NumPy arrays, with pickle protocol 5) are read-only views of the file, the same memory in every
process; the rest of the object is unpickled once per process.

Large arguments that cannot be changed and are sent again are shared automatically: see ``Repeats``.
"""
from __future__ import absolute_import, division, print_function

import errno
import mmap
import os
import sys
import threading
import weakref

from ..compat import PY2, SCALARS, pickle, text_type
from ..errors import StateError
from .scratch import ENDING, PART_ENDING, Scratch

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Iterable  # noqa: F401 # novm

#: Buffers begin at multiples of a cache line: NumPy is faster with aligned data.
ALIGNMENT = 64
#: Arguments from this size on (joblib's max_nbytes) may be shared automatically.
LARGE_BYTES = 1 << 20
#: Automatically shared objects have this size at most, together. An object up to the second size is kept after its last
#: call, in case it is sent again.
REPEATS_BYTES_MAX = 1 << 30
KEPT_BYTES_MAX = 64 << 20
#: After sending one large object so many times, a log line tells the user of ``share``.
SENT_MAX = 8


#: A function, name -> object. Set by a worker process, and by an engine's tasks, which may run in the master's process.
resolver = None  # type: Callable[[str], object] | None
#: True in a node's worker process; False in a process in which an engine runs tasks.
in_worker_process = False
_handles = weakref.WeakValueDictionary()  # type: weakref.WeakValueDictionary[str, Shared] # by name, in the master's process


class Shared(object):
    """Use it as an argument, or inside one; the function gets the object. ``drop()`` frees the nodes' copies."""

    def __init__(self, name, value, drop):
        # type: (str, object, Callable[[str], object]) -> None
        self.name, self._value = name, value
        self._drop = drop  # type: Callable[[str], object] | None
        _handles.setdefault(name, self)  # another master in this process may have shared an equal object

    def get(self):
        # type: () -> object
        """The object itself, in the process that shared it."""
        return self._value

    def drop(self):
        # type: () -> None
        """Call it when no task needs the object any more. Later tasks with this handle fail."""
        if self._drop is not None:
            drop, self._drop = self._drop, None
            if _handles.get(self.name) is self:
                del _handles[self.name]
            drop(self.name)

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
    # type: (str) -> Any
    """Called by unpickling a handle: the object of this name. Raises StateError."""
    handle = _handles.get(name)
    if handle is not None:
        return handle.get()
    if resolver is not None:
        return resolver(name)
    raise StateError("the shared object %s is not known here; was it dropped?" % name)


class Unasked(Shared):
    """The handle of an automatically shared argument. It lives as long as the calls that have it.

    Each call gets a copy that it may write to.
    """

    times_sent = 0

    def __del__(self):
        # type: () -> None
        self.drop()

    def __reduce__(self):
        # type: () -> tuple
        return resolve_own, Shared.__reduce__(self)[1]


def resolve_own(name):
    # type: (str) -> object
    """Called by unpickling an ``Unasked``: text and bytes themselves, but a copy of an array."""
    value = resolve(name)
    return value if isinstance(value, (bytes, text_type)) else value.copy("K")


def in_older_protocol(info, protocol):
    # type: (dict, int) -> list
    """A kept object as one buffer, for a Python that cannot read its pickle protocol.

    It is made from the file, since the user may have changed the object after sharing it.
    """
    return [pickle.dumps(load(info), protocol)]


def load(info):
    # type: (dict) -> object
    """The object in a file that ``Files.keep`` wrote and described by ``info``."""
    return rebuilt(read(info))


def rebuilt(views):
    # type: (list) -> object
    """The object of these buffers: its pickle, then those that were pickled out of band."""
    if PY2:  # py2
        return pickle.loads(views[0].tobytes())
    if len(views) == 1:
        return pickle.loads(views[0])
    return pickle.loads(views[0], buffers=views[1:])  # novm


def read(info):
    # type: (dict) -> list
    """The buffers of a kept object: views of the mapped file. On 2.7, which cannot do that, copies."""
    with open(info["path"], "rb") as file:
        view = memoryview(file.read() if PY2 else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # py2
    views, position = [], 0
    for size in info["sizes"]:
        views.append(view[position : position + size])
        position += _aligned(size)
    return views


def _aligned(size):
    # type: (int) -> int
    return -(-size // ALIGNMENT) * ALIGNMENT


class _Seen(object):
    """A large argument of unfinished calls, with the number of times it was sent.

    It holds the argument: so no other object can get the same id.
    """

    times_sent = 1

    def __init__(self, value):
        # type: (object) -> None
        self._value = value

    def get(self):
        # type: () -> object
        return self._value


class Repeats(object):
    """Shares large arguments automatically if they are sent again before the calls that have them are finished.

    Only what cannot be changed: bytes, text and read-only arrays, no subclasses of these. "Again" means the same
    object, not an equal one: contents are never compared.
    """

    def __init__(self, share):
        # type: (Callable[[object], Unasked]) -> None
        self._share = share
        self._lock = threading.RLock()  # reentrant: the garbage collector may call a ``__del__`` that makes a call
        self._known = weakref.WeakValueDictionary()  # type: weakref.WeakValueDictionary[int, _Seen | Unasked] # by id
        self._latest = None  # type: object
        self._has_warned = False

    def swapped(self, arguments):
        # type: (Iterable[Any]) -> tuple[Any, list[object]]
        """(the arguments, with handles for those that were sent before; a list to keep until the call is finished)."""
        # large: id -> value or handle. An object that a call has twice is one object in the worker process, too.
        held, large = [], {}  # type: list[object], dict[int, object]
        for each in arguments:
            if _is_large(each) and id(each) not in large:
                large[id(each)] = self._swapped(each, held)
        return [large.get(id(each), each) for each in arguments] if large else arguments, held

    def _swapped(self, value, held):
        # type: (Any, list[object]) -> object
        with self._lock:
            known = self._known.get(id(value))
            if known is None:
                known = _Seen(value)
            elif isinstance(known, _Seen) and _size(value) + self._bytes() <= REPEATS_BYTES_MAX:
                try:
                    known = self._share(value)
                except (OSError, IOError):
                    pass  # no space on the disk: send the value itself
            self._known[id(value)] = known
            held.append(known)
            self._latest = known if _size(value) <= KEPT_BYTES_MAX else None
            return known if isinstance(known, Unasked) else value

    def _bytes(self):
        # type: () -> int
        return sum(_size(known.get()) for known in list(self._known.values()) if isinstance(known, Unasked))

    def count(self, arguments, held, packed_size):
        # type: (Iterable[object], list[object], Callable[[object], int]) -> None
        """Count how often the arguments of a large call are sent, and warn once that ``share`` exists.

        held: a list to keep until the call is finished. packed_size: a function, argument -> bytes of its pickle.
        """
        if self._has_warned:
            return
        with self._lock:
            for value in arguments:
                if type(value) in SCALARS or callable(value):
                    continue
                known = self._known.setdefault(id(value), _Seen(value))
                held.append(known)
                known.times_sent += 1
                if known.times_sent > SENT_MAX and not self._has_warned and isinstance(known, _Seen):
                    self._warn(value, packed_size(value))

    def _warn(self, value, size):
        # type: (object, int) -> None
        if size >= LARGE_BYTES:
            import logging  # worker processes, which import this file, need not

            self._has_warned = True
            text = "the same %s of %.1f MB was sent %d times: with share(it) in its place it is sent once to each node"
            logging.getLogger("minimalcluster").warning(text, type(value).__name__, size / 1e6, SENT_MAX)

    def drop(self):
        # type: () -> None
        """Called when all calls are finished: release the latest argument."""
        self._latest = None


def _is_large(value):
    # type: (Any) -> bool
    """Whether the value is large and cannot be changed."""
    kind = type(value)
    if kind is bytes or kind is text_type:
        return len(value) >= LARGE_BYTES
    return kind.__name__ == "ndarray" and _is_constant_array(value)


def _is_constant_array(value):
    # type: (Any) -> bool
    kind = getattr(sys.modules.get("numpy"), "ndarray", None)
    if kind is None or type(value) is not kind or _size(value) < LARGE_BYTES or value.dtype.hasobject:
        return False
    if not (value.dtype.isnative and (value.flags.c_contiguous or value.flags.f_contiguous)):
        return False  # its pickle would arrive in another byte order or layout than its copy
    base = value  # a read-only view changes with the writable array that it is a view of
    while type(base) is kind:
        if base.flags.writeable:
            return False
        base = base.base
    return base is None or type(base) is bytes


def _size(value):
    # type: (Any) -> int
    return len(value) if isinstance(value, (bytes, text_type)) else value.nbytes


class Files(object):
    """Shared objects that a process keeps in files for other processes, in a folder that is removed at the end."""

    def __init__(self):
        # type: () -> None
        self._scratch = Scratch()
        self._paths = {}  # type: dict[str, str]

    def keep(self, name, buffers):
        # type: (str, list) -> dict
        """Write the buffers to a file; its description for ``load``. Raises OSError with the file's name, and leaves no
        incomplete file."""
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
                error.filename = path  # Python does not name the file when the disk is full
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
                pass  # Windows, while a process maps the file; close() removes it

    def close(self):
        # type: () -> None
        self._scratch.close()
