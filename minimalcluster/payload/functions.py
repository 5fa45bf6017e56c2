"""How a function travels: by the first of these ways that works.

1. By its name, if the other process can import its module, or runs the function's script (script.py).
2. By value with ``cloudpickle``, if this process has that (by_value.py): lambdas, closures, what was typed in.

``pack`` is for the sending side, ``target`` for the worker process. A definition's info has a "kind": "source" (an
environment and a name in it), "function" (one pickled function, for the arguments of all tasks) or "calls" (each task
brings its function and arguments).
"""
from __future__ import absolute_import, division, print_function

import functools
import re
import sys
import types

from ..compat import PY2, native, pickle, raise_from
from ..errors import InitializerError, UsageError
from . import by_value, environment, script, values
from .values import NOTHING, SAME_MINOR, SCRIPT, Packed

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable  # noqa: F401 # novm

    from .imports import Fetch  # noqa: F401

# -- sending --------------------------------------------------------------------------------------


def pack(value, with_script=True):
    # type: (object, bool) -> Packed
    """Pickle a call or a function, in the first way that works. Raises UsageError, or what the pickling raises.

    with_script=False: the process that loads the pickle (an engine's) may not run the script, so prefer by value.
    """
    return _pack(value, with_script, None)


def pack_apart(value, with_script=True):
    # type: (object, bool) -> tuple[list, str]
    """([a pickle, its large buffers, ...], its needs).

    With pickle protocol 5 (Python 3.8) large buffers are not copied into the pickle; before that there are none.
    """
    buffers = []  # type: list
    packed = _pack(value, with_script, buffers)
    return [packed.data] + [buffer.raw() for buffer in buffers], packed.needs


def _pack(value, with_script, buffers):
    # type: (object, bool, list | None) -> Packed
    try:
        data = by_value.plain(value, buffers)
    except Exception as error:
        cloudpickle = None if isinstance(error, _TOO_DEEP) else _cloudpickle()  # which gets no deeper
        if cloudpickle is None:
            hint = _HINT if _BY_VALUE.search(str(error)) else ""
            raise _explained(error, value, by_value.plain, hint)
        return _packed_by_value(cloudpickle, value, with_script, buffers)
    if not script.may_be_named_in(data):
        return Packed(data, NOTHING)
    return _packed_of_main(value, data, with_script, buffers)


def _packed_of_main(value, data, with_script, buffers):
    # type: (object, bytes, bool, list | None) -> Packed
    """``_pack`` for a value whose pickle may name something of ``__main__``."""
    found = script.findable()
    if not (with_script and found is not None and found.surely_defines(data)):
        names = script.names_in(data)
        if not names:
            return Packed(data, NOTHING)  # the text "__main__" is in the user's data
        there = found is not None and found.defines(names)
        cloudpickle = None if there and with_script else _cloudpickle()
        if cloudpickle is not None:
            return _packed_by_value(cloudpickle, value, with_script, buffers)
        if not there:
            raise UsageError(script.why_not(names))
    expect_classes_of_script()
    return Packed(data, SCRIPT)


def _packed_by_value(cloudpickle, value, with_script, buffers):
    # type: (types.ModuleType, object, bool, list | None) -> Packed
    try:
        made = by_value.dump(cloudpickle, value, with_script, buffers=buffers)
    except Exception as error:
        raise _explained(error, value, lambda part: by_value.dump(cloudpickle, part, with_script), "")
    expect_classes_of_script()
    return packed(made)


def packed(made):
    # type: (by_value.Pickled) -> Packed
    """As a Packed, with the letters of its needs (values.py)."""
    return Packed(made.data, (SCRIPT if made.names_script else "") + (SAME_MINOR if made.by_value else ""))


def expect_classes_of_script():
    # type: () -> None
    """Results may be of the script's classes. A worker process pickles these under the script's name there, so make
    that name stand for the script here."""
    sys.modules[script.MAIN_NAME] = sys.modules["__main__"]


_TOO_DEEP = RuntimeError if PY2 else RecursionError # novm
#: Found in the texts of pickle's errors if cloudpickle could help.
_BY_VALUE = re.compile("lambda|local|attribute lookup|not the same object|not found as")
_HINT = "; pip install cloudpickle here, or put it into a module, at its top level"
_DEPTH_MAX = 4


def _explained(error, value, dump, hint):
    # type: (Exception, object, Callable[[object], object], str) -> Exception
    """The same error; if it is a usual one of pickle, with the place of the part that cannot travel, and a hint."""
    if type(error) not in (TypeError, AttributeError, pickle.PicklingError) or len(error.args) != 1:
        return error
    place = _culprit(value, dump, _DEPTH_MAX)
    explained = type(error)("%s%s%s" % (error, " (in %s)" % place if place else "", hint))
    explained.__cause__ = getattr(error, "__cause__", None)
    return explained


def _culprit(value, dump, depth):
    # type: (object, Callable[[object], object], int) -> str
    """The place of the part that cannot be pickled: "argument 1, .parent, .lock"; "" for the value as a whole."""
    for name, part in _parts(value, dump is by_value.plain) if depth else ():
        try:
            dump(part)
        except Exception:  # pickling runs the class's own code
            return ", ".join([name] + [place for place in [_culprit(part, dump, depth - 1)] if place])
    return ""


