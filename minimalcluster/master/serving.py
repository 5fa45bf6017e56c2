"""The master's answers to requests of worker processes: project modules, package data, the script, shared objects.

The name in a request about modules begins with the number of the job's code (``sources.Code``): "17:lab.shapes". The
answers need files and pickles, which take time, so they are made in a thread of their own.
"""
from __future__ import absolute_import, division, print_function

import itertools
import os
import sys
import threading
from collections import deque

from ..compat import PICKLE_PROTOCOL_MAX, as_text, queue
from ..logs import log
from ..payload import script, shares, sources, values
from ..payload.imports import FALLBACKS
from ..wire import protocol

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Callable  # noqa: F401 # novm

#: Letters of the digest in a shared object's name: 128 bits are enough to distinguish the objects of one user.
NAME_LETTERS = 32
#: The log reports so many packages with differing versions at most.
VERSIONS_LOGGED_MAX = 1000
#: At the end, the thread may finish its answer for so long.
CLOSE_SECONDS = 1.0

if not shares.in_worker_process:  # there a script may import this module, but its modules come from the master
    sources.watch()


class Library(object):
    """The answers. ``ask(send, request, info, local)`` returns at once; the answer goes to ``send`` later.

    local: the asking process runs on the master's machine.
    """

    def __init__(self, call):
        # type: (Callable[..., None]) -> None
        self._call = call  # runs a function in the cluster's thread
        self._requests = queue.Queue()  # type: queue.Queue
        self._thread = None  # type: threading.Thread | None
        self._names = threading.RLock()  # held while files of shared objects are written or removed
        self._dropped = deque()  # type: deque # names whose files are to be removed
        self._versions = set()  # type: set[str] # the log lines about versions so far
        self._shared = {}  # type: dict[str, dict] # name -> {protocol: info}, the newest protocol first
        self._files = shares.Files()

    # -- from any thread --------------------------------------------------------------------------

    def share(self, buffers, needs, name=None):
        # type: (list, str, str | None) -> str
        """Keep the pickle of an object for the nodes. Returns the object's name.

        The name is made of a digest of the content and a number among equal objects. So the next run of the script
        gives the same object the same name, and a journal recognises its tasks. (The pickle of a set of texts, and so
        its name, differs in each run.)
        """
        protocol_ = PICKLE_PROTOCOL_MAX
        content = values.digest(buffers)[:NAME_LETTERS] if name is None else name
        with self._names:
            names = ("%s-%d" % (content, number) for number in itertools.count())
            name = next(name for name in names if not self.has(name))
            self._shared[name] = {}  # reserve the name: the garbage collector may run a ``__del__`` that shares here
            try:
                info = self._files.keep("%s.%d" % (name, protocol_), buffers)
                self._shared[name][protocol_] = dict(info, needs=values.with_version(needs))
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
        """Never waits: a ``__del__`` method may call it at any point, also in the middle of ``share``."""
        self._dropped.append(name)
        self._remove_dropped()

    def _remove_dropped(self):
        # type: () -> None
        """Remove the files of dropped names. If another call holds the lock, that call does it afterwards."""
        while self._dropped and self._names.acquire(False):
            try:
                while self._dropped:
                    name = self._dropped.popleft()
                    for protocol_ in self._shared.pop(name, {}):
                        self._files.discard("%s.%d" % (name, protocol_))
            finally:
                self._names.release()

    def close(self):
        # type: () -> None
        self._requests.put(None)
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)  # 2.7 shows a traceback for a thread that ends with the interpreter
        self._files.close()

    # -- from the cluster's thread ----------------------------------------------------------------

    def ask(self, send, request, info, local):
        # type: (Callable[[protocol.Fetched], None], int, dict, bool) -> None
        self._requests.put((send, request, info, local))

    def start(self):
        # type: () -> None
        """Start the thread, if it does not run. Raises RuntimeError if the system starts no thread."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="minimalcluster-library")
            thread.daemon = True
            thread.start()
            self._thread = thread

    # -- in the library's thread ------------------------------------------------------------------

    def _work(self):
        # type: () -> None
        while True:
            asked = self._requests.get()
            if asked is None:
                return
            send, request, info, local = asked
            try:
                answer, buffers = self._answer(info, local)
            except BaseException as error:  # finders and loaders of the user may raise anything
                answer, buffers = {"found": False, "error": as_text("%s: %s" % (type(error).__name__, error))}, []
            self._call(send, protocol.Fetched(request, answer, buffers))

    def _answer(self, info, local):
        # type: (dict, bool) -> tuple
        what, name = info.get("what"), str(info.get("name"))
        if what == "version":
            return self._other_version(name)
        if what in ("share", "share bytes"):  # the latter: an engine's worker process is on another machine
            return self._share(name, int(info.get("pickle", 2)), local and what == "share")
        if what == "script":
            return _script(name)
        number, _, name = name.partition(":")
        code = sources.loaded.numbered(int(number) if number.isdigit() else 0)
        if what == "module":
            return self._module(code, name, local)
        if what == "code":
            found = [(each, sources.loaded.of(code, each)) for each in name.split(",")]
            stamps = {each: _stamp(loaded) for each, loaded in found if loaded is not None}
            return {"found": True, "modules": stamps}, []
        if what in ("resource", "contents"):
            package, _, resource = name.partition(":")
            return (self._resource if what == "resource" else self._contents)(package, resource)
        if what == "modules":
            return self._modules(name.partition(":")[0])
        return {"found": False}, []

    def _module(self, code, name, local):
        # type: (sources.Code, str, bool) -> tuple
        if name.partition(".")[0] in FALLBACKS:
            return self._fallback(name, local)
        loaded = sources.loaded.of(code, name)
        if loaded is None:
            version = sources.variables(sys.modules.get(name)).get("__version__")
            return {"found": False, "version": as_text(version) if isinstance(version, str) else None}, []
        module = loaded.module
        if module.kind == sources.FOREIGN:
            return {"found": False, "foreign": as_text(module.filename), "local": local}, []
        return _described(name, loaded, local), [loaded.data]

    def _other_version(self, text):
        # type: (str) -> tuple
        """A worker process has imported an installed package of another version than the master's: log that once."""
        if text not in self._versions and len(self._versions) < VERSIONS_LOGGED_MAX:
            self._versions.add(text)
            log.warning("%s: results may differ", text)
        return {"found": True}, []

    def _fallback(self, name, local):
        # type: (str, bool) -> tuple
        """cloudpickle, the only installed package that is served: by-value functions need it on every node."""
        module = sources.find(name, False)
        if module is None or module.kind != sources.SOURCE:
            return {"found": False}, []
        data, _ = sources.read(module, name)
        return _described(name, sources.Loaded(module, data, values.digest([data]), None, 0, 0), local), [data]

    def _folders(self, package):
        # type: (str) -> list[str]
        """A package's folders; of one without __init__.py only if it was imported, since any folder could be one."""
        module = sources.find(package)
        if module is None or not module.package or (module.kind == sources.FOLDER and not sources.is_imported(package)):
            return []
        return module.folders if module.kind == sources.FOLDER else [os.path.dirname(module.filename)]

    def _below(self, package, resource):
        # type: (str, str) -> str | None
        """The path of a package's data file. Only files below the package are served, no others of this machine."""
        parts = _parts(resource)
        if parts is None:
            return None
        for folder in self._folders(package):
            path = os.path.join(folder, *parts)
            real, real_folder = os.path.realpath(path), os.path.realpath(folder)
            if (real + os.sep).startswith(real_folder + os.sep) and os.path.exists(path):
                return path
        return None

    def _resource(self, package, resource):
        # type: (str, str) -> tuple
        path = self._below(package, resource)
        if path is None:
            return self._part_of_zip(package, resource)
        if not os.path.isfile(path):
            return {"found": False}, []
        with open(path, "rb") as file:
            return {"found": True}, [file.read()]

    def _part_of_zip(self, package, resource):
        # type: (str, str) -> tuple
        """A data file of a package that is in no folder (but in a zip file): its loader reads it."""
        module, parts = sources.find(package), _parts(resource)
        if module is None or not module.package or parts is None or os.path.isdir(os.path.dirname(module.filename)):
            return {"found": False}, []
        path = os.path.join(os.path.dirname(module.filename), *parts)
        try:
            return {"found": True}, [bytes(module.loader.get_data(path))]
        except (AttributeError, OSError, IOError):
            return {"found": False}, []

    def _contents(self, package, resource):
        # type: (str, str) -> tuple
        path = self._below(package, resource)
        if path is None or not os.path.isdir(path):
            return {"found": False}, []
        return {"found": True, "names": sorted(as_text(name) for name in os.listdir(path))}, []

    def _modules(self, package):
        # type: (str) -> tuple
        """The names of the modules in a package; a package's ends with "/"."""
        import pkgutil  # few programs ask for it

        listed = pkgutil.iter_modules(self._folders(package))
        names = [as_text(each[1]) + ("/" if each[2] else "") for each in listed]
        return {"found": True, "names": sorted(names)}, []

    def _share(self, name, protocol_, local):
        # type: (str, int, bool) -> tuple
        if name not in self._shared:
            return {"found": False}, []
        infos = self._shared[name]
        protocol_ = max(2, min(protocol_, PICKLE_PROTOCOL_MAX))  # each is a file here: so many, and no more
        if protocol_ not in infos:
            first = infos[PICKLE_PROTOCOL_MAX]
            made = self._files.keep("%s.%d" % (name, protocol_), shares.in_older_protocol(first, protocol_))
            infos[protocol_] = dict(made, needs=first["needs"])
        info = infos[protocol_]
        return (info, []) if local else ({"found": True, "needs": info["needs"]}, shares.read(info))


