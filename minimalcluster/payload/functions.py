"""How a function travels: by the first way that fits.

1. By reference, where the other process can import its module, or has run the script that it is of (script.py).
2. By value with ``cloudpickle``, if this process has it (by_value.py): lambdas, closures, what was typed in.

``pack`` is for the side that sends, ``target`` for the worker process. A definition's info names
its kind: "source" (an environment and a name in it), "function" (one pickled function, applied to
each argument tuple) or "calls" (every task brings its own function and arguments).
"""
from __future__ import absolute_import, division, print_function

import re
import sys
import types

from ..compat import native, pickle, raise_from
from ..errors import InitializerError, UsageError
from . import by_value, environment, script, values
from .values import NOTHING, SAME_MINOR, SCRIPT, Packed

# -- sending --------------------------------------------------------------------------------------


def pack(value, with_script=True):
    # type: (object, bool) -> Packed
    """Pickle a call or a function by the first way that fits. Raises what the pickling raised.

    with_script=False: whoever loads it, an engine's worker process, may not run the script: by value, if that can be.
    """
    return _pack(value, with_script, None)


def pack_apart(value, with_script=True):
    # type: (object, bool) -> tuple[list, str]
    """(a pickle, then its large buffers as they are, where the newest protocol has them (5: Python 3.8); its needs)."""
    buffers = []  # type: list
    packed = _pack(value, with_script, buffers)
    return [packed.data] + [buffer.raw() for buffer in buffers], packed.needs


def _pack(value, with_script, buffers):
    # type: (object, bool, list | None) -> Packed
    try:
        data = by_value.plain(value, buffers)
    except Exception as error:
        cloudpickle = _cloudpickle()
        if cloudpickle is None:
            hint = _HINT if _BY_VALUE.search(str(error)) else ""
            raise _explained(error, value, by_value.plain, hint)
        return _packed_by_value(cloudpickle, value, with_script, buffers)
    if not script.may_be_named_in(data):
        return Packed(data, NOTHING)
    return _packed_of_main(value, data, with_script, buffers)


def _packed_of_main(value, data, with_script, buffers):
    # type: (object, bytes, bool, list | None) -> Packed
    """Of a value whose pickle looks as if it named something of ``__main__``."""
    found = script.findable()
    if not (with_script and found is not None and found.surely_defines(data)):
        names = script.names_in(data)
        if not names:
            return Packed(data, NOTHING)  # it is in the user's own data
        there = found is not None and found.defines(names)
        cloudpickle = None if there and with_script else _cloudpickle()
        if cloudpickle is not None:
            return _packed_by_value(cloudpickle, value, with_script, buffers)
        if not there:
            raise UsageError(script.why_not(names))
    _know_what_comes_back()
    return Packed(data, SCRIPT)


def _packed_by_value(cloudpickle, value, with_script, buffers):
    # type: (types.ModuleType, object, bool, list | None) -> Packed
    try:
        made = by_value.dump(cloudpickle, value, with_script, buffers=buffers)
    except Exception as error:
        raise _explained(error, value, lambda part: by_value.dump(cloudpickle, part, with_script), "")
    _know_what_comes_back()
    return packed(made)


def packed(made):
    # type: (by_value.Pickled) -> Packed
    return Packed(made.data, (SCRIPT if made.names_script else "") + (SAME_MINOR if made.by_value else ""))


def _know_what_comes_back():
    # type: () -> None
    """Classes of the script come back under the name that it has in a worker process."""
    sys.modules.setdefault(script.MAIN_NAME, sys.modules["__main__"])


#: What only cloudpickle can send, as pickle's texts have it.
_BY_VALUE = re.compile("lambda|local|attribute lookup|not the same object|not found as")
_HINT = "; pip install cloudpickle here, or put it into a module, at its top level"
_DEPTH_MAX = 4


def _explained(error, value, dump, hint):
    # type: (Exception, object, object, str) -> Exception
    """The same error, if it is one of pickle's usual, with the place of what cannot travel and what helps."""
    if type(error) not in (TypeError, AttributeError, pickle.PicklingError) or len(error.args) != 1:
        return error
    place = _culprit(value, dump, _DEPTH_MAX)
    explained = type(error)("%s%s%s" % (error, " (in %s)" % place if place else "", hint))
    explained.__cause__ = getattr(error, "__cause__", None)
    return explained


