"""What tasks start and leave behind: it ends with the worker process, and with the node, however these end.

A process's environment is inherited by all it starts, through ``fork``, ``setsid`` and daemons' double forks.
So each worker process gets a mark of its own there, and whoever wants them gone looks for the mark:

* Linux: in ``/proc/*/environ``, which shows what a process was started with, also when it has changed it since.
* Windows: a job object for each worker process, which ends its members when its last handle closes (untested).
* macOS and BSD: in what ``ps -E`` shows (untested).

The node looks when a worker process has ended. When the node itself is killed, its *guardian* looks: a small process
that is nobody's child and waits for the end of a pipe. Only a program that was started with another environment
(``env -i``) and has left its process group is not found.
"""
from __future__ import absolute_import, division, print_function

import os
import select
import signal
import subprocess
import sys
import time

from ..compat import PY2, WINDOWS, hexadecimal, native
from ..logs import log
from . import boot

VARIABLE = "MINIMALCLUSTER_PROCESS"
_VARIABLE = VARIABLE.encode("ascii") + b"="
PROC = "/proc"
#: A pipe's end can be held open by a process that the node's has forked; then the guardian sees it so.
GUARDIAN_LOOKS_SECONDS = 0.5
#: What goes on starting processes is looked for so often; then whoever looks gives up.
SWEEPS_MAX = 200
SWEEP_SECONDS = 0.02
#: How long a process may take to become another program, from when its starter goes on.
EXEC_LOOKS_MAX, EXEC_LOOK_SECONDS = 200, 0.005
_KERNEL_OR_ENDING = 0x00200000 | 0x00000004  # PF_KTHREAD, PF_EXITING
#: Of a process so many are asked for.
ANCESTORS_MAX = 100



def node_mark(node_id):
    # type: (bytes) -> str
    """What all marks of a node's worker processes begin with."""
    return hexadecimal(node_id) + "."


class Family(object):
    """One worker process and all that its tasks start."""

    def __init__(self, node_id, number):
        # type: (bytes, int) -> None
        self.mark = "%s%d." % (node_mark(node_id), number)
        self._job = _Job() if WINDOWS else None

    def variable(self):
        # type: () -> dict
        """For its environment. A node inside of a task keeps the outer one's mark too."""
        return {VARIABLE: (os.environ.get(VARIABLE, "") + " " + self.mark).strip()}

    def has(self, process):
        # type: (subprocess.Popen) -> None
        """It has been started; on Windows what it starts itself from now on belongs to it."""
        if self._job is not None:
            self._job.add(process)

    def end(self):
        # type: () -> None
        """Kill what is left of it; may take a moment."""
        if self._job is not None:
            self._job.close()
        else:
            sweep(self.mark)


def sweep(mark):
    # type: (str) -> int
    """Kill all processes that bear this mark, until there are none. Returns how many were killed."""
    killed = set()  # type: set
    for _ in range(SWEEPS_MAX):
        found = marked(mark)
        if not found:
            break
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass  # it has just ended, or is another user's
        killed.update(found)
        time.sleep(SWEEP_SECONDS)
    return len(killed)


def marked(mark):
    # type: (str) -> list
    """The living processes with this mark, but for the one that asks."""
    wanted = mark.encode("ascii")
    if not looks_are_cheap():
        return _marked_of_ps(wanted)
    found = []
    for name in os.listdir(PROC):
        if name.isdigit() and int(name) != os.getpid():
            try:
                text = _environment_of(name)
            except (OSError, IOError):
                continue  # another user's, or it has just ended
            # Zombies have no environment: what is found can be killed.
            if wanted in text and any(entry.startswith(_VARIABLE) and wanted in entry for entry in text.split(b"\0")):
                found.append(int(name))
    return found


def _environment_of(pid):
    # type: (str) -> bytes
    """As it was when the process became what it is; if it is just about to, when it has."""
    for _ in range(EXEC_LOOKS_MAX):
        text = _read_environment(pid)
        if text:
            return text
        if not _is_in_exec(pid):
            return _read_environment(pid)  # again: it may have become it since
        time.sleep(EXEC_LOOK_SECONDS)
    return b""


def _read_environment(pid):
    # type: (str) -> bytes
    with open("%s/%s/environ" % (PROC, pid), "rb") as file:
        return file.read()


def _is_in_exec(pid):
    # type: (str) -> bool
    """Between two programs a process has no environment: ``subprocess.Popen`` has returned, and Linux is still
    setting up the new one. Then its ``env_end`` is 0 (proc(5), field 51), as for kernel threads and what ends."""
    with open("%s/%s/stat" % (PROC, pid), "rb") as file:
        fields = native(file.read()).rpartition(")")[2].split()
    return len(fields) > 48 and fields[48] == "0" and fields[0] not in "ZX" and not int(fields[6]) & _KERNEL_OR_ENDING