def _parts(resource):
    # type: (str) -> list[str] | None
    """The names in the path of a data file; None if one of them leads, or may lead, out of the package."""
    parts = resource.split("/") if resource else []
    if not all(parts) or any(part in (".", "..") or os.sep in part or set("\\:\0") & set(part) for part in parts):
        return None
    return parts


def _script(digest):
    # type: (str) -> tuple
    known = script.known()
    if known is None or known.digest != digest:
        return {"found": False}, []
    return {"found": True}, [known.data]


def _described(name, loaded, local):
    # type: (str, sources.Loaded, bool) -> dict
    """The description of a module that is sent with its source."""
    module = loaded.module
    info = {
        "found": True, "kind": module.kind, "filename": as_text(module.filename), "package": module.package,
        "local": local, "stamp": _stamp(loaded),
    }  # type: dict[str, object] # fmt: skip
    if module.kind == sources.FOLDER:
        info.update(folders=[as_text(each) for each in module.folders], imported=sources.is_imported(name))
    elif module.kind == sources.COMPILED:
        info["minor"] = "%d.%d" % sys.version_info[:2]
    else:
        info["mtime"] = loaded.mtime
    return info


def _stamp(loaded):
    # type: (sources.Loaded) -> list
    """The first two tell versions of a module apart; the third is for their order."""
    return [loaded.digest, loaded.loads, loaded.serial]
