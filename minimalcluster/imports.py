"""A worker process's imports: what this machine lacks comes from the master; what was edited is read anew.

The finder stands last in ``sys.meta_path``: whatever the node has itself wins. The master serves
pure-Python modules of the project only (and cloudpickle), never installed packages: whether
those fit this machine is not its to say.
"""
from __future__ import absolute_import, division, print_function

import os
import sys
import types

from .compat import PY2, WINDOWS, native, perf_counter
from .environment import PREFIX as ENVIRONMENT_PREFIX

REFRESH_SECONDS = 1.0
#: Where no project's module lies.
_INSTALLED = ("site-packages", "dist-packages")
_OURS = __name__.split(".")[0]


class ClusterFinder(object):
    """Finds and loads modules by asking: ``fetch(what, name)`` gives (info, buffers), info["found"] or not.

    One class for both import systems: find_spec/exec_module of 3.x, find_module/load_module of 2.7.
    """

    def __init__(self, fetch):
        # type: (object) -> None
        self._fetch = fetch
        self._version = None  # type: object
        self._missing = set()  # type: set[str]
        self._known = {}  # type: dict[str, tuple] # name -> (info, source)
        self.served = set()  # type: set[str] # modules in sys.modules that came this way

    def new_job(self, version):
        # type: (object) -> None
        """What was missing may be there now; when the master's files have changed, all of them are read anew."""
        self._missing.clear()
        if version != self._version:
            self._version = version
            unload(self.served)
            self.served.clear()
            self._known.clear()

    def _ask(self, name):
        # type: (str) -> tuple | None
        if name in self._missing or name.split(".")[0] == _OURS:
            return None
        if name not in self._known:
            info, buffers = self._fetch("module", name)  # type: ignore[operator]
            if not info.get("found"):
                self._missing.add(name)
                return None
            self._known[name] = info, bytes(buffers[0].tobytes())
        return self._known[name]

    # -- Python 3 ---------------------------------------------------------------------------------

    def find_spec(self, fullname, path=None, target=None):
        # type: (str, object, object) -> object
        answer = self._ask(fullname)
        if answer is None:
            return None
        from importlib.machinery import ModuleSpec  # novm

        info, _ = answer
        spec = ModuleSpec(fullname, self, origin=info["filename"], is_package=info["package"])  # type: ignore[arg-type]
        spec.has_location = True
        if info["package"]:
            spec.submodule_search_locations = [os.path.dirname(info["filename"])]
        return spec

    def create_module(self, spec):
        # type: (object) -> None
        return None

    def exec_module(self, module):
        # type: (types.ModuleType) -> None
        self._run(module)

    def get_resource_reader(self, fullname):
        # type: (str) -> object
        return _ResourceReader(self._fetch, fullname)

    # -- Python 2 ---------------------------------------------------------------------------------

    def find_module(self, fullname, path=None):
        # type: (str, object) -> ClusterFinder | None
        return self if self._ask(fullname) is not None else None

    def load_module(self, fullname):
        # type: (str) -> types.ModuleType
        if fullname in sys.modules:
            return sys.modules[fullname]
        info, _ = self._known[fullname]
        module = types.ModuleType(fullname)
        module.__file__, module.__loader__ = native(info["filename"]), self
        if info["package"]:
            module.__path__ = [os.path.dirname(module.__file__)]
            module.__package__ = fullname
        else:
            module.__package__ = fullname.rpartition(".")[0]
        sys.modules[fullname] = module
        try:
            self._run(module)
        except BaseException:
            del sys.modules[fullname]
            raise
        return sys.modules[fullname]

    # -- both -------------------------------------------------------------------------------------

    def _run(self, module):
        # type: (types.ModuleType) -> None
        info, source = self._known[module.__name__]
        self.served.add(module.__name__)
        exec(compile(source, native(info["filename"]), "exec", dont_inherit=True), module.__dict__)

    def get_source(self, fullname):
        # type: (str) -> str | None
        """For tracebacks: linecache asks the loader."""
        answer = self._ask(fullname)
        if answer is None:
            return None
        if PY2:  # py2
            return answer[1]  # type: ignore[no-any-return]
        from importlib.util import decode_source  # novm

        return decode_source(answer[1])

    def is_package(self, fullname):
        # type: (str) -> bool
        answer = self._ask(fullname)
        return answer is not None and bool(answer[0]["package"])

    def get_data(self, path):
        # type: (str) -> bytes
        """Package data by path, as ``pkgutil.get_data`` asks for it."""
        for name, (info, _) in self._known.items():
            folder = os.path.dirname(info["filename"])
            if info["package"] and path.startswith(folder + os.sep):
                return _resource(self._fetch, name, path[len(folder) + 1 :].replace(os.sep, "/"))
        raise IOError("%s does not come from the master" % path)


