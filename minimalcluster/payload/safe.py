"""Results that cannot run code where they are unpickled: ``results="safe"``.

An unpickler calls whatever a pickle names. This one knows a list of names, and refuses all others: plain values, dates,
decimals, containers, NumPy's arrays of plain types, exceptions, and the classes that an environment defines. (Those run
their own code, as the user wrote it, with data that a node may have chosen.) It does not keep a node from sending a
result that is wrong, or one that takes all memory or Python's whole stack.

Most results need only ``_PLAIN``, whose types nobody can change: the C unpickler loads them. For all others it is the
one that is written in Python, since that can be told which objects may get a state, and which not.
"""
from __future__ import absolute_import, division, print_function

import collections
import datetime
import decimal
import fractions
import io
import pickle as python_pickle
import re
import sys

from .. import errors
from ..compat import PY2, integer_types, pickle, range_type, text_type
from . import values
from .environment import PREFIX
from .imports import variables

if PY2:  # py2
    import __builtin__ as builtins  # type: ignore[import-not-found] # novm
else:
    import builtins  # novm

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable  # noqa: F401 # novm

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


def _is_fixed(kind):
    # type: (type) -> bool
    """Whether nobody can change the type: Py_TPFLAGS_HEAPTYPE is 1 << 9, and Py_TPFLAGS_IMMUTABLETYPE 1 << 8."""
    flags = kind.__flags__
    return not flags & 1 << 9 or bool(flags & 1 << 8)


_ALLOWED = {(_module(kind.__module__), kind.__name__): kind for kind in _KINDS}
_UUID = "uuid", "UUID"  # joins the list when a result names it: before 3.9 an import of uuid starts a process
#: Types of C, of which a pickle can make instances and change nothing else. A range could fill the memory by others.
_PLAIN = {name: kind for name, kind in _ALLOWED.items() if _is_fixed(kind) and kind is not range_type}
_ARRAY = "numpy.ndarray"  # in the place of the class: nobody may call that
_NUMPY_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
#: Plain types of NumPy: no records, whose fields could lie outside of the array.
_UNITS = [b"Y", b"M", b"W", b"D", b"h", b"m", b"s", b"ms", b"us", b"ns", b"ps", b"fs", b"as", b"generic"]
_DTYPE = re.compile(r"[<>=|]?[?biufcSUmMO][0-9]*\Z")
#: Opcodes that give what is called (the number is its place on the stack), and its arguments.
_CALLS = {"REDUCE": -2, "NEWOBJ": -2, "NEWOBJ_EX": -3}
#: No pickle has these that was made of a plain value. A number that is registered with copyreg (EXT) may stand for
#: something in a cache, so that ``find_class`` is not asked.
_STRANGE = ["EXT1", "EXT2", "EXT4", "INST", "OBJ"]
_FRACTION = re.compile(r"-?[0-9]+(/[0-9]+)?\Z")


def _opcode(name):
    # type: (str) -> Any
    """The key of its handler."""
    opcode = getattr(python_pickle, name)
    return opcode if PY2 else opcode[0]


class _NotPlainError(Exception):
    """The slower unpickler is needed."""


def loads(buffer):
    # type: (Any) -> Any
    """As ``values.loads``, but raises UnsafeResult for a pickle that names what is not on the list."""
    data = bytes(values._raw(buffer))
    if PY2 or python_pickle._extension_registry:  # type: ignore[attr-defined] # py2: cPickle's cannot be derived from
        return _Careful(io.BytesIO(data)).load()
    try:
        return _Fast(io.BytesIO(data)).load()
    except _NotPlainError:
        return _Careful(io.BytesIO(data)).load()


class _Fast(pickle.Unpickler if not PY2 else object):  # type: ignore[misc]
    def find_class(self, module, name):
        # type: (str, str) -> Any
        found = _PLAIN.get((_module(module), name))
        if found is None:
            raise _NotPlainError
        return found


_InPython = python_pickle.Unpickler if PY2 else python_pickle._Unpickler  # type: Any


class _Careful(_InPython):
    dispatch = dict(_InPython.dispatch)  # noqa: RUF012 # opcode -> its handler

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

    def load_build(self):
        # type: () -> None
        """Give an object its state. A class or function of the list never gets one: that would change it for all."""
        state, obj = self.stack[-1], self.stack[-2]
        if _is_dtype(obj):
            _check_dtype(obj, state)
        elif type(obj) is not _numpy_type("ndarray") and not _may_have_state(obj):
            raise errors.UnsafeResult("results='safe' refuses a state for %.80r" % (obj,))
        elif type(obj) is _numpy_type("ndarray"):
            _check_array(state)
        _InPython.load_build(self)

    dispatch[_opcode("BUILD")] = load_build


def _before(load, place):
    # type: (Callable[[Any], None], int) -> Callable[[Any], None]
    """The handler of an opcode that calls something, behind a look at the arguments: a few letters in a pickle must not
    become what fills the memory."""

    def look_and_load(self):
        # type: (Any) -> None
        function, arguments = self.stack[place], list(self.stack[place + 1])
        if place == _CALLS["NEWOBJ_EX"]:
            arguments += self.stack[-1].values()
        if function is not range_type and any(isinstance(each, range_type) for each in arguments):
            raise errors.UnsafeResult("results='safe' refuses to fill %.80r from a range" % (function,))
        if function is fractions.Fraction and not all(_is_whole(each) for each in arguments):
            raise errors.UnsafeResult("results='safe' refuses this fraction")
        load(self)

    return look_and_load


def _refuse(self):
    # type: (Any) -> None
    raise errors.UnsafeResult("results='safe' refuses this kind of pickle")


for _name, _place in _CALLS.items():
    if hasattr(python_pickle, _name):
        _Careful.dispatch[_opcode(_name)] = _before(_Careful.dispatch[_opcode(_name)], _place)
_Careful.dispatch.update((_opcode(_name), _refuse) for _name in _STRANGE)


def _is_whole(value):
    # type: (object) -> bool
    """Or a text of a fraction: in its text an exponent could have any size."""
    return isinstance(value, integer_types) or (isinstance(value, str) and _FRACTION.match(value) is not None)


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
