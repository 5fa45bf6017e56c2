"""What a journal knows functions, calls and arguments by: their pickles, and the project's sources behind these.

A pickle names the modules of the classes and functions in it. Those of the project count with their sources,
and with those of the project's modules that they import; installed packages are not looked at.
"""
from __future__ import absolute_import, division, print_function

import os
import re
import struct
import sys

from ..compat import PY2, SCALARS, native
from . import by_value, functions, script, shares, sources, values

#: cloudpickle names each class that travels by value, anew in each process; joblib brings a copy of its own.
_CLASS_NAME = re.compile(b"[0-9a-f]{32}")
#: A shared object's name: its content, and which of its equals it is.
_SHARED_NAME = re.compile(b"([0-9a-f]{32})-[0-9]+")
_SHARES = shares.__name__.encode("ascii")
#: What by_value.py writes in place of something of the script.
_OF_SCRIPT = b"_of_script"
_CLOUDPICKLES = ("cloudpickle.cloudpickle", "joblib.externals.cloudpickle.cloudpickle")


class Contents(object):
    """Reads each module once: one of these serves no longer than one job, or one definition of calls."""

    def __init__(self):
        # type: () -> None
        self._loaded = -1  # how many modules there were when these were looked for
        self._modules = []  # type: list[tuple[bytes, str]] # the project's: as pickles spell them, and their names
        self._class_names = []  # type: list # those that cloudpickle has given
        self._codes = {}  # type: dict[str, bytes]

    def of(self, data):
        # type: (bytes) -> bytes
        """Of a pickle: equal for equal ones, in any process, as long as no source behind them is edited."""
        if len(sys.modules) != self._loaded:
            self._loaded = len(sys.modules)
            self._modules = [(_spelled(name), name) for name in sources.project_modules() + list(script.NAMES)]
            self._modules.append((_OF_SCRIPT, script.MAIN_NAME))
            loaded = [sys.modules[name] for name in _CLOUDPICKLES if name in sys.modules]
            self._class_names = [getattr(module, "_DYNAMIC_CLASS_TRACKER_BY_ID", {}) for module in loaded]
            self._class_names.append(by_value.tokens())
        if _SHARES in data:
            data = _SHARED_NAME.sub(_content_of_shared, data)
        if self._class_names:
            data = _without_class_names(data, self._class_names)
        for spelled, name in self._modules:
            if spelled in data:
                data += self._code_of(name)
        return data

    def _code_of(self, name):
        # type: (str) -> bytes
        if name not in self._codes:
            if name in script.NAMES:
                self._codes[name] = _code_of_script()
            else:
                self._codes[name] = code_imported(("import " + name).encode("utf-8"))
        return self._codes[name]

    def of_value(self, value):
        # type: (object) -> bytes
        """Of an argument. What cannot be pickled equals nothing, not even itself another time."""
        if type(value) in SCALARS:
            return values.dumps(value)
        try:
            return self.of(functions.pack(value).data)
        except Exception:  # also the classes' own; whoever sends it will tell
            return os.urandom(16)


def _spelled(name):
    # type: (str) -> bytes
    """In a pickle of protocol 4 with its length: "lab" is not in "label"."""
    if PY2:  # py2: protocol 2
        return name  # type: ignore[return-value]
    text = name.encode("utf-8")
    return b"\x8c" + struct.pack("B", len(text)) + text if len(text) < 256 else text


def _content_of_shared(match):
    # type: (object) -> bytes
    """Equal objects count as one: which was shared first may differ from run to run."""
    known = shares.is_handle(native(match.group()))  # type: ignore[attr-defined] # else it is the user's own text
    return match.group(1) + b"-0" if known else match.group()  # type: ignore[attr-defined]


def _without_class_names(data, given):
    # type: (bytes, list) -> bytes
    """With cloudpickle's names numbered as they come."""
    if not any(map(len, given)):
        return data
    found = []  # type: list[str]

    def numbered(match):
        # type: (object) -> bytes
        name = match.group().decode("ascii")  # type: ignore[attr-defined]
        if not any(name in names for names in given):
            return match.group()  # type: ignore[attr-defined]
        if name not in found:
            found.append(name)
        return ("%032d" % found.index(name)).encode("ascii")

    return _CLASS_NAME.sub(numbered, data)


def code_imported(source, package=""):
    # type: (bytes, str) -> bytes
    """A digest of the project's modules that a source imports, and that those import."""
    parts = []  # type: list[bytes]
    for name, text in sorted(sources.project_sources(source, package).items()):
        parts += [name.encode("utf-8"), text]
    return values.digest(parts).encode("ascii") if parts else b""


def _code_of_script():
    # type: () -> bytes
    """What a worker process runs of the script, and what that imports; what travels by value brings its own source."""
    found = script.known()
    if found is None:
        return b""
    source = found.without_guarded()
    own = values.digest([source]).encode("ascii") if script.findable() is not None else b""
    return own + code_imported(found.data, found.module.rpartition(".")[0])


def of_definition(buffers):
    # type: (list) -> list
    """Of the pickles that a definition has; the script that comes with it counts where one of them names it."""
    return list(map(Contents().of, buffers))
