"""How user data travels: arguments, results and exceptions as opaque buffers.

Pickled once where a value is born, unpickled once where it is used. The first buffer names the form:

    b"R"  start and step of a range, as text: consecutive integers cost nothing
    b"P"  one pickle of a list: for scalars, which always survive the journey
    b"E"  each value its own pickle: what cannot be pickled or unpickled harms nobody else. Behind the letter stands
          what the pickles need of the process that loads them: b"Es" the script, b"Ev3.11" the same minor version
"""
from __future__ import absolute_import, division, print_function

import hashlib
import struct
import sys
import traceback
from collections import namedtuple

from ..compat import PICKLE_PROTOCOL, PY2, SCALARS, as_bytes, in_main_thread, native, pickle, range_type, text_type
from ..errors import ArgumentsError, RemoteError, RemoteTraceback, ResultError, TaskTimeout

if PY2:  # py2
    from itertools import imap as lazy_map
else:
    lazy_map = map

MYPY = False  # mypy takes it for true: names for type comments

#: A traceback longer than this says nothing more (a recursion error's has 1000 frames).
TRACEBACK_CHARACTERS_MAX = 20000
#: Of the causes behind an exception, so many travel with it.
CHAIN_MAX = 10
#: What a pickle needs of the process that loads it: letters, for the script and for the same minor version.
NOTHING, SCRIPT, SAME_MINOR = "", "s", "v"
#: Pickles by value (by_value.py), once it is known that the master runs the same minor version.
by_value = None  # type: object


class Packed(namedtuple("Packed", "data needs held")):
    """data: a pickle. needs: of those letters, in their order. held: what must live as long as the pickle is used."""

    __slots__ = ()

    def __new__(cls, data, needs, held=()):
        # type: (bytes, str, object) -> Packed
        return super(Packed, cls).__new__(cls, data, needs, held)


def dumps(value):
    # type: (object) -> bytes
    return pickle.dumps(value, PICKLE_PROTOCOL)


def dumps_by_value(value):
    # type: (object) -> bytes
    """What a by-value function makes may be of a class that came by value, too."""
    try:
        return dumps(value)
    except Exception:
        if by_value is None:
            raise
        return by_value(value)  # type: ignore[operator]


def loads(buffer):
    # type: (bytes | bytearray | memoryview) -> object
    if PY2:  # py2
        return pickle.loads(as_bytes(buffer) if isinstance(buffer, bytearray) else _raw(buffer))
    return pickle.loads(buffer)


def _raw(buffer):
    # type: (bytes | bytearray | memoryview) -> bytes
    return buffer.tobytes() if isinstance(buffer, memoryview) else buffer  # type: ignore[return-value]


def all_scalars(values):
    # type: (list | tuple) -> bool
    return SCALARS.issuperset(map(type, values))


# -- arguments ------------------------------------------------------------------------------------


class RangeArguments(object):
    """Arguments start, start + step, ...; a chunk travels as two numbers."""

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
    """In hexadecimal: Python limits how many decimal digits it writes and reads."""
    return [b"R", ("%x,%x" % (start, step)).encode("ascii")]


def _start_and_step(buffers):
    # type: (list) -> tuple
    start, step = _raw(buffers[1]).split(b",")
    return int(start, 16), int(step, 16)


class ScalarArguments(object):
    """Numbers, texts and the like: a chunk is one pickle, made when it is sent."""

    def __init__(self, values):
        # type: (list | tuple) -> None
        self._values = values

    def __len__(self):
        # type: () -> int
        return len(self._values)

    def encode(self, first, count):
        # type: (int, int) -> list
        return [b"P", dumps(list(self._values[first : first + count]))]


class ObjectArguments(object):
    """Anything else: pickled one by one at once, so that a misfit is named before anything is sent."""

    def __init__(self, values, pack):
        # type: (list | tuple, object) -> None
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
    """A chunk of single pickles: its form says what any of them needs."""
    needs = all_needs([one.needs for one in packed])
    return [b"E" + told(needs).encode("ascii")] + [one.data for one in packed]


def all_needs(needs):
    # type: (object) -> str
    """What several pickles need, together."""
    return "".join(sorted(set("".join(needs))))  # type: ignore[arg-type]


def told(needs):
    # type: (str) -> str
    """The needs, with the minor version that they mean."""
    return needs + minor() if SAME_MINOR in needs else needs


def minor():
    # type: () -> str
    return "%d.%d" % sys.version_info[:2]


def _packed_argument(index, value, pack):
    # type: (int, object, object) -> Packed
    try:
        return pack(value)  # type: ignore[operator]
    except Exception as error:
        raise ArgumentsError(
            "argument %d cannot be sent to another process: %s (%s: %s)"
            % (index, shortened(value), type(error).__name__, error)
        )


