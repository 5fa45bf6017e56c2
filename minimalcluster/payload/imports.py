"""Imports in a worker process: the project's modules come from the master, as it had loaded them at the job's submit.

The finder is the first in ``sys.meta_path``: a file of the same name on the node belongs to another program. It asks
the master once for each name that is neither of the standard library nor below an installed package. The master serves
only pure-Python modules of the project (and cloudpickle, if a node has none), never installed packages, since it cannot
know whether they work on this machine. If a job has other sources, the modules that differ are run again in place.
"""
from __future__ import absolute_import, division, print_function

import os
import sys
import types

from ..compat import PY2, WINDOWS, native, standard_library

if sys.version_info[0] == 2:  # py2
    SourceFileLoader = SourcelessFileLoader = object
else:
    from importlib.machinery import SourceFileLoader, SourcelessFileLoader  # novm

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Collection  # noqa: F401 # novm

    #: Asks the master for something: (what, name) -> (info, buffers).
    Fetch = Callable[[str, str], tuple[dict[str, Any], list[memoryview]]]
    #: (what, package, path) -> (info, buffers).
    FetchBelow = Callable[[str, str, str], tuple[dict[str, Any], list[memoryview]]]

_OURS = __name__.split(".")[0]
#: Folders of installed packages.
_INSTALLED = ("site-packages", "dist-packages")
_LIBRARY = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_installed = {}  # type: dict[str, set[str]] # folder in sys.path -> names that pip has installed there
#: The node's own version of these is preferred to the master's: it fits the node's Python.
FALLBACKS = ("cloudpickle",)


def is_own_path(path):
    # type: (str) -> bool
    """Whether a file belongs neither to the standard library nor to an installed package."""
    if "-packages" in path and any(each in _INSTALLED for each in path.replace("\\", "/").split("/")):
        return False
    path = path if os.path.isabs(path) else os.path.abspath(path)
    if path.lower().startswith(_LIBRARY.lower()) if WINDOWS else path.startswith(_LIBRARY):
        return False
    for folder in sys.path:
        if isinstance(folder, str) and folder and path.startswith(folder.rstrip(os.sep) + os.sep):
            top = path[len(folder.rstrip(os.sep)) + 1 :].split(os.sep)[0].partition(".")[0]
            if top in _installed_names(folder):
                return False
    return True


def _installed_names(folder):
    # type: (str) -> set[str]
    """The names that are installed in a folder of any name (``pip install --target``), from pip's records."""
    if folder not in _installed:
        names = _installed[folder] = set()
        try:
            for each in [each for each in os.listdir(folder) if each.endswith(".dist-info")]:
                with open(os.path.join(folder, each, "RECORD"), "rb") as file:
                    lines = file.read().decode("utf-8", "replace").splitlines()
                names.update(native(line.split("/")[0].split(",")[0].partition(".")[0]) for line in lines)
        except (OSError, IOError):
            pass  # no such folder, or no permission
    return _installed[folder]


def source_from(loader, name):
    # type: (Any, str) -> bytes | None
    """The source of a module that lies in no file of its own, from its loader. None if it has none: the loader may be
    anybody's, and raise anything."""
    try:
        text = loader.get_source(name)
    except Exception:
        return None
    if isinstance(text, bytes):  # 2.7
        return text
    return text.encode("utf-8") if isinstance(text, type(u"")) else None


def variables(module):
    # type: (object) -> dict
    """A module's variables; {} if it is not a module. Calls no code of the module: a lazy one may raise anything."""
    if not issubclass(type(module), types.ModuleType):
        return {}
    return object.__getattribute__(module, "__dict__") or {}


