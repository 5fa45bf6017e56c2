"""Results that cannot run code where they are unpickled: ``results="safe"``.

An unpickler calls whatever a pickle names. This one knows a list of names, and refuses all others: plain values, dates,
decimals, containers, NumPy's arrays of plain types, exceptions, and the classes that an environment defines. (Those run
their own code, as the user wrote it, with data that a node may have chosen.) It does not keep a node from sending a
result that is wrong, or very large; but a small result does not become large here, nor crash or hold this process:

* No opcode is followed that our own pickles do not have: old ways to call, numbers as text, lengths to reserve.
* Calls may copy their arguments: ``set(range(10 ** 10))``, a thousand times ``deque`` of one list. The number of copied
  elements is limited for each byte of the pickle.
* Hashing goes through all that a key contains, again wherever a part is shared; a tuple that is nested too deeply ends
  the process. The number of hashed elements is limited for each byte of the pickle, and so is the depth.
* An array's state is compared with its shape: NumPy does not, and would read beyond a list's end.

It is Python's own unpickler in its form in Python, which can be told all this. It takes a microsecond for each object.
"""
from __future__ import absolute_import, division, print_function

import collections
import datetime
import decimal
import fractions
import io
import pickle as python_pickle
import re
import struct
import sys

from .. import errors
from ..compat import PY2, integer_types, range_type, text_type
from . import values
from .environment import PREFIX
from .imports import variables

if PY2:  # py2
    import __builtin__ as builtins  # type: ignore[import-not-found] # novm
else:
    import builtins  # novm

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any  # noqa: F401 # novm

def _module(name):
    # type: (str) -> str
    return "builtins" if name in ("__builtin__", "exceptions") else name  # 2.7's names


_EXCEPTIONS = [each for each in vars(builtins).values() if isinstance(each, type) and issubclass(each, BaseException)]
_KINDS = [
    complex, set, frozenset, slice, range_type, datetime.date, datetime.datetime, datetime.time, datetime.timedelta,
    decimal.Decimal, fractions.Fraction, collections.deque, collections.OrderedDict, collections.defaultdict,
    collections.Counter,
] + _EXCEPTIONS  # type: list # fmt: skip
if not PY2:
    _KINDS.append(datetime.timezone)  # novm

_ALLOWED = {(_module(kind.__module__), kind.__name__): kind for kind in _KINDS}
_UUID = "uuid", "UUID"  # joins the list when a result names it: before 3.9 an import of uuid starts a process
_ARRAY = "numpy.ndarray"  # in the place of the class: nobody may call that
_NUMPY_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
_UNITS = [b"Y", b"M", b"W", b"D", b"h", b"m", b"s", b"ms", b"us", b"ns", b"ps", b"fs", b"as", b"generic"]
#: Plain types of NumPy: no records, whose fields could lie outside of the array.
_DTYPE = re.compile(r"[<>=|]?[?biufcSUmMO][0-9]*\Z")
#: As a fraction writes itself. With an exponent it would take any memory.
_RATIO = re.compile(r"-?[0-9]+(/[0-9]+)?\Z")
#: Elements that calls may copy for a byte of the pickle: one is right, more if arguments are shared. Elements that
#: hashing may go through, which takes 10 ns each. And of both, if the pickle is short.
COPIES_PER_BYTE, HASHES_PER_BYTE, LEAST = 8, 256, 1000
#: How deep a key may be nested: hashing is recursive, in C, without a limit.
NESTED_MAX = 100
#: Of a fraction's parts: reducing it takes time that grows with the square.
FRACTION_BITS_MAX = 1 << 16
_REFUSED = (
    "BINPERSID", "BYTEARRAY8", "EXT1", "EXT2", "EXT4", "INST", "INT", "LONG", "NEXT_BUFFER", "OBJ", "PERSID",
    "READONLY_BUFFER",
)  # fmt: skip

def loads(buffer):
    # type: (Any) -> Any
    """As ``values.loads``, but raises UnsafeResult for a pickle that names what is not on the list."""
    return _Unpickler(bytes(values._raw(buffer))).load()


_InPython = python_pickle.Unpickler if PY2 else python_pickle._Unpickler  # type: Any


def _handler(name):
    # type: (str) -> Any
    """The key of an opcode's handler; None if this Python does not have it."""
    code = getattr(python_pickle, name, None)
    return code if PY2 or code is None else code[0]