def _parts(value, by_name):
    # type: (object, bool) -> list
    """(name, part) of each part that is pickled with a value. by_name: of a function or class only its name is."""
    if isinstance(value, tuple) and len(value) == 3 and isinstance(value[2], dict):  # a call
        parts = [("argument %d" % index, part) for index, part in enumerate(value[1])]
        return parts + [("argument %s" % name, part) for name, part in value[2].items()] + [("the function", value[0])]
    if isinstance(value, (list, tuple)):
        return [("[%d]" % index, part) for index, part in enumerate(value)]
    if isinstance(value, dict):
        return [("[%s]" % values.shortened(key), part) for key, part in value.items()]
    if by_name and isinstance(value, (type, types.FunctionType)):
        return []
    if isinstance(value, types.FunctionType):
        return _parts_of_function(value)
    members = sorted(getattr(value, "__dict__", {}).items())
    return [("." + name, part) for name, part in members if not isinstance(part, types.GetSetDescriptorType)]


def _parts_of_function(function):
    # type: (types.FunctionType) -> list
    code = function.__code__
    parts = [("global " + name, function.__globals__[name]) for name in code.co_names if name in function.__globals__]
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        try:
            parts.append(("closure's " + name, cell.cell_contents))
        except ValueError:
            pass  # the variable has no value yet
    return parts


def _cloudpickle():
    # type: () -> types.ModuleType | None
    try:
        import cloudpickle
    except ImportError:
        return None
    return cloudpickle


def globals_set(function):
    # type: (object) -> list[str]
    """Names of the global variables that a function sets (it has a ``global`` statement)."""
    import dis

    code = getattr(function, "__code__", None)
    if code is None or not hasattr(dis, "get_instructions"):
        return []
    found = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_GLOBAL"}  # novm
    return sorted(found)


def requirements(needs, with_script=True):
    # type: (str, bool) -> dict[str, object]
    """The info that a definition needs for pickles with these needs.

    with_script: describe the script even if the pickles do not need it, if it is the project's.
    """
    info = {"needs": values.with_version(needs)} if needs else {}  # type: dict[str, object]
    found = script.findable()
    if found is None or not (SCRIPT in needs or (with_script and found.is_project)):
        return info
    return dict(info, **found.described())


# -- receiving, in a worker process ---------------------------------------------------------------

_initialized = set()  # type: set[str] # tokens of initializers that have run in this process


def prepare(needs_and_version):
    # type: (str) -> None
    """Prepare to load pickles with these needs (see ``values.with_version``).

    Raises UsageError (another minor version) or SourceError (the script could not be run) if this process cannot.
    """
    needs, _, theirs = needs_and_version.partition(SAME_MINOR)
    if theirs and theirs != values.minor():
        raise UsageError("something travels by value from Python %s, and this is Python %s" % (theirs, values.minor()))
    if theirs:
        cloudpickle = _cloudpickle()
        values.by_value = None if cloudpickle is None else by_value.dumper(cloudpickle)
    if SCRIPT in needs:
        script.require()


def target(info, payload, fetch=None):
    # type: (dict, list, Fetch | None) -> Callable[[Any], object]
    """The function of a job's definition; it takes one task's argument. Raises what the user's code raises.

    info, payload: the definition's. fetch: asks the master for the script, if there is one.
    """
    buffers = list(payload)
    needs = native(info.get("needs", ""))
    if "main" in info:
        script.run(info, fetch, SCRIPT in needs)
    prepare(needs)
    if info["kind"] == "source":
        source = environment.Source(
            native(info["module"]), native(info["filename"]), info["is_text"], buffers[0].tobytes()
        )
        return environment.find(environment.load(source), info["function"])
    if "initializer" in info:
        _initialize(info["initializer"], buffers.pop(0))
    if info["kind"] == "calls":
        return _call
    data = buffers.pop(0)
    function = values.loads(data)
    if info.get("state"):
        function = _unchanged(function, data)
    if info["star"]:
        return lambda arguments: function(*arguments)
    return function


def _unchanged(function, data):
    # type: (Callable[..., object], memoryview) -> Callable[..., object]
    """The function whose pickle this is, loaded anew for each call: no call sees what another one has changed in it."""
    loaded = [function]

    def call(*arguments):
        # type: (*object) -> object
        own = loaded.pop() if loaded else values.loads(data)
        return own(*arguments)

    return call


def has_state(function):
    # type: (object) -> bool
    """Whether calls may change the function itself: a method's object, a partial's arguments, an instance's
    attributes."""
    if isinstance(function, functools.partial):
        given = list(function.args) + list((function.keywords or {}).values())
        return has_state(function.func) or not values.all_scalars(given)
    if isinstance(function, (types.FunctionType, type)) or hasattr(type(function), "cache_info"):  # lru_cache's
        return False
    if isinstance(function, (types.MethodType, types.BuiltinFunctionType)):
        owner = getattr(function, "__self__", None)
        return not (owner is None or isinstance(owner, (type, types.ModuleType)))
    return True


def _call(call):
    # type: (tuple) -> object
    function, arguments, keywords = call
    return function(*arguments, **keywords)


def forget_initializers():
    # type: () -> None
    """Let each initializer run again before the next call that wants it."""
    _initialized.clear()


def will_initialize(info):
    # type: (dict) -> bool
    """Whether ``target`` will run an initializer for this definition."""
    return "initializer" in info and info["initializer"] not in _initialized


def _initialize(token, buffer):
    # type: (str, memoryview) -> None
    if token in _initialized:
        return
    initializer, arguments = values.loads(buffer)
    try:
        initializer(*arguments)
    except BaseException as error:  # SystemExit, too. Without its initializer no call may run here
        name = values.name_of(initializer)
        raise_from(InitializerError("the initializer %s raised %s" % (name, values.in_words(error))), error)
    _initialized.add(token)