class ClusterFinder(object):
    """Finds modules by asking the master: ``fetch(what, name)`` returns (info, buffers); info["found"] tells.

    first: it is the first finder. If not (an engine's process runs other programs, too), it is asked only for modules
    that no other finder has found. One class for both import systems: find_spec of 3.x, find_module of 2.7.
    """

    def __init__(self, fetch, first=True):
        # type: (Fetch, bool) -> None
        self._fetch, self._first = fetch, first
        self._pid, self._standard = os.getpid(), standard_library()
        self._code = None  # type: int | None # the number of the master's code that is in use
        self._tops = ()  # type: Collection[str] # top-level names of the project
        self._known = {}  # type: dict[str, Loader | None] # the master's answers; None: not found there
        # A stamp tells versions of a module apart: (digest of its source, number of its loads on the master).
        self._stamps = {}  # type: dict[str, tuple] # modules that were run here -> their stamps
        self._variables = {}  # type: dict[tuple, dict] # (module, stamp) -> its variables, while another stamp is used
        self._tables = {}  # type: dict[int | None, dict] # number of a code -> its modules' stamps
        self._away = {}  # type: dict[str, tuple] # modules that the code in use has not -> (the module, its stamp)
        self.versions = {}  # type: dict[str, str] # packages installed on the master -> versions there
        self.places = {}  # type: dict[str, types.ModuleType] # module objects to run again
        self._folders = {}  # type: dict[str, str] # folders on the master -> the packages there

    def new_job(self):
        # type: () -> None
        """Forget which modules the master did not find: it may have them now."""
        self._known = {name: loader for name, loader in self._known.items() if loader is not None}

    def use(self, code, tops=()):
        # type: (int | None, Collection[str]) -> bool
        """Use this code of the master from now on. True if modules were run again.

        Raises what these modules raise; then the next call tries again.
        """
        self._tops = tops
        if code == self._code:
            return False
        former, self._code = self._code, code
        self._known.clear()
        try:
            return self._change(former)
        except BaseException:
            self._code = None
            raise

    def forget(self, codes):
        # type: (set) -> None
        """Drop the variables of modules in codes that no job uses any more. codes: those in use."""
        self._tables = {code: self._tables[code] for code in self._tables if code in codes or code == self._code}
        needed = {each for table in self._tables.values() for each in table.items()}
        self._variables = {each: self._variables[each] for each in self._variables if each in needed}
        self._away = {name: self._away[name] for name in self._away if (name, self._away[name][1]) in needed}

    def _change(self, former):
        # type: (int | None) -> bool
        """Change each module that was run here to its version in this code: restore its variables, or run it again."""
        if former is not None and self._stamps:
            self._tables.setdefault(former, {}).update(self._stamps)
        while self._away:
            name, (module, stamp) = self._away.popitem()
            sys.modules[name], self._stamps[name] = module, stamp
        if not self._stamps:
            return False
        info, _ = self._ask_master("code", ",".join(sorted(self._stamps)))
        stamps = {native(name): stamp for name, stamp in info.get("modules", {}).items()}  # with the order of the loads
        table = self._tables[self._code] = {name: tuple(stamps[name][:2]) for name in stamps}
        if info.get("found"):
            self._put_away([name for name in self._stamps if name not in table and name.split(".")[0] not in FALLBACKS])
        others = [name for name in table if table[name] != self._stamps[name]]
        fresh = sorted((name for name in others if not self._swap(name, table[name])), key=lambda name: stamps[name][2])
        # Modules that the master has only imported run together, as they import each other. Then those that it has
        # reloaded, one by one, in the order of its reloads.
        self._run_anew([name for name in fresh if not table[name][1]], False)
        for name in fresh:
            if table[name][1]:
                self._run_anew([name], True)
        return bool(fresh)

    def _put_away(self, names):
        # type: (list) -> None
        """Let no import find modules that are not the project's any more in the code in use."""
        for name in names:
            stamp, module = self._stamps.pop(name), sys.modules.pop(name, None)
            if module is not None:
                self._away[name] = module, stamp

    def _run_anew(self, names, reloaded):
        # type: (list, bool) -> None
        """Run modules again in the same module objects. reloaded: keep the variables that a module does not set."""
        taken = {name: sys.modules.pop(name, None) for name in names}
        for name, module in taken.items():
            if isinstance(module, types.ModuleType):  # else the module has replaced itself in sys.modules
                self.places[name] = module
                if not reloaded:
                    self._replace(name, module, {"__name__": name})
        try:
            for name in names:
                __import__(name)
        except BaseException:
            for name, module in taken.items():
                if module is not None:
                    sys.modules.setdefault(name, module)
            raise

    def _swap(self, name, stamp):
        # type: (str, tuple) -> bool
        """Save a module's variables, and restore those that it had with this stamp. False if it must be run again."""
        module = sys.modules.get(name)
        if isinstance(module, types.ModuleType):
            self._variables[name, self._stamps[name]] = dict(module.__dict__)
        self._stamps[name] = stamp
        if (name, stamp) not in self._variables or not isinstance(module, types.ModuleType):
            self._stamps[name] = ("", 0)  # until it has run successfully
            return False
        self._replace(name, module, self._variables.pop((name, stamp)))
        return True

    def _replace(self, name, module, variables):
        # type: (str, types.ModuleType, dict) -> None
        below = {each[len(name) + 1 :]: sys.modules[each] for each in list(sys.modules) if each.startswith(name + ".")}
        module.__dict__.clear()
        module.__dict__.update(below, **variables)

    def _ask_master(self, what, name):
        # type: (str, str) -> tuple
        return self._fetch(what, "%s:%s" % (self._code, name))

    def _ask(self, name):
        # type: (str) -> Loader | None
        top = name.partition(".")[0]
        if top == _OURS or (top in self._standard and top not in self._tops):
            return None
        if name not in self._known:
            if os.getpid() != self._pid:
                return None  # a process forked by a task has no connection to the master
            if name != top and self._ask(top) is None:
                return None
            self._known[name] = self._asked(name)
        return self._known[name]

    def _asked(self, name):
        # type: (str) -> Loader | None
        if self._first and name in FALLBACKS and _has_own_file(name):
            return None
        info, buffers = self._ask_master("module", name)
        if info.get("version"):
            self.versions[name] = native(info["version"])
        if not info.get("found"):
            return None if info.get("foreign") is None or info["local"] else Loader(self, name, info, b"")
        if info["kind"] == "folder" and not info["imported"] and "." not in name and _has_own_file(name):
            return None  # the master's folder may not be a package at all
        return Loader(self, name, info, bytes(buffers[0].tobytes()))

    def ran(self, loader):
        # type: (Loader) -> None
        """A module of the master has been run."""
        self._stamps[loader.name] = tuple(loader.info["stamp"][:2])

    def differing(self):
        # type: () -> list[tuple[str, str, str]]
        """Packages imported since the last call whose version differs: (name, version here, version on the master)."""
        found = []
        for name, theirs in list(self.versions.items()):
            if name in sys.modules:
                del self.versions[name]
                ours = variables(sys.modules[name]).get("__version__")
                if isinstance(ours, str) and ours != theirs:
                    found.append((name, ours, theirs))
        return found

    def find_spec(self, fullname, path=None, target=None):
        # type: (str, object, object) -> object
        loader = self._ask(fullname)
        return None if loader is None else loader.spec()

    def find_module(self, fullname, path=None):  # py2
        # type: (str, object) -> Loader | None
        return self._ask(fullname)

    def listed(self, package, folder):
        # type: (str, str) -> None
        """Let ``pkgutil.iter_modules(package.__path__)`` list what the package has on the master."""
        if not self._folders:
            sys.path_hooks.append(self._listing)  # the last: a folder of this path that is here lists itself
        self._folders[folder] = package

    def _listing(self, folder):
        # type: (str) -> _Listing
        if folder not in self._folders:
            raise ImportError("%s is no folder of a package on the master" % folder)
        return _Listing(self.resource, self._folders[folder])

    def resource(self, what, package, path):
        # type: (str, str, str) -> tuple
        """what="resource": a file of a package on the master. "contents": the names in a folder of it. "modules": those
        of its modules."""
        if os.getpid() != self._pid:
            return {"found": False}, []
        return self._ask_master(what, "%s:%s" % (package, path))


