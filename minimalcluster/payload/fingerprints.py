"""Fingerprints: how a journal recognizes functions, calls and arguments in a later run of the script.

A fingerprint is made of a pickle and of sources. The pickle names the modules of the classes and functions in it. If
such a module is the project's, its source is added, and the sources of the project's modules that it imports, so that
an edit changes the fingerprint. Installed packages are not looked at.
"""
from __future__ import absolute_import, division, print_function

import os
import re
import struct
import sys

from ..compat import SCALARS, native
from . import by_value, functions, script, shares, sources, values

#: The form of the random names that cloudpickle gives, in each process anew, to classes that travel by value.
_CLASS_NAME = re.compile(b"[0-9a-f]{32}")
#: The name of a shared object: a digest of its content, and a number that tells equal objects apart.
_SHARED_NAME = re.compile(b"([0-9a-f]{32})-[0-9]+")
_SHARES = shares.__name__.encode("ascii")
#: In a pickle by value: the function (by_value.py) that finds something of the script by its name.
_OF_SCRIPT = b"_of_script"
#: joblib has a copy of cloudpickle.
_CLOUDPICKLES = ("cloudpickle.cloudpickle", "joblib.externals.cloudpickle.cloudpickle")


class Contents(object):
    """Fingerprints of pickles and values. Each module is read once, so use a new object for each job, or for each
    definition of calls."""

    def __init__(self):
        # type: () -> None
        self._loaded = -1  # len(sys.modules) when ``_modules`` and ``_class_names`` were made
        self._modules = []  # type: list[tuple[bytes, str]] # the project's: (name as a pickle spells it, name)
        self._class_names = []  # type: list # tables and sets of the random names in use
        self._codes = {}  # type: dict[str, bytes] # module -> digest of its source and its imports'

    def of(self, data):
        # type: (bytes) -> bytes
        """The fingerprint of a pickle. Equal pickles have equal ones in any process, until a source behind them is
        edited."""
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
        """The fingerprint of an argument. If it cannot be pickled: random bytes, so that nothing equals it."""
        if type(value) in SCALARS:
            return values.dumps(value)
        try:
            return self.of(functions.pack(value).data)
        except Exception:  # pickling runs the class's own code. Sending this argument will raise the same error
            return os.urandom(16)


def _spelled(name):
    # type: (str) -> bytes
    """A module's name as a pickle has it. Protocol 4 writes its length before it, so "lab" is not found in "label"."""
    if sys.version_info[0] == 2:  # py2: protocol 2
        return name
    text = name.encode("utf-8")
    return b"\x8c" + struct.pack("B", len(text)) + text if len(text) < 256 else text


def _content_of_shared(match):
    # type: (re.Match[bytes]) -> bytes
    """The shared object's name with the number 0: equal objects may be shared in another order in the next run."""
    known = shares.is_handle(native(match.group()))  # otherwise it is text of the user
    return match.group(1) + b"-0" if known else match.group()


def _without_class_names(data, given):
    # type: (bytes, list) -> bytes
    """The pickle with each random name replaced by a number, in order of appearance. given: tables of such names."""
    if not any(map(len, given)):
        return data
    found = []  # type: list[str]

    def numbered(match):
        # type: (re.Match[bytes]) -> bytes
        name = match.group().decode("ascii")
        if not any(name in names for names in given):
            return match.group()
        if name not in found:
            found.append(name)
        return ("%032d" % found.index(name)).encode("ascii")

    return _CLASS_NAME.sub(numbered, data)


def code_imported(source, package=""):
    # type: (bytes, str) -> bytes
    """A digest of the project's modules that a source imports, directly or through others. package: the source's."""
    parts = []  # type: list[bytes]
    for name, text in sorted(sources.project_sources(source, package).items()):
        parts += [name.encode("utf-8"), text]
    return values.digest(parts).encode("ascii") if parts else b""


def _code_of_script():
    # type: () -> bytes
    """A digest of the part of the script that a worker process runs, and of what the script imports.

    If functions of the script travel by value, their code is in the pickles, so only the imports count.
    """
    found = script.known()
    if found is None:
        return b""
    source = found.without_guarded()
    own = values.digest([source]).encode("ascii") if script.findable() is not None else b""
    return own + code_imported(found.data, found.module.rpartition(".")[0])


def of_definition(buffers):
    # type: (list) -> list
    """The fingerprints of the pickles of a job's definition. The script counts for those that name something of it."""
    return list(map(Contents().of, buffers))
