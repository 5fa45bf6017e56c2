"""How user data travels: arguments, results and exceptions as opaque buffers.

A value is pickled once, in the process that makes it, and unpickled once, in the process that uses it. The first buffer
of a chunk names its form:

    b"R"  start and step of a range, as text: consecutive integers cost nothing
    b"P"  one pickle of a list of scalars, and of short lists, tuples and dicts of scalars: it can always be pickled and
          unpickled
    b"E"  one pickle per value: if one cannot be pickled or unpickled, the others still can. The letter is followed by
          the needs of the pickles: b"Es" to load them needs the script, b"Ev3.11" needs Python 3.11
"""
from __future__ import absolute_import, division, print_function

import hashlib
import struct
import sys
import traceback
import types  # noqa: F401 # for type comments
from collections import namedtuple

from ..compat import PICKLE_PROTOCOL, PY2, SCALARS, as_bytes, in_main_thread, native, pickle, range_type, text_type
from ..errors import ArgumentsError, RemoteError, RemoteTraceback, ResultError, TaskTimeout, UnsafeResult
from ..pieces import Pieces

if PY2:  # py2
    from itertools import imap as lazy_map
else:
    lazy_map = map

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Iterable, Iterator  # noqa: F401 # novm

    Buffer = bytes | bytearray | memoryview

#: The last characters of a longer traceback say enough (a RecursionError's has 1000 frames).
TRACEBACK_CHARACTERS_MAX = 20000
#: An exception travels with so many of the exceptions behind it (__cause__, __context__).
CHAIN_MAX = 10
#: What a pickle needs in the process that loads it, as letters: the script; the same minor version of Python.
NOTHING, SCRIPT, SAME_MINOR = "", "s", "v"
#: From this size on the pickler writes bytes and texts by themselves (its _FRAME_SIZE_TARGET).
LARGE_BYTES = 64 << 10
IN_PIECES = sys.version_info >= (3, 8)
_SIZED = frozenset([bytes, text_type, bytearray])
#: A pickle of its own costs a longer list no more than the look at what is in it.
PLAIN_MAX = 64
#: In a worker process: the function that pickles by value (by_value.py), if the master has the same minor version.
by_value = None  # type: Callable[[object], bytes] | None


class Packed(namedtuple("Packed", "data needs held")):
    """data: a pickle. needs: letters, sorted. held: objects to keep as long as the pickle is used."""

    __slots__ = ()

    def __new__(cls, data, needs, held=()):
        # type: (bytes | Pieces, str, object) -> Packed
        return super(Packed, cls).__new__(cls, data, needs, held)


def dumps(value):
    # type: (object) -> bytes
    return pickle.dumps(value, PICKLE_PROTOCOL)


def dumps_in_pieces(value):
    # type: (Any) -> bytes | Pieces
    """As ``dumps``, but large bytes, texts and arrays in the value are not copied into the pickle."""
    if not IN_PIECES:
        return dumps(value)
    file = _Written()
    pickle.Pickler(file, PICKLE_PROTOCOL).dump(value)
    return Pieces(file)


class _Written(list):
    """A file that keeps what is written to it as it is: from 3.8 on the pickler writes large contents by themselves."""

    write = list.append


def is_large(value):
    # type: (Any) -> bool
    """Whether to use ``dumps_in_pieces``."""
    kind = type(value)
    if kind in _SIZED:
        return len(value) >= LARGE_BYTES
    return kind.__name__ == "ndarray" and kind.__module__ == "numpy" and value.nbytes >= LARGE_BYTES


def dumps_plain(values):
    # type: (list) -> bytes | Pieces
    """One pickle of plain values."""
    kinds = set(map(type, values))
    if kinds and kinds <= _SIZED:
        is_one_large = max(map(len, values)) >= LARGE_BYTES
    else:
        is_one_large = bool(kinds & _SIZED) and any(map(is_large, values))
    return dumps_in_pieces(values) if is_one_large else dumps(values)


def dumps_by_value(value):
    # type: (object) -> bytes
    """A pickle of the value; by value if it cannot be pickled otherwise, for example if its class came by value."""
    try:
        return dumps(value)
    except Exception:
        if by_value is None:
            raise
        return by_value(value)