def forget_made(names):
    # type: (set) -> None
    """Forget modules that a script has made by its own code, as it loads plugins, before it failed: it may not have
    filled them. Their next import asks the master."""
    for name in names:
        about = variables(sys.modules.get(name))
        path, is_ours = about.get("__file__"), isinstance(about.get("__loader__"), Loader)
        if isinstance(path, str) and path.endswith(".py") and not is_ours and is_own_path(path):
            del sys.modules[name]


def _own(name):
    # type: (str) -> tuple
    """This machine's own module of that name: (spec, folders if it is a package), or (None, None)."""
    from importlib.machinery import PathFinder  # novm

    spec, folders = None, None  # type: object, list[str] | None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        above, part = folders, ".".join(parts[:count])
        try:
            spec = PathFinder.find_spec(part, above)
        except KeyError:
            spec = None
        folders = list(spec.submodule_search_locations or ()) if spec is not None else plain_folders(part, above)
        if spec is None and not folders:
            return None, None
    return spec, folders


def plain_folders(name, path):
    # type: (str, list | None) -> list[str]
    """The folders of a package without __init__.py inside another package. path: the other package's folders.

    The interpreter finds such a package only after importing the other one (before that, it raises KeyError).
    """
    last = name.rpartition(".")[2]
    return [os.path.join(each, last) for each in path or () if os.path.isdir(os.path.join(each, last))]


