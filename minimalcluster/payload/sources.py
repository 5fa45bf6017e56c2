"""The project's modules on this machine: which they are, where they lie, and their sources as they were loaded.

A job runs what this process had loaded when the job was given, not what the files say later. So a module's source is
read when it is imported (``watch``), and each job has a ``Code``: the sources that were loaded then. Of a module that
this process has not imported, a job has what its file says when it is first asked for.

::

    import, importlib.reload --_Watcher--> source, as it is loaded --+
    a job is given ---> Sources.current() ---> Code: name -> Loaded <-+-- Sources.of(code, name) <-- nodes, journals
"""
from __future__ import absolute_import, division, print_function

import hashlib
import itertools
import os
import sys
import threading
import warnings
import weakref
from collections import namedtuple

from ..compat import PY2, hexadecimal, native
from .environment import PREFIX as ENVIRONMENT_PREFIX
from .imports import is_own_path, plain_folders, variables

_OURS = __name__.split(".")[0]
#: A reload makes another object of this; 2.7 has no specs.
_MARK = "__file__" if PY2 else "__spec__"  # py2

_AUTORELOAD = "IPython.extensions.autoreload"

#: Kinds of modules: Python text; a .pyc file alone; a folder without __init__.py; anything else (an extension).
SOURCE, COMPILED, FOLDER, FOREIGN = "source", "compiled", "folder", "foreign"
_KINDS = {".py": SOURCE, ".pyw": SOURCE, ".pyc": COMPILED, ".pyo": COMPILED}

#: One of the project's modules. package: whether it may have others below it, in these folders.
Module = namedtuple("Module", "kind filename package folders loader")

#: What a process has loaded of it. mtime: its file's, None without one. loads: how often, before this time.
#: serial: its place in the order of all loads.
Loaded = namedtuple("Loaded", "module data digest mtime loads serial")


# -- which modules are the project's ----------------------------------------------------------------


def find(name, own=True):
    # type: (str, bool) -> Module | None
    """The project's module of that name, imported here or not; None if the project has none. Imports nothing.

    Everything that asks whether a module is the project's asks this. own=False: an installed package's, too.
    """
    parts = name.split(".")
    if parts[0] == _OURS or _is_reserved(parts[0]) or not all(parts) or any(each in name for each in "/\\\0"):
        return None
    module = _described(name, variables(sys.modules.get(name)))
    if module is None:
        module = _searched(name, own)
    if module is None or not own:
        return module
    places = module.folders if module.kind == FOLDER else [module.filename]
    return module if any(is_own_path(place) for place in places) else None


def _is_reserved(name):
    # type: (str) -> bool
    """The script under its names, and environments: they travel in ways of their own."""
    return (name.startswith("__") and name.endswith("__")) or name.startswith(ENVIRONMENT_PREFIX)


def is_imported(name):
    # type: (str) -> bool
    return bool(variables(sys.modules.get(name)))


def _described(name, told):
    # type: (str, dict) -> Module | None
    """An imported module by its variables; None where these do not tell where it lies."""
    spec = told.get("__spec__") if _is_spec(told.get("__spec__")) else None  # type: object
    loader = told.get("__loader__") or getattr(spec, "loader", None)
    filename, folders = told.get("__file__"), _folders(told.get("__path__"))
    if not isinstance(filename, str) and getattr(spec, "has_location", False):
        filename = spec.origin  # type: ignore[attr-defined]
    return _as_module(filename, folders, loader, name)


def _is_spec(spec):
    # type: (object) -> bool
    return not PY2 and issubclass(type(spec), type(sys.__spec__))


def _folders(path):
    # type: (object) -> list[str] | None
    try:
        return None if path is None else [each for each in path if isinstance(each, str)]  # type: ignore[attr-defined]
    except Exception:  # somebody's own
        return None


def _as_module(filename, folders, loader, name):
    # type: (object, list | None, object, str) -> Module | None
    package = folders is not None
    if not isinstance(filename, str):
        if folders:
            return Module(FOLDER, "", True, folders, loader)
        if _text_of(loader, name) is None:
            return None
        return Module(SOURCE, "<%s>" % name, package, folders or [], loader)
    if PY2 and filename.endswith((".pyc", ".pyo")) and _exists(filename[:-1], loader):  # py2
        filename = filename[:-1]
    kind = _KINDS.get(os.path.splitext(filename)[1], FOREIGN)
    return Module(kind, filename, package, folders or [], loader)


