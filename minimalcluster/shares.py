"""Objects that many tasks use: sent once to each node, kept there in a file, mapped by its worker processes.

A ``Shared`` handle pickles as its name. In a worker process the name becomes the object again: its
buffers (NumPy's arrays, with pickle protocol 5) are read-only views of the file, the same memory in
every process; the rest of it is unpickled once per process.
"""
from __future__ import absolute_import, division, print_function

import errno
import hashlib
import mmap
import os
import threading
import weakref
from collections import OrderedDict

from .compat import PY2, pickle, text_type
from .errors import StateError
from .scratch import ENDING, PART_ENDING, Scratch

#: A cache line; NumPy likes its data aligned.
ALIGNMENT = 64
#: An argument from this size on is looked at for repetition (joblib's max_nbytes); hashing it costs about 1 ms.
LARGE_BYTES = 1 << 20
#: How much is shared unasked at most, and how many different large arguments are remembered.
REPEATS_BYTES_MAX = 1 << 30
REPEATS_REMEMBERED_MAX = 256

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


def dump(value, protocol):
    # type: (object, int) -> list
    """One pickle, then its buffers out of band where the protocol has them (5: Python 3.8)."""
    if protocol < 5:
        return [pickle.dumps(value, min(protocol, pickle.HIGHEST_PROTOCOL))]
    found = []  # type: list
    data = pickle.dumps(value, 5, buffer_callback=found.append)  # novm
    return [data] + [buffer.raw() for buffer in found]


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


class Repeats(object):
    """Large arguments that come a second time: from then on they are shared, and travel once to each node.

    Equal is what has equal type, shape and bytes, so a changed array is another one. Shared
    arrays arrive read-only, as ``share`` says.
    """

    def __init__(self, share):
        # type: (object) -> None
        self._share = share
        self._lock = threading.Lock()
        self._seen = OrderedDict()  # type: OrderedDict # key -> None, or the handle
        self._bytes = 0

    def swapped(self, value):
        # type: (object) -> object
        """The value, or a handle that stands for it."""
        size = _size(value)
        if size < LARGE_BYTES:
            return value
        try:
            key = _content(value)
        except (TypeError, ValueError, BufferError, NotImplementedError):
            return value  # not one run of plain bytes
        with self._lock:
            if self._seen.get(key) is not None:
                return self._seen[key]
            if key in self._seen and self._bytes + size <= REPEATS_BYTES_MAX:
                try:
                    self._seen[key] = self._share(value)  # type: ignore[operator]
                except (OSError, IOError):
                    return value  # no room on the disk: it travels as it is
                self._bytes += size
                return self._seen[key]
            self._seen[key] = None
            while len(self._seen) > REPEATS_REMEMBERED_MAX:
                oldest = next(iter(self._seen))
                if self._seen[oldest] is not None:
                    break  # a task may still need it
                del self._seen[oldest]
        return value

    def drop(self):
        # type: () -> None
        """No task needs them any more."""
        with self._lock:
            for handle in self._seen.values():
                if handle is not None:
                    handle.drop()
            self._seen.clear()


def _size(value):
    # type: (object) -> int
    if isinstance(value, (bytes, bytearray, text_type)):
        return len(value)
    size = getattr(value, "nbytes", 0)
    return size if isinstance(size, int) else 0


def _content(value):
    # type: (object) -> tuple
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, text_type) else value
    view = memoryview(data)  # type: ignore[arg-type]
    digest = hashlib.sha256(view if view.ndim == 1 and view.itemsize == 1 else view.cast("B")).digest()  # novm
    return type(value), str(getattr(value, "dtype", "")), getattr(value, "shape", None), digest


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
