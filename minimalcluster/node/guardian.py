"""What a node prepares for the end of all that its tasks start: a mark for each worker process, and the guardian.

The guardian is a small process that ends them if the node is killed. What it does, and how the marks are found, is in
``orphans.py``. That file imports little, since at a node's start the guardian shares the processors with the first
worker processes.
"""
from __future__ import absolute_import, division, print_function

import os
import subprocess

from ..compat import WINDOWS, hexadecimal, native
from ..logs import log
from . import boot
from .orphans import VARIABLE, sweep


def node_mark(node_id):
    # type: (bytes) -> str
    """The beginning of the marks of all worker processes of a node."""
    return hexadecimal(node_id) + "."


class Family(object):
    """One worker process and all processes that its tasks start. number: counts the node's worker processes."""

    def __init__(self, node_id, number):
        # type: (bytes, int) -> None
        self.mark = "%s%d." % (node_mark(node_id), number)
        self._job = _Job() if WINDOWS else None

    def variable(self):
        # type: () -> dict
        """The environment variable to start the worker process with. If this node itself runs inside a task, the outer
        node's mark stays in it, too."""
        return {VARIABLE: (os.environ.get(VARIABLE, "") + " " + self.mark).strip()}

    def has(self, process):
        # type: (subprocess.Popen) -> None
        """The worker process has been started. On Windows, what it starts from now on belongs to its job object."""
        if self._job is not None:
            self._job.add(process)

    def end(self):
        # type: () -> None
        """Kill all processes that are left. May take a moment. Raises EnvironmentError if they cannot be looked for."""
        if self._job is not None:
            self._job.close()
        else:
            sweep(self.mark)


def start(node_id):
    # type: (bytes) -> subprocess.Popen | None
    """Start the guardian: it ends all that the node has started when this process ends, or closes its standard input.

    Returns a process that forks the guardian and ends at once; pass it to ``has_forked``. So the guardian is not a
    child of this process. None on Windows, where job objects do the same.
    """
    if WINDOWS:
        return None  # the handles of the job objects are closed with the process
    with open(os.devnull, "r+b") as nothing:
        return subprocess.Popen(
            boot.command("node.orphans", "guard", ["-S"], node_mark(node_id), str(os.getpid())),
            stdin=subprocess.PIPE, stdout=nothing, stderr=subprocess.PIPE, close_fds=True, cwd="/",
            env=boot.variables(),
            **boot.OWN_SESSION
        )  # fmt: skip


def has_forked(process):
    # type: (subprocess.Popen) -> bool
    """Wait for the process that ``start`` returned. False, with a line in the log: there is no guardian."""
    with boot.pipe(process.stderr) as pipe:  # the guardian closes its end as soon as it has begun
        words = native(pipe.read()).strip()
    code = process.wait()
    if code:
        text = "if this process is killed, what its tasks have started stays: its guardian could not start: %s"
        log.warning(text, words.splitlines()[-1] if words else "exit code %d" % code)
    return not code


# -- Windows --------------------------------------------------------------------------------------


class _Job(object):
    """A job object, which ends its members when its handle is closed. Untested. If Windows gives none, only the worker
    process itself is ended."""

    _EXTENDED_LIMITS, _KILL_ON_CLOSE = 9, 0x2000

    def __init__(self):
        # type: () -> None
        import ctypes

        self._kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 # only Windows has the name
        self._kernel.CreateJobObjectW.restype = ctypes.c_void_p
        self._handle = self._kernel.CreateJobObjectW(None, None)
        # JOBOBJECT_EXTENDED_LIMIT_INFORMATION: LimitFlags is at byte 16, behind two time limits of 8 bytes each.
        limits = (ctypes.c_ubyte * (144 if ctypes.sizeof(ctypes.c_void_p) == 8 else 112))()
        ctypes.c_uint32.from_buffer(limits, 16).value = self._KILL_ON_CLOSE
        self._kernel.SetInformationJobObject(
            ctypes.c_void_p(self._handle), self._EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits)
        )
        self._pointer = ctypes.c_void_p

    def add(self, process):
        # type: (subprocess.Popen) -> None
        handle = int(getattr(process, "_handle"))  # noqa: B009 # only Windows has the name
        self._kernel.AssignProcessToJobObject(self._pointer(self._handle), self._pointer(handle))

    def close(self):
        # type: () -> None
        if self._handle:
            self._kernel.CloseHandle(self._pointer(self._handle))
            self._handle = None
