"""One machine's worker processes. The agent (agent.py) decides, ``Node`` does it.

::

    master <-- link --> Node (agent.py decides) <-- loopback --> worker processes (worker.py)

A ``Node`` runs in the loop of the master's own process (``cluster.py``), or of a machine that only works (``link.py``).
A worker process is a fresh interpreter. Beside each stand threads that read what it prints and one that waits for its
end; all of them only send events to the loop.
"""
from __future__ import absolute_import, division, print_function

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from functools import partial

from .. import errors
from ..brain import agent as brain
from ..compat import PICKLE_PROTOCOL, PY2, WINDOWS, cpu_count, hexadecimal, monotonic, native, socketpair, write_quietly
from ..logs import log
from ..payload.shares import Files
from ..wire import checks, handshakes, keys, protocol
from ..wire.connection import Connection
from ..wire.listener import Listener
from ..wire.loop import Loop  # noqa: F401 # in a type comment
from . import boot, guardian, orphans
from .hands import Hands
from .output import Reader

if sys.platform != "win32":
    import resource

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Callable  # noqa: F401 # novm

    from .hands import Drop, End, Send  # noqa: F401

#: These set the number of threads of BLAS and OpenMP. A worker process gets its share of the processors, since several
#: run beside each other. Values that the user has set are kept.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip
#: Errors of a start that another try does not mend. Any other (no process, thread, descriptor or memory left) may pass.
_PERMANENT = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.EISDIR, errno.EPERM)
#: How long to wait for the threads of killed worker processes. SIGKILL needs less; a process that a task started may
#: hold the output pipe open for 0.2 s.
LEAVE_SECONDS = 1.0
#: How long after a job's end the node looks for processes that its tasks have left behind. It looks no more often.
LOOK_SECONDS = 1.0

#: How much the kernel may hold on the way to a worker process, and on the way back (Linux: 0.2 MB unless it is set,
#: macOS: 8 kB): each time that it is full, both sides wait for each other, and a cycle of the loop goes by.
PAIR_BYTES = 1 << 20
#: Whether a worker process inherits one end of a pair of sockets, which needs no network, not even loopback.
PAIRS = not (PY2 or WINDOWS)


def describe():
    # type: () -> dict
    """What a node tells the master about itself: plain data."""
    return {
        "hostname": native(socket.gethostname()),
        "pid": os.getpid(),
        "python": "%d.%d.%d" % sys.version_info[:3],
        # Like platform.system(), but that may start a process, which would have the key in its environment.
        "platform": os.uname()[0] if hasattr(os, "uname") else "Windows" if WINDOWS else sys.platform,
    }


class _Child(object):
    """A worker process with its connection and its output."""

    def __init__(self, slot, process, family, printed):
        # type: (int, subprocess.Popen, guardian.Family, Callable[[_Child, str, str], object]) -> None
        self.slot, self.process, self.family = slot, process, family
        self.output = Reader(boot.pipe(process.stdout), boot.pipe(process.stderr), partial(printed, self))
        self.helpers = set()  # type: set[int] # pids of processes that the user's initializers or modules started: they stay
        self.connection = None  # type: Connection | None # after the handshake
        self.pair = None  # type: Connection | None # with PAIRS: the same connection, from the start of the process on
        self.peak_before = _own_peak()


