"""Pickles by value, by cloudpickle, of functions and classes that have no module: lambdas, closures, typed-in code.

Two things differ from plain cloudpickle (on Python 3 only):

* If such a function uses names of the script, or of another module of the project, it uses that module's own globals
  and classes in the other process, not copies of them.
* A class or function that comes back is the same object that was sent. Plain cloudpickle would make another function,
  and would set the class's attributes again, in the middle of the user's program.
"""
from __future__ import absolute_import, division, print_function

import functools
import io
import os
import sys
import types
import weakref

from ..compat import PICKLE_PROTOCOL, PICKLE_PROTOCOL_MAX, PY2, hexadecimal, pickle
from . import script

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable  # novm

    Table = Callable[[dict[type, Any]], dict[type, Any]]

#: Functions and classes that this process has sent or received by value: token -> object, and object -> token.
_by_token = weakref.WeakValueDictionary()  # type: weakref.WeakValueDictionary
_tokens = weakref.WeakKeyDictionary()  # type: weakref.WeakKeyDictionary
#: Objects that another process has made -> their pickles (None: not made yet), in case that process has lost them.
_foreign = weakref.WeakKeyDictionary()  # type: weakref.WeakKeyDictionary
_picklers = {}  # type: dict[str, type[_Pickler]] # cloudpickle, or joblib's copy of it -> the pickler made of it


class Pickled(object):
    """data: the pickle. names_script: loading needs the script. by_value: only the same minor version can load it."""

    __slots__ = ("by_value", "data", "names_script")

    def __init__(self, data, names_script, by_value):
        # type: (bytes, bool, bool) -> None
        self.data, self.names_script, self.by_value = data, names_script, by_value


def plain(value, buffers=None):
    # type: (object, list | None) -> bytes
    """A pickle without cloudpickle. buffers: a list that takes large buffers (as PickleBuffers, with protocol 5)."""
    if buffers is None:
        return pickle.dumps(value, PICKLE_PROTOCOL)
    del buffers[:]
    return pickle.dumps(value, PICKLE_PROTOCOL_MAX, **_out_of_band(buffers))


def _out_of_band(buffers):
    # type: (list | None) -> dict
    return {} if buffers is None or PICKLE_PROTOCOL_MAX < 5 else {"buffer_callback": buffers.append}


def dump(cloudpickle, value, with_script=True, table=None, buffers=None):
    # type: (types.ModuleType, object, bool, Table | None, list | None) -> Pickled
    """A pickle by cloudpickle, which may be joblib's copy of it. Raises what the pickling raises.

    with_script: the script's functions and classes travel by their names. table: None, or a function that takes
    cloudpickle's table of reducers (type -> reducer) and returns the one to use. buffers: as in ``plain``.
    """
    if PY2:  # py2
        return Pickled(cloudpickle.dumps(value, PICKLE_PROTOCOL), False, True)
    file = io.BytesIO()
    protocol = PICKLE_PROTOCOL if buffers is None else PICKLE_PROTOCOL_MAX
    if buffers is not None:
        del buffers[:]
    pickler = _pickler(cloudpickle, table)(file, protocol, **_out_of_band(buffers))
    pickler.with_script = with_script
    pickler.dump(value)
    return Pickled(file.getvalue(), pickler.names_script, pickler.by_value)


def dumper(cloudpickle):
    # type: (types.ModuleType) -> Callable[[object], bytes]
    """A function for a worker process's results: value -> pickle by value."""
    return lambda value: dump(cloudpickle, value).data


def _pickler(cloudpickle, table):
    # type: (types.ModuleType, Table | None) -> Any
    made = _picklers.get(cloudpickle.__name__)
    if made is None:
        made = _picklers[cloudpickle.__name__] = _made_pickler(cloudpickle)
    if table is None:
        return made
    # The pickler in C reads the table from its class.
    return type("_Pickler", (made,), {"dispatch_table": table(made.dispatch_table)})


