"""Pickles of what has no module, by cloudpickle: lambdas, closures, what was typed in.

What cloudpickle does by itself, two things apart:

* What such a function names of the script, or of another module of the project, is that module's own, in whatever
  process: one set of globals, one class.
* A class or function that travelled by value comes back as the one that was sent. cloudpickle would make another
  function of it, and set the class's attributes anew, in the middle of the user's program.

Only for Python 3: on 2.7 there is cloudpickle alone.
"""
from __future__ import absolute_import, division, print_function

import io
import os
import sys
import types
import weakref

from ..compat import PICKLE_PROTOCOL, PICKLE_PROTOCOL_MAX, PY2, hexadecimal, pickle
from . import script
from .imports import is_own_path

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    pass

#: Functions and classes that this process has sent by value, or got so: by their tokens, and their tokens.
_by_token = weakref.WeakValueDictionary()  # type: weakref.WeakValueDictionary
_tokens = weakref.WeakKeyDictionary()  # type: weakref.WeakKeyDictionary
#: Of those that another process has made: their pickles, for the case that it has forgotten them.
_foreign = weakref.WeakKeyDictionary()  # type: weakref.WeakKeyDictionary
_picklers = {}  # type: dict # cloudpickle, or joblib's copy of it -> the pickler made of it


class Pickled(object):
    """data: the pickle. names_script: it needs the script there. by_value: only the same minor version can load it."""

    __slots__ = ("by_value", "data", "names_script")

    def __init__(self, data, names_script, by_value):
        # type: (bytes, bool, bool) -> None
        self.data, self.names_script, self.by_value = data, names_script, by_value


def plain(value, buffers=None):
    # type: (object, list | None) -> bytes
    """As pickle alone does it. buffers: takes large ones in as they are, where there is a protocol for that."""
    if buffers is None:
        return pickle.dumps(value, PICKLE_PROTOCOL)
    del buffers[:]
    return pickle.dumps(value, PICKLE_PROTOCOL_MAX, **_apart(buffers))


def _apart(buffers):
    # type: (list | None) -> dict
    return {} if buffers is None or PICKLE_PROTOCOL_MAX < 5 else {"buffer_callback": buffers.append}


def dump(cloudpickle, value, with_script=True, table=None, buffers=None):
    # type: (types.ModuleType, object, bool, object, list | None) -> Pickled
    """with_script: the script's functions and classes go by their names. table: reducers by type, beside cloudpickle's.
    buffers: as ``plain``'s.

    Raises what the pickling raises.
    """
    if PY2:  # py2
        return Pickled(cloudpickle.dumps(value, PICKLE_PROTOCOL), False, True)
    file = io.BytesIO()
    protocol = PICKLE_PROTOCOL if buffers is None else PICKLE_PROTOCOL_MAX
    if buffers is not None:
        del buffers[:]
    pickler = _pickler(cloudpickle, table)(file, protocol, **_apart(buffers))
    pickler.with_script = with_script
    pickler.dump(value)
    return Pickled(file.getvalue(), pickler.names_script, pickler.by_value)


def dumper(cloudpickle):
    # type: (types.ModuleType) -> object
    """For a worker process's results: value -> bytes."""
    return lambda value: dump(cloudpickle, value).data


def _pickler(cloudpickle, table):
    # type: (types.ModuleType, object) -> type
    made = _picklers.get(cloudpickle.__name__)
    if made is None:
        made = _picklers[cloudpickle.__name__] = _made_pickler(cloudpickle)
    if table is None:
        return made
    # The pickler in C reads the table from its class.
    return type("_Pickler", (made,), {"dispatch_table": table(made.dispatch_table)})  # type: ignore[operator, union-attr]


