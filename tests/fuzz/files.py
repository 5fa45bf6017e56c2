"""Targets of what is read from files, arguments and results: journals, key files, addresses, pickles that must be safe."""
from __future__ import absolute_import, division, print_function

import codecs
import contextlib
import os
import pickletools
import shutil
import socket
import struct
import sys
import tempfile
import types
import uuid  # noqa: F401 # the loader imports it when a result names it, and NumPy, too

from minimalcluster import errors
from minimalcluster.compat import PY2
from minimalcluster.master import journal, master_keys
from minimalcluster.payload import safe, values
from minimalcluster.wire import addresses, key_files, keys
from tests.fuzz import members, memory
from tests.fuzz.choices import Choices, Wrong

try:
    import numpy  # noqa: F401
except ImportError:
    pass

for _name in ("raw-unicode-escape", "latin-1", "ascii", "string-escape" if PY2 else "utf-8"):
    codecs.lookup(_name)  # imports the codec

_folder = None  # type: str | None


def folder():
    # type: () -> str
    """One for this process, in memory if there is such a place: a target writes a file each time."""
    global _folder
    if _folder is None or not os.path.isdir(_folder):
        _folder = tempfile.mkdtemp(prefix="minimalcluster-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    return _folder


def remove_folder():
    # type: () -> None
    if _folder is not None:
        shutil.rmtree(_folder, ignore_errors=True)


def written(name, data):
    # type: (str, bytes) -> str
    path = os.path.join(folder(), name)
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, 0o600)
    return path


# -- journals -------------------------------------------------------------------------------------


@contextlib.contextmanager
def a_key_of_ours():
    # type: () -> object
    before = os.environ.get(master_keys.HOME_VARIABLE)
    os.environ[master_keys.HOME_VARIABLE] = folder()
    try:
        yield
    finally:
        if before is None:
            del os.environ[master_keys.HOME_VARIABLE]
        else:
            os.environ[master_keys.HOME_VARIABLE] = before


_RUN = b'{"arguments": "a", "count": 4, "name": "f", "target": "t"}'
_BODIES = (
    (journal.RUN, _RUN), (journal.KEYS, b"k" * 64), (journal.GRANT, struct.pack(">QQQ", 5, 0, 2)),
    (journal.DONE, struct.pack(">QQIQQ", 0, 1, 2, 1, 2) + b"EN."), (journal.FAILED, struct.pack(">QI", 1, 2) + b"{}" + struct.pack(">I", 0)),
    (journal.END, b""), (journal.CALLS, struct.pack(">Q", 1) + b"k" * 16 + struct.pack(">IQQ", 2, 1, 2) + b"EN."),
    (journal.CALL_FAILED, b"k" * 16 + struct.pack(">I", 2) + b"{}" + struct.pack(">I", 0)),
)  # fmt: skip


def journal_(data):
    # type: (bytes) -> int
    """A file with right tags around records that are odd, cut or changed: it is read, or JournalError says why not."""
    choices, count = Choices(data), 0
    with a_key_of_ours(), members.replaced(journal, log=members.Log()):
        how = choices.byte()
        path = os.path.join(folder(), "journal")
        if os.path.exists(path):
            os.remove(path)
        if how & 1:
            written("journal", choices.rest() if how & 2 else journal.MAGIC + choices.rest())
        else:
            count = write_records(path, choices)
            change_file(path, choices, how)
        try:
            read_journal(path, reading=not how & 8)
        except errors.JournalError:
            pass
    return count + 1


def write_records(path, choices):
    # type: (str, Choices) -> int
    file, count = journal.Journal(path), 0
    file.dirty = False
    while choices and count < 16:
        count += 1
        kind, body = choices.of(_BODIES)  # type: ignore[misc]
        how = choices.below(8)
        if how == 1:
            kind = choices.byte()
        elif how == 2:
            body = choices.chunk()
        elif how == 3:
            body = body[: choices.byte()]
        elif how == 4:
            at = choices.byte() % (len(body) + 1)
            body = body[:at] + choices.take(8) + body[at + 8 :]
        file._append(kind, [body])
    file.dirty = False  # no fsync: the file is for this moment
    file.close()
    return count


def change_file(path, choices, how):
    # type: (str, Choices, int) -> None
    """how: of bits. A part changed; a part cut off; zeros at the end."""
    with open(path, "rb") as file:
        data = file.read()
    if how & 16:
        at = choices.byte() << 8 | choices.byte()
        data = data[: at % len(data)] + choices.take(4) + data[at % len(data) + 4 :]
    if how & 32:
        data = data[: len(data) - choices.byte() % len(data)]
    if how & 64:
        data += b"\0" * choices.byte()
    written("journal", data)