def _has_own_file(name):
    # type: (str) -> bool
    """Whether this machine has a file of its own for a top-level module, not only a folder."""
    if PY2:  # py2
        import imp

        try:
            return bool(imp.find_module(name))
        except ImportError:
            return False
    spec, _ = _own(name)
    return spec is not None and spec.has_location


class Loader(SourceFileLoader):
    """Loads one module of the master. On Python 3 it has all methods of the loader of files."""

    def __init__(self, finder, name, info, data):
        # type: (ClusterFinder, str, dict, bytes) -> None
        self.name, self.path = name, native(info.get("filename", ""))
        self.info, self._finder, self._data = info, finder, data

    # -- Python 3 ---------------------------------------------------------------------------------

    def spec(self):
        # type: () -> object
        from importlib.machinery import ModuleSpec  # novm

        info, name = self.info, self.name
        if not info["found"]:
            return self._own_extension()
        if info["kind"] == "folder":
            if info["local"]:
                return None  # on the master's machine the default finder finds the same folders
            spec = ModuleSpec(name, self, is_package=True)
            folders = [native(each) for each in info["folders"]]
            for each in folders:
                self._finder.listed(name, each)
            spec.submodule_search_locations = folders + [each for each in _own(name)[1] or () if each not in folders]
            return spec
        spec = ModuleSpec(name, self, origin=self.path, is_package=info["package"])
        spec.has_location = not self.path.startswith("<")
        if info["package"]:
            spec.submodule_search_locations = self._path()
        return spec

    def _path(self):
        # type: () -> list
        """The package's ``__path__``."""
        folder = os.path.dirname(self.path)
        if not self.info["local"]:
            self._finder.listed(self.name, folder)
        return [folder]

    def _own_extension(self):
        # type: () -> object
        """The master cannot serve a module that is not Python source: find this machine's own, or raise ImportError."""
        from importlib.machinery import EXTENSION_SUFFIXES  # novm

        spec, _ = _own(self.name)
        if spec is not None and str(spec.origin).endswith(tuple(EXTENSION_SUFFIXES)):
            return spec
        raise ImportError(
            "the module %s is no Python source on the master (%s), so this machine needs its own: install it here"
            % (self.name, self.info["foreign"])
        )

    def create_module(self, spec):
        # type: (object) -> types.ModuleType | None
        return self._finder.places.pop(self.name, None)

    def exec_module(self, module):
        # type: (types.ModuleType) -> None
        if self.info["kind"] == "folder":
            return
        module.__loader__ = self # needed if the module is run again
        self._show_lines()
        super(Loader, self).exec_module(module)
        self._finder.ran(self)

    def get_code(self, fullname):
        # type: (str) -> types.CodeType | None
        if self.info["kind"] == "compiled":
            return self._compiled(fullname)
        if PY2:  # py2
            return compile(self._data, self.path, "exec", dont_inherit=True)
        return super(Loader, self).get_code(fullname)

    def path_stats(self, path):
        # type: (str) -> dict
        """On the master's own machine, let importlib use its compiled file if it was made from this source."""
        if not self.info["local"] or self.info.get("mtime") is None:
            raise IOError("%s is on the master" % path)
        return {"mtime": self.info["mtime"], "size": len(self._data)}

    def get_resource_reader(self, fullname):  # type: ignore[override]
        # type: (str) -> object
        if self._is_here(self.path) and hasattr(super(Loader, self), "get_resource_reader"):
            return super(Loader, self).get_resource_reader(fullname)
        return _ResourceReader(self._finder.resource, fullname) if self.info["package"] else None

    # -- Python 2 ---------------------------------------------------------------------------------

    def load_module(self, fullname):  # type: ignore[override]
        # type: (str) -> types.ModuleType
        if not PY2:
            return super(Loader, self).load_module(fullname)
        if not self.info["found"] or self.info["kind"] == "folder":  # py2
            raise ImportError("the module %s is no Python source on the master (%s)" % (fullname, self.path))
        is_new = fullname not in sys.modules
        place = self._finder.places.pop(fullname, None) or types.ModuleType(fullname)
        module = sys.modules.setdefault(fullname, place)
        module.__file__, module.__loader__ = self.path, self
        if self.info["package"]:
            module.__path__ = self._path()
        module.__package__ = fullname if self.info["package"] else fullname.rpartition(".")[0]
        self._show_lines()
        try:
            exec(self.get_code(fullname), module.__dict__)
        except BaseException:
            if is_new:
                del sys.modules[fullname]
            raise
        self._finder.ran(self)
        return sys.modules[fullname]

    # -- both -------------------------------------------------------------------------------------

    def _compiled(self, fullname):
        # type: (str) -> types.CodeType | None
        theirs, ours = native(self.info["minor"]), "%d.%d" % sys.version_info[:2]
        if PY2 or theirs != ours:
            text = "the module %s is without its source on the master, compiled by Python %s (%s); this is Python %s"
            raise ImportError(text % (self.name, theirs, self.path, ours))
        return SourcelessFileLoader.get_code(self, fullname)  # type: ignore[arg-type]

    def _show_lines(self):
        # type: () -> None
        """Let tracebacks show this source, not that of a file of the same name on this machine."""
        import linecache

        source = self.get_source(self.name)
        if source is not None:
            linecache.cache[self.path] = (len(source), None, source.splitlines(True), self.path)

    def get_source(self, fullname):
        # type: (str) -> str | None
        if self.info["kind"] != "source":
            return None
        if PY2:  # py2
            return self._data
        from importlib.util import decode_source  # novm

        try:
            return decode_source(self._data)
        except (SyntaxError, UnicodeDecodeError):  # running the module raises it again
            return None

    def is_package(self, fullname):
        # type: (str) -> bool
        return bool(self.info["package"])

    def get_filename(self, fullname=None):
        # type: (str | None) -> str
        return self.path

    def _is_here(self, path):
        # type: (str) -> bool
        return bool(self.info["local"]) and os.path.isfile(path)

    def get_data(self, path):
        # type: (str) -> bytes
        """The module's source, or a file of its package by its path, for ``pkgutil.get_data``."""
        if path == self.path:
            return self._data
        if self._is_here(path):
            with open(path, "rb") as file:
                return file.read()
        folder = os.path.dirname(self.path)
        package = self.name if self.info["package"] else self.name.rpartition(".")[0]
        if not package or not path.startswith(folder + os.sep):
            raise IOError("%s does not come from the master: the files in its packages do" % path)
        return _resource(self._finder.resource, package, path[len(folder) + 1 :].replace(os.sep, "/"))