def _exists(filename, loader):
    # type: (str, object) -> bool
    if os.path.isfile(filename):
        return True
    try:
        return bool(loader.get_data(filename))  # type: ignore[attr-defined]
    except Exception:  # no such loader, no such file
        return False


def _text_of(loader, name):
    # type: (object, str) -> str | None
    """Of a module that has no file: what its loader has for its source, if it is neither built in nor frozen."""
    if loader is None or type(loader) is type or getattr(type(loader), "__module__", "").startswith("_frozen"):
        return None
    try:
        text = loader.get_source(name)  # type: ignore[attr-defined]
    except Exception:  # somebody's own
        return None
    return text if isinstance(text, str) else None


def _searched(name, own):
    # type: (str, bool) -> Module | None
    above, _, _ = name.rpartition(".")
    path = None  # type: list | None
    if above:
        package = find(above, own)
        if package is None or not package.package:
            return None
        path = package.folders
    return (_search_2 if PY2 else _search_3)(name, path)


def _search_3(name, path):
    # type: (str, list | None) -> Module | None
    spec = _spec(name, path)
    if spec is None:
        from importlib import invalidate_caches  # novm

        invalidate_caches()  # the file may be younger than what the finders remember of its folder
        spec = _spec(name, path)
    if spec is None:
        folders = plain_folders(name, path)
        return Module(FOLDER, "", True, folders, None) if folders else None
    filename = spec.origin if spec.has_location else None  # type: ignore[attr-defined]
    return _as_module(filename, _folders(spec.submodule_search_locations), spec.loader, name)  # type: ignore[attr-defined]


def _spec(name, path):
    # type: (str, list | None) -> object
    for finder in list(sys.meta_path):
        try:
            spec = None if isinstance(finder, _Watcher) else finder.find_spec(name, path)
        except Exception:  # somebody's own  # noqa: S112
            continue
        if _is_spec(spec):
            return spec
    return None


def _search_2(name, path):  # py2
    # type: (str, list | None) -> Module | None
    import pkgutil

    for entry in sys.path if path is None else path:
        importer = pkgutil.get_importer(entry)  # type: object
        loader = importer.find_module(name) if importer is not None else None  # type: ignore[attr-defined]
        if loader is not None and hasattr(loader, "get_filename"):
            filename = loader.get_filename(name)
            folders = [os.path.dirname(filename)] if loader.is_package(name) else None
            return _as_module(filename, folders, loader, name)
    return None


# -- what was loaded ------------------------------------------------------------------------------


class Code(object):
    """The sources that a job runs. ``number`` names it to the nodes."""

    def __init__(self, number, known):
        # type: (int, dict) -> None
        self.number, self.known = number, known  # known: name -> Loaded

    def tops(self):
        # type: () -> list[str]
        """The names that are the project's, also where a node has something else by one of them."""
        return sorted({name.partition(".")[0] for name in list(self.known)})


