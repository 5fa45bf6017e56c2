"""The running script: which of its functions worker processes can find, and how a worker process runs it.

A function or class of the script is sent by its name. A worker process runs the script once under another name, before
it loads anything else of a job, as multiprocessing does with its start method "spawn"
(https://docs.python.org/3/library/multiprocessing.html#the-spawn-and-forkserver-start-methods). So the globals that the
script sets exist once in each worker process.

A script that starts its cluster outside of its *guard*, ``if __name__ == "__main__":``, would start another one in each
worker process. When the script starts a cluster, the line that it is at tells whether it does so, before anything is
sent.
"""
from __future__ import absolute_import, division, print_function

import hashlib
import os
import re
import sys
import types

from ..compat import PY2, as_text, native
from ..errors import SourceError, UsageError
from .imports import forget_made, is_own_path, source_from
from .values import in_words

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    import ast  # noqa: F401
    from typing import Any, TypeGuard  # noqa: F401 # novm

    from .imports import Fetch  # noqa: F401

#: The script's ``__name__`` in a worker process: not "__main__", so that the block behind its guard does not run. As
#: multiprocessing names it, so that its processes and worker processes, started by each other, find its functions.
MAIN_NAME = "__mp_main__"
NAMES = ("__main__", MAIN_NAME)
_OURS = __name__.split(".")[0]


class Script(object):
    """path: its file. data: its source, or with is_code the content of its .pyc. module: its name if run by ``-m``."""

    def __init__(self, path, data, module="", is_code=False, argv=None):
        # type: (str, bytes, str, bool, list | None) -> None
        self.path, self.data, self.module, self.is_code = path, data, module, is_code
        self._argv = argv
        self._tree = None  # type: ast.Module | None
        self._is_parsed = False
        self._names = None  # type: tuple[set, set] | None
        self._digest = None  # type: str | None

    def described(self):
        # type: () -> dict
        """The description that worker processes get. They ask for the data by its digest, once."""
        argv = getattr(sys, "argv", []) if self._argv is None else self._argv
        info = {"main": as_text(self.path), "argv": [_as_text(each) for each in argv], "main_digest": self.digest}  # type: dict
        if self.module:
            info["main_module"] = self.module
        if self.is_code:
            info["main_is_code"] = True
        return info

    @property
    def digest(self):
        # type: () -> str
        if self._digest is None:
            self._digest = hashlib.sha256(self.data).hexdigest()[:32]
        return self._digest

    @property
    def is_project(self):
        # type: () -> bool
        """False for an installed program, and for this package's own command."""
        programs = os.path.dirname(sys.executable or ""), os.path.join(sys.prefix, "bin")
        installed = os.path.dirname(self.path) in programs
        is_ours = self.module.split(".")[0] == _OURS
        return not installed and not is_ours and is_own_path(self.path)

    def tree(self):
        # type: () -> ast.Module | None
        """The syntax tree of the source; None if there is none."""
        if not self._is_parsed and not self.is_code:
            import ast  # not every worker process needs it

            try:
                self._tree = ast.parse(self.data)
            except (SyntaxError, ValueError, TypeError, RuntimeError):
                pass
        self._is_parsed = True
        return self._tree

    def runs_elsewhere(self, line):
        # type: (int) -> bool
        """Whether this line also runs in a worker process, where ``__name__`` differs. False if unknown."""
        tree = self.tree()
        return tree is not None and not _is_guarded(tree.body, line)

    def without_guarded(self):
        # type: () -> bytes
        """The source without the lines behind its guard, which are empty: the part that worker processes run."""
        tree = self.tree()
        if tree is None:
            return self.data
        lines = self.data.split(b"\n")
        body = tree.body
        for statement, last in zip(body, _last_lines(body)):
            if _is_if(statement) and _only_here(statement.test):
                first = statement.body[0].lineno
                end = statement.orelse[0].lineno - 1 if statement.orelse else last
                lines[first - 1 : end] = [b""] * len(lines[first - 1 : end])
        return b"\n".join(lines)

    def defines(self, names):
        # type: (set | list) -> bool
        """Whether the script binds all these names in a worker process, too.

        A name that the script does not bind visibly (``globals()[name] = ...``) counts as bound, except in an
        interactive session, where it may have been typed in.
        """
        bound, hidden = self._bound()
        if is_interactive() and self.tree() is not None:
            return bound.issuperset(names)
        return not (hidden - bound).intersection(names)

    def surely_defines(self, data):
        # type: (bytes) -> bool
        """Whether the script defines all names in a pickle. Fast, and may say False wrongly, unlike ``names_in``."""
        if is_interactive() or _REFERENCE.search(data) is None:
            return False
        bound, hidden = self._bound()
        return not (hidden - bound) or not (hidden - bound).intersection(map(native, _ANY_NAME.findall(data)))

    def hides(self, name):
        # type: (str) -> bool
        """Whether the script binds the name only behind its guard."""
        bound, hidden = self._bound()
        return name in hidden and name not in bound

    def binds(self, name):
        # type: (str) -> bool
        """Whether the script certainly binds the name in a worker process."""
        return self.tree() is None or name in self._bound()[0]

    def _bound(self):
        # type: () -> tuple[set, set]
        """(names that the top level binds in every process, names that it binds behind its guard)."""
        if self._names is None:
            self._names = set(), set()
            tree = self.tree()
            if tree is not None:
                _collect(tree.body, *self._names)
        return self._names