def _made_pickler(cloudpickle):
    # type: (types.ModuleType) -> type[_Pickler]
    base = cloudpickle.CloudPickler
    about = {"base": base, "source": cloudpickle}
    if hasattr(base, "reducer_override"):
        return type("Pickler", (_Pickler, base), about)
    about["dispatch"] = dict(base.dispatch)
    about["dispatch"].update({type: _OldPickler.save_global, types.FunctionType: _OldPickler.save_function})
    about["dispatch"].update(dict.fromkeys(_rebuilders(), _OldPickler.save_named))
    return type("Pickler", (_OldPickler, base), about)


class _Pickler(object):
    """The first base class of our picklers; the second is cloudpickle's own pickler, ``base``."""

    base = None  # type: Any # cloudpickle's pickler, a class
    source = sys  # type: types.ModuleType # the cloudpickle module
    with_script = True
    names_script = by_value = False
    if MYPY:  # what the second base class has
        dispatch_table = {}  # type: dict[type, Any]
        save_reduce = _save_reduce_pickle5 = None  # type: Any

    is_copy = False  # True: a pickle for ``_foreign``, without tokens that the other side may have lost

    def reducer_override(self, obj):
        # type: (object) -> object
        if isinstance(obj, (type, types.FunctionType)):
            reduced = _reduced(self, obj)
            return self._marked(obj, self.base.reducer_override(self, obj)) if reduced is None else reduced
        kind = type(obj)
        if kind.__reduce__ is object.__reduce__ or kind.__reduce_ex__ is not object.__reduce_ex__:
            return NotImplemented
        if kind in self.dispatch_table:
            return NotImplemented
        made = kind.__reduce__(obj)  # as the pickler would; a text is a name
        return self._named(obj, made) if isinstance(made, str) else made

    def _named(self, obj, name):
        # type: (object, Any) -> Any
        """How to rebuild an object that pickles as its name in its module, such as a function with ``lru_cache``."""
        reduced = _reduced(self, obj, name)
        if reduced is not None:
            return reduced
        make = _rebuilders().get(type(obj))
        if make is not None and not _is_found(obj):
            self.by_value = True
            return self._marked(obj, make(obj)) if _may_have_token(obj) else make(obj)
        if getattr(obj, "__module__", None) in script.NAMES:
            raise pickle.PicklingError(
                "Can't pickle %r: it pickles as its name, __main__.%s, which a worker process would not find; "
                "put it into a module" % (obj, name)
            )
        return name

    def _dynamic_function_reduce(self, func):
        # type: (types.FunctionType) -> tuple
        """As cloudpickle's, but the function gets its module's own globals instead of a copy of some of them."""
        reduced = self.base._dynamic_function_reduce(self, func)
        home = _home(func, self.with_script)
        if home is None:
            return reduced
        state = reduced[2][1]
        state["__globals__"] = _not_bound_there(home, state["__globals__"])
        namespace = self._globals(home, bool(state["__globals__"]))
        return reduced[:1] + ((reduced[1][0], namespace) + tuple(reduced[1][2:]),) + reduced[2:]

    def _globals(self, module, is_copy):
        # type: (str, bool) -> _Globals
        """One object per module for all functions in a pickle, so that they share their globals."""
        self.names_script = self.names_script or module == "__main__"
        known = self.__dict__.setdefault("known_globals", {})
        return known.setdefault((module, is_copy), _Globals(module, is_copy))

    def _marked(self, obj, reduced):
        # type: (object, Any) -> Any
        """cloudpickle's reduction, with a function that sets the state of the new object and notes its token, too."""
        if not isinstance(reduced, tuple) or len(reduced) != 6:
            return reduced  # it travels by its name
        self.by_value = True
        return reduced[:2] + ((_token(obj), reduced[5], reduced[2]), None, None, _set_state)


