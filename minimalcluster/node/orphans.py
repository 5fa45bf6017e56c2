"""Processes that tasks start and leave behind (orphans): they end with the worker process, and with the node.

A process passes its environment variables on to every process that it starts, also through ``fork``, ``setsid`` and a
daemon's double fork. So each worker process gets a mark of its own in a variable, and orphans are found by the mark:

* Linux: in ``/proc/*/environ``. It shows the variables with which a process was started, even if it has changed them.
* Windows: instead, each worker process has a job object, which ends its members when its last handle is closed
  (untested).
* macOS and BSD: in the output of ``ps -E`` (untested).

The node looks for orphans when a worker process has ended. If the node itself is killed, its *guardian* looks: a small
process that is not a child of the node and waits for the end of a pipe. An orphan is not found only if it was started
with other variables (``env -i``) and has also left the worker process's process group.
"""
from __future__ import absolute_import, division, print_function

import os
import select
import signal
import sys
import time

VARIABLE = "MINIMALCLUSTER_PROCESS"
_VARIABLE = VARIABLE.encode("ascii") + b"="
PROC = "/proc"
#: A process forked from the node's may hold the guardian's pipe open after the node's end. So the guardian also looks
#: this often whether the node lives.
GUARDIAN_LOOKS_SECONDS = 0.5
#: Processes may start others while they are being killed. After so many rounds the search is given up.
SWEEPS_MAX = 200
SWEEP_SECONDS = 0.02
#: How long (1 s) Linux may take to replace a process's program after ``Popen`` has returned (_is_in_exec).
EXEC_LOOKS_MAX, EXEC_LOOK_SECONDS = 200, 0.005
_KERNEL_OR_ENDING = 0x00200000 | 0x00000004  # PF_KTHREAD, PF_EXITING
#: ``is_below`` follows so many parents of a process at most.
ANCESTORS_MAX = 100


def sweep(mark):
    # type: (str) -> int
    """Kill all processes with this mark until none is left. Returns how many were killed."""
    killed = set()  # type: set
    for _ in range(SWEEPS_MAX):
        found = marked(mark)
        if not found:
            break
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass  # the process has just ended, or belongs to another user
        killed.update(found)
        time.sleep(SWEEP_SECONDS)
    return len(killed)


def marked(mark):
    # type: (str) -> list
    """The pids of the living processes with this mark, without this process itself."""
    wanted = mark.encode("ascii")
    if not looks_are_cheap():
        return _marked_of_ps(wanted)
    found = []
    for name in os.listdir(PROC):
        if name.isdigit() and int(name) != os.getpid():
            try:
                text = _environment_of(name)
            except (OSError, IOError):
                continue  # the process belongs to another user, or has just ended
            # A zombie has no variables to read, so each process that is found can be killed.
            if wanted in text and any(entry.startswith(_VARIABLE) and wanted in entry for entry in text.split(b"\0")):
                found.append(int(name))
    return found


def _environment_of(pid):
    # type: (str) -> bytes
    """The variables with which a process's program was started. Waits while its program is being replaced."""
    for _ in range(EXEC_LOOKS_MAX):
        text = _read_environment(pid)
        if text:
            return text
        if not _is_in_exec(pid):
            return _read_environment(pid)  # once more: the program may have started between the two looks
        time.sleep(EXEC_LOOK_SECONDS)
    return b""


def _read_environment(pid):
    # type: (str) -> bytes
    with open("%s/%s/environ" % (PROC, pid), "rb") as file:
        return file.read()


def _is_in_exec(pid):
    # type: (str) -> bool
    """Whether Linux is just replacing the process's program (exec). Then it has no variables, although the ``Popen``
    that started it may have returned, and its ``env_end`` is 0 (proc(5), field 51). Kernel threads and processes that
    are ending have 0 there, too."""
    fields = _stat(pid)
    return len(fields) > 48 and fields[48] == b"0" and fields[0] not in b"ZX" and not int(fields[6]) & _KERNEL_OR_ENDING


def _stat(pid):
    # type: (int | str) -> list[bytes]
    """What Linux tells of a process behind its name, from its state on (proc(5), field 3). Raises EnvironmentError."""
    with open("%s/%s/stat" % (PROC, pid), "rb") as file:
        return file.read().rpartition(b")")[2].split()


def looks_are_cheap():
    # type: () -> bool
    """Whether a look needs no process of its own. Where it does, nodes look only when a worker process has ended."""
    return os.path.exists(PROC + "/self/environ")


def _marked_of_ps(wanted):
    # type: (bytes) -> list
    """``marked`` on macOS and BSD; untested."""
    import subprocess

    from . import boot

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
    """The number of the process (or thread) that was started last on this machine. If two calls give the same number,
    nothing was started in between."""
    with open(PROC + "/loadavg", "rb") as file:
        return file.read().split()[-1]


def is_below(pid, helpers):
    # type: (int, set[int]) -> bool
    """Whether a process is one of these, or was started by one of them, directly or not."""
    for _ in range(ANCESTORS_MAX):
        if pid in helpers:
            return True
        try:
            pid = int(_stat(pid)[1])
        except (OSError, IOError):
            return False
        if pid <= 1:
            return False
    return False


# -- the guardian's process -----------------------------------------------------------------------


def guard():
    # type: () -> None
    """The main function of the guardian's process."""
    mark, node = sys.argv[1:]
    if os.fork():
        os._exit(0)
    os.dup2(1, 2)  # closes the pipe on which ``has_forked`` waits for an error
    began = _began(node)
    if began is None and looks_are_cheap():  # the node has ended before the guardian began
        sweep(mark)
        os._exit(0)
    while not select.select([0], [], [], GUARDIAN_LOOKS_SECONDS)[0]:
        if _began(node) != began:
            break
    sweep(mark)
    os._exit(0)


def _began(pid):
    # type: (str) -> bytes | None
    """When a process was started: tells it from a later process with the same number.

    None if it has ended, or this system has no /proc.
    """
    try:
        fields = _stat(pid)
    except (OSError, IOError):
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19]