if MYPY:
    AnyArguments = RangeArguments | ScalarArguments | ObjectArguments


def arguments(values, pack=lambda value: Packed(dumps(value), NOTHING)):
    # type: (list | tuple | range, object) -> AnyArguments
    """The cheapest form for a sequence. Raises ArgumentsError for what ``pack`` cannot pickle."""
    if isinstance(values, range_type):
        return RangeArguments(values)
    return ScalarArguments(values) if all_scalars(values) else ObjectArguments(values, pack)


def needs_of(buffers):
    # type: (list) -> str
    """What a chunk's pickles need, as its form tells."""
    return native(_raw(buffers[0])[1:])


def decode_arguments(buffers, count):
    # type: (list, int) -> tuple
    """(an iterator over ``count`` arguments, None); or over their pickles, and what loads one."""
    form = _raw(buffers[0])
    if form == b"R":
        start, step = _start_and_step(buffers)
        if not PY2:
            return iter(range(start, start + step * count, step)), None
        return lazy_map(lambda index: start + step * index, range_type(count)), None
    if form == b"P":
        return iter(loads(buffers[1])), None  # type: ignore[call-overload]
    return iter(buffers[1:]), loads


def part_of(buffers, start, count):
    # type: (list, int, int) -> list
    """Of a chunk's buffers those for ``count`` arguments from the ``start``-th on."""
    form = _raw(buffers[0])
    if form == b"R":
        first, step = _start_and_step(buffers)
        return _range(first + start * step, step)
    if form == b"P":
        return [b"P", dumps(loads(buffers[1])[start : start + count])]  # type: ignore[index]
    return [form] + buffers[1 + start : 1 + start + count]


# -- results --------------------------------------------------------------------------------------


class Pickled(object):
    """A result that may still change where it was made, as it was at this moment; or why it cannot be sent."""

    __slots__ = ("data", "failure")

    def __init__(self, result):
        # type: (object) -> None
        self.data, self.failure = b"", None  # type: bytes, tuple | None
        try:
            self.data = dumps_by_value(result)
        except BaseException as error:  # pickling runs the class's own code: anything may come
            text = shortened(result)
            misfit = ResultError(
                "the result cannot be sent back: %s of type %s (%s: %s)"
                % (text, type(result).__name__, type(error).__name__, _text(error)),
                text,
            )
            misfit.__cause__ = error
            self.failure = encode_exception(misfit, 0)


def encode_results(results):
    # type: (list) -> list
    """Buffers of scalars and of what is pickled already. None of the user's code runs here."""
    if all_scalars(results):
        return [b"P", dumps(results)]
    return [b"E"] + [result.data if type(result) is Pickled else dumps(result) for result in results]


def decode_results(buffers, count, skip=0):
    # type: (list, int, int) -> list
    """Of so many results those behind the first ``skip``. One that cannot be had is a ``Misfit``: nothing is raised."""
    if buffers and _raw(buffers[0]) == b"P":
        results = _load_result(buffers[1]) if len(buffers) > 1 else None
        if not isinstance(results, list):
            results = [results] * count if isinstance(results, Misfit) else []
    else:
        results = [_load_result(buffer) for buffer in buffers[1 : 1 + count]]
    if len(results) < count:
        text = "the worker process sent %d results of %d" % (len(results), count)
        results += [Misfit(RemoteError(text))] * (count - len(results))
    return results[skip:count] if skip or len(results) > count else results


class Misfit(object):
    """In place of a result that cannot be unpickled here: the error, and the bytes as they came."""

    __slots__ = ("error",)

    def __init__(self, error):
        # type: (BaseException) -> None
        self.error = error


def _load_result(buffer):
    # type: (bytes | bytearray | memoryview) -> object
    try:
        return loads(buffer)
    except BaseException as error:  # unpickling runs the class's own code: anything may come
        _let_ctrl_c_pass(error)
        misfit = RemoteError(
            "the result cannot be unpickled here (%s: %s); .pickled has its bytes"
            % (type(error).__name__, native(_text(error))),
            type(error).__name__,
        )
        misfit.pickled = _raw(buffer)  # type: ignore[attr-defined]
        misfit.__cause__ = error
        return Misfit(misfit)


def _let_ctrl_c_pass(error):
    # type: (BaseException) -> None
    """In the main thread a KeyboardInterrupt is the user's: whoever waits there is to hear of it."""
    if isinstance(error, KeyboardInterrupt) and in_main_thread():
        raise error


# -- exceptions -----------------------------------------------------------------------------------