class _Unpickler(_InPython):
    dispatch = dict(_InPython.dispatch)  # noqa: RUF012 # opcode -> its handler

    def __init__(self, data):
        # type: (bytes) -> None
        _InPython.__init__(self, io.BytesIO(data))
        self._size = len(data)
        self._copies, self._hashes = LEAST + COPIES_PER_BYTE * self._size, LEAST + HASHES_PER_BYTE * self._size

    def find_class(self, module, name):
        # type: (str, str) -> Any
        key = _module(module), name
        if key == _UUID:
            import uuid

            _ALLOWED[_UUID] = uuid.UUID
        for known in (_ALLOWED, _numpy_names()):
            if key in known:
                return known[key]
        found = variables(sys.modules.get(module)).get(name)
        own = module.startswith(PREFIX) or module == errors.__name__
        if own and isinstance(found, type) and found.__module__ == module:
            return found
        raise errors.UnsafeResult("results='safe' refuses %s.%s; a result may consist of plain values" % (module, name))

    def refuse(self):
        # type: () -> None
        raise errors.UnsafeResult("results='safe' refuses an opcode that no result of a worker process has")

    def load_frame(self):
        # type: () -> None
        size = struct.unpack("<Q", self.read(8))[0]
        if size > self._size:
            raise errors.UnsafeResult("results='safe' refuses a pickle that was cut")
        self._unframer.load_frame(size)

    # -- calls, and states ------------------------------------------------------------------------

    def load_reduce(self):
        # type: () -> None
        self._check_call(self.stack[-2], self.stack[-1])
        _InPython.load_reduce(self)

    def load_newobj(self):
        # type: () -> None
        self._check_call(self.stack[-2], self.stack[-1])
        _InPython.load_newobj(self)

    def load_newobj_ex(self):
        # type: () -> None
        self._check_call(self.stack[-3], self.stack[-2])
        self._check_call(self.stack[-3], tuple(self.stack[-1].values()))
        _InPython.load_newobj_ex(self)

    def _check_call(self, function, arguments):
        # type: (Any, Any) -> None
        if not isinstance(arguments, tuple):
            raise errors.UnsafeResult("results='safe' refuses a call with %.80r" % (arguments,))
        if function is fractions.Fraction:
            _check_fraction(arguments)
        kinds = BaseException, _HASHING
        is_error, hashes = [isinstance(function, type) and issubclass(function, kind) for kind in kinds]
        for argument in arguments:
            if not (is_error and isinstance(argument, (bytes, text_type))):  # it keeps texts as they are
                self._copies_of(argument)
            if hashes:
                self._hash(argument)

    def load_build(self):
        # type: () -> None
        """Give an object its state. A class or function of the list never gets one: that would change it for all."""
        state, obj = self.stack[-1], self.stack[-2]
        if _is_dtype(obj):
            _check_dtype(obj, state)
        elif type(obj) is _numpy_type("ndarray"):
            _check_array(state)
        elif not _may_have_state(obj):
            raise errors.UnsafeResult("results='safe' refuses this state of a %s" % type(obj).__name__)
        else:
            self._check_state(obj, state)
        _InPython.load_build(self)

    def _check_state(self, obj, state):
        # type: (object, Any) -> None
        for part in state if isinstance(state, tuple) else (state,):
            for name, value in part.items() if isinstance(part, dict) else ():
                self._copies_of(value)  # an exception's arguments become a tuple
                if name == "int" and not isinstance(value, integer_types):  # a UUID's, which is hashed
                    raise errors.UnsafeResult("results='safe' refuses this state of a %s" % type(obj).__name__)

    def _copies_of(self, argument):
        # type: (Any) -> None
        try:
            self._copies -= len(argument)
        except TypeError:
            return  # it has no elements
        except OverflowError:  # a range
            self._copies = -1
        if self._copies < 0:
            raise errors.UnsafeResult("results='safe' refuses %d bytes that would take far more memory" % self._size)

    # -- keys -------------------------------------------------------------------------------------

    def load_setitem(self):
        # type: () -> None
        self._hash(self.stack[-2])
        _InPython.load_setitem(self)

    def load_setitems(self):
        # type: () -> None
        for key in self._since_mark()[::2]:
            self._hash(key)
        _InPython.load_setitems(self)

    def load_dict(self):
        # type: () -> None
        for key in self._since_mark()[::2]:
            self._hash(key)
        _InPython.load_dict(self)

    def load_additems(self):
        # type: () -> None
        for key in self._since_mark():
            self._hash(key)
        _InPython.load_additems(self)

    def load_frozenset(self):
        # type: () -> None
        for key in self._since_mark():
            self._hash(key)
        _InPython.load_frozenset(self)

    def _since_mark(self):
        # type: () -> list
        return self.stack[self.marker() + 1 :] if PY2 else self.stack  # py2

    def _hash(self, key, depth=0):
        # type: (Any, int) -> None
        """Count what hashing this key goes through."""
        self._hashes -= 1
        if self._hashes < 0 or depth > NESTED_MAX:
            text = "results='safe' refuses keys that are nested too deeply, or contain the same part too often"
            raise errors.UnsafeResult(text)
        if isinstance(key, slice):
            key = (key.start, key.stop, key.step)
        if isinstance(key, (tuple, list)):
            for part in key:
                self._hash(part, depth + 1)


for _name in (
    "FRAME", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "SETITEM", "SETITEMS", "DICT", "ADDITEMS", "FROZENSET",
):  # fmt: skip
    if _handler(_name) is not None:
        _Unpickler.dispatch[_handler(_name)] = vars(_Unpickler)["load_" + _name.lower()]
for _name in _REFUSED:
    if _handler(_name) is not None:
        _Unpickler.dispatch[_handler(_name)] = _Unpickler.refuse
