"""An environment: source text of the user that becomes a module, the same on the master and in every worker process.

The module's name is made from the hash of the source. So two environments never see each other, loading the same source
twice gives the same module, and an instance of one of its classes can be unpickled wherever the source was loaded.

The source is executed in the module, not in a function's ``locals()``: since Python 3.13 (PEP 667) no names can be
defined there. (The 2017 package did that, and so finds no function on 3.13.)
"""
from __future__ import absolute_import, division, print_function

import hashlib
import linecache
import os
import sys
import types
from collections import namedtuple

from ..compat import PY2, as_bytes, native, raise_from, text_type
from ..errors import SourceError, TargetError

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable  # noqa: F401 # novm

PREFIX = "minimalcluster_environment_"  # the modules' names begin with it

#: module: the module's name. filename: for tracebacks. is_text: the data was text, and is UTF-8 now; otherwise it is
#: the bytes of a file, which may declare a coding. data: bytes.
Source = namedtuple("Source", "module filename is_text data")


def from_text(text):
    # type: (object) -> Source
    """A Source from text (or bytes) with statements. Raises TypeError for anything else."""
    if not isinstance(text, (bytes, text_type)):
        raise TypeError("the environment must be source text, not %s" % type(text).__name__)
    data = as_bytes(text)
    digest = hashlib.sha256(data).hexdigest()[:16]
    filename = "<environment %s>" % digest
    return Source(PREFIX + digest, filename, isinstance(text, text_type), data)


def from_file(path):
    # type: (str) -> Source
    """A Source from a .py file, which may declare its coding. Raises IOError that names the path."""
    path = path if PY2 else os.fspath(path)  # novm
    with open(path, "rb") as file:
        data = file.read()
    digest = hashlib.sha256(as_bytes(path) + b"\0" + data).hexdigest()[:16]
    return Source(PREFIX + digest, native(path), False, data)


def load(source):
    # type: (Source) -> types.ModuleType
    """The module of this source. The source runs once per process.

    Raises SyntaxError if it cannot be compiled, and SourceError if running it raises (SystemExit, too).
    """
    if source.module in sys.modules:
        return sys.modules[source.module]
    text = source.data.decode("utf-8") if source.is_text else source.data
    if PY2 and source.is_text:  # py2
        text = _undeclared(text)
    code = compile(text, source.filename, "exec", dont_inherit=True)
    _show_lines(source)
    module = types.ModuleType(source.module)
    if not source.filename.startswith("<"):
        module.__file__ = source.filename
    sys.modules[source.module] = module
    try:
        exec(code, module.__dict__)
    except BaseException as error:  # sys.exit() in the source must not end the process
        del sys.modules[source.module]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise_from(SourceError(_what_failed(source, error)), error)
    return module


def _undeclared(text):
    # type: (str) -> str
    """Remove a coding declaration (PEP 263, first two lines): 2.7 refuses one in text that is decoded already."""
    lines = text.split("\n", 2)
    for number, line in enumerate(lines[:2]):
        if line.lstrip().startswith("#"):
            lines[number] = line.replace("coding:", "coding ").replace("coding=", "coding ")
    return "\n".join(lines)


def _show_lines(source):
    # type: (Source) -> None
    """Let tracebacks show the lines of this source, also on a machine that does not have the file."""
    lines = native(source.data).splitlines(True) if PY2 else _decoded(source).splitlines(True)
    linecache.cache[source.filename] = (len(source.data), None, lines, source.filename)


def _decoded(source):
    # type: (Source) -> str
    import io
    import tokenize

    if source.is_text:
        return source.data.decode("utf-8")
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source.data).readline)
    return source.data.decode(encoding)


def _what_failed(source, error):
    # type: (Source, BaseException) -> str
    trace = getattr(error, "__traceback__", None) or sys.exc_info()[2]
    line = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == source.filename:
            line = trace.tb_lineno
        trace = trace.tb_next
    return "the environment %s raised %s: %s%s" % (
        source.filename,
        type(error).__name__,
        error,
        "" if line is None else " (line %d)" % line,
    )


def find(module, name):
    # type: (types.ModuleType, str) -> Callable[..., object]
    """The callable of that name, which may have dots. Raises TargetError that names the callables there are."""
    found = module  # type: Any
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise TargetError("the environment defines no %r; it defines: %s" % (name, _callables(module)))
    if not callable(found):
        raise TargetError("%r is %s in the environment, which cannot be called" % (name, type(found).__name__))
    return found


def _callables(module):
    # type: (types.ModuleType) -> str
    names = sorted(name for name, value in vars(module).items() if callable(value) and not name.startswith("_"))
    return ", ".join(names[:20]) if names else "nothing that can be called"