# -- in the program that starts the cluster -------------------------------------------------------

_unguarded = []  # type: list[int] # the line where the script started a cluster outside of its guard


def known():
    # type: () -> Script | None
    """The running script; None if there is none: in a notebook, at the prompt, with ``python -c``."""
    global _script
    if _script is None:
        _script = _found()
    return _script


def findable():
    # type: () -> Script | None
    """The running script, if worker processes may run it to find its functions."""
    return None if _unguarded else known()


def why_not(names):
    # type: (set) -> str
    """Why worker processes cannot find these names of ``__main__``, and how to solve that."""
    script = known()
    if script is not None and _unguarded:
        return (
            "the script %s starts a cluster in line %d, outside of  if __name__ == '__main__':  and a worker process "
            "that runs the script for its functions would start one again; put that part of it under such a line, "
            "or pip install cloudpickle here" % (script.path, _unguarded[0])
        )
    if script is not None and not is_interactive():
        return (
            "%s stands behind  if __name__ == '__main__':  in %s, where worker processes do not find it: put it in "
            "front of that line, or pip install cloudpickle here" % (", ".join(sorted(names)), script.path)
        )
    return (
        "a function or class that was typed in (__main__) cannot be sent: pip install cloudpickle here, "
        "or put it into a module"
    )


def starts_a_cluster():
    # type: () -> None
    """Called when a cluster is made. Raises RuntimeError if a worker process is just running the script."""
    if _running:
        raise RuntimeError(
            "a worker process is loading the script %s for its functions, and it starts a cluster of its own: put "
            "that part of it under  if __name__ == '__main__':  (or pip install cloudpickle here)" % _running[0]
        )
    script, frame = known(), _main_frame()
    if script is not None and frame is not None and script.runs_elsewhere(frame.f_lineno):
        _unguarded[:] = [frame.f_lineno]


def _main_frame():
    # type: () -> types.FrameType | None
    """The frame of the top level of ``__main__``, in any thread; None if it has ended."""
    about = getattr(sys.modules.get("__main__"), "__dict__", {})
    for innermost in getattr(sys, "_current_frames", dict)().values():
        frame = innermost
        while frame is not None:
            code = frame.f_code
            if code.co_name == "<module>" and frame.f_globals is about and code.co_filename == about.get("__file__"):
                return frame
            frame = frame.f_back
    return None


def _found():
    # type: () -> Script | None
    main = sys.modules.get("__main__")
    about = getattr(main, "__dict__", {})
    path = about.get("__file__")
    if not path or not isinstance(path, (str, type(u""))):
        return None
    module = getattr(about.get("__spec__"), "name", "") or ""
    if PY2 and about.get("__package__") is not None and about.get("__loader__") is not None:  # py2: after -m
        module = "%s.%s" % (about["__package__"], os.path.splitext(os.path.basename(path))[0])
    for candidate in _absolute(path):
        data = _content(candidate, about.get("__loader__"), module)
        if data is not None and (os.path.isabs(path) or _is_what_runs(data)):
            return Script(native(candidate), data, module.strip("."), candidate.endswith((".pyc", ".pyo")))
    return None