def _dumps_result(value):
    # type: (object) -> bytes | Pieces
    if is_large(value):
        try:
            return dumps_in_pieces(value)
        except Exception:  # noqa: S110 # an array of objects, perhaps: tell its error below
            pass
    return dumps_by_value(value)


def loads(buffer):
    # type: (Buffer) -> Any
    if PY2:  # py2
        return pickle.loads(as_bytes(buffer) if isinstance(buffer, bytearray) else _raw(buffer))
    return pickle.loads(buffer)


def _raw(buffer):
    # type: (Buffer) -> bytes | bytearray
    return buffer.tobytes() if isinstance(buffer, memoryview) else buffer


def all_scalars(values):
    # type: (Iterable[object]) -> bool
    return SCALARS.issuperset(map(type, values))


def plain_copy(value):
    # type: (Any) -> Any
    """A short list, tuple or dict of scalars as it is now; None if the value is anything else.

    Such values are pickled by the chunk, as scalars are: no code of the user runs then, and no two share what changes.
    """
    kind = type(value)
    if kind is tuple:
        return value if len(value) <= PLAIN_MAX and all_scalars(value) else None
    if kind is list and len(value) <= PLAIN_MAX:
        copy = value[:]  # type: Any # first: another thread may change it
        return copy if all_scalars(copy) else None
    if kind is dict and len(value) <= PLAIN_MAX:
        copy = value.copy()
        return copy if all_scalars(copy) and all_scalars(copy.values()) else None
    return None


# -- arguments ------------------------------------------------------------------------------------


class RangeArguments(object):
    """Arguments start, start + step, ...: a chunk is sent as two numbers."""

    def __init__(self, values):
        # type: (range) -> None
        self._count = len(values)
        self._start = values[0] if self._count else 0
        self._step = values[1] - values[0] if self._count > 1 else 1

    def __len__(self):
        # type: () -> int
        return self._count

    def __getitem__(self, index):
        # type: (int) -> int
        return self._start + index * self._step

    def encode(self, first, count):
        # type: (int, int) -> list
        return _range(self._start + first * self._step, self._step)


def _range(start, step):
    # type: (int, int) -> list
    """Buffers with two numbers, in hexadecimal: Python limits the number of decimal digits of an int as text."""
    return [b"R", ("%x,%x" % (start, step)).encode("ascii")]


def _start_and_step(buffers):
    # type: (list) -> tuple
    start, step = _raw(buffers[1]).split(b",")
    return int(start, 16), int(step, 16)


class ScalarArguments(object):
    """Numbers, texts and other scalars: a chunk is one pickle, which is made when the chunk is sent."""

    def __init__(self, values):
        # type: (list | tuple) -> None
        self._values = values

    def __len__(self):
        # type: () -> int
        return len(self._values)

    def encode(self, first, count):
        # type: (int, int) -> list
        return [b"P", dumps_plain(list(self._values[first : first + count]))]


class ObjectArguments(object):
    """Other arguments. Each is pickled at once: one that cannot be pickled is reported before anything is sent."""

    def __init__(self, values, pack):
        # type: (list | tuple, Callable[[object], Packed]) -> None
        self._packed = [_packed_argument(index, value, pack) for index, value in enumerate(values)]

    def __len__(self):
        # type: () -> int
        return len(self._packed)

    @property
    def needs(self):
        # type: () -> str
        return all_needs(packed.needs for packed in self._packed)

    def encode(self, first, count):
        # type: (int, int) -> list
        return each(self._packed[first : first + count])


def each(packed):
    # type: (list) -> list
    """The buffers of a chunk of single pickles."""
    needs = all_needs([one.needs for one in packed])
    return [b"E" + with_version(needs).encode("ascii")] + [one.data for one in packed]


def all_needs(needs):
    # type: (Iterable[str]) -> str
    """The needs of several pickles, together."""
    return "".join(sorted(set("".join(needs))))