def _resource(fetch, package, name):
    # type: (object, str, str) -> bytes
    info, buffers = fetch("resource", "%s:%s" % (package, name))  # type: ignore[operator]
    if not info.get("found"):
        raise IOError("package %s has no data file %r on the master" % (package, name))
    return bytes(buffers[0].tobytes())


class _ResourceReader(object):
    """importlib.resources' simple protocol (importlib.abc.ResourceReader) over ``fetch``."""

    def __init__(self, fetch, package):
        # type: (object, str) -> None
        self._fetch, self._package = fetch, package

    def files(self):
        # type: () -> _Resource
        # Python 3.9's importlib.resources.files() asks for a folder on disk; the older calls work there.
        return _Resource(self._fetch, self._package, "")

    def open_resource(self, resource):
        # type: (str) -> object
        import io

        try:
            return io.BytesIO(_resource(self._fetch, self._package, resource))
        except IOError:
            # importlib.resources wants this very type
            raise FileNotFoundError(resource)  # novm

    def resource_path(self, resource):
        # type: (str) -> str
        raise FileNotFoundError(resource)  # novm

    def is_resource(self, name):
        # type: (str) -> bool
        info, _ = self._fetch("resource", "%s:%s" % (self._package, name))  # type: ignore[operator]
        return bool(info.get("found"))

    def contents(self):
        # type: () -> list[str]
        info, _ = self._fetch("contents", self._package + ":")  # type: ignore[operator]
        return list(info.get("names", ()))


class _Resource(object):
    """importlib.resources.abc.Traversable: a package's folder on the master, or a file below it."""

    def __init__(self, fetch, package, path):
        # type: (object, str, str) -> None
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
        return self._fetch(what, "%s:%s" % (self._package, self._path))[0]  # type: ignore[operator]

    def read_bytes(self):
        # type: () -> bytes
        try:
            return _resource(self._fetch, self._package, self._path)
        except IOError:
            raise FileNotFoundError(self._path)  # novm # 3.x alone comes here

    def read_text(self, encoding="utf-8", errors="strict"):
        # type: (str, str) -> str
        return self.read_bytes().decode(encoding or "utf-8", errors)

    def open(self, mode="r", encoding="utf-8", errors="strict"):
        # type: (str, str, str) -> object
        import io

        data = io.BytesIO(self.read_bytes())
        return data if "b" in mode else io.TextIOWrapper(data, encoding, errors)


# -- where modules come from ----------------------------------------------------------------------


def source_file(name):
    # type: (str) -> str | None
    """The .py file of a module, imported here or not."""
    module = sys.modules.get(name)
    path = getattr(module, "__file__", None)
    if module is None:
        try:
            from importlib import invalidate_caches  # novm
            from importlib.util import find_spec  # novm
        except ImportError:  # py2
            path = _find_2(name)
        else:
            spec = find_spec(name)
            if spec is None:
                invalidate_caches()  # the file may be younger than what the finders remember of its folder
                spec = find_spec(name)
            path = spec.origin if spec is not None else None
    if not isinstance(path, str):
        return None
    if path.endswith((".pyc", ".pyo")):
        path = path[:-1]
    return path if path.endswith(".py") and os.path.isfile(path) else None


def _find_2(name):
    # type: (str) -> str | None
    import pkgutil

    loader = pkgutil.find_loader(name)
    return loader.get_filename() if loader is not None and hasattr(loader, "get_filename") else None