def _absolute(path):
    # type: (str) -> list[str]
    """Paths where the script may be. Before 3.9 the path of ``python name.py`` is relative, and the current folder may
    have changed since the start."""
    return [os.path.abspath(path), os.path.join(os.environ.get("PWD", ""), path)]


def _content(path, loader, module):
    # type: (str, Any, str) -> bytes | None
    if os.path.isfile(path):
        with open(path, "rb") as file:
            return file.read()
    for name in (module, "__main__"):  # in a zip file, for example of zipapp
        data = source_from(loader, name)
        if data is not None:
            return data
    return None


def _is_what_runs(data):
    # type: (bytes) -> bool
    """Whether this is the source of the running code of the script's top level. True if that has ended."""
    frame = _main_frame()
    try:
        return frame is None or compile(data, frame.f_code.co_filename, "exec", dont_inherit=True) == frame.f_code
    except (SyntaxError, ValueError, TypeError):
        return False


def _as_text(value):
    # type: (object) -> str
    """An element of sys.argv as text for JSON. A program may have put a path there, or any other object."""
    if hasattr(os, "fspath") and hasattr(value, "__fspath__"):
        value = os.fspath(value) # novm
    return as_text(value) if isinstance(value, (bytes, str, type(u""))) else str(value)


def is_interactive():
    # type: () -> bool
    """Whether the user may have typed names into ``__main__`` after the script."""
    return bool(sys.flags.interactive or sys.flags.inspect or hasattr(sys, "ps1"))


# -- its guard ------------------------------------------------------------------------------------


def _is_guarded(statements, line):
    # type: (list, int) -> bool
    """Whether the line is in a block that does not run in a worker process."""
    for statement, last in zip(statements, _last_lines(statements)):
        if statement.lineno <= line <= last:
            for block, end, only_here in _blocks(statement, last):
                if block[0].lineno <= line <= end and (only_here or _is_guarded(block, line)):
                    return True
    return False


def _blocks(statement, last):
    # type: (ast.AST, int) -> list
    """Of each block of a statement: (statements, its last possible line, whether only the main process runs it)."""
    found = []  # type: list
    for name in ("body", "handlers", "orelse", "finalbody"):
        block = getattr(statement, name, None)
        if isinstance(block, list) and block:
            only_here = _is_if(statement) and _only_here(statement.test, name == "body")
            inner = [each for handler in block for each in handler.body] if name == "handlers" else block
            found.append((inner, only_here, block[0].lineno))
    ends = [start - 1 for _, _, start in found[1:]] + [last]
    return [(block, end, only_here) for (block, only_here, _), end in zip(found, ends)]


def _last_lines(statements):
    # type: (list) -> list
    """The last line of each statement. Before 3.8 this is not known: the line before the next statement."""
    starts = [statement.lineno for statement in statements[1:]] + [sys.maxsize]
    return [getattr(each, "end_lineno", None) or start - 1 for each, start in zip(statements, starts)]


def _is_if(statement):
    # type: (ast.AST) -> TypeGuard[ast.If | ast.While]
    return type(statement).__name__ in ("If", "While")


def _only_here(test, wanted=True):
    # type: (ast.expr, bool) -> bool
    """Whether a test is ``wanted`` if ``__name__`` is "__main__", and the opposite in a worker process."""
    import ast

    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) and wanted:
        return any(_only_here(each) for each in test.values)
    if {node.id for node in ast.walk(test) if isinstance(node, ast.Name)} != {"__name__"}:
        return False
    code = compile(ast.Expression(test), "<guard>", "eval")
    try:
        here, elsewhere = [bool(eval(code, {"__name__": name, "__builtins__": {}})) for name in NAMES]  # noqa: S307
    except Exception:  # not a plain comparison
        return False
    return here is wanted and elsewhere is not wanted