def _made_pickler(cloudpickle):
    # type: (types.ModuleType) -> type
    base = cloudpickle.CloudPickler
    about = {"base": base, "source": cloudpickle}
    if hasattr(base, "reducer_override"):
        return type("Pickler", (_Pickler, base), about)
    about["dispatch"] = dict(base.dispatch)
    about["dispatch"].update({type: _OldPickler.save_global, types.FunctionType: _OldPickler.save_function})
    return type("Pickler", (_OldPickler, base), about)


class _Pickler(object):
    """Before cloudpickle's own pickler, which is ``base``, in the order of methods."""

    base = object()  # type: object # cloudpickle's pickler
    source = sys  # type: types.ModuleType # what it is of
    with_script = True
    names_script = by_value = False
    is_copy = False  # for _foreign: refers to nothing that the other side may have forgotten

    def reducer_override(self, obj):
        # type: (object) -> object
        if not isinstance(obj, (type, types.FunctionType)):
            return NotImplemented
        reduced = _reduced(self, obj)
        return self._marked(obj, self.base.reducer_override(self, obj)) if reduced is None else reduced  # type: ignore[attr-defined]

    def _dynamic_function_reduce(self, func):
        # type: (types.FunctionType) -> tuple
        """cloudpickle's, in which its module's own globals stand in the place of a copy of some of them."""
        reduced = self.base._dynamic_function_reduce(self, func)  # type: ignore[attr-defined]
        home = _home(func, self.with_script)
        if home is None:
            return reduced
        state = reduced[2][1]
        state["__globals__"] = _not_there(home, state["__globals__"])
        there = self._globals(home, bool(state["__globals__"]))
        return reduced[:1] + ((reduced[1][0], there) + tuple(reduced[1][2:]),) + reduced[2:]

    def _globals(self, module, is_copy):
        # type: (str, bool) -> _Globals
        """The same for all functions in one pickle."""
        self.names_script = self.names_script or module == "__main__"
        known = self.__dict__.setdefault("known_globals", {})
        return known.setdefault((module, is_copy), _Globals(module, is_copy))

    def _marked(self, obj, reduced):
        # type: (object, object) -> object
        """What sets the new one's state notes its token, too."""
        if not isinstance(reduced, tuple) or len(reduced) != 6:
            return reduced  # by its name
        self.by_value = True
        return reduced[:2] + ((_token(obj), reduced[5], reduced[2]), None, None, _set_state)


class _OldPickler(_Pickler):
    """Before 3.8 cloudpickle has the standard library's pickler in Python."""

    def _dynamic_function_reduce(self, func):
        # type: (types.FunctionType) -> tuple
        return self._marked(func, super(_OldPickler, self)._dynamic_function_reduce(func))  # type: ignore[return-value]

    def save_global(self, obj, name=None, **more):
        # type: (type, object, **object) -> None
        reduced = _reduced(self, obj)
        if reduced is not None:
            self.save_reduce(*reduced, obj=obj)  # type: ignore[attr-defined]
        elif name is None and not _is_found(obj):
            made = sys.modules[self.base.__module__]._dynamic_class_reduce(obj)
            self._save_reduce_pickle5(*self._marked(obj, made), obj=obj)  # type: ignore[attr-defined, misc]
        else:
            self.base.save_global(self, obj, name=name, **more)  # type: ignore[attr-defined]

    def save_function(self, obj, name=None):
        # type: (types.FunctionType, object) -> None
        reduced = _reduced(self, obj)
        if reduced is not None:
            self.save_reduce(*reduced, obj=obj)  # type: ignore[attr-defined]
        else:
            self.base.save_function(self, obj, name=name)  # type: ignore[attr-defined]


def _reduced(pickler, obj):
    # type: (_Pickler, object) -> tuple | None
    """By its name in the script, or as what has been sent from elsewhere; None: let cloudpickle do it."""
    if pickler.with_script and script.findable() is not None:
        name = _name_in_script(obj)
        if name is not None:
            pickler.names_script = True
            return _of_script, (name,)
    copy = None if pickler.is_copy else _foreign_copy(pickler.source, obj)
    return None if copy is None else (_own, (_tokens[obj], copy))