class Node(Hands):
    """The worker processes of this machine. loop, slots, send, drop, end: as for Hands."""

    def __init__(self, loop, slots, send, drop, end):
        # type: (Loop, int, Send, Drop, End) -> None
        self.id = os.urandom(16)
        super(Node, self).__init__(loop, slots, dict(describe(), id=hexadecimal(self.id)), send, drop, end)
        self._slots = slots
        self._children = {}  # type: dict[int, _Child] # by slot
        self._started = 0  # how many worker processes have been started so far
        self._guardian = None  # type: subprocess.Popen | None
        #: One for each worker process, which ends with it. Others end soon: they do what takes too long for the loop.
        self._threads = []  # type: list[threading.Thread]
        self._look_at = None  # type: float | None # when to look for processes that tasks have left behind
        self._look_slots = set()  # type: set[int] # the slots whose worker processes that look is about
        self._key = keys.generate_key(os.urandom(32))
        self._listener = None  # type: Listener | None
        self._finished = None  # type: brain.Finished | None # until ``end`` has been called
        self._files = Files()

    # -- for the loop -----------------------------------------------------------------------------

    def open(self):
        # type: () -> None
        """Make it possible for worker processes to connect. Raises OSError if the system has no sockets left."""
        if PAIRS:
            for each in socketpair():
                each.close()
        elif self._listener is None:
            self._listener = Listener(self._loop, "127.0.0.1", 0, self._accepted, expected=self._slots)

    def step(self, now):
        # type: (float) -> None
        super(Node, self).step(now)
        if self._look_at is not None and now >= self._look_at:
            children = [self._children[slot] for slot in self._look_slots if slot in self._children]
            known = [child.process.pid for child in self._children.values()]
            self._look_at, self._look_slots = None, set()
            try:
                self._start_thread("look", self._look, children, known)
            except threading.ThreadError:  # perhaps the processes left behind use up this user's limit: look right here
                self._look(children, known)

    def _effect_failed(self, effect, error):
        # type: (tuple, BaseException) -> None
        """An effect raised: end the worker process that it was for. A start that failed counts as a process that
        ended, so the agent tries again."""
        if isinstance(effect, brain.StartChild):
            info = {"exit": "%s: %s" % (type(error).__name__, error), "lines": []}
            self.tell(brain.ChildExited(effect.slot, info))
            return
        super(Node, self)._effect_failed(effect, error)
        child = self._children.get(getattr(effect, "slot", -1))
        if child is not None:
            _kill(child.process)

    def pids(self):
        # type: () -> list
        return [child.process.pid for child in self._children.values()]

    def deadline(self):
        # type: () -> float | None
        moments = [moment for moment in (self._look_at, super(Node, self).deadline()) if moment is not None]
        return min(moments) if moments else None

    # -- worker processes -------------------------------------------------------------------------

    def start_child(self, effect):
        # type: (brain.StartChild) -> None
        try:
            self.open()
            if self._listener is None:  # with PAIRS
                ours, theirs = _pair()
                with theirs:
                    self._start_process(effect.slot, ours, theirs.fileno())
            else:
                self._start_process(effect.slot, None, self._listener.port)
        except (EnvironmentError, socket.error, threading.ThreadError, errors.StartError) as error:
            self.tell(brain.ChildExited(effect.slot, _why_not_started(error)))

    def _start_process(self, slot, ours, theirs):
        # type: (int, socket.socket | None, int) -> None
        """ours, theirs: with PAIRS our socket and the worker process's descriptor; otherwise None and our port."""
        try:
            process, family = self._new_process(() if ours is None else (theirs,))
            child = self._children[slot] = _Child(slot, process, family, partial(self._loop.call, self._printed))
            try:
                self._accompany(child)
                self._watch_over()
                if ours is not None:
                    ours.setblocking(False)
                    child.pair = self._accepted(ours, "worker process %d" % process.pid)
            except (OSError, threading.ThreadError):
                del self._children[slot]
                _end_half_started(process)
                raise
        except BaseException:
            if ours is not None:
                ours.close()
            raise
        self._send_settings(child, {"port" if ours is None else "descriptor": theirs})

    def _watch_over(self):
        # type: () -> None
        """Start the guardian, unless it runs: it ends all that tasks start from now on if this process is killed. The
        first worker process is started before it, and waits for its settings.
        """
        if self._guardian is None:
            self._guardian = started = guardian.start(self.id)
            if started is not None:
                try:
                    self._start_thread("guardian", self._wait_for_guardian, started)
                except threading.ThreadError:
                    self._wait_for_guardian(started)  # short: this process forks the guardian and ends

    def _start_thread(self, name, function, *arguments):
        # type: (str, Callable[..., object], *object) -> None
        """Note the thread before it starts: Ctrl-C may interrupt the start, and ``leave_now`` must wait for it, too."""
        thread = _thread(name, function, *arguments)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def _wait_for_guardian(self, started):
        # type: (subprocess.Popen) -> None
        if not guardian.has_forked(started):  # no process or memory left: the next worker process's start tries again
            self._loop.call(setattr, self, "_guardian", None)

    def _new_process(self, inherited):
        # type: (tuple) -> tuple[subprocess.Popen, guardian.Family]
        self._started += 1
        inheriting = {"pass_fds": inherited} if inherited else {"close_fds": not (PY2 and WINDOWS)}  # type: dict
        family = guardian.Family(self.id, self._started)
        process = subprocess.Popen(
            boot.command("node.worker", "main", boot.options()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(child_environment(self._slots), **family.variable()),
            cwd=boot.folder(),
            bufsize=0,
            **dict(boot.OWN_SESSION, **inheriting)
        )
        family.has(process)
        return process, family

    def _accompany(self, child):
        # type: (_Child) -> None
        """Start the threads beside a worker process. Raises ThreadError if the system allows no more threads."""
        child.output.start()
        self._start_thread("waiter", self._wait, child)

    def _send_settings(self, child, where):
        # type: (_Child, dict) -> None
        """Write to the process's standard input how to connect, the key, and ``sys.path``: one line of JSON."""
        settings = dict(where, key=self._key, slot=child.slot, path=boot.search_paths())
        try:
            write_quietly(boot.pipe(child.process.stdin), json.dumps(settings).encode("ascii") + b"\n")
        except (OSError, IOError):
            pass  # the process has ended already; the waiter reports it

    def _wait(self, child):
        # type: (_Child) -> None
        code, peak = _wait_for(child.process)
        _kill_group(child.process.pid)
        try:
            child.family.end()  # kill what its tasks started, also processes that have left the group
        except (EnvironmentError, threading.ThreadError) as error:  # for example: no descriptor left
            log.warning("what worker process %d has left behind cannot be looked for: %s", child.process.pid, error)
        child.output.finish()
        self._loop.call(self._exited, child, code, peak)

    def discard(self, effect):
        # type: (brain.Discard) -> None
        self._files.discard(effect.name)

    def look_behind(self, effect):
        # type: (brain.LookBehind) -> None
        self._look_slots.add(effect.slot)
        if self._look_at is None and orphans.looks_are_cheap():
            self._look_at = monotonic() + LOOK_SECONDS

    def _look(self, children, known):
        # type: (list, list) -> None
        """Report each of these worker processes whose tasks have left processes behind.

        known: the pids of all worker processes. Most jobs leave nothing behind, which the first look shows.
        """
        try:
            if set(orphans.marked(guardian.node_mark(self.id))) <= set(known):
                return
            for child in children:
                others = set(orphans.marked(child.family.mark)) - {child.process.pid}
                if not all(orphans.is_below(each, child.helpers) for each in others):
                    self._loop.call(self._left_behind, child)
        except EnvironmentError as error:  # for example: no descriptor left
            log.warning("what tasks have left behind cannot be looked for: %s", error)

    def _left_behind(self, child):
        # type: (_Child) -> None
        if self._children.get(child.slot) is child:
            self.tell(brain.LeftBehind(child.slot))

    def _accepted(self, sock, where):
        # type: (socket.socket, str) -> Connection
        handshake = handshakes.ServerHandshake(
            self._key, os.urandom(16), os.urandom(32), 0, 0, tagged=False, pickle_protocol=PICKLE_PROTOCOL
        )
        # The agent kills a worker process that does not begin in time. On a busy machine its handshake may take longer
        # than strangers are given, so this connection has the same time.
        return Connection(self._loop, sock, handshake, self, where, patience=brain.START_SECONDS)

    def opened(self, connection):
        # type: (Connection) -> None
        name = native(connection.peer.node_id.rstrip(b"\0"))  # type: ignore[union-attr]
        child = self._children.get(int(name[4:])) if name.startswith("slot") else None
        if child is None or child.connection is not None:
            connection.close(None)
            return
        child.connection = connection
        connection.about = child
        self.tell(brain.ChildReady(child.slot))

    def received(self, connection, messages):
        # type: (Connection, list) -> None
        for message in messages:
            checks.check(message, checks.CHILD)
            if isinstance(message, protocol.Helpers):
                connection.about.helpers.update(message.info["pids"])
                continue
            self.tell(brain.ChildSaid(connection.about.slot, message))

    def closed(self, connection, error):
        # type: (Connection, BaseException | None) -> None
        if connection.about is not None:
            _kill(connection.about.process)  # the waiter reports its end

    def _exited(self, child, code, peak):
        # type: (_Child, int, int) -> None
        while child.connection is not None and child.connection.readable():
            pass  # read the results that it sent just before its end
        if self._children.get(child.slot) is child:
            del self._children[child.slot]
        child.output.close()
        if child.connection is not None:
            child.connection.about = None
            child.connection.close(None)
        elif child.pair is not None:
            child.pair.close(None)
        try:
            boot.pipe(child.process.stdin).close()
        except (OSError, IOError):
            pass
        info = {"exit": exit_in_words(code), "lines": child.output.last_lines()}  # type: dict
        if code == -9:  # SIGKILL. (If this node killed the process, the agent does not use this text.)
            info.update(exit=info["exit"] + ", perhaps out of memory", memory=True)
        if peak > child.peak_before:
            info["peak_memory"] = peak
        self.tell(brain.ChildExited(child.slot, info))
        self._finish_when_empty()

    def to_child(self, effect):
        # type: (brain.ToChild) -> None
        child = self._children.get(effect.slot)
        if child is not None and child.connection is not None:
            child.connection.send(effect.message)

    def keep(self, effect):
        # type: (brain.Keep) -> None
        """A shared object has arrived: write it to a file for all worker processes. On the master's own machine it is
        in a file already ("path")."""
        info = effect.info
        try:
            if "path" not in info:
                info = dict(self._files.keep(effect.name, effect.payload), needs=info.get("needs", ""))
        except (OSError, IOError) as error:
            info = {"found": False, "error": "it cannot be kept on this node: %s" % error}
        self.tell(brain.Kept(effect.name, info))

    def kill_child(self, effect):
        # type: (brain.KillChild) -> None
        child = self._children.get(effect.slot)
        if child is not None:
            _kill(child.process)

    def finished(self, effect):
        # type: (brain.Finished) -> None
        self._finished = effect
        if self._listener is not None:
            self._listener.close()
        self._finish_when_empty()

    def _finish_when_empty(self):
        # type: () -> None
        if self._finished is not None and not self._children:
            reason, refused = self._finished
            self._finished = None
            self._files.close()
            self._dismiss()
            self._end(reason, refused)

    def leave_now(self):
        # type: () -> None
        """Kill all worker processes, without the loop; wait for each up to LEAVE_SECONDS."""
        children = list(self._children.values())
        for child in children:
            _kill(child.process)
        self._join_threads()
        for child in children:
            child.output.finish()  # if Ctrl-C came before its waiter was started
        self._dismiss()

    def _dismiss(self):
        # type: () -> None
        """When all worker processes are gone: end the guardian, and wait for the threads."""
        if self._guardian is not None:
            boot.pipe(self._guardian.stdin).close()
        self._join_threads()

    def _join_threads(self):
        # type: () -> None
        for thread in self._threads:
            if thread.is_alive():
                thread.join(LEAVE_SECONDS)  # 2.7 shows a traceback for a thread that ends with the interpreter

    # -- what tasks print -------------------------------------------------------------------------

    def _printed(self, child, stream, text):
        # type: (_Child, str, str) -> None
        """Bypass the event queue: if the node finishes first, a task's last lines would be lost."""
        child.output.taken()
        output = protocol.Output({"pid": child.process.pid, "stream": stream, "text": text})
        self._handle(brain.ChildSaid(child.slot, output), monotonic())


def _pair():
    # type: () -> tuple[socket.socket, socket.socket]
    """Two connected sockets with room for large messages, as far as the system allows."""
    ours, theirs = socketpair()
    try:
        for each in (ours, theirs):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PAIR_BYTES)
    except (OSError, socket.error):
        pass  # macOS refuses what is more than its limit, Linux takes less
    return ours, theirs


