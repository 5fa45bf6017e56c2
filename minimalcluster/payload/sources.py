"""The project's modules on this machine: their names, their files, and their sources as this process loaded them.

A job runs the sources that this process had loaded when the job was submitted, even if the files change later. So the
source of a module is read when it is imported (``watch``), and each job has a ``Code``: the versions of the modules
that were loaded then. A module that this process has not imported is read when a node first asks for it.

::

    import, importlib.reload --_Watcher--> source, as it is loaded --+
    submit a job -----> Sources.current() ---> Code: name -> Loaded <-+-- Sources.of(code, name) <-- nodes, journals

A job that is submitted looks which modules may have changed since the last look. Each of them is taken again, and one
rule says whether it has a new version (``Sources._version``). If an earlier job has another one, there is a new Code.

==========================================  ========================================================================
a module                                    may have changed if
==========================================  ========================================================================
that is imported here                       ``sys.modules`` has another one of its name, or its variable _MARK is
                                            another object: an import, a reload, IPython's autoreload
that was imported here, and is no more      it is no more: its file counts now; if that cannot be found, it is gone
that a node has asked for                   its file has another time
that is imported here, and IPython's        autoreload has noted another time of its file. (It puts the new functions
autoreload is there                         into the old module, and runs that again only if it cannot.)
that imports a changed one                  IPython's autoreload is there, which has changed functions that it has, too:
                                            a worker process must run it again for that (``Sources._above``)
==========================================  ========================================================================
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
from .imports import is_own_path, plain_folders, source_from, variables

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any  # noqa: F401 # novm

_OURS = __name__.split(".")[0]
#: A module variable that is another object after each reload. (2.7 has no specs.)
_MARK = "__file__" if PY2 else "__spec__"  # py2

_AUTORELOAD = "IPython.extensions.autoreload"

#: Kinds of modules: Python source; only a .pyc file; a folder without __init__.py; others, such as extensions.
SOURCE, COMPILED, FOLDER, FOREIGN = "source", "compiled", "folder", "foreign"
#: A node may ask for a name with any number of dots, and each part of it costs a search.
_PARTS_MAX = 100
_KINDS = {".py": SOURCE, ".pyw": SOURCE, ".pyc": COMPILED, ".pyo": COMPILED}

#: A module of the project. package: True if it may have submodules, which are in ``folders``.
Module = namedtuple("Module", "kind filename package folders loader")

#: A module as this process loaded it. mtime: of its file, None if it has none. loads: the number of earlier loads.
#: serial: its position in the order of all loads of all modules.
Loaded = namedtuple("Loaded", "module data digest mtime loads serial")


# -- which modules are the project's ----------------------------------------------------------------


def find(name, own=True):
    # type: (str, bool) -> Module | None
    """The project's module of that name, imported here or not; None if the project has none. Imports nothing.

    The only place that decides whether a module is the project's. own=False: find modules of installed packages, too.
    """
    parts = name.split(".", _PARTS_MAX)
    if len(parts) > _PARTS_MAX or not all(parts) or any(each in name for each in "/\\:\0"):
        return None
    if parts[0] == _OURS or _is_reserved(parts[0]):
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
    """Whether it is a name of the script or of an environment, which are not sent as modules."""
    return (name.startswith("__") and name.endswith("__")) or name.startswith(ENVIRONMENT_PREFIX)


def is_imported(name):
    # type: (str) -> bool
    return bool(variables(sys.modules.get(name)))


def _described(name, about):
    # type: (str, dict) -> Module | None
    """An imported module, from its variables; None if these do not say where it is."""
    spec = about.get("__spec__") if _is_spec(about.get("__spec__")) else None  # type: Any
    loader = about.get("__loader__") or getattr(spec, "loader", None)
    filename, folders = about.get("__file__"), _folders(about.get("__path__"))
    if not isinstance(filename, str) and getattr(spec, "has_location", False):
        filename = spec.origin
    return _as_module(filename, folders, loader, name)


def _is_spec(spec):
    # type: (object) -> bool
    return not PY2 and issubclass(type(spec), type(sys.__spec__))


def _folders(path):
    # type: (Any) -> list[str] | None
    try:
        return None if path is None else [each for each in path if isinstance(each, str)]
    except Exception:  # a class of the user's, which may raise anything
        return None


def _as_module(filename, folders, loader, name):
    # type: (object, list | None, Any, str) -> Module | None
    package = folders is not None
    if not isinstance(filename, str):
        if folders:
            return Module(FOLDER, "", True, folders, loader)
        if not _has_source(loader, name):
            return None
        return Module(SOURCE, "<%s>" % name, package, folders or [], loader)
    if PY2 and filename.endswith((".pyc", ".pyo")) and _exists(filename[:-1], loader):  # py2
        filename = filename[:-1]
    kind = _KINDS.get(os.path.splitext(filename)[1], FOREIGN)
    return Module(kind, filename, package, folders or [], loader)


def _exists(filename, loader):
    # type: (str, Any) -> bool
    if os.path.isfile(filename):
        return True
    try:
        return bool(loader.get_data(filename))
    except Exception:  # no such loader, no such file
        return False


def _has_source(loader, name):
    # type: (Any, str) -> bool
    """Whether the loader of a module without a file has its source. False for a built-in or a frozen module."""
    if loader is None or type(loader) is type or getattr(type(loader), "__module__", "").startswith("_frozen"):
        return False
    return source_from(loader, name) is not None


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

        invalidate_caches()  # the file may be newer than the finders' caches of its folder
        spec = _spec(name, path)
    if spec is None:
        folders = plain_folders(name, path)
        return Module(FOLDER, "", True, folders, None) if folders else None
    filename = spec.origin if spec.has_location else None
    return _as_module(filename, _folders(spec.submodule_search_locations), spec.loader, name)


def _spec(name, path):
    # type: (str, list | None) -> Any
    for finder in list(sys.meta_path):
        try:
            spec = finder.find_spec(name, path) if _imports_nothing(finder) else None
        except Exception:  # a finder of the user's, which may raise anything  # noqa: S112
            continue
        if _is_spec(spec):
            return spec
    return None


def _imports_nothing(finder):
    # type: (object) -> bool
    """False for our own finder, which asks the others, and for those of installed packages: setuptools imports itself
    if its finder is asked for "distutils", and a node must not make the master import anything. (An editable project's
    finder is the exception: it only finds.)"""
    kind = finder if isinstance(finder, type) else type(finder)
    home = str(getattr(kind, "__module__", ""))
    if isinstance(finder, _Watcher) or home.startswith(("_frozen_importlib", "__editable__")):
        return not isinstance(finder, _Watcher)
    filename = variables(sys.modules.get(home)).get("__file__")
    return not isinstance(filename, str) or is_own_path(filename)


def _search_2(name, path):  # py2
    # type: (str, list | None) -> Module | None
    import pkgutil

    for entry in sys.path if path is None else path:
        importer = pkgutil.get_importer(entry)  # type: Any
        loader = importer.find_module(name) if importer is not None else None
        if loader is not None and hasattr(loader, "get_filename"):
            filename = loader.get_filename(name)
            folders = [os.path.dirname(filename)] if loader.is_package(name) else None
            return _as_module(filename, folders, loader, name)
    return None


# -- what was loaded ------------------------------------------------------------------------------


class Code(object):
    """The sources that a job runs. ``number`` identifies it in messages to and from nodes."""

    def __init__(self, number, known):
        # type: (int, dict) -> None
        self.number, self.known = number, known  # known: name -> Loaded

    def tops(self):
        # type: () -> list[str]
        """The project's top-level names. On a node they win over other modules of the same names."""
        return sorted({name.partition(".")[0] for name in list(self.known)})