class Sources(object):
    """What this process has loaded of the project. ``current`` is for who gives a job; all calls from any thread."""

    def __init__(self):
        # type: () -> None
        self._lock = threading.RLock()  # an import that the garbage collection runs may come in between
        self._begun = {}  # type: dict[str, tuple] # name -> (spec, source, mtime), since its import began
        self._imported = {}  # type: dict[str, tuple] # name -> (module, its variables, its mark)
        self._looked_at = {}  # type: dict[str, object] # every name in sys.modules -> the module it was
        self._last = None  # type: str | None # of those
        self._serial = itertools.count(1)
        self._imports = {}  # type: dict[str, set[str]] # by the source's digest
        self._changed = 0  # the last reload that brought something else
        # No two masters have a number in common: a node that outlives one asks the next for its modules.
        self._code = Code(int(hexadecimal(os.urandom(6)), 16), {})
        self._codes = weakref.WeakValueDictionary({self._code.number: self._code})
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._unlock)  # novm

    def _unlock(self):
        # type: () -> None
        """In a fork: the thread that may have had it is not there."""
        self._lock = threading.RLock()

    def begun(self, name, spec):
        # type: (str, object) -> None
        """An import has found its module and is about to load it."""
        origin = spec.origin if spec.has_location else None  # type: ignore[attr-defined]
        if isinstance(origin, str) and is_own_path(origin) and name.partition(".")[0] != _OURS:
            module = _as_module(origin, None, spec.loader, name)  # type: ignore[attr-defined]
            self._begun.pop(name, None)  # the last one stands last
            self._begun[name] = (spec,) + read(module, name)  # type: ignore[arg-type]

    def current(self, look=True):
        # type: (bool) -> Code
        """The code of a job that is given now.

        look: also at what no import tells, such as files of what is not imported here. It costs some 100 us.
        """
        if not look and self._is_quiet():
            return self._code
        with self._lock:
            news = self._reloaded()
            news.update(self._edited() if look else {})
            if any(name in self._code.known for name in news):
                self._code = Code(self._code.number + 1, dict(self._code.known))
                self._codes[self._code.number] = self._code
            self._code.known.update(news)
            return self._code

    def _is_quiet(self):
        # type: () -> bool
        """No module has been imported or reloaded: what is asked for each call that is submitted must cost little."""
        watched = bool(sys.meta_path) and isinstance(sys.meta_path[0], _Watcher)
        modules = sys.modules
        return watched and not self._begun and len(modules) == len(self._looked_at) and _last(modules) == self._last

    def numbered(self, number):
        # type: (int) -> Code
        """That of a job. Of a former master's: what is current; its journal has seen that the sources are equal."""
        with self._lock:
            return self._codes.get(number) or self._code

    def of(self, code, name):
        # type: (Code, str) -> Loaded | None
        """A module of the project in that code; read now, and kept, if nobody has asked for it yet."""
        with self._lock:
            found = code.known.get(name) or self._code.known.get(name)
        if found is None:
            found = self._take(name)
        if found is None:
            return None
        with self._lock:
            return code.known.setdefault(name, self._code.known.setdefault(name, found))

    def _reloaded(self):
        # type: () -> dict[str, Loaded]
        """By name: what was imported or reloaded since the last time."""
        looked_at = dict(sys.modules)  # type: dict[str, object]
        changed = {name for name in looked_at if self._looked_at.get(name, self) is not looked_at[name]}
        for name, (module, told, mark) in self._imported.items():
            if looked_at.get(name) is not module or told.get(_MARK) is not mark:
                changed.add(name)
        order = {name: place for place, name in enumerate(list(self._begun))}
        news, changed_before = {}, self._changed
        for name in sorted(changed, key=lambda name: order.get(name, -1)):
            loaded = self._noticed(name, looked_at.get(name))
            if loaded is not None:
                news[name] = loaded
        if self._changed != changed_before and _AUTORELOAD in sys.modules:
            news.update(self._above(set(news)))
        for name in set(self._begun).difference(looked_at):  # their imports have failed
            self._begun.pop(name, None)
        self._looked_at, self._last = looked_at, _last(looked_at)  # after all else: Ctrl-C may come before
        return news

    def _noticed(self, name, module):
        # type: (str, object) -> Loaded | None
        """Remember which module that name is now; what of it is new."""
        told = variables(module)
        before, was_imported = self._code.known.get(name), name in self._imported
        loaded = self._take(name, before) if told else None
        if loaded is None:
            self._imported.pop(name, None)
            return None
        self._imported[name] = (module, told, told.get(_MARK))
        if before is None or loaded is before:
            return loaded if before is None else None
        # Of the same source it matters only if it may have taken something else from another one this time.
        if loaded.digest == before.digest and (not was_imported or before.serial > self._changed):
            return None
        self._changed = loaded.serial
        return loaded

    def _above(self, changed):
        # type: (set) -> dict[str, Loaded]
        """The modules that import these, to be run again too.

        IPython's autoreload does not: it changes functions and classes that they have taken from the old ones.
        """
        news, last = {}, changed  # type: dict[str, Loaded], set
        while last:
            others = [name for name in self._imported if name not in changed]
            last = {name for name in others if not last.isdisjoint(self._imports_of(name))}
            for name in sorted(last.intersection(self._code.known)):
                before = self._code.known[name]
                news[name] = before._replace(loads=before.loads + 1, serial=next(self._serial))
            changed = changed | last
        return news

    def _imports_of(self, name):
        # type: (str) -> set[str]
        found = self._code.known.get(name)
        if found is None or found.module.kind != SOURCE:
            return set()
        if found.digest not in self._imports:
            package = name if found.module.package else name.rpartition(".")[0]
            self._imports[found.digest] = _imported_names(found.data, package)
        return self._imports[found.digest]

    def _edited(self):
        # type: () -> dict[str, Loaded]
        """By name: what has another source now, of modules that were asked for and are not imported here."""
        news = {}
        for name, before in list(self._code.known.items()):
            if name in self._imported or before.mtime is None or _modified(before.module.filename) == before.mtime:
                continue
            loaded = self._take(name, before)
            if loaded is not None and loaded.digest == before.digest:
                self._code.known[name] = before._replace(mtime=loaded.mtime)
            elif loaded is not None:
                news[name], self._changed = loaded, loaded.serial
        return news

    def _take(self, name, before=None):
        # type: (str, Loaded | None) -> Loaded | None
        """The module as it was loaded, or would be now. before: the same, the last time."""
        module = find(name)
        if module is None:
            return None
        spec, data, mtime = self._begun.pop(name, (None, None, None))
        if spec is None or variables(sys.modules.get(name)).get("__spec__") is not spec:
            try:
                data, mtime = read(module, name)
            except Exception:  # the file is gone, or the loader is somebody's own
                return before
        digest = hashlib.sha256(data + repr((module.kind, module.folders)).encode("utf-8", "replace")).hexdigest()
        if before is not None and before.digest != digest and not _compiles(module, data):
            return before  # a reload that failed has left the module as it was
        loads = 0 if before is None else before.loads + 1
        return Loaded(module, data, digest, mtime, loads, next(self._serial))