def read_journal(path, reading):
    # type: (str, bool) -> None
    file = journal.Journal(path, reading)
    file.dirty = False
    try:
        for target, arguments in (("t", "a"), ("t", "b"), ("x", "a")):
            for outcome in file.outcomes(target, arguments, lambda: [b"k" * 16] * 4, 4):
                if isinstance(outcome, journal.Done):
                    values.decode_results(outcome.buffers, outcome.size, load=safe.loads)
                else:
                    values.decode_exception(outcome.info, outcome.buffers, load=safe.loads)
        list(file.runs())
        list(file.runs(with_buffers=False))
        for at, place in file.calls()[0].values():
            file.result(at, place)
    finally:
        file.dirty = False
        file.close()


# -- key files and keys ---------------------------------------------------------------------------


def key_file(data):
    # type: (bytes) -> int
    """A key file with any content is read, or KeyFileError says why not. As one reads it, it is a key: the same once more."""
    path = written("key", data)
    before, key_files.EMPTY_SECONDS = key_files.EMPTY_SECONDS, -1.0
    try:
        key = keys.as_key(key_files.read(path))
    except errors.KeyFileError:
        return 1
    finally:
        key_files.EMPTY_SECONDS = before
    if keys.as_key(key) != key or not key:
        raise Wrong("%r counts as %r" % (key, keys.as_key(key)))
    if keys.as_key(data) not in (key, data.strip()):
        raise Wrong("the file %r has the key %r, as a key it is %r" % (data, key, keys.as_key(data)))
    master_keys.weakness(key), master_keys.pattern(key), keys.oddness(key), keys.fingerprint(key)
    return 1


# -- addresses ------------------------------------------------------------------------------------


@contextlib.contextmanager
def without_name_servers():
    # type: () -> object
    """Names are not looked up; what is no name or address for the system stays so."""
    asked = socket.getaddrinfo

    def numeric(host, port, family=0, kind=0, protocol=0, flags=0):
        # type: (object, int, int, int, int, int) -> list
        return asked(host, port, family, kind, protocol, flags | socket.AI_NUMERICHOST)

    socket.getaddrinfo = numeric  # type: ignore[assignment]
    try:
        yield
    finally:
        socket.getaddrinfo = asked


def address(data):
    # type: (bytes) -> int
    """A name or an address, as users give it: ValueError, or something to resolve, which may fail by name."""
    choices = Choices(data)
    everywhere, raw = bool(choices.below(2)), choices.rest()
    text = raw.decode("utf-8", "replace")
    for value in (text, raw if PY2 else text[::-1]):
        try:
            host = addresses.checked_host(value, "IP", everywhere)
        except ValueError as error:
            if isinstance(error, UnicodeError):
                raise Wrong("%r raised %r" % (value, error))
            continue
        if addresses.checked_host(host, "IP", everywhere) != host:
            raise Wrong("%r is %r, which is another one" % (value, host))
        if "\0" in host:
            raise Wrong("%r: the system may read it up to the NUL only" % host)
        addresses.is_loopback(host)
        with without_name_servers():
            try:
                found = addresses.resolve(host, 8888)
            except errors.ConnectionFailed:
                continue
            for each in found:
                addresses.in_words(each[4])
    return 1


# -- pickles --------------------------------------------------------------------------------------

#: What is called while a pickle is loaded: names of audit events (3.8 and later) that no plain value causes.
FORBIDDEN = (
    "exec", "compile", "open", "import", "os.", "subprocess.", "socket.", "ctypes.", "shutil.", "marshal.", "code.", "builtins.input",
    "pty.", "signal.", "mmap.", "sqlite3.", "urllib.", "cpython.", "sys.", "object.__setattr__", "webbrowser.", "glob.",
)  # fmt: skip
_watching = []  # type: list # of what happened meanwhile
_is_hooked = False
CANARY = "minimalcluster_fuzz_canary"
#: What pickles name: what is on the list, and what is not.
NAMES = (
    (CANARY, "function"), (CANARY, "Class"), ("os", "system"), ("builtins", "eval"), ("builtins", "set"), ("builtins", "frozenset"),
    ("builtins", "range"), ("builtins", "slice"), ("builtins", "complex"), ("collections", "deque"), ("collections", "Counter"),
    ("collections", "OrderedDict"), ("collections", "defaultdict"), ("decimal", "Decimal"), ("fractions", "Fraction"), ("uuid", "UUID"),
    ("datetime", "datetime"), ("datetime", "timedelta"), ("datetime", "timezone"), ("builtins", "ValueError"), ("builtins", "SyntaxError"),
    ("builtins", "UnicodeDecodeError"), ("builtins", "OSError"), ("builtins", "ExceptionGroup"), ("minimalcluster.errors", "WorkerDied"),
    ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "scalar"),
    ("builtins", "getattr"), ("builtins", "bytearray"), ("copyreg", "_reconstructor"), ("__builtin__", "set"), ("exceptions", "KeyError"),
)  # fmt: skip