def looks_are_cheap():
    # type: () -> bool
    """Elsewhere each look is a process of its own; there, what tasks leave ends with their worker process."""
    return os.path.exists(PROC + "/self/environ")


def _marked_of_ps(wanted):
    # type: (bytes) -> list
    """macOS and BSD; untested."""
    try:
        command = ["/bin/ps", "-axww", "-E", "-o", "pid=,command="]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=boot.variables())
    except (OSError, IOError):
        return []
    lines = process.communicate()[0].splitlines()
    found = [int(line.split(None, 1)[0]) for line in lines if _VARIABLE in line and wanted in line]
    return [pid for pid in found if pid not in (os.getpid(), process.pid)]


def newest():
    # type: () -> bytes
    """The number of the process (or thread) that was started last on this machine: the same as before, so none was."""
    with open(PROC + "/loadavg", "rb") as file:
        return file.read().split()[-1]


def is_below(pid, helpers):
    # type: (int, object) -> bool
    """Is it one of these processes, or has one of them started it?"""
    for _ in range(ANCESTORS_MAX):
        if pid in helpers:  # type: ignore[operator]
            return True
        try:
            with open("%s/%d/stat" % (PROC, pid), "rb") as file:
                pid = int(native(file.read()).rpartition(")")[2].split()[1])
        except (OSError, IOError):
            return False
        if pid <= 1:
            return False
    return False


# -- the guardian ---------------------------------------------------------------------------------


def start_guardian(node_id):
    # type: (bytes) -> subprocess.Popen | None
    """Ends what this process's node has started when this process ends or closes the guardian's standard input.

    What is returned ends at once, and wants to be seen off: the guardian is its child, and so becomes nobody's.
    """
    if WINDOWS:
        return None  # the job objects' handles close with the process
    with open(os.devnull, "r+b") as nothing:
        return subprocess.Popen(
            boot.command("node.orphans", "guard", ["-S"], node_mark(node_id), str(os.getpid())),
            stdin=subprocess.PIPE, stdout=nothing, stderr=subprocess.PIPE, close_fds=True, cwd="/",
            env=boot.variables(),
            **({"preexec_fn": os.setsid} if PY2 else {"start_new_session": True})  # py2
        )  # fmt: skip


def seen_off(process):
    # type: (subprocess.Popen) -> bool
    """Wait for what ``start_guardian`` has returned; False, and a line in the log, if the guardian could not start."""
    with process.stderr as pipe:  # type: ignore[union-attr] # the guardian itself has closed its end when it has begun
        words = native(pipe.read()).strip()
    code = process.wait()
    if code:
        text = "if this process is killed, what its tasks have started stays: its guardian could not start: %s"
        log.warning(text, words.splitlines()[-1] if words else "exit code %d" % code)
    return not code


def guard():
    # type: () -> None
    """The guardian's whole life."""
    mark, node = sys.argv[1:]
    if os.fork():
        os._exit(0)
    os.dup2(1, 2)  # whoever waits for our last words has heard that there are none
    began = _began(node)
    if began is None and looks_are_cheap():  # it was quicker
        sweep(mark)
        os._exit(0)
    while not select.select([0], [], [], GUARDIAN_LOOKS_SECONDS)[0]:
        if _began(node) != began:
            break
    sweep(mark)
    os._exit(0)


def _began(pid):
    # type: (str) -> str | None
    """Tells a process from a later one of the same number; None: it is dead, or this system has no /proc."""
    try:
        with open("%s/%s/stat" % (PROC, pid), "rb") as file:
            fields = native(file.read()).rpartition(")")[2].split()
    except (OSError, IOError):
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


# -- Windows --------------------------------------------------------------------------------------


class _Job(object):
    """A job object that ends its members with its handle; untested. Without one, only the process itself is ended."""

    _EXTENDED_LIMITS, _KILL_ON_CLOSE = 9, 0x2000

    def __init__(self):
        # type: () -> None
        import ctypes

        self._kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
        self._kernel.CreateJobObjectW.restype = ctypes.c_void_p
        self._handle = self._kernel.CreateJobObjectW(None, None)
        # JOBOBJECT_EXTENDED_LIMIT_INFORMATION; LimitFlags stands at byte 16, after two times of 8 bytes each.
        limits = (ctypes.c_ubyte * (144 if ctypes.sizeof(ctypes.c_void_p) == 8 else 112))()
        ctypes.c_uint32.from_buffer(limits, 16).value = self._KILL_ON_CLOSE
        self._kernel.SetInformationJobObject(
            ctypes.c_void_p(self._handle), self._EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits)
        )
        self._pointer = ctypes.c_void_p

    def add(self, process):
        # type: (subprocess.Popen) -> None
        handle = int(process._handle)  # type: ignore[attr-defined]
        self._kernel.AssignProcessToJobObject(self._pointer(self._handle), self._pointer(handle))

    def close(self):
        # type: () -> None
        if self._handle:
            self._kernel.CloseHandle(self._pointer(self._handle))
            self._handle = None