def with_version(needs):
    # type: (str) -> str
    """The needs, with this process's version behind them if they require the same one: "v" becomes "v3.11"."""
    return needs + minor() if SAME_MINOR in needs else needs


def minor():
    # type: () -> str
    return "%d.%d" % sys.version_info[:2]


def _packed_argument(index, value, pack):
    # type: (int, object, Callable[[object], Packed]) -> Packed
    try:
        return pack(value)
    except Exception as error:
        raise ArgumentsError(
            "argument %d cannot be sent to another process: %s (%s: %s)"
            % (index, shortened(value), type(error).__name__, text_of(error))
        )


if MYPY:
    AnyArguments = RangeArguments | ScalarArguments | ObjectArguments


def arguments(values, pack=lambda value: Packed(dumps(value), NOTHING)):
    # type: (list | tuple | range, Callable[[object], Packed]) -> AnyArguments
    """A sequence in its cheapest form. Raises ArgumentsError if ``pack`` cannot pickle an argument."""
    if isinstance(values, range_type):
        return RangeArguments(values)
    return ScalarArguments(values) if all_scalars(values) else ObjectArguments(values, pack)


def needs_of(buffers):
    # type: (list) -> str
    """The needs of a chunk's pickles, from its first buffer."""
    return native(bytes(_raw(buffers[0])[1:]))


def decode_arguments(buffers, count):
    # type: (list, int) -> tuple[Iterator[Any], Callable[[Any], object] | None]
    """(an iterator over ``count`` arguments, None), or (an iterator over their pickles, a function that loads one)."""
    form = _raw(buffers[0])
    if form == b"R":
        start, step = _start_and_step(buffers)
        if not PY2:
            return iter(range(start, start + step * count, step)), None
        return lazy_map(lambda index: start + step * index, range_type(count)), None
    if form == b"P":
        return iter(loads(buffers[1])), None
    return iter(buffers[1:]), loads


def part_of(buffers, start, count):
    # type: (list, int, int) -> list
    """The buffers for ``count`` of a chunk's arguments, from index ``start`` on."""
    form = _raw(buffers[0])
    if form == b"R":
        first, step = _start_and_step(buffers)
        return _range(first + start * step, step)
    if form == b"P":
        return [b"P", dumps(loads(buffers[1])[start : start + count])]
    return [form] + buffers[1 + start : 1 + start + count]


# -- results --------------------------------------------------------------------------------------


def settled(result):
    # type: (object) -> Any
    """A result that is no scalar, in a form that no code of the task changes later: a plain copy or ``Pickled``."""
    plain = plain_copy(result)
    return Pickled(result) if plain is None else plain


class Pickled(object):
    """The pickle of a result, made at once because the task's code may change the result later; or the failure."""

    __slots__ = ("data", "failure")

    def __init__(self, result):
        # type: (object) -> None
        self.data, self.failure = b"", None  # type: bytes | Pieces, tuple | None
        try:
            self.data = _dumps_result(result)
        except BaseException as error:  # pickling runs the class's own code, which may raise anything
            text = shortened(result)
            unsendable = ResultError(
                "the result cannot be sent back: %s of type %s (%s: %s)"
                % (text, type(result).__name__, type(error).__name__, text_of(error)),
                text,
            )
            unsendable.__cause__ = error
            self.failure = encode_exception(unsendable, 0)


def encode_results(results):
    # type: (list) -> list
    """The buffers of results: scalars, plain copies and ``Pickled`` ones. No code of the user runs here."""
    if Pickled not in set(map(type, results)):
        return [b"P", dumps_plain(results)]
    return [b"E"] + [result.data if type(result) is Pickled else dumps(result) for result in results]


class Plain(list):
    """Results of one pickle: there is no ``Misfit`` among them, so nobody has to look for one."""