def _collect(statements, bound, hidden):
    # type: (list, set, set) -> None
    """Add the names that these statements bind to ``bound``, but to ``hidden`` in blocks that run only in the main
    process."""
    import ast

    for statement in statements:
        if type(statement).__name__ in ("FunctionDef", "AsyncFunctionDef", "ClassDef"):
            bound.add(statement.name)
            bound.update(name for node in ast.walk(statement) if isinstance(node, ast.Global) for name in node.names)
            continue
        blocks = _blocks(statement, 0)
        inner = {id(each) for block, _, _ in blocks for each in block}
        for child in ast.iter_child_nodes(statement):
            if id(child) not in inner:
                _collect_stored(child, bound)
        for block, _, only_here in blocks:
            _collect(block, hidden if only_here else bound, hidden)


def _collect_stored(node, bound):
    # type: (ast.AST, set) -> None
    import ast

    for each in ast.walk(node):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            bound.add(each.id)
        elif isinstance(each, ast.alias):
            bound.add((each.asname or each.name).split(".")[0])


# -- in pickles -----------------------------------------------------------------------------------

_WORKER_NAME = MAIN_NAME.encode("ascii")
_SPELLED = (b"__main__", _WORKER_NAME) if PY2 else (b"\x8c\x08__main__", b"\x8c\x0b" + _WORKER_NAME)
#: A reference to a global of the script, as written by protocol 2 (on 2.7) and by protocol 4; and any global's name.
_REFERENCE_2, _REFERENCE_4 = br"c(?:%s)\n", br"(?:%s)\x94\x8c.[^\x94]*\x94\x93"
_REFERENCE = re.compile((_REFERENCE_2 if PY2 else _REFERENCE_4) % b"|".join(_SPELLED), re.S)
_ANY_NAME = re.compile(br"c[^\n]*\n([^\n]*)\n" if PY2 else br"\x8c.([^\x94]*)\x94\x93", re.S)


def may_be_named_in(data):
    # type: (bytes) -> bool
    """Whether a pickle may need ``__main__``. Fast; False is certain, True is not."""
    return any(spelled in data for spelled in _SPELLED)


def names_in(data):
    # type: (bytes) -> set
    """The names of ``__main__`` that a pickle needs, by its opcodes: the same text in user data does not count."""
    return {native(name).split(".")[0] for name in _globals_in(data)} if may_be_named_in(data) else set()


def _globals_in(data):
    # type: (bytes) -> set
    """The dotted names that a pickle takes from ``__main__``."""
    import pickletools

    found, memo, tops = set(), {}, [None, None]  # type: set, dict, list
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            memo[len(memo) if argument is None else argument] = tops[1]
            continue
        if name == "STACK_GLOBAL":
            if tops[0] in NAMES:
                found.add(tops[1])
        elif name == "GLOBAL" and str(argument).split(" ")[0] in NAMES:
            found.add(str(argument).split(" ")[1])
        is_text = "UNICODE" in name or "STRING" in name
        value = argument if is_text else memo.get(argument) if name in ("BINGET", "LONG_BINGET", "GET") else None
        tops = [tops[1], value]
    return found


# -- in a worker process --------------------------------------------------------------------------

_running = []  # type: list[str] # the path of the script while this process is running it
_ran = []  # type: list # path and digest of the script that this process has run, with or without success


def require():
    # type: () -> None
    """Called if a pickle needs the script. Raises SourceError if running it has failed."""
    main = sys.modules.get("__main__")
    if isinstance(main, _Unrunnable):
        raise SourceError(main.why)