def encode_exception(error, frames_to_skip=1):
    # type: (BaseException, int) -> tuple
    """(plain description, buffers): the exception's pickle, if it was seen to come back as itself, then its causes'."""
    trace = getattr(error, "__traceback__", None)
    if PY2:  # py2
        trace = sys.exc_info()[2]
    for _ in range(frames_to_skip):
        if trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
    text = native("".join(traceback.format_exception(type(error), error, trace)))
    buffers = []  # type: list
    info = _describe(error, buffers)
    info["traceback"] = _json_safe(text[-TRACEBACK_CHARACTERS_MAX:])
    chain = []
    for how, cause in _causes(error):
        chain.append(dict(_describe(cause, buffers), how=how))
    if chain:
        info["chain"] = chain
    return info, buffers


def _describe(error, buffers):
    # type: (BaseException, list) -> dict
    # On 2.7 what is raised can be an instance of a class of the old style, whose type says nothing.
    info = {"type": getattr(error, "__class__", type(error)).__name__, "text": _text(error), "pickled": False}
    if not isinstance(error, BaseException):  # py2: such a one cannot be held by what expects exceptions
        return info
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list) and notes:
        info["notes"] = [_text(note) for note in notes]
    try:
        pickled = dumps_by_value(error)
        info["pickled"] = type(loads(pickled)) is type(error)
    except BaseException:  # its own __reduce__ or __init__ runs here
        return info
    if info["pickled"]:
        buffers.append(pickled)
    return info


def _causes(error):
    # type: (BaseException) -> list
    """What led to it, as Python would print it: ("cause" or "context", exception), the nearest first."""
    found = []  # type: list
    seen = [error]
    while len(found) < CHAIN_MAX:
        how, cause = "cause", getattr(error, "__cause__", None)
        if cause is None and not getattr(error, "__suppress_context__", True):
            how, cause = "context", error.__context__
        if cause is None or any(cause is each for each in seen):
            break
        found.append((how, cause))
        seen.append(cause)
        error = cause
    return found


def _text(error):
    # type: (object) -> str
    for kind in (str, text_type):  # on 2.7 str() fails for text beyond ASCII
        try:
            return _json_safe(kind(error))
        except BaseException:  # noqa: S112 # its own __str__ runs here
            continue
    return "<its text cannot be made>"


def _json_safe(text):
    # type: (str | bytes) -> str
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def decode_exception(info, buffers):
    # type: (dict, list) -> BaseException
    """The remote exception with its own class if it can be rebuilt, with the traceback's text as cause.

    What it was raised from is its ``__context__`` here. Nothing is raised, whatever the class does.
    """
    try:
        return _decoded(info, buffers)
    except BaseException as error:  # the class's own code runs here, and what was sent may be odd
        _let_ctrl_c_pass(error)
        return RemoteError("%s: %s" % (info.get("type"), info.get("text")), "%s" % (info.get("type"),))


def _decoded(info, buffers):
    # type: (dict, list) -> BaseException
    if info.get("type") == "TaskTimeout" and not buffers:
        return TaskTimeout(native(info.get("text", "")))  # the node's word, not a task's
    buffers = list(buffers)
    error = last = _rebuilt(info, buffers)
    for link in info.get("chain", ()):
        cause = _rebuilt(link, buffers)
        if last is not error and link.get("how") == "cause":
            last.__cause__ = cause
        else:
            last.__context__ = cause
        last = cause
    remote = RemoteTraceback(native(info.get("traceback", "")))
    remote.__context__ = getattr(error, "__context__", None)
    remote.__suppress_context__ = True # its text tells of it already
    error.__cause__ = remote
    return error


def _rebuilt(info, buffers):
    # type: (dict, list) -> BaseException
    """One exception; its pickle, if it has one, is the next of the buffers."""
    error = None
    if buffers and info.get("pickled", True):
        try:
            error = loads(buffers.pop(0))
            error.__context__ = None  # type: ignore[attr-defined] # a class may refuse that, as a frozen dataclass does
        except BaseException as failed:
            _let_ctrl_c_pass(failed)
            error = None
    if not isinstance(error, BaseException):
        error = RemoteError(native("%s: %s" % (info.get("type"), info.get("text"))), native(info.get("type", "")))
    if info.get("notes") and not hasattr(error, "__notes__"):
        error.__notes__ = [native(note) for note in info["notes"]]
    return error


def shortened(value, characters=80):
    # type: (object, int) -> str
    """A value's repr for an error's text, whatever its repr does."""
    try:
        text = repr(value)
    except Exception as error:
        text = "<%s whose repr raises %s>" % (type(value).__name__, type(error).__name__)
    return text if len(text) <= characters else text[: characters - 3] + "..."


def digest(parts):
    # type: (object) -> str
    """A hex digest of byte strings; their borders count."""
    made = hashlib.sha256()
    for part in parts:  # type: ignore[attr-defined]
        made.update(struct.pack(">Q", len(part)))
        made.update(part)
    return made.hexdigest()