class _OldPickler(_Pickler):
    """Before Python 3.8 cloudpickle uses the standard library's pickler that is written in Python."""

    def _dynamic_function_reduce(self, func):
        # type: (types.FunctionType) -> tuple
        return self._marked(func, super(_OldPickler, self)._dynamic_function_reduce(func))

    def save_global(self, obj, name=None, **more):
        # type: (type, object, **object) -> None
        reduced = _reduced(self, obj)
        if reduced is not None:
            self.save_reduce(*reduced, obj=obj)
        elif name is None and not _is_found(obj):
            made = sys.modules[self.base.__module__]._dynamic_class_reduce(obj)
            self._save_reduce_pickle5(*self._marked(obj, made), obj=obj)
        else:
            self.base.save_global(self, obj, name=name, **more)

    def save_function(self, obj, name=None):
        # type: (types.FunctionType, object) -> None
        reduced = _reduced(self, obj)
        if reduced is not None:
            self.save_reduce(*reduced, obj=obj)
        else:
            self.base.save_function(self, obj, name=name)


    def save_named(self, obj):
        # type: (object) -> None
        reduced = self._named(obj, obj.__reduce__())
        if isinstance(reduced, str):
            self.base.save_global(self, obj, reduced)
        elif len(reduced) == 2:
            self.save_reduce(*reduced, obj=obj)
        else:
            self._save_reduce_pickle5(*reduced, obj=obj)


def _reduced(pickler, obj, name=None):
    # type: (_Pickler, object, str | None) -> tuple | None
    """How to rebuild an object of the script (by its name), or one that came from another process (by its token).

    name: its name in its module, if it does not tell that itself. None for any other object: cloudpickle reduces it.
    """
    if pickler.with_script and script.findable() is not None:
        name = _name_in_script(obj, name)
        if name is not None:
            pickler.names_script = True
            return _of_script, (name,)
    copy = None if pickler.is_copy or not _may_have_token(obj) else _foreign_copy(pickler.source, obj)
    return None if copy is None else (_own, (_tokens[obj], copy))


def _name_in_script(obj, name):
    # type: (Any, str | None) -> str | None
    if getattr(obj, "__module__", None) not in script.NAMES:
        return None
    name = name or getattr(obj, "__qualname__", None) or obj.__name__
    found = sys.modules.get("__main__")  # type: object
    for part in name.split("."):
        found = getattr(found, part, None)
    known = script.findable()
    return name if found is obj and known is not None and known.defines([name.split(".")[0]]) else None


#: cloudpickle has its own ways for the types of these modules that cannot be found by name.
_SPECIAL = ("builtins", "types", "typing")


def _is_found(obj):
    # type: (Any) -> bool
    """Whether another process can import the object by its name."""
    module = obj.__module__
    if module in _SPECIAL:
        return True
    found = sys.modules.get(module or "")  # type: object
    for part in (getattr(obj, "__qualname__", None) or obj.__name__).split("."):
        found = getattr(found, part, None)
    return found is obj and module not in script.NAMES


# -- what pickles as its name, and cloudpickle leaves so ------------------------------------------


def _rebuilders():
    # type: () -> dict
    """Type -> function that takes an object of it and returns how to rebuild it, as ``__reduce__`` returns that."""
    if not _rebuilders_made:
        _rebuilders_made[type(functools.lru_cache()(_set_variables))] = _reduced_cached  # novm
        for name, arguments in _TYPING.items():
            kind = getattr(sys.modules.get("typing"), name, None)  # cloudpickle has imported it
            if isinstance(kind, type):
                _rebuilders_made[kind] = functools.partial(_reduced_of_typing, kind, arguments)
    return _rebuilders_made


_rebuilders_made = {}  # type: dict
#: Types of ``typing`` whose objects stand in annotations -> the attributes that they are made of. Of TypeAliasType's,
#: the last goes by name. Before 3.10 NewType makes functions.
_TYPING = {
    "NewType": ("__name__", "__supertype__"), "ParamSpec": ("__name__",), "TypeVarTuple": ("__name__",),
    "TypeAliasType": ("__name__", "__value__", "__type_params__"),
}  # fmt: skip