def child_environment(slots):
    # type: (int) -> dict
    """A worker process's environment variables: this process's, without the key, with limits for BLAS threads."""
    share = str(max(1, cpu_count() // slots))
    return dict(dict.fromkeys(THREAD_VARIABLES, share), **boot.variables())


def exit_in_words(code):
    # type: (int) -> str
    if code >= 0:
        return "exit code %d" % code
    names = [name for name in dir(signal) if name.startswith("SIG") and getattr(signal, name) == -code]
    return "killed by signal %d%s" % (-code, " (%s)" % names[0] if names else "")


def _wait_for(process):
    # type: (subprocess.Popen) -> tuple[int, int]
    """Wait for the end of a process: (exit code, its peak memory in bytes or 0 if unknown)."""
    while sys.platform != "win32":
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except (OSError, IOError) as error:
            if error.errno == errno.EINTR:  # py2
                continue
            break  # other code has waited for it; or SIGCHLD is ignored, and then the kernel does
        process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return process.returncode, _in_bytes(usage.ru_maxrss)
    return process.wait(), 0


def _own_peak():
    # type: () -> int
    """This process's peak memory in bytes. A process's peak begins with that of its parent, so a worker process's says
    nothing unless it is larger."""
    return _in_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) if sys.platform != "win32" else 0


def _in_bytes(peak):
    # type: (int) -> int
    return peak * (1 if sys.platform == "darwin" else 1024)


def _kill(process):
    # type: (subprocess.Popen) -> None
    try:
        if hasattr(os, "killpg") and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (OSError, AttributeError):
        pass  # the process has ended already


def _why_not_started(error):
    # type: (BaseException) -> dict
    if isinstance(error, errors.StartError):
        return {"exit": str(error), "lines": [], "shortage": False}
    text = "cannot start %s: %s" % (sys.executable, error)
    return {"exit": text, "lines": [], "shortage": getattr(error, "errno", None) not in _PERMANENT}


def _end_half_started(process):
    # type: (subprocess.Popen) -> None
    """End a process whose threads could not be started."""
    _kill(process)
    process.wait()
    boot.pipe(process.stdin).close()  # the Reader closes the output pipes


def _kill_group(pid):
    # type: (int) -> None
    try:
        os.killpg(pid, signal.SIGKILL)
    except (OSError, AttributeError):
        pass  # no process is left in the group; Windows has no groups


def _thread(name, function, *arguments):
    # type: (str, Callable[..., object], *object) -> threading.Thread
    thread = threading.Thread(target=function, name="minimalcluster-" + name, args=arguments)
    thread.daemon = True
    return thread