def run(info, fetch, needed):
    # type: (dict, Fetch | None, bool) -> None
    """Run the user's script under another name and let pickles find its functions under ``__main__``.

    fetch: a function that asks the master, as for modules (imports.py). If the script raises: raises the same if it is
    needed, otherwise every later use of a name of the script will raise.
    """
    path, digest = native(info["main"]), native(info["main_digest"])
    if _ran == [path, digest] and not (needed and isinstance(sys.modules.get("__main__"), _Unrunnable)):
        return
    answer, buffers = fetch("script", digest) if fetch is not None else ({}, [])
    if not answer.get("found"):
        raise SourceError("the master has no script %s any more" % path)
    data = bytes(buffers[0].tobytes())
    sys.argv = [native(each) for each in info["argv"]]  # the script may read it, as with multiprocessing
    before, module = sys.modules.get(MAIN_NAME), _new_module(path, info.get("main_module", ""))
    loaded = set(sys.modules)
    _show_lines(path, data)
    sys.modules[MAIN_NAME] = module
    _running.append(path)
    try:
        exec(_code(path, data, info.get("main_is_code")), module.__dict__)
    except BaseException as error:
        if before is None:
            del sys.modules[MAIN_NAME]
        else:
            sys.modules[MAIN_NAME] = before
        forget_made(set(sys.modules) - loaded)
        if needed or isinstance(error, KeyboardInterrupt):
            raise
        text = "the script %s cannot be run here: %s" % (path, in_words(error))
        sys.stderr.write("minimalcluster: %s; what it sets does not count here\n" % text)
        module = _Unrunnable(text)
    finally:
        _running.pop()
    _ran[:] = [path, digest]
    sys.modules["__main__"] = sys.modules[MAIN_NAME] = module  # if the script imports multiprocessing, that sets it
    _become(path, data, info)


def _become(path, data, info):
    # type: (str, bytes, dict) -> None
    """Note the script of this process, so that a cluster made by a task sends the same script to its nodes."""
    global _script
    _script = Script(path, data, info.get("main_module", ""), bool(info.get("main_is_code")), list(info["argv"]))


def explain(error):
    # type: (BaseException) -> None
    """If a NameError is about a name that the script sets behind its guard, say so in its text."""
    found = re.match(r"(?:global )?name '(\w+)' is not defined", str(error)) if type(error) is NameError else None
    if found is None or not _ran or _script is None or not _script.hides(found.group(1)):
        return
    error.args = (
        "%s: %s sets it behind  if __name__ == '__main__':  which worker processes do not run; give it to the function "
        "as an argument, or set it in an initializer" % (found.group(), _script.path),
    )  # fmt: skip


class _Unrunnable(types.ModuleType):
    """Takes the place of a script that raised. Each look-up of a name in it raises SourceError with the reason."""

    def __init__(self, text):
        # type: (str) -> None
        super(_Unrunnable, self).__init__("__main__")
        self.why = text

    def __getattr__(self, name):
        # type: (str) -> object
        if name.startswith("__"):
            raise AttributeError(name)
        raise SourceError(self.why)


def _new_module(path, name):
    # type: (str, str) -> types.ModuleType
    module = types.ModuleType(MAIN_NAME)
    module.__file__ = path
    if name:  # started with -m: its imports may be relative
        module.__package__ = name.rpartition(".")[0]
        if not PY2:
            from importlib.machinery import ModuleSpec  # novm

            module.__spec__ = ModuleSpec(name, None, origin=path)  # novm
    return module


def _code(path, data, is_code):
    # type: (str, bytes, bool | None) -> types.CodeType
    if not is_code:
        return compile(data, path, "exec", dont_inherit=True)
    import marshal

    head = 8 if PY2 else 12 if sys.version_info < (3, 7) else 16  # PEP 3147, PEP 552
    try:
        return marshal.loads(data[head:]) # noqa: S302
    except (ValueError, EOFError, TypeError):
        raise UsageError("the script %s is code of another Python than %d.%d" % ((path,) + sys.version_info[:2]))


def _show_lines(path, data):
    # type: (str, bytes) -> None
    """Let tracebacks show the lines of the script: this machine may have no such file, or another one."""
    import linecache

    text = native(data)
    if not PY2:
        import io
        import tokenize

        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
            text = data.decode(encoding)
        except (SyntaxError, UnicodeDecodeError, LookupError):
            return
    linecache.cache[path] = (len(data), None, text.splitlines(True), path)


#: Read when this package is imported: later the script may change the current folder, or its file may be edited.
_script = _found()
