"""How a function travels: by the first way that fits.

1. By reference, where the other process can import its module.
2. By value with ``cloudpickle``, if this process has it: lambdas, closures, what was typed in.
3. With the script: ``__main__``'s source is run there under another name, as multiprocessing does.

``pack`` is for the side that sends, ``target`` for the worker process. A definition's info names
its kind: "source" (an environment and a name in it), "function" (one pickled function, applied to
each argument tuple) or "calls" (every task brings its own function and arguments).
"""
from __future__ import absolute_import, division, print_function

import os
import re
import sys
import types
from collections import namedtuple

from . import environment, values
from .compat import PICKLE_PROTOCOL, as_text, native, pickle, raise_from
from .errors import InitializerError, UsageError

#: What a pickle needs of the process that loads it.
NOTHING, SAME_MINOR, MAIN_SCRIPT = "nothing", "same minor", "main script"
#: The name under which a script runs in a worker process, so that its guard stays closed.
MAIN_NAME = "__minimalcluster_main__"

Packed = namedtuple("Packed", "data needs")


def minor():
    # type: () -> str
    return "%d.%d" % sys.version_info[:2]


# -- sending --------------------------------------------------------------------------------------


def pack(value):
    # type: (object) -> Packed
    """Pickle a call or a function by the first way that fits. Raises what the pickling raised."""
    try:
        data = pickle.dumps(value, PICKLE_PROTOCOL)
    except Exception as error:
        by_value = _cloudpickle()
        if by_value is None:
            raise _explained(error, value, _HINT if _BY_VALUE.search(str(error)) else "")
        try:
            return Packed(by_value.dumps(value, PICKLE_PROTOCOL), SAME_MINOR)
        except Exception as second:
            raise _explained(second, value, "")
    if b"__main__" not in data and MAIN_NAME.encode("ascii") not in data:
        return Packed(data, NOTHING)
    by_value = _cloudpickle()
    if by_value is not None:
        return Packed(by_value.dumps(value, PICKLE_PROTOCOL), SAME_MINOR)
    main_script()
    return Packed(data, MAIN_SCRIPT)


#: What only cloudpickle can send, as pickle's texts have it.
_BY_VALUE = re.compile("lambda|local|attribute lookup|not the same object|not found as")
_HINT = "; pip install cloudpickle here, or put it into a module, at its top level"
_DEPTH_MAX = 4


def _explained(error, value, hint):
    # type: (Exception, object, str) -> Exception
    """The same error, if it is one of pickle's usual, with the place of what cannot travel and what helps."""
    if type(error) not in (TypeError, AttributeError, pickle.PicklingError) or len(error.args) != 1:
        return error
    place = _culprit(value, _DEPTH_MAX)
    explained = type(error)("%s%s%s" % (error, " (in %s)" % place if place else "", hint))
    explained.__cause__ = getattr(error, "__cause__", None)
    return explained


def _culprit(value, depth):
    # type: (object, int) -> str
    """Where in a value that which cannot be pickled is: "argument 1, .parent, .lock"; "" for the value as a whole."""
    if isinstance(value, (list, tuple)):
        parts = [("[%d]" % index, part) for index, part in enumerate(value)]
        if len(value) == 3 and isinstance(value, tuple) and isinstance(value[2], dict):  # a call
            parts = [("argument %d" % index, part) for index, part in enumerate(value[1])]
            parts += [("argument %s" % name, part) for name, part in value[2].items()]
    elif isinstance(value, dict):
        parts = [("[%s]" % values.shortened(key), part) for key, part in value.items()]
    else:
        parts = [("." + name, part) for name, part in sorted(getattr(value, "__dict__", {}).items())]
    for name, part in parts if depth else ():
        try:
            pickle.dumps(part, PICKLE_PROTOCOL)
        except Exception:  # pickling runs the class's own code
            return ", ".join([name] + [place for place in [_culprit(part, depth - 1)] if place])
    return ""


def _cloudpickle():
    # type: () -> types.ModuleType | None
    try:
        import cloudpickle
    except ImportError:
        return None
    return cloudpickle


def main_script():
    # type: () -> tuple[str, bytes]
    """(path, source) of the running script. Raises UsageError where there is none."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if not path or not os.path.isfile(path):
        raise UsageError(
            "a function or class that was typed in (__main__) cannot be sent: pip install cloudpickle here, "
            "or put it into a module"
        )
    # What comes back was made under that name.
    sys.modules.setdefault(MAIN_NAME, sys.modules["__main__"])
    with open(path, "rb") as file:
        return native(path), file.read()


def requirements(needs):
    # type: (str) -> tuple[dict[str, object], list[bytes]]
    """What a definition must say and bring for pickles with these needs."""
    if needs == SAME_MINOR:
        return {"minor": minor()}, []
    if needs == MAIN_SCRIPT:
        path, source = main_script()
        return {"main": path, "argv": [as_text(each) for each in getattr(sys, "argv", [])]}, [source]
    return {}, []


# -- receiving, in a worker process ---------------------------------------------------------------

_initialized = set()  # type: set[str] # tokens of initializers that have run in this process
_running_main = []  # type: list[str] # the script that is being run here, as long as it is


def target(info, payload):
    # type: (dict, list) -> object
    """The callable that a definition makes: it takes one task's argument. Raises what the user's code raises."""
    buffers = list(payload)
    if info["kind"] == "source":
        source = environment.Source(
            native(info["module"]), native(info["filename"]), info["is_text"], buffers[0].tobytes()
        )
        return environment.find(environment.load(source), info["function"])
    if info.get("minor") not in (None, minor()):
        theirs = info["minor"]
        raise UsageError("its function travels by value from Python %s, and this is Python %s" % (theirs, minor()))
    if "minor" in info:
        values.by_value = _cloudpickle()
    if "main" in info:
        sys.argv = [native(each) for each in info["argv"]]  # what its module level reads, as with multiprocessing
        _run_main(native(info["main"]), buffers.pop(0).tobytes())
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


def _run_main(path, source):
    # type: (str, bytes) -> None
    """Run the user's script under another name and let pickles find its functions under ``__main__``."""
    module = sys.modules.get(MAIN_NAME)
    if module is None:
        module = types.ModuleType(MAIN_NAME)
        module.__file__ = path
        sys.modules[MAIN_NAME] = module
        _running_main.append(path)
        try:
            exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
        except BaseException:
            del sys.modules[MAIN_NAME]
            raise
        finally:
            _running_main.pop()
    sys.modules["__main__"] = module


def forbid_a_cluster_while_main_loads():
    # type: () -> None
    """A script that starts a cluster when a worker process loads it would do so without end."""
    if _running_main:
        raise RuntimeError(
            "a worker process is loading the script %s for its functions, and it starts a cluster of its own: put "
            "that part of it under  if __name__ == '__main__':  (or pip install cloudpickle here)" % _running_main[0]
        )


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