def decode_results(buffers, count, skip=0, load=loads):
    # type: (list, int, int, Callable[[Buffer], Any]) -> list
    """``count`` results without the first ``skip``. Raises nothing: a result that cannot be decoded is a ``Misfit``."""
    if buffers and _raw(buffers[0]) == b"P":
        results = _load_result(buffers[1], load) if len(buffers) > 1 else None
        if isinstance(results, list) and len(results) >= count:
            return Plain(results[skip:count])
        if not isinstance(results, list):
            results = [results] * count if isinstance(results, Misfit) else []
    else:
        results = [_load_result(buffer, load) for buffer in buffers[1 : 1 + count]]
    if len(results) < count:
        text = "the worker process sent %d results of %d" % (len(results), count)
        results += [Misfit(RemoteError(text))] * (count - len(results))
    return results[skip:count] if skip or len(results) > count else results


class Misfit(object):
    """In place of a result that cannot be unpickled here: the error, which has the bytes as ``pickled``."""

    __slots__ = ("error",)

    def __init__(self, error):
        # type: (BaseException) -> None
        self.error = error


def _load_result(buffer, load):
    # type: (Buffer, Callable[[Buffer], Any]) -> object
    try:
        return load(buffer)
    except UnsafeResult as error:
        return Misfit(error)
    except BaseException as error:  # unpickling runs the class's own code, which may raise anything
        _let_ctrl_c_pass(error)
        misfit = RemoteError(
            "the result cannot be unpickled here (%s: %s); .pickled has its bytes"
            % (type(error).__name__, text_of(error)),
            type(error).__name__,
        )
        misfit.pickled = _raw(buffer)  # type: ignore[attr-defined]
        misfit.__cause__ = error
        return Misfit(misfit)


def _let_ctrl_c_pass(error):
    # type: (BaseException) -> None
    """Raise a KeyboardInterrupt again in the main thread: there it is the user's Ctrl-C, not an error of the class."""
    if isinstance(error, KeyboardInterrupt) and in_main_thread():
        raise error


# -- exceptions -----------------------------------------------------------------------------------


def encode_exception(error, frames_to_skip=1):
    # type: (BaseException, int) -> tuple
    """(description as plain data, pickles of the exception and of its causes).

    There is no pickle of an exception that would not be unpickled as one of the same class.
    """
    trace = _attribute(error, "__traceback__")
    if PY2:  # py2
        trace = sys.exc_info()[2]
    for _ in range(frames_to_skip):
        if trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
    text = native(_formatted(error, trace))
    buffers = []  # type: list
    info = _describe(error, buffers)
    info["traceback"] = _json_safe(text[-TRACEBACK_CHARACTERS_MAX:])
    chain = []
    for how, cause in _causes(error):
        chain.append(dict(_describe(cause, buffers), how=how))
    if chain:
        info["chain"] = chain
    return info, buffers


def _formatted(error, trace):
    # type: (BaseException, types.TracebackType | None) -> str
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except BaseException:  # traceback asks the exception for its attributes and whether it is true: its own code runs
        head = "Traceback (most recent call last):\n"
        return "%s%s%s\n" % (head, "".join(traceback.format_tb(trace)), in_words(error))


def _attribute(error, name):
    # type: (BaseException, str) -> Any
    """None if it has no such attribute, or if the class's own code raises another error for it."""
    try:
        return getattr(error, name, None)
    except BaseException:
        return None


def _describe(error, buffers):
    # type: (BaseException, list) -> dict
    # py2: a raised object may be an instance of an old-style class; its type() is the same for all such classes.
    kind = _attribute(error, "__class__") or type(error)
    info = {"type": kind.__name__, "text": _json_safe(text_of(error)), "pickled": False}
    if not isinstance(error, BaseException):  # py2: it could not be raised by code that expects exceptions
        return info
    notes = _attribute(error, "__notes__")
    if isinstance(notes, list) and notes:
        info["notes"] = [_json_safe(text_of(note)) for note in notes]
    try:
        pickled = dumps_by_value(error)
        info["pickled"] = type(loads(pickled)) is type(error)
    except BaseException:  # the class's own __reduce__ or __init__ runs here
        return info
    if info["pickled"]:
        buffers.append(pickled)
    return info