def _hook(event, arguments):
    # type: (str, tuple) -> None
    if _watching and event.startswith(FORBIDDEN):
        _watching.append("%s %.80r" % (event, arguments[:2]))


@contextlib.contextmanager
def watched():
    # type: () -> object
    """Raises Wrong if anything was called that no plain value calls."""
    global _is_hooked
    if not _is_hooked and hasattr(sys, "addaudithook"):
        sys.addaudithook(_hook)
        _is_hooked = True
    canary = types.ModuleType(CANARY)
    canary.function = lambda *arguments: _watching.append("the canary was called")  # type: ignore[attr-defined]
    canary.Class = type("Class", (object,), {"__init__": canary.function})  # type: ignore[attr-defined]
    sys.modules[CANARY] = canary
    _watching.append("begin")
    try:
        yield
    finally:
        seen = _watching[1:]
        del _watching[:]
        del sys.modules[CANARY]
    if seen:
        raise Wrong("a pickle has caused: %s" % "; ".join(seen))


_OPCODES = sorted(pickletools.opcodes, key=lambda each: each.code)


def assembled(choices):
    # type: (Choices) -> bytes
    """Opcodes with arguments that fit, mostly."""
    parts = [b"\x80\x04"]
    while choices and len(parts) < 200:
        what = choices.byte()
        if what < 60:
            module, name = NAMES[what % len(NAMES)]
            parts.append(("c%s\n%s\n" % (module, name)).encode("ascii"))
        elif what < 90:
            parts.append((b")", b"R", b"\x85R", b"\x86R", b"]", b"(", b"t", b"\x81", b"b", b"}", b"u", b"e", b"a", b"s", b"\x93")[what % 15])
        elif what < 120:
            parts.append(text_of(choices.take(choices.below(20))))
        else:
            opcode = choices.of(_OPCODES)
            parts.append((opcode.code if PY2 else opcode.code.encode("latin-1")) + argument_of(opcode, choices))  # type: ignore[attr-defined]
    return b"".join(parts) + b"."


def text_of(data):
    # type: (bytes) -> bytes
    """As an opcode with a short text."""
    return b"\x8c" + struct.pack("B", len(data)) + data


def argument_of(opcode, choices):
    # type: (object, Choices) -> bytes
    argument = opcode.arg  # type: ignore[attr-defined]
    if argument is None:
        return b""
    if argument.n >= 0:
        return choices.take(argument.n).ljust(argument.n, b"\0")
    if argument.n == pickletools.UP_TO_NEWLINE:
        lines = 2 if argument.name.endswith("pair") else 1
        return b"".join(choices.take(choices.below(12)).replace(b"\n", b"") + b"\n" for _ in range(lines))
    content = choices.take(choices.below(24))
    size = {pickletools.TAKEN_FROM_ARGUMENT1: "<B", pickletools.TAKEN_FROM_ARGUMENT4: "<i"}.get(argument.n)
    size = size or ("<I" if argument.n == getattr(pickletools, "TAKEN_FROM_ARGUMENT4U", None) else "<Q")
    claimed = len(content) if choices.below(4) else abs(choices.whole())
    return struct.pack(size, claimed & ((1 << 8 * struct.calcsize(size) - (size == "<i")) - 1)) + content


def pickles(data):
    # type: (bytes) -> int
    """Any bytes, or opcodes, as a result and as an exception with ``results="safe"``: a value or an error, and no call."""
    choices = Choices(data)
    content = choices.rest() if choices.below(4) == 0 else assembled(choices)
    with watched():
        found = memory.bounded(len(content), memory.OF_PICKLES, values.decode_results, [b"E", content], 1, 0, safe.loads)
        error = values.decode_exception({"type": "E", "text": "", "pickled": True}, [content], safe.loads)
    if len(found) != 1 or not isinstance(error, BaseException):
        raise Wrong("%r, %r came out" % (found, error))
    return 1