class Sources(object):
    """The modules of the project that this process has loaded. All methods may be called in any thread."""

    def __init__(self):
        # type: () -> None
        self._lock = threading.RLock()  # reentrant: the garbage collector may run code that imports
        self._begun = {}  # type: dict[str, tuple] # name -> (spec, source, mtime), for imports that have begun
        self._imported = {}  # type: dict[str, tuple] # name -> (module, its variables, its mark)
        self._looked_at = {}  # type: dict[str, object] # sys.modules at the last look
        self._last = None  # type: str | None # the last name in it
        self._serial = itertools.count(1)
        self._imports = {}  # type: dict[str, set[str]] # digest of a source -> the names it imports
        self._changed = 0  # serial of the last reload that changed a source
        # Numbers of two masters differ: a node that outlives one asks the next master for modules by the old number.
        self._code = Code(int(hexadecimal(os.urandom(6)), 16), {})
        self._codes = weakref.WeakValueDictionary({self._code.number: self._code})
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._unlock)  # novm

    def _unlock(self):
        # type: () -> None
        """In a forked process: make a new lock, since another thread of the parent may have held the old one."""
        self._lock = threading.RLock()

    def begun(self, name, spec):
        # type: (str, Any) -> None
        """Read the source of a module of the project. An import has found the module and is about to load it."""
        origin = spec.origin if spec.has_location else None
        if isinstance(origin, str) and is_own_path(origin) and name.partition(".")[0] != _OURS:
            module = _as_module(origin, None, spec.loader, name)
            self._begun.pop(name, None)  # the order of the dict is the order of the imports
            if module is not None:
                self._begun[name] = (spec,) + read(module, name)

    def current(self, look=True):
        # type: (bool) -> Code
        """The code for a job that is submitted now.

        look: look also for changes that no import shows, such as edited files of modules that are not imported here.
        That costs about 100 us.
        """
        if not look and self._is_quiet() and not self._patched():
            return self._code
        with self._lock:
            news, known = self._news(look), self._code.known
            if any(name in known for name in news):
                known = dict(known)
                self._code = Code(self._code.number + 1, known)
                self._codes[self._code.number] = self._code
            known.update(news)
            for name in [name for name in news if news[name] is None]:
                del known[name]
            return self._code

    def _is_quiet(self):
        # type: () -> bool
        """Whether no module was imported or reloaded since the last look. Cheap, since each submitted call asks it."""
        watched = bool(sys.meta_path) and isinstance(sys.meta_path[0], _Watcher)
        modules = sys.modules
        return watched and not self._begun and len(modules) == len(self._looked_at) and _last(modules) == self._last

    def numbered(self, number):
        # type: (int) -> Code
        """The code with that number. For a number of a former master it is the current code: that a resumed job has the
        same sources was checked by its journal."""
        with self._lock:
            return self._codes.get(number) or self._code

    def of(self, code, name):
        # type: (Code, str) -> Loaded | None
        """A module of the project in that code. If it was not asked for before, it is read now and kept."""
        with self._lock:
            found = code.known.get(name) or self._code.known.get(name)
        if found is None:
            found = self._take(name)
        if found is None:
            return None
        with self._lock:
            return code.known.setdefault(name, self._code.known.setdefault(name, found))

    def _news(self, look):
        # type: (bool) -> dict[str, Loaded | None]
        """The modules that have another version than at the last look, by name; None for one that is gone."""
        looked_at = dict(sys.modules)  # type: dict[str, object]
        changed = {name for name in looked_at if self._looked_at.get(name, self) is not looked_at[name]}
        for name, (module, about, mark) in self._imported.items():
            if looked_at.get(name) is not module or about.get(_MARK) is not mark:
                changed.add(name)
        patched = self._patched()
        changed.update(patched, self._saved() if look else ())
        order = {name: place for place, name in enumerate(list(self._begun))}
        news = {}  # type: dict[str, Loaded | None]
        for name in sorted(changed, key=lambda name: order.get(name, -1)):
            news.update(self._version(name, looked_at.get(name), patched.get(name)))
        if _AUTORELOAD in sys.modules:
            again = {name for name, each in news.items() if each is not None and each.loads and name in self._imported}
            news.update(self._above(again))
        for name in set(self._begun).difference(looked_at):  # their imports have failed
            self._begun.pop(name, None)
        # At the end: if Ctrl-C interrupts this method, the next look finds the changes again.
        self._looked_at, self._last = looked_at, _last(looked_at)
        return news

    def _saved(self):
        # type: () -> set[str]
        """Modules that nodes have asked for, that are not imported here, and whose files have another time now."""
        known = [(name, each) for name, each in list(self._code.known.items()) if name not in self._imported]
        return {name for name, each in known if each.mtime not in (None, _modified(each.module.filename))}

    def _patched(self):
        # type: () -> dict[str, float]
        """Modules into which IPython's autoreload has put what a file had -> that file's time. It looks at no file."""
        reloader, found = _autoreloader(), {}  # type: Any, dict[str, float]
        for name in list(self._imported) if reloader is not None else ():
            loaded, saved_at = self._code.known.get(name), reloader.modules_mtimes.get(name)
            if loaded is None or saved_at in (None, loaded.mtime):
                continue
            if reloader.failed.get(loaded.module.filename) != saved_at:
                found[name] = saved_at
        return found

    def _version(self, name, module, patched_at):
        # type: (str, object, float | None) -> dict[str, Loaded | None]
        """{name: the module's new version}, {name: None} if the project has it no more, or {} if nothing is new.

        module: what has the name in ``sys.modules``, if anything. patched_at: as in ``_patched``.
        """
        about, before, seen = variables(module), self._code.known.get(name), self._imported.get(name)
        has_run = bool(about) and seen is not None and (seen[0] is not module or seen[2] is not about.get(_MARK))
        loaded = self._take(name, before) if about or before is not None else None
        if patched_at is not None and not has_run and loaded is not None and loaded.mtime != patched_at:
            return {}  # the file was saved again: that is not in the module yet
        if about and loaded is not None:
            self._imported[name] = (module, about, about.get(_MARK))
        else:
            self._imported.pop(name, None)
        if loaded is None:
            return {} if before is None else {name: None}
        if before is None or loaded is before:
            return {name: loaded} if before is None else {}
        # With the same source, a reload matters only if a module that it imports may have changed since.
        if loaded.digest == before.digest and not (has_run and before.serial <= self._changed):
            self._code.known[name] = before._replace(mtime=loaded.mtime)
            return {}
        self._changed = loaded.serial
        return {name: loaded}

    def _above(self, changed):
        # type: (set) -> dict[str, Loaded]
        """The modules that import these, directly or not: worker processes must run them again, too.

        (IPython's autoreload does not run them again. It changes the functions and classes that they have imported.)
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

    def _take(self, name, before=None):
        # type: (str, Loaded | None) -> Loaded | None
        """The module as it was loaded, or, if not imported, as its file is now. before: the result of the last time."""
        module = find(name)
        if module is None:
            return None
        spec, data, mtime = self._begun.pop(name, (None, None, None))
        if spec is None or variables(sys.modules.get(name)).get("__spec__") is not spec:
            try:
                data, mtime = read(module, name)
            except Exception:  # the file was removed, or a loader of the user's raises
                return before
        digest = hashlib.sha256(data + repr((module.kind, module.folders)).encode("utf-8", "replace")).hexdigest()
        if before is not None and before.digest != digest and not _compiles(module, data):
            return before  # the reload failed, so the module is still the old one
        loads = 0 if before is None else before.loads + 1
        return Loaded(module, data, digest, mtime, loads, next(self._serial))


def read(module, name):
    # type: (Module, str) -> tuple
    """(source or compiled code, mtime of its file or None). Raises what reading raises."""
    if module.kind in (FOLDER, FOREIGN):
        return b"", None
    modified = _modified(module.filename)  # before reading: if the file is saved now, the next look sees another mtime
    if hasattr(module.loader, "get_data"):
        return bytes(module.loader.get_data(module.filename)), modified
    if modified is not None:
        with open(module.filename, "rb") as file:
            return file.read(), modified
    data = source_from(module.loader, name)
    if data is None:
        raise IOError("the loader of %s has no source of it any more" % name)
    return data, None


def _autoreloader():
    # type: () -> Any
    """IPython's object that loads edited modules (``%autoreload``); None if there is none."""
    if _AUTORELOAD not in sys.modules:
        return None
    try:
        magics = sys.modules["IPython"].get_ipython().magics_manager.registry["AutoreloadMagics"]
        return magics._reloader
    except (KeyError, AttributeError):  # it is imported, but not switched on
        return None