#: They hash what they are given.
_HASHING = (set, frozenset, collections.Counter, collections.OrderedDict, collections.defaultdict)


def _check_fraction(arguments):
    # type: (tuple) -> None
    for each in arguments:
        right = isinstance(each, integer_types) and each.bit_length() <= FRACTION_BITS_MAX
        if not right and isinstance(each, (str, text_type)):
            right = 3 * len(each) <= FRACTION_BITS_MAX and _RATIO.match(each) is not None
        if not right:
            raise errors.UnsafeResult("results='safe' refuses a fraction of %.80r" % (each,))


def _may_have_state(obj):
    # type: (object) -> bool
    kind = type(obj)
    return (
        isinstance(obj, BaseException)
        or kind in _ALLOWED.values()
        or kind.__module__.startswith(PREFIX)
    )


# -- NumPy ----------------------------------------------------------------------------------------


def _numpy_names():
    # type: () -> dict
    """What a pickle of an array names. Nothing of NumPy itself: some of it reads memory where a pickle tells it to."""
    names = {("numpy", "ndarray"): _ARRAY, ("numpy", "dtype"): _dtype}  # type: dict
    for core in _NUMPY_CORES:
        names.update({(core, "_reconstruct"): _empty_array, (core, "scalar"): _scalar})
    return names


def _numpy_type(name):
    # type: (str) -> Any
    return variables(sys.modules.get("numpy")).get(name)


def _is_dtype(obj):
    # type: (object) -> bool
    dtype = _numpy_type("dtype")
    return dtype is not None and isinstance(obj, dtype)


def _numpy():
    # type: () -> Any
    import numpy

    return numpy


def _empty_array(kind, shape, code):
    # type: (object, object, object) -> Any
    if kind is not _ARRAY or shape != (0,):
        raise errors.UnsafeResult("results='safe' refuses an array of another class")
    return _numpy().ndarray((0,), "b")


def _dtype(code, *rest):
    # type: (Any, *object) -> Any
    code = code.decode("ascii") if isinstance(code, bytes) else code
    if not isinstance(code, (str, text_type)) or not _DTYPE.match(code):
        raise errors.UnsafeResult("results='safe' refuses arrays of %.80r" % (code,))
    return _numpy().dtype(str(code), False, True)  # a copy: its state is set next


def _check_dtype(dtype, state):
    # type: (Any, Any) -> None
    """Nothing but the byte order, and the unit of a date, may be said: NumPy would follow sizes and flags that lie, and
    crashes at some others."""
    if dtype.kind in "SU":  # NumPy takes over the sizes of these, whatever they are
        sizes = [(dtype.itemsize, alignment) for alignment in (1, 4, dtype.alignment)]
    else:
        sizes = [(-1, -1)]
    unit, state = (state[8:], state[:8]) if isinstance(state, tuple) else ((), ())
    orders = "|" if dtype.byteorder == "|" else "<>"
    starts = [(3 + len(unit), order, None, None, None) for order in orders]
    if state[:5] not in starts or state[5:7] not in sizes or state[7:] != (dtype.flags,) or not _is_unit(dtype, unit):
        raise errors.UnsafeResult("results='safe' refuses arrays of records")


def _is_unit(dtype, state):
    # type: (Any, tuple) -> bool
    """Whether this is the unit of a date, if the type needs one: (nothing, (its name, how many, 1, 1))."""
    if dtype.kind not in "mM":
        return state == ()
    if len(state) != 1 or not isinstance(state[0], tuple) or len(state[0]) != 2 or state[0][0] not in (None, {}):
        return False
    unit = state[0][1]
    return (
        isinstance(unit, tuple) and len(unit) == 4 and unit[2:] == (1, 1) and isinstance(unit[0], bytes)
        and unit[0] in _UNITS and isinstance(unit[1], int) and 0 < unit[1] < 1 << 31
    )  # fmt: skip


def _check_array(state):
    # type: (Any) -> None
    """NumPy does not look whether the objects are as many as the shape says, and old ones compute modulo 2**64."""
    plain = isinstance(state, tuple) and len(state) == 5 and isinstance(state[1], tuple) and _is_dtype(state[2])
    if not plain or not all(isinstance(each, integer_types) and each >= 0 for each in state[1]):
        raise errors.UnsafeResult("results='safe' refuses this state of an array")
    _, shape, dtype, _, data = state
    kind, size = (list, 1) if dtype.hasobject else (bytes, dtype.itemsize)
    for each in shape:
        size *= each
    if not isinstance(data, kind) or len(data) != size:
        raise errors.UnsafeResult("results='safe' refuses an array of another size than its shape's")


def _scalar(dtype, data=None):
    # type: (Any, Any) -> Any
    if not _is_dtype(dtype) or dtype.hasobject or not isinstance(data, bytes):
        raise errors.UnsafeResult("results='safe' refuses this scalar of NumPy")
    if len(data) != dtype.itemsize:
        raise errors.UnsafeResult("results='safe' refuses a scalar of NumPy with a wrong size")
    return _numpy().frombuffer(data, dtype)[0] if data else dtype.type()  # the latter: an empty text