def _resource(fetch, package, name):
    # type: (FetchBelow, str, str) -> bytes
    info, buffers = fetch("resource", package, name)
    if not info.get("found"):
        raise IOError("package %s has no data file %r on the master" % (package, name))
    return bytes(buffers[0].tobytes())


class _Listing(object):
    """What is in a package's folder on the master, for pkgutil. Imports are answered by the ``ClusterFinder``."""

    def __init__(self, fetch, package):
        # type: (FetchBelow, str) -> None
        self._fetch, self._package = fetch, package

    def iter_modules(self, prefix=""):
        # type: (str) -> list
        info, _ = self._fetch("modules", self._package, "")
        return [(prefix + native(name).rstrip("/"), name.endswith("/")) for name in info.get("names", ())]

    def find_spec(self, fullname, target=None):
        # type: (str, object) -> None
        return None

    def find_module(self, fullname, path=None):  # py2
        # type: (str, object) -> None
        return None


class _ResourceReader(object):
    """importlib.abc.ResourceReader, by asking the master through ``fetch``."""

    def __init__(self, fetch, package):
        # type: (FetchBelow, str) -> None
        self._fetch, self._package = fetch, package

    def files(self):
        # type: () -> _Resource
        # On Python 3.9 importlib.resources.files() does not call this: it needs a folder on disk. The older calls work.
        return _Resource(self._fetch, self._package, "")

    def open_resource(self, resource):
        # type: (str) -> object
        import io

        try:
            return io.BytesIO(_resource(self._fetch, self._package, resource))
        except IOError:
            raise FileNotFoundError(resource)  # novm # the type that importlib.resources expects

    def resource_path(self, resource):
        # type: (str) -> str
        raise FileNotFoundError(resource)  # novm

    def is_resource(self, name):
        # type: (str) -> bool
        info, _ = self._fetch("resource", self._package, name)
        return bool(info.get("found"))

    def contents(self):
        # type: () -> list[str]
        info, _ = self._fetch("contents", self._package, "")
        return list(info.get("names", ()))