def _last(modules):
    # type: (dict) -> str | None
    """The name that was added last. None before Python 3.8, where only the number of modules shows additions."""
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
        warnings.simplefilter("ignore")  # the reload has shown the warnings
        try:
            compile(data, native(module.filename), "exec", dont_inherit=True)
        except (SyntaxError, ValueError, TypeError):
            return False
    return True


class _Watcher(object):
    """The first finder in ``sys.meta_path``. It lets the others find, and reads the project's sources at import."""

    def find_spec(self, name, path=None, target=None):
        # type: (str, object, object) -> object
        finders = list(sys.meta_path)  # type: list
        for finder in finders[finders.index(self) + 1 :] if self in finders else ():
            if not hasattr(finder, "find_spec"):
                return None  # a finder of the old kind: the interpreter calls it in another way
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                try:
                    loaded.begun(name, spec)
                except Exception:  # an import must not fail by this; the next job reads the source  # noqa: S110
                    pass
                return spec
        return None


#: All masters in this process use this one.
loaded = Sources()


def watch():
    # type: () -> None
    """Read the modules that are imported already, and from now on each at its import. (2.7: at the next job.)"""
    finders = sys.meta_path  # type: list[Any] # its type asks for more than finders have to be
    if not PY2 and not any(isinstance(finder, _Watcher) for finder in finders):
        finders.insert(0, _Watcher())
    loaded.current()


# -- what a source imports ------------------------------------------------------------------------


def project_modules():
    # type: () -> list[str]
    """The names of the project's modules that this process has imported."""
    return sorted(name for name in loaded.current().known if is_imported(name))


def project_sources(source, package=""):
    # type: (bytes, str) -> dict[str, bytes]
    """The sources of the project's modules that this source imports, directly or not, by name. package: its package."""
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
    """The names after all imports in the source, and their packages: each may be a module."""
    import ast  # not every process needs it

    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, TypeError, RuntimeError):  # invalid; the exception differs between Pythons
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