def project_sources(source, package=""):
    # type: (bytes, str) -> dict[str, bytes]
    """By module: the sources of the project's own that a source of this package imports, and that those import."""
    found, left = {}, [(source, package)]  # type: dict[str, bytes], list[tuple[bytes, str]]
    while left:
        text, package = left.pop()
        for name in sorted(_imported_names(text, package).difference(found)):
            # This package, too, lies beside a script that runs from a checkout.
            path = None if name.split(".")[0] == _OURS else _found_quietly(name)
            if path is not None and is_project_file(path):
                with open(path, "rb") as file:
                    found[name] = file.read()
                is_package = os.path.basename(path) == "__init__.py"
                left.append((found[name], name if is_package else name.rpartition(".")[0]))
    return found


def _imported_names(source, package):
    # type: (bytes, str) -> set[str]
    """Of what may be modules, anywhere in the source, with their packages."""
    import ast  # not in every worker process

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


def _found_quietly(name):
    # type: (str) -> str | None
    """As ``source_file``, but no package is imported to look into it."""
    above, _, last = name.rpartition(".")
    if name in sys.modules or not above:
        try:
            return source_file(name)
        except Exception:  # a finder's own
            return None
    package = _found_quietly(above)
    if package is None or os.path.basename(package) != "__init__.py":
        return None
    inside = os.path.join(os.path.dirname(package), last)
    return next((path for path in (os.path.join(inside, "__init__.py"), inside + ".py") if os.path.isfile(path)), None)


# -- modules of this machine that were edited -----------------------------------------------------


def is_project_file(path):
    # type: (str) -> bool
    """A .py file that is neither the standard library's nor an installed package's."""
    if not path.endswith(".py"):
        return False
    path = os.path.abspath(path)
    parts = path.replace("\\", "/").split("/")
    library = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
    if WINDOWS:
        path, library = path.lower(), library.lower()
    return not any(part in _INSTALLED for part in parts) and not path.startswith(library)


def _project_file(name, module):
    # type: (str, object) -> str | None
    """The source of an imported module, if it is the project's."""
    path = getattr(module, "__file__", None)
    if name.startswith((_OURS, "__")) or not isinstance(path, str):
        return None
    path = path[:-1] if path.endswith((".pyc", ".pyo")) else path  # py2
    return path if is_project_file(path) else None


def project_modules():
    # type: () -> list[str]
    """Names of the project's modules that are imported here."""
    return sorted(name for name, module in list(sys.modules.items()) if _project_file(name, module) is not None)


class Edited(object):
    """Notices project modules whose files have changed since they were imported, and unloads all of them."""

    def __init__(self):
        # type: () -> None
        self._times = {}  # type: dict[str, tuple] # module -> (file, its time when it was imported)
        self._looked_at = set()  # type: set[str] # names of modules, the project's or not
        self._count = 0
        self._checked_at = 0.0

    def notice(self):
        # type: () -> None
        """Remember the files of what has been imported since the last time. Call it soon after imports."""
        if len(sys.modules) == self._count:
            return
        self._count = len(sys.modules)
        for name, module in list(sys.modules.items()):
            if name in self._looked_at:
                continue
            self._looked_at.add(name)
            path = _project_file(name, module)
            if path is not None:
                self._times[name] = (path, _modified(path))

    def refresh(self, at_once=False):
        # type: (bool) -> bool
        """At most once a second, or at once. True when something was unloaded: the next use imports it anew."""
        now = perf_counter()
        if not at_once and now - self._checked_at < REFRESH_SECONDS:
            return False
        self._checked_at = now
        self.notice()
        if not any(_modified(path) not in (None, modified) for path, modified in self._times.values()):
            return False
        unload(self._times)
        self._looked_at.difference_update(self._times)
        self._times.clear()
        return True


def _modified(path):
    # type: (str) -> float | None
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


_unloaded = []  # type: list[types.ModuleType] # 2.7 empties a module's globals when nobody holds it


def unload(names):
    # type: (object) -> None
    """Let the next import read these modules anew, and the environments that may have imported them."""
    for name in list(sys.modules):
        if name in names or (name.startswith(ENVIRONMENT_PREFIX) and names):  # type: ignore[operator]
            module = sys.modules.pop(name)
            if PY2:  # py2
                _unloaded.append(module)