def _causes(error):
    # type: (BaseException) -> list
    """The exceptions behind this one that Python would print: ("cause" or "context", exception), nearest first."""
    found = []  # type: list
    seen = [error]
    while len(found) < CHAIN_MAX:
        how, cause = "cause", _attribute(error, "__cause__")
        if cause is None and _attribute(error, "__suppress_context__") is False:
            how, cause = "context", _attribute(error, "__context__")
        if cause is None or any(cause is each for each in seen):
            break
        found.append((how, cause))
        seen.append(cause)
        error = cause
    return found


def text_of(error):
    # type: (object) -> str
    """The text of an exception, whatever its class does."""
    for kind in (str, text_type):  # on 2.7 str() fails for text that is not ASCII
        try:
            return native(kind(error))
        except BaseException:  # noqa: S112 # the class's own __str__ runs here
            continue
    return "<its text cannot be made>"


def in_words(error):
    # type: (object) -> str
    """Type and text of an exception, whatever its class does."""
    return "%s: %s" % (type(error).__name__, text_of(error))


def _json_safe(text):
    # type: (str | bytes) -> str
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def decode_exception(info, buffers, load=loads):
    # type: (dict, list, Callable[[Buffer], Any]) -> BaseException
    """The remote exception, of its own class if it can be rebuilt. Its cause is the text of the remote traceback.

    So the exception that it was raised from is its ``__context__`` here. Raises nothing, whatever the class does.
    """
    try:
        return _decoded(info, buffers, load)
    except BaseException as error:  # the class's own code runs here, and the description may be malformed
        _let_ctrl_c_pass(error)
        return RemoteError("%s: %s" % (info.get("type"), info.get("text")), "%s" % (info.get("type"),))


def _decoded(info, buffers, load):
    # type: (dict, list, Callable[[Buffer], Any]) -> BaseException
    if info.get("type") == "TaskTimeout" and not buffers:
        return TaskTimeout(native(info.get("text", "")))  # the node made it, not a task
    buffers = list(buffers)
    error = last = _rebuilt(info, buffers, load)
    for link in info.get("chain", ()):
        cause = _rebuilt(link, buffers, load)
        if last is not error and link.get("how") == "cause":
            last.__cause__ = cause
        else:
            last.__context__ = cause
        last = cause
    remote = RemoteTraceback(native(info.get("traceback", "")))
    remote.__context__ = getattr(error, "__context__", None)
    remote.__suppress_context__ = True # the traceback's text shows the context already
    error.__cause__ = remote
    return error


def _rebuilt(info, buffers, load):
    # type: (dict, list, Callable[[Buffer], Any]) -> BaseException
    """One exception. Its pickle, if there is one, is the first of the buffers, and is removed from them."""
    error = None
    if buffers and info.get("pickled", True):
        try:
            error = load(buffers.pop(0))
            error.__context__ = None  # raises for some classes, such as frozen dataclasses
            error.__class__  # noqa: B018 # a property that raises would do so in every isinstance() from here on
        except BaseException as failed:
            _let_ctrl_c_pass(failed)
            error = None
    if not isinstance(error, BaseException):
        error = RemoteError(native("%s: %s" % (info.get("type"), info.get("text"))), native(info.get("type", "")))
    if info.get("notes") and not hasattr(error, "__notes__"):
        error.__notes__ = [native(note) for note in info["notes"]]
    return error


def name_of(function):
    # type: (object) -> str
    """What people call it; its type's name where it has none, or its class's own code raises for it."""
    try:
        name = function.__name__  # type: ignore[attr-defined]
    except Exception:
        name = None
    return name if name and isinstance(name, str) else type(function).__name__


def shortened(value, characters=80):
    # type: (object, int) -> str
    """The beginning of a value's repr, for an error's text. Works for a ``__repr__`` that raises, too."""
    try:
        text = repr(value)
    except Exception as error:
        text = "<%s whose repr raises %s>" % (type(value).__name__, type(error).__name__)
    return text if len(text) <= characters else text[: characters - 3] + "..."


def digest(parts):
    # type: (Iterable[bytes | memoryview]) -> str
    """A hex digest of byte strings, and of their lengths: the digests of (b"ab", b"c") and (b"a", b"bc") differ."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(struct.pack(">Q", len(part)))
        sha256.update(part)
    return sha256.hexdigest()
