"""How this package starts another Python process: the interpreter, its options, and how it finds this package.

A new interpreter looks for modules in the current folder, in ``PYTHONPATH`` and in site-packages. A file ``json.py`` or
a backport of ``enum`` there would hide the standard library's module. So the first code of the process (``command``)
removes the current folder from ``sys.path``, puts the folders of this process's standard library first, and loads this
package from its known place. The program's own ``sys.path`` is taken over later: ``search_paths``, ``use_paths``.

The options are those that multiprocessing passes on (``subprocess._args_from_interpreter_flags``), every ``-X``, and
2.7's ``-Q``, ``-t`` and ``-R``.
"""
from __future__ import absolute_import, division, print_function

import _socket  # its folder is where the standard library's extension modules are
import os
import sys

from ..compat import PY2, WINDOWS, native, text_type
from ..errors import StartError

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import IO  # noqa: F401 # novm

try:
    _FOLDER = os.getcwd()
except OSError:  # the current folder has been removed
    _FOLDER = ""
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_HOMES = [os.path.dirname(os.path.abspath(str(each.__file__))) for each in (os, _socket) if hasattr(each, "__file__")]

KEY_VARIABLE = "MINIMALCLUSTER_KEY"

#: A process of ours has its own session from its first moment: Ctrl-C in the terminal goes to the program alone, and
#: all processes of the session's group can be killed at once.
if WINDOWS:
    OWN_SESSION = {"creationflags": 0x200}  # type: dict # CREATE_NEW_PROCESS_GROUP, a name that 2.7 does not have
else:
    OWN_SESSION = {"preexec_fn": os.setsid} if PY2 else {"start_new_session": True}  # py2

_CODE = """\
def boot():
    import sys
    sys.path[:] = %(homes)s + [each for each in sys.path if each]
    if sys.version_info[0] > 2:
        from importlib import machinery, util
        spec = machinery.PathFinder.find_spec("minimalcluster", [%(parent)s])
        sys.modules["minimalcluster"] = package = util.module_from_spec(spec)
        spec.loader.exec_module(package)
    else:
        import pkgutil
        pkgutil.get_importer(%(parent)s).find_module("minimalcluster").load_module("minimalcluster")
    import minimalcluster.%(module)s
    return minimalcluster.%(module)s.%(function)s
boot()()
"""

#: Flags of ``sys.flags`` and their letters; a flag of 2 gives the letter twice. ``-i`` and ``-u`` would be of no use.
_LETTERS = (
    ("debug", "d"), ("optimize", "O"), ("dont_write_bytecode", "B"), ("no_site", "S"), ("verbose", "v"),
    ("bytes_warning", "b"), ("quiet", "q"), ("py3k_warning", "3"), ("tabcheck", "t"),
)  # fmt: skip


def executable():
    # type: () -> str
    """The path of the Python interpreter. Raises StartError, in one sentence, if ``sys.executable`` cannot be one."""
    path = sys.executable  # type: object
    if not isinstance(path, (str, text_type)):
        path = path.__fspath__() if hasattr(path, "__fspath__") else path
    remedy = "set sys.executable to the path of a Python %d.%d" % sys.version_info[:2]
    if not path or not isinstance(path, (str, text_type)):
        raise StartError(
            "worker processes cannot be started: sys.executable is %r, as in a program that embeds Python; %s"
            % (sys.executable, remedy)
        )
    if getattr(sys, "frozen", False):
        raise StartError(
            "worker processes cannot be started: sys.executable, %s, is a frozen program, which would run again; %s "
            "and sys.frozen to False, or run it with a Python" % (path, remedy)
        )
    if os.path.dirname(path) and not (os.path.isfile(path) and os.access(path, os.X_OK)):
        what = "cannot be executed" if os.path.exists(path) else "is not there"
        raise StartError("worker processes cannot be started: sys.executable, %s, %s; %s" % (path, what, remedy))
    return native(path)


def command(module, function, options, *arguments):
    # type: (str, str, list, *str) -> list
    """The command line of a process that calls a function of this package. Raises StartError.

    module: its name in the package, such as "node.worker". options: the interpreter's. arguments: ``sys.argv[1:]``.
    """
    names = {"homes": _literal(_HOMES), "parent": _literal(_PACKAGE_PARENT), "module": module, "function": function}
    return [executable()] + options + ["-c", _CODE % names] + list(arguments)