def _name_in_script(obj):
    # type: (object) -> str | None
    if getattr(obj, "__module__", None) not in script.NAMES:
        return None
    name = getattr(obj, "__qualname__", None) or obj.__name__  # type: ignore[attr-defined]
    found = sys.modules.get("__main__")  # type: object
    for part in name.split("."):
        found = getattr(found, part, None)
    known = script.findable()
    return name if found is obj and known is not None and known.defines([name.split(".")[0]]) else None


#: Their types that cannot be found by name have a way of their own in cloudpickle.
_SPECIAL = ("builtins", "types", "typing")


def _is_found(cls):
    # type: (type) -> bool
    """Can it be imported by its name?"""
    if cls.__module__ in _SPECIAL:
        return True
    found = sys.modules.get(cls.__module__ or "")  # type: object
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is cls and cls.__module__ not in script.NAMES


def _home(function, with_script):
    # type: (types.FunctionType, bool) -> str | None
    """The module, the script or another one of the project, whose globals it has here and shall have there."""
    name = "__main__" if function.__module__ in script.NAMES else function.__module__ or ""
    about = getattr(sys.modules.get(name), "__dict__", None)
    if function.__globals__ is not about:
        return None
    if name == "__main__":
        return name if with_script and script.findable() is not None else None
    path = about.get("__file__")
    return name if about.get("__spec__") is not None and isinstance(path, str) and is_own_path(path) else None


def _not_there(module, used):
    # type: (str, dict) -> dict
    """Of the globals that a function uses those that its module does not bind there: what stands behind a script's
    guard, or was typed in. They travel with the function, as they are now."""
    found = script.findable()
    if module != "__main__" or found is None:
        return {}
    return {name: value for name, value in used.items() if not found.binds(name)}


class _Globals(object):
    """Becomes the globals of a module, where it is loaded; a copy for functions that bring some of their own."""

    def __init__(self, module, is_copy):
        # type: (str, bool) -> None
        self._module, self._is_copy = module, is_copy

    def __reduce__(self):
        # type: () -> tuple
        return _globals_of, (self._module, self._is_copy)


def _globals_of(module, is_copy):
    # type: (str, bool) -> dict
    if module != "__main__":
        __import__(module)
    found = sys.modules[module].__dict__
    return dict(found) if is_copy else found


def _of_script(name):
    # type: (str) -> object
    found = sys.modules["__main__"]  # type: object
    for part in name.split("."):
        found = getattr(found, part)
    return found


def tokens():
    # type: () -> weakref.WeakValueDictionary
    """All of this process: they differ from run to run."""
    return _by_token


def _token(obj):
    # type: (object) -> str
    """Of a function or class that is about to be sent."""
    if obj not in _tokens:
        _tokens[obj] = hexadecimal(os.urandom(16))
        _by_token[_tokens[obj]] = obj
    return _tokens[obj]


def _set_state(obj, state):
    # type: (object, tuple) -> None
    """Called by unpickling, with what ``_marked`` has put there."""
    token, set_state, inner = state
    set_state(obj, inner)
    if _tokens.get(obj) != token:
        _tokens[obj], _foreign[obj], _by_token[token] = token, None, obj


def _foreign_copy(cloudpickle, obj):
    # type: (types.ModuleType, object) -> bytes | None
    """The pickle of what another process has sent; it is looked at only where that process has forgotten it."""
    if obj in _foreign and _foreign[obj] is None:
        file = io.BytesIO()
        pickler = _pickler(cloudpickle, None)(file, PICKLE_PROTOCOL)
        pickler.is_copy = True
        pickler.dump(obj)
        _foreign[obj] = file.getvalue()
    return _foreign.get(obj)


def _own(token, copy):
    # type: (str, bytes) -> object
    """Called by unpickling: the class or function that was sent from here, or another one of its kind."""
    obj = _by_token.get(token)
    return pickle.loads(copy) if obj is None else obj