def _culprit(value, dump, depth):
    # type: (object, object, int) -> str
    """Where in a value that which cannot be pickled is: "argument 1, .parent, .lock"; "" for the value as a whole."""
    for name, part in _parts(value) if depth else ():
        try:
            dump(part)  # type: ignore[operator]
        except Exception:  # pickling runs the class's own code
            return ", ".join([name] + [place for place in [_culprit(part, dump, depth - 1)] if place])
    return ""


def _parts(value):
    # type: (object) -> list
    """(name, part) of all that is pickled with a value."""
    if isinstance(value, tuple) and len(value) == 3 and isinstance(value[2], dict):  # a call
        parts = [("argument %d" % index, part) for index, part in enumerate(value[1])]
        return parts + [("argument %s" % name, part) for name, part in value[2].items()] + [("the function", value[0])]
    if isinstance(value, (list, tuple)):
        return [("[%d]" % index, part) for index, part in enumerate(value)]
    if isinstance(value, dict):
        return [("[%s]" % values.shortened(key), part) for key, part in value.items()]
    if isinstance(value, types.FunctionType):
        return _parts_of_function(value)
    return [("." + name, part) for name, part in sorted(getattr(value, "__dict__", {}).items())]


def _parts_of_function(function):
    # type: (types.FunctionType) -> list
    code = function.__code__
    parts = [("global " + name, function.__globals__[name]) for name in code.co_names if name in function.__globals__]
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        try:
            parts.append(("closure's " + name, cell.cell_contents))
        except ValueError:
            pass  # it has no value yet
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
    """Names of the global variables that it sets by ``global``."""
    import dis

    code = getattr(function, "__code__", None)
    if code is None or not hasattr(dis, "get_instructions"):
        return []
    found = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_GLOBAL"}  # novm
    return sorted(found)


def requirements(needs, with_script=True):
    # type: (str, bool) -> dict[str, object]
    """What a definition must say for pickles with these needs; a script of the user's comes anyway."""
    info = {"needs": values.told(needs)} if needs else {}  # type: dict[str, object]
    found = script.findable()
    if found is None or not (SCRIPT in needs or (with_script and found.is_project)):
        return info
    return dict(info, **found.described())


# -- receiving, in a worker process ---------------------------------------------------------------

_initialized = set()  # type: set[str] # tokens of initializers that have run in this process


def prepare(told):
    # type: (str) -> None
    """Raises UsageError or SourceError where this process cannot load pickles with these needs."""
    needs, _, theirs = told.partition(SAME_MINOR)
    if theirs and theirs != values.minor():
        raise UsageError("something travels by value from Python %s, and this is Python %s" % (theirs, values.minor()))
    if theirs:
        cloudpickle = _cloudpickle()
        values.by_value = None if cloudpickle is None else by_value.dumper(cloudpickle)
    if SCRIPT in needs:
        script.require()


def target(info, payload, fetch=None):
    # type: (dict, list, object) -> object
    """The callable that a definition makes: it takes one task's argument. Raises what the user's code raises.

    fetch: asks the master for the script, if there is one.
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
    function = values.loads(buffers.pop(0))
    return (lambda arguments: function(*arguments)) if info["star"] else function  # type: ignore[operator]


def _call(call):
    # type: (tuple) -> object
    function, arguments, keywords = call
    return function(*arguments, **keywords)


def forget_initializers():
    # type: () -> None
    """Each runs again before the next call that wants it."""
    _initialized.clear()


def will_initialize(info):
    # type: (dict) -> bool
    """Does ``target`` run an initializer for this definition?"""
    return "initializer" in info and info["initializer"] not in _initialized


def _initialize(token, buffer):
    # type: (str, memoryview) -> None
    if token in _initialized:
        return
    call = values.loads(buffer)  # type: tuple # type: ignore[assignment]
    initializer, arguments = call
    try:
        initializer(*arguments)
    except BaseException as error:  # also SystemExit: without it no call may run here
        name = getattr(initializer, "__name__", values.shortened(initializer))
        raise_from(InitializerError("the initializer %s raised %s: %s" % (name, type(error).__name__, error)), error)
    _initialized.add(token)