def _literal(value):
    # type: (object) -> str
    """The value as Python source, in ASCII, so that the process reads it under any locale."""
    return repr(value) if PY2 else ascii(value)


def folder():
    # type: () -> str | None
    """The folder in which to start a process; None means the current one. If the current folder was removed, Python
    3.13 needs another one: there, with ``-c``, every import would fail."""
    try:
        os.getcwd()
    except OSError:
        return os.sep if sys.version_info >= (3, 13) else None
    return None


def variables():
    # type: () -> dict
    """The environment variables for every process that this package starts: this process's, without the key."""
    found = dict(os.environ)
    found.pop(KEY_VARIABLE, None)
    return found


def options():
    # type: () -> list
    """The command line options that give another interpreter the settings of this one."""
    flags = sys.flags
    counts = [(letter, getattr(flags, name, 0)) for name, letter in _LETTERS]
    found = ["-" + letter * count for letter, count in counts if count > 0]
    if getattr(flags, "isolated", 0):
        found.append("-I")
    else:
        letters = (("ignore_environment", "-E"), ("no_user_site", "-s"), ("safe_path", "-P"))
        found += [option for name, option in letters if getattr(flags, name, 0)]
    if sys.version_info[0] == 2:  # py2
        found += ["-R"] if flags.hash_randomization else []
        found += ["-Qnew"] if flags.division_new else []
        found += ["-Qwarn"] if flags.division_warning == 1 else []
        found += ["-Qwarnall"] if flags.division_warning > 1 else []
    for option in _warning_options():
        found.append("-W" + option)
    for name, value in sorted(getattr(sys, "_xoptions", {}).items()):
        found += ["-X", name if value is True else "%s=%s" % (name, value)]
    return found


def _warning_options():
    # type: () -> list
    """``sys.warnoptions``, but not those that come from PYTHONWARNINGS, ``-b`` or ``-X dev``: the new process has them
    by itself."""
    wanted = [each for each in sys.warnoptions if isinstance(each, str)]
    automatic = [] if sys.flags.ignore_environment else os.environ.get("PYTHONWARNINGS", "").split(",")
    if getattr(sys.flags, "dev_mode", False):
        automatic.append("default")
    if sys.flags.bytes_warning and not PY2:
        automatic.append("error::BytesWarning" if sys.flags.bytes_warning > 1 else "default::BytesWarning")
    for option in automatic:
        if option in wanted:
            wanted.remove(option)
    return wanted


def pipe(found):
    # type: (IO[bytes] | None) -> IO[bytes]
    """One of the pipes to a process, for which subprocess.PIPE was asked."""
    if found is None:
        raise ValueError("the process was started without this pipe")
    return found


# -- sys.path -------------------------------------------------------------------------------------


def search_paths():
    # type: () -> list
    """``sys.path`` as text for JSON. Objects that are not text are left out: Python imports nothing from them.

    An entry "" becomes the folder in which the program was started, as in multiprocessing: the program may have changed
    its current folder since.
    """
    found = []
    for entry in list(sys.path):
        if isinstance(entry, bytes):  # 2.7's usual type
            found.append(entry.decode("latin-1") if PY2 else os.fsdecode(entry)) # novm
        elif isinstance(entry, text_type):
            found.append(_as_json_text(entry))
    return [each or _as_json_text(_FOLDER) for each in found]


def _as_json_text(entry):
    # type: (str) -> str
    """On 2.7 latin-1, so that any bytes of a path come back unchanged (``use_paths``)."""
    if sys.version_info[0] == 2:  # py2
        data = entry if isinstance(entry, bytes) else entry.encode(sys.getfilesystemencoding() or "utf-8", "replace")
        return data.decode("latin-1")
    return str(entry)


def use_paths(paths):
    # type: (list) -> None
    """In the new process: set ``sys.path`` to what ``search_paths`` gave in the program."""
    sys.path[:] = [each.encode("latin-1") for each in paths] if PY2 else paths
