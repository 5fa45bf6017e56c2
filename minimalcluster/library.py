"""The master's answers to what worker processes ask for: project modules, package data, shared objects.

It reads files and pickles, so it works in a thread of its own, started with the first question.
"""
from __future__ import absolute_import, division, print_function

import itertools
import os
import threading
from collections import deque

from . import protocol, shares, values
from .compat import PICKLE_PROTOCOL_MAX, as_text, hexadecimal, queue
from .imports import is_project_file, source_file

#: Installed packages that are served all the same: by-value functions need it on every node.
SERVED_PACKAGES = ("cloudpickle",)
#: Of a shared object's digest, 128 bits: enough to tell objects of one user apart.
NAME_LETTERS = 32
#: So long an answer that is being prepared is waited for at the end.
CLOSE_SECONDS = 1.0


class Library(object):
    """``ask(send, request, info, local)`` answers later, through ``send``, from the library's own thread."""

    def __init__(self, call):
        # type: (object) -> None
        self._call = call  # runs a function in the cluster's thread
        self._questions = queue.Queue()  # type: queue.Queue
        self._thread = None  # type: threading.Thread | None
        self._lock = threading.RLock()  # of what the cluster's thread asks for too: held for moments only
        self._names = threading.RLock()  # while a file is written or removed
        self._dropped = deque()  # type: deque # names whose files may go
        self._served = {}  # type: dict[str, float] # file -> its time when it was served
        self._shared = {}  # type: dict[str, tuple] # name -> (value, {protocol: info})
        self._files = shares.Files()
        # No two masters have a number in common: a node that outlives one asks the next for its modules.
        self._version = int(hexadecimal(os.urandom(6)), 16)

    # -- from any thread --------------------------------------------------------------------------

    def share(self, value):
        # type: (object) -> str
        """Keep an object for the nodes, under the name that is returned. Raises what its pickling raises.

        The name tells the content, and which of its equals it is: the script's next run calls the same
        object by the same name, so that a journal knows its tasks again. (A set of texts has another each time.)
        """
        protocol_ = PICKLE_PROTOCOL_MAX
        buffers = shares.dump(value, protocol_)
        content = values.digest(buffers)[:NAME_LETTERS]
        with self._names:
            names = ("%s-%d" % (content, number) for number in itertools.count())
            name = next(name for name in names if not self.has(name))
            self._shared[name] = (value, {})  # taken: garbage may be collected in here, whose ``__del__`` shares its equal
            try:
                self._shared[name][1][protocol_] = self._files.keep("%s.%d" % (name, protocol_), buffers)
            except BaseException:
                del self._shared[name]
                raise
        self._remove_dropped()
        return name

    def has(self, name):
        # type: (object) -> bool
        return name in self._shared

    def drop(self, name):
        # type: (str) -> None
        """Never waits: a ``__del__`` method may call it wherever garbage is collected, in the middle of ``share`` too."""
        self._dropped.append(name)
        self._remove_dropped()

    def _remove_dropped(self):
        # type: () -> None
        """Unless the names are in use; then whoever uses them comes here next."""
        while self._dropped and self._names.acquire(False):
            try:
                while self._dropped:
                    name = self._dropped.popleft()
                    _, infos = self._shared.pop(name, (None, {}))
                    for protocol_ in infos:
                        self._files.discard("%s.%d" % (name, protocol_))
            finally:
                self._names.release()

    def close(self):
        # type: () -> None
        self._questions.put(None)
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)  # 2.7 shows a traceback for a thread that ends with the interpreter
        self._files.close()

    def version(self):
        # type: () -> int
        """Another number whenever a served file has changed."""
        with self._lock:
            if any(_modified(path) != modified for path, modified in list(self._served.items())):
                self._served.clear()
                self._version += 1
            return self._version

    # -- from the cluster's thread ----------------------------------------------------------------

    def ask(self, send, request, info, local):
        # type: (object, int, dict, bool) -> None
        self.start()
        self._questions.put((send, request, info, local))

    def start(self):
        # type: () -> None
        """Its thread, unless it runs; else with the first question."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="minimalcluster-library")
            self._thread.daemon = True
            self._thread.start()

    # -- its own thread ---------------------------------------------------------------------------

    def _work(self):
        # type: () -> None
        while True:
            question = self._questions.get()
            if question is None:
                return
            send, request, info, local = question
            try:
                answer, buffers = self._answer(info, local)
            except Exception as error:  # finding a module runs its parents' code
                answer, buffers = {"found": False, "error": as_text("%s: %s" % (type(error).__name__, error))}, []
            self._call(send, protocol.Fetched(request, answer, buffers))  # type: ignore[operator]

    def _answer(self, info, local):
        # type: (dict, bool) -> tuple
        what, name = info.get("what"), str(info.get("name"))
        if what == "module":
            return self._module(name)
        if what in ("resource", "contents"):
            package, _, resource = name.partition(":")
            return (self._resource if what == "resource" else self._contents)(package, resource)
        if what == "share":
            return self._share(name, int(info.get("pickle", 2)), local)
        return {"found": False}, []

    def _module(self, name):
        # type: (str) -> tuple
        path = source_file(name)
        if path is None or not (is_project_file(path) or name.split(".")[0] in SERVED_PACKAGES):
            return {"found": False}, []
        with open(path, "rb") as file:
            source = file.read()
        self._served[path] = _modified(path)
        return {"found": True, "filename": as_text(path), "package": os.path.basename(path) == "__init__.py"}, [source]

    def _folder(self, package):
        # type: (str) -> str | None
        path = source_file(package)
        if path is None or os.path.basename(path) != "__init__.py" or not is_project_file(path):
            return None
        return os.path.dirname(path)

    def _below(self, package, resource):
        # type: (str, str) -> str | None
        """The path of package data. It lies below the package: nothing else of the master's files is to be had."""
        folder = self._folder(package)
        parts = resource.split("/") if resource else []
        if folder is None or not all(parts) or any(part in (".", "..") or os.sep in part for part in parts):
            return None
        path = os.path.join(folder, *parts)
        real, real_folder = os.path.realpath(path), os.path.realpath(folder)
        return path if (real + os.sep).startswith(real_folder + os.sep) else None

    def _resource(self, package, resource):
        # type: (str, str) -> tuple
        path = self._below(package, resource)
        if path is None or not os.path.isfile(path):
            return {"found": False}, []
        with open(path, "rb") as file:
            return {"found": True}, [file.read()]

    def _contents(self, package, resource):
        # type: (str, str) -> tuple
        path = self._below(package, resource)
        if path is None or not os.path.isdir(path):
            return {"found": False}, []
        return {"found": True, "names": sorted(as_text(name) for name in os.listdir(path))}, []

    def _share(self, name, protocol_, local):
        # type: (str, int, bool) -> tuple
        if name not in self._shared:
            return {"found": False}, []
        value, infos = self._shared[name]
        protocol_ = min(protocol_, PICKLE_PROTOCOL_MAX)
        if protocol_ not in infos:
            infos[protocol_] = self._files.keep("%s.%d" % (name, protocol_), shares.dump(value, protocol_))
        info = infos[protocol_]
        return (info, []) if local else ({"found": True}, shares.read(info))


def _modified(path):
    # type: (str) -> float
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