def _reduced_cached(function):
    # type: (Any) -> tuple
    """Of a function with ``functools.lru_cache``: its cache will be empty. Before Python 3.9 nothing tells whether it
    is ``typed``; then it will be, which changes no result."""
    typed = not hasattr(function, "cache_parameters") or function.cache_parameters()["typed"]
    size = function.cache_info().maxsize
    made = _cached, (function.__wrapped__, size, typed)
    return made + (dict(function.__dict__), None, None, _set_variables)


def _cached(function, size, typed):
    # type: (Callable, int | None, bool) -> object
    return functools.lru_cache(size, typed)(function)  # novm


def _set_variables(obj, variables):
    # type: (object, dict) -> None
    obj.__dict__.update(variables)


def _reduced_of_typing(kind, names, obj):
    # type: (type, tuple, object) -> tuple
    made = _of_typing, (kind,) + tuple(getattr(obj, name) for name in names)
    return made + (obj.__module__, None, None, _set_module)


def _of_typing(kind, name, value=None, parameters=()):
    # type: (type, str, object, tuple) -> object
    if parameters:
        return kind(name, value, type_params=parameters)
    return kind(name) if value is None else kind(name, value)


def _set_module(obj, name):
    # type: (object, str) -> None
    try:
        obj.__module__ = name
    except AttributeError:
        pass  # a TypeAliasType's cannot be set


def _home(function, with_script):
    # type: (types.FunctionType, bool) -> str | None
    """The module whose globals the function uses, if it shall use them in the other process, too: the script
    ("__main__") or another module of the project. None for any other."""
    name = "__main__" if function.__module__ in script.NAMES else function.__module__ or ""
    about = getattr(sys.modules.get(name), "__dict__", None)
    if function.__globals__ is not about:
        return None
    if name == "__main__":
        return name if with_script and script.findable() is not None else None
    from . import sources  # few worker processes need it

    module = sources.find(name)
    return name if module is not None and module.kind != sources.FOREIGN else None


def _not_bound_there(module, used):
    # type: (str, dict) -> dict
    """The globals used by a function that do not exist in the worker process: those behind the script's guard, and
    those that were typed in. They travel with the function, as they are now."""
    found = script.findable()
    if module != "__main__" or found is None:
        return {}
    return {name: value for name, value in used.items() if not found.binds(name)}


class _Globals(object):
    """When unpickled, it becomes the globals of a module. is_copy: a copy of them, for functions that bring some."""

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
    """The tokens of this process: token -> object. They are random, so they differ from run to run."""
    return _by_token


def _may_have_token(obj):
    # type: (object) -> bool
    """Before Python 3.9 nothing can refer weakly to a function with ``lru_cache``."""
    if isinstance(obj, (type, types.FunctionType)):
        return True
    return type(obj) in _rebuilders() and type(obj).__weakrefoffset__ > 0


def _token(obj):
    # type: (object) -> str
    """The token of a function or class; it gets one if it has none."""
    if obj not in _tokens:
        _tokens[obj] = hexadecimal(os.urandom(16))
        _by_token[_tokens[obj]] = obj
    return _tokens[obj]


def _set_state(obj, state):
    # type: (object, tuple) -> None
    """Called by unpickling, with the state that ``_marked`` wrote."""
    token, set_state, inner = state
    set_state(obj, inner)
    if _tokens.get(obj) != token:
        _tokens[obj], _foreign[obj], _by_token[token] = token, None, obj


def _foreign_copy(cloudpickle, obj):
    # type: (types.ModuleType, object) -> bytes | None
    """The pickle of an object that another process has sent, else None. That process loads it only if it has lost the
    object."""
    if obj in _foreign and _foreign[obj] is None:
        file = io.BytesIO()
        pickler = _pickler(cloudpickle, None)(file, PICKLE_PROTOCOL)
        pickler.is_copy = True
        pickler.dump(obj)
        _foreign[obj] = file.getvalue()
    return _foreign.get(obj)


def _own(token, copy):
    # type: (str, bytes) -> object
    """Called by unpickling: the class or function that was sent from here; if it is gone, a new one from ``copy``."""
    obj = _by_token.get(token)
    return pickle.loads(copy) if obj is None else obj
