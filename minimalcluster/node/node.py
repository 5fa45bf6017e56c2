"""One machine's worker processes: what its agent says is done here.

::

    master <-- link --> Node (agent.py decides) <-- loopback --> worker processes (worker.py)

``Node`` does what its agent says, in whatever loop it is stepped: in the master's own process
(``cluster.py``) or in that of a machine that only works (``link.py``). A worker process is a fresh interpreter; two
threads stand by each: one reads what it prints, one waits for its end. Both only post to the loop.
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
from collections import deque
from functools import partial

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from .. import errors
from ..brain import agent as brain
from ..compat import PICKLE_PROTOCOL, PY2, WINDOWS, cpu_count, hexadecimal, monotonic, native, socketpair, write_quietly
from ..logs import log
from ..payload.shares import Files
from ..wire import checks, handshakes, keys, protocol
from ..wire.connection import Connection
from ..wire.listener import Listener
from ..wire.loop import Loop  # noqa: F401 # in a type comment
from . import boot, orphans
from .output import Reader

#: One thread each for BLAS and OpenMP in a worker process with a core to itself; the user's settings win.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip
#: What no later try changes; all else (no process, thread, descriptor or memory is left) may pass.
_NEVER = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.EISDIR, errno.EPERM)
#: SIGKILL needs no more; a task's own child may hold the output open for 0.2 s.
LEAVE_SECONDS = 1.0
#: So long after a job's end, what its tasks have left behind is looked for; at most once in that time.
LOOK_SECONDS = 1.0

#: A terminal's Ctrl-C is for us, from a worker process's first moment; and its group can be killed as one.
if WINDOWS:
    _OWN_SESSION = {"creationflags": 0x200}  # type: dict # CREATE_NEW_PROCESS_GROUP, unnamed in 2.7 and elsewhere
else:
    _OWN_SESSION = {"preexec_fn": os.setsid} if PY2 else {"start_new_session": True}  # py2

#: A worker process inherits one end of a pair of sockets, where it can: that needs no network, not even loopback.
PAIRS = not (PY2 or WINDOWS)


def describe():
    # type: () -> dict
    """What a node tells of itself: plain data."""
    return {
        "hostname": native(socket.gethostname()),
        "pid": os.getpid(),
        "python": "%d.%d.%d" % sys.version_info[:3],
        # As platform.system(), which starts a process for it, with the key in its environment.
        "platform": os.uname()[0] if hasattr(os, "uname") else "Windows" if WINDOWS else sys.platform,
    }


class _Child(object):
    """A worker process, its connection once it has one, and the last it printed."""

    def __init__(self, slot, process, family):
        # type: (int, subprocess.Popen, orphans.Family) -> None
        self.slot, self.process, self.family = slot, process, family
        self.waiter = None  # type: threading.Thread | None # ends with the process
        self.helpers = set()  # type: set # processes that are no litter of tasks
        self.connection = None  # type: Connection | None
        self.pair = None  # type: Connection | None # the same, from its start on, where it has inherited its end
        self.output = None  # type: Reader # type: ignore[assignment] # from its first moment on
        self.peak_before = _peak(resource.getrusage(resource.RUSAGE_SELF)) if resource else 0


class Node(object):
    """Carries out its agent's effects. ``send`` takes messages for the master.

    ``finished(reason, refused)`` is called in the loop's thread when all processes are gone.
    """

    def __init__(self, loop, slots, send, drop_link, finished):
        # type: (Loop, int, object, object, object) -> None
        self.id = os.urandom(16)
        self._loop, self._send, self._drop_link, self._finished = loop, send, drop_link, finished
        self._slots = slots
        self._agent = brain.Agent(slots, dict(describe(), id=hexadecimal(self.id)))
        self._events = deque()  # type: deque
        self._children = {}  # type: dict # slot -> _Child
        self._started = 0  # worker processes so far
        self._guardian = None  # type: subprocess.Popen | None
        self._brief = []  # type: list # threads that end by themselves soon, and hold up no step of the loop
        self._look_at = None  # type: float | None
        self._look_slots = set()  # type: set # whose jobs are over
        self._key = keys.generate_key(os.urandom(32))
        self._listener = None  # type: Listener | None
        self._end = None  # type: brain.Finished | None
        self._files = Files()
        self._effects = {
            brain.ToMaster: lambda effect: self._send(effect.message),  # type: ignore[operator]
            brain.ToChild: self._to_child,
            brain.StartChild: self._start_child,
            brain.KillChild: self._kill_child,
            brain.Keep: self._keep,
            brain.Discard: lambda effect: self._files.discard(effect.name),
            brain.LookBehind: self._look_behind,
            brain.DropLink: lambda effect: self._drop_link(effect.reason),  # type: ignore[operator]
            brain.Finished: self._on_finished,
            brain.Warn: lambda effect: log.warning("%s", effect.text),
        }  # type: dict

    # -- for the loop -----------------------------------------------------------------------------

    def open(self):
        # type: () -> None
        """Worker processes can come. Raises OSError where there is nothing left for that."""
        if PAIRS:
            for each in socketpair():
                each.close()
        elif self._listener is None:
            self._listener = Listener(self._loop, "127.0.0.1", 0, self._accepted, expected=self._slots)

    def tell(self, event):
        # type: (tuple) -> None
        """Something happened; it is handled in the next step."""
        self._events.append(event)

    def step(self, now):
        # type: (float) -> None
        while self._events:
            self._handle(self._events.popleft(), now)
        self._handle(brain.TimePassed(), now)
        if self._look_at is not None and now >= self._look_at:
            children = [self._children[slot] for slot in self._look_slots if slot in self._children]
            known = [child.process.pid for child in self._children.values()]
            self._look_at, self._look_slots = None, set()
            try:
                self._start_brief("look", self._look, children, known)
            except threading.ThreadError:  # what is left behind has taken all that this user may have
                self._look(children, known)

    def _handle(self, event, now):
        # type: (tuple, float) -> None
        for effect in self._agent.effects_of(event, now):
            self._loop.spare(self._effects[type(effect)], effect, self._effect_failed)

    def _effect_failed(self, effect, error):
        # type: (object, BaseException) -> None
        """It costs the worker process that it was for; where there is none yet, the next try may have one."""
        if isinstance(effect, brain.StartChild):
            info = {"exit": "%s: %s" % (type(error).__name__, error), "lines": []}
            self.tell(brain.ChildExited(effect.slot, info))
            return
        log.exception("%s failed, and the rest goes on; please report this", type(effect).__name__)
        child = self._children.get(getattr(effect, "slot", None))
        if child is not None:
            _kill(child.process)

    def pids(self):
        # type: () -> list
        return [child.process.pid for child in self._children.values()]

    def deadline(self):
        # type: () -> float | None
        if self._events:
            return 0.0
        moments = [moment for moment in (self._look_at, self._agent.deadline()) if moment is not None]
        return min(moments) if moments else None

    def snapshot(self):
        # type: () -> dict
        return self._agent.snapshot()

    # -- worker processes -------------------------------------------------------------------------

    def _start_child(self, effect):
        # type: (brain.StartChild) -> None
        try:
            self.open()
            self._watch_over()
            if PAIRS:
                ours, theirs = socketpair()
                with theirs:
                    self._start_process(effect.slot, ours, theirs.fileno())
            else:
                self._start_process(effect.slot, None, self._listener.port)  # type: ignore[union-attr]
        except (EnvironmentError, socket.error, threading.ThreadError, errors.StartError) as error:
            self.tell(brain.ChildExited(effect.slot, _why_not_started(error)))

    def _start_process(self, slot, ours, theirs):
        # type: (int, socket.socket | None, int) -> None
        """ours, theirs: the ends of a pair; or None and our port."""
        try:
            process, family = self._new_process(() if ours is None else (theirs,))
            child = self._children[slot] = _Child(slot, process, family)
            try:
                self._accompany(child)
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
        self._tell_start(child, {"port" if ours is None else "descriptor": theirs})

    def _watch_over(self):
        # type: () -> None
        """The guardian, unless there is one: all that is started from now on ends with us."""
        if self._guardian is None:
            self._guardian = guardian = orphans.start_guardian(self.id)
            if guardian is not None:
                try:
                    self._start_brief("guardian", self._wait_for_guardian, guardian)
                except threading.ThreadError:
                    self._wait_for_guardian(guardian)  # it forks and ends

    def _start_brief(self, name, function, *arguments):
        # type: (str, object, *object) -> None
        self._brief = [each for each in self._brief if each.is_alive()] + [_thread(name, function, *arguments)]

    def _wait_for_guardian(self, guardian):
        # type: (subprocess.Popen) -> None
        if not orphans.seen_off(guardian):  # no process or memory was left: the next worker process brings another
            self._loop.call(setattr, self, "_guardian", None)

    def _new_process(self, inherited):
        # type: (tuple) -> tuple
        self._started += 1
        inheriting = {"pass_fds": inherited} if inherited else {"close_fds": not (PY2 and WINDOWS)}  # type: dict
        family = orphans.Family(self.id, self._started)
        process = subprocess.Popen(
            boot.command("node.worker", "main", boot.options()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(child_environment(self._slots), **family.variable()),
            cwd=boot.folder(),
            bufsize=0,
            **dict(_OWN_SESSION, **inheriting)
        )
        family.has(process)
        return process, family

    def _accompany(self, child):
        # type: (_Child) -> None
        """Its threads. Raises ThreadError where there can be no more."""
        printed = partial(self._loop.call, self._printed, child)
        child.output = Reader(child.process.stdout, child.process.stderr, printed)
        child.output.start()
        child.waiter = _thread("waiter", self._wait, child)

    def _tell_start(self, child, where):
        # type: (_Child, dict) -> None
        told = dict(where, key=self._key, slot=child.slot, path=boot.told_paths())
        try:
            write_quietly(child.process.stdin, json.dumps(told).encode("ascii") + b"\n")
        except (OSError, IOError):
            pass  # it has ended already; the waiter tells

    def _wait(self, child):
        # type: (_Child) -> None
        code, peak = _wait_for(child.process)
        _kill_group(child.process.pid)
        try:
            child.family.end()  # what its tasks had started and left behind, wherever it is now
        except (EnvironmentError, threading.ThreadError) as error:  # no descriptor is left to look for it
            log.warning("what worker process %d has left behind cannot be looked for: %s", child.process.pid, error)
        child.output.finish()
        self._loop.call(self._exited, child, code, peak)

    def _look_behind(self, effect):
        # type: (brain.LookBehind) -> None
        self._look_slots.add(effect.slot)
        if self._look_at is None and orphans.looks_are_cheap():
            self._look_at = monotonic() + LOOK_SECONDS

    def _look(self, children, known):
        # type: (list, list) -> None
        """Which of these worker processes have others below them; most jobs leave none, which one look shows."""
        try:
            if set(orphans.marked(orphans.node_mark(self.id))) <= set(known):
                return
            for child in children:
                others = set(orphans.marked(child.family.mark)) - {child.process.pid}
                if not all(orphans.is_below(each, child.helpers) for each in others):
                    self._loop.call(self._left_behind, child)
        except EnvironmentError as error:  # no descriptor is left for it
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
        # The agent ends what does not begin in time; on a full machine an answer may take longer than a stranger gets.
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
                connection.about.helpers.update(message.info["pids"])  # type: ignore[attr-defined]
                continue
            self.tell(brain.ChildSaid(connection.about.slot, message))  # type: ignore[attr-defined]

    def closed(self, connection, error):
        # type: (Connection, BaseException | None) -> None
        if connection.about is not None:
            _kill(connection.about.process)  # type: ignore[attr-defined] # its end is told by the waiter

    def _exited(self, child, code, peak):
        # type: (_Child, int, int) -> None
        while child.connection is not None and child.connection.readable():
            pass  # its last results may have arrived a moment before
        if self._children.get(child.slot) is child:
            del self._children[child.slot]
        child.output.close()
        if child.connection is not None:
            child.connection.about = None
            child.connection.close(None)
        elif child.pair is not None:
            child.pair.close(None)
        try:
            child.process.stdin.close()  # type: ignore[union-attr]
        except (OSError, IOError):
            pass
        info = {"exit": exit_in_words(code), "lines": child.output.last_lines()}  # type: dict
        if code == -9:  # when it was us, nobody asks
            info.update(exit=info["exit"] + ", perhaps out of memory", memory=True)
        if peak > child.peak_before:
            info["peak_memory"] = peak
        self.tell(brain.ChildExited(child.slot, info))
        self._finish_when_empty()

    def _to_child(self, effect):
        # type: (brain.ToChild) -> None
        child = self._children.get(effect.slot)
        if child is not None and child.connection is not None:
            child.connection.send(effect.message)

    def _keep(self, effect):
        # type: (brain.Keep) -> None
        """A shared object has come: into a file, for all worker processes (the master's own serve as they are)."""
        info = effect.info
        try:
            if "path" not in info:
                info = dict(self._files.keep(effect.name, effect.payload), needs=info.get("needs", ""))
        except (OSError, IOError) as error:
            info = {"found": False, "error": "it cannot be kept on this node: %s" % error}
        self.tell(brain.Kept(effect.name, info))

    def _kill_child(self, effect):
        # type: (brain.KillChild) -> None
        child = self._children.get(effect.slot)
        if child is not None:
            _kill(child.process)

    def _on_finished(self, effect):
        # type: (brain.Finished) -> None
        self._end = effect
        if self._listener is not None:
            self._listener.close()
        self._finish_when_empty()

    def _finish_when_empty(self):
        # type: () -> None
        if self._end is not None and not self._children:
            self._files.close()
            self._dismiss()
            self._finished(self._end.reason, self._end.refused)  # type: ignore[operator]
            self._finished = lambda reason, refused: None

    def leave_now(self):
        # type: () -> None
        """Without the loop: the worker processes are gone when this returns, whatever they did."""
        children = list(self._children.values())
        for child in children:
            _kill(child.process)
        for child in children:
            if child.waiter is not None:
                child.waiter.join(LEAVE_SECONDS)  # 2.7 shows a traceback for a thread that ends with the interpreter
        self._dismiss()

    def _dismiss(self):
        # type: () -> None
        """The guardian and the brief threads, when all worker processes are gone."""
        if self._guardian is not None:
            self._guardian.stdin.close()  # type: ignore[union-attr]
        for thread in self._brief:
            thread.join(LEAVE_SECONDS)  # 2.7 shows a traceback for a thread that ends with the interpreter

    # -- what tasks print -------------------------------------------------------------------------

    def _printed(self, child, stream, text):
        # type: (_Child, str, object) -> None
        """At once: the next step may be after the end."""
        child.output.taken()
        output = protocol.Output({"pid": child.process.pid, "stream": stream, "text": text})
        self._handle(brain.ChildSaid(child.slot, output), monotonic())


def child_environment(slots):
    # type: (int) -> dict
    """A worker process's environment variables: ours, without the key, with thread caps."""
    variables = boot.variables()
    for name in THREAD_VARIABLES:
        variables.setdefault(name, str(max(1, cpu_count() // slots)))
    return variables


def exit_in_words(code):
    # type: (int) -> str
    if code >= 0:
        return "exit code %d" % code
    names = [name for name in dir(signal) if name.startswith("SIG") and getattr(signal, name) == -code]
    return "killed by signal %d%s" % (-code, " (%s)" % names[0] if names else "")


def _wait_for(process):
    # type: (subprocess.Popen) -> tuple
    """(exit code, most bytes of memory it had, 0 if unknown) when it has ended."""
    while resource is not None:
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except (OSError, IOError) as error:
            if error.errno == errno.EINTR:  # py2
                continue
            break  # somebody else has waited for it, or does for all (SIGCHLD is ignored)
        process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return process.returncode, _peak(usage)
    return process.wait(), 0


def _peak(usage):
    # type: (resource.struct_rusage) -> int
    """Bytes. A process's own begins with that of the one that started it, so less than that says nothing."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _kill(process):
    # type: (subprocess.Popen) -> None
    try:
        if hasattr(os, "killpg") and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (OSError, AttributeError):
        pass  # it is gone already


def _why_not_started(error):
    # type: (BaseException) -> dict
    if isinstance(error, errors.StartError):
        return {"exit": str(error), "lines": [], "shortage": False}
    text = "cannot start %s: %s" % (sys.executable, error)
    return {"exit": text, "lines": [], "shortage": getattr(error, "errno", None) not in _NEVER}


def _end_half_started(process):
    # type: (subprocess.Popen) -> None
    """There is no thread that could watch it."""
    _kill(process)
    process.wait()
    process.stdin.close()  # type: ignore[union-attr] # who reads its output closes that


def _kill_group(pid):
    # type: (int) -> None
    try:
        os.killpg(pid, signal.SIGKILL)
    except (OSError, AttributeError):
        pass  # nobody is left in it; Windows has no groups


def _thread(name, function, *arguments):
    # type: (str, object, *object) -> threading.Thread
    thread = threading.Thread(target=function, name="minimalcluster-" + name, args=arguments)  # type: ignore[arg-type]
    thread.daemon = True
    thread.start()
    return thread