class _Resource(object):
    """importlib.resources.abc.Traversable for a package's folder on the master, or a file or folder below it."""

    def __init__(self, fetch, package, path):
        # type: (FetchBelow, str, str) -> None
        self._fetch, self._package, self._path = fetch, package, path
        self.name = path.split("/")[-1] or package.split(".")[-1]

    def joinpath(self, *names):
        # type: (*str) -> _Resource
        return _Resource(self._fetch, self._package, "/".join([part for part in (self._path,) + names if part]))

    __truediv__ = joinpath

    def is_file(self):
        # type: () -> bool
        return bool(self._path) and bool(self._ask("resource").get("found"))

    def is_dir(self):
        # type: () -> bool
        return bool(self._ask("contents").get("found"))

    def iterdir(self):
        # type: () -> object
        return iter([self.joinpath(name) for name in self._ask("contents").get("names", ())])

    def _ask(self, what):
        # type: (str) -> dict
        return self._fetch(what, self._package, self._path)[0]

    def read_bytes(self):
        # type: () -> bytes
        try:
            return _resource(self._fetch, self._package, self._path)
        except IOError:
            raise FileNotFoundError(self._path)  # novm # only Python 3 calls this

    def read_text(self, encoding="utf-8", errors="strict"):
        # type: (str, str) -> str
        return self.read_bytes().decode(encoding or "utf-8", errors)

    def open(self, mode="r", encoding="utf-8", errors="strict"):
        # type: (str, str, str) -> object
        import io

        data = io.BytesIO(self.read_bytes())
        return data if "b" in mode else io.TextIOWrapper(data, encoding, errors)