def read(module, name):
    # type: (Module, str) -> tuple
    """(source or compiled code, its file's time or None). Raises what reading raises."""
    if module.kind in (FOLDER, FOREIGN):
        return b"", None
    modified = _modified(module.filename)  # first: whoever saves it now has another time
    if hasattr(module.loader, "get_data"):
        return bytes(module.loader.get_data(module.filename)), modified
    if modified is not None:
        with open(module.filename, "rb") as file:
            return file.read(), modified
    text = module.loader.get_source(name)
    return (text if PY2 else text.encode("utf-8")), None


def _last(modules):
    # type: (dict) -> str | None
    """The name that was put in last. (Before 3.8 only their number tells.)"""
    return next(reversed(modules), None) if sys.version_info >= (3, 8) else None


def _modified(path):
    # type: (str) -> float | None
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


def _compiles(module, data):
    # type: (Module, bytes) -> bool
    if module.kind != SOURCE:
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reload has shown them
        try:
            compile(data, native(module.filename), "exec", dont_inherit=True)
        except (SyntaxError, ValueError, TypeError):
            return False
    return True


class _Watcher(object):
    """First in ``sys.meta_path``: lets the others find, and reads the project's sources as they are loaded."""

    def find_spec(self, name, path=None, target=None):
        # type: (str, object, object) -> object
        finders = list(sys.meta_path)  # type: list
        for finder in finders[finders.index(self) + 1 :] if self in finders else ():
            if not hasattr(finder, "find_spec"):
                return None  # of an old kind: the interpreter knows how to ask it
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                try:
                    loaded.begun(name, spec)
                except Exception:  # nothing of ours may fail an import; it is read when a job is given  # noqa: S110
                    pass
                return spec
        return None


#: This process's. Every master in it asks the same one.
loaded = Sources()


def watch():
    # type: () -> None
    """From now on. What is imported already is read now. (2.7: each is read when the next job is given.)"""
    if not PY2 and not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())  # type: ignore[arg-type]
    loaded.current()


# -- what a source stands on ----------------------------------------------------------------------


def project_modules():
    # type: () -> list[str]
    """Names of the project's modules that are imported here."""
    return sorted(name for name in loaded.current().known if is_imported(name))


def project_sources(source, package=""):
    # type: (bytes, str) -> dict[str, bytes]
    """By module: the sources of the project's own that a source of this package imports, and that those import."""
    code = loaded.current()
    found, seen, left = {}, set(), [(source, package)]  # type: dict[str, bytes], set[str], list[tuple[bytes, str]]
    while left:
        names = _imported_names(*left.pop()).difference(seen)
        seen.update(names)
        for name in sorted(names):
            each = loaded.of(code, name)
            if each is not None and each.module.kind in (SOURCE, COMPILED):
                found[name] = each.data
                left.append((each.data, name if each.module.package else name.rpartition(".")[0]))
    return found


def _imported_names(source, package):
    # type: (bytes, str) -> set[str]
    """Of what may be modules, anywhere in the source, with their packages."""
    import ast  # not in every process

    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, TypeError, RuntimeError):  # no source: which it is differs between Pythons
        return set()
    names = set()  # type: set[str]
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(above + ([node.module] if node.module else []))
            names.add(base)
            names.update("%s.%s" % (base, alias.name) for alias in node.names)
    parts = [name.split(".") for name in names]
    return {".".join(each[:count]) for each in parts for count in range(1, len(each) + 1)} - {""}
