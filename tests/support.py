"""What several test modules need: processes, interpreters, waiting for a condition, a proxy that does harm."""
from __future__ import absolute_import, division, print_function

import contextlib
import glob
import io
import json
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
import unittest

from minimalcluster import MasterNode

from minimalcluster import logs
from minimalcluster.wire import handshakes, protocol
from minimalcluster.pieces import Pieces
from minimalcluster.payload import script, values

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
#: Far beyond what anything here takes; only a hanging test ever waits so long.
SECONDS = 30.0

# A shell starts what goes into the background with Ctrl-C ignored; here tests send it to themselves and to their processes.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Without a handler 2.7 complains and 3.x prints every warning of the faults that are made here on purpose.
logging.getLogger("minimalcluster").addHandler(logging.NullHandler())


def encoded(results):
    """Buffers of results, as they come from a worker process."""
    kept = [result if values.all_scalars([result]) else values.Pickled(result) for result in results]
    return [each.joined() if isinstance(each, Pieces) else each for each in values.encode_results(kept)]

def wait_until(condition, seconds=SECONDS, what=None):
    """Return the first true value of condition(); fail when there is none in time.

    what: the condition in words, or a function that makes them when they are needed.
    """
    end = time.time() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.time() > end:
            text = what() if callable(what) else what or condition
            raise AssertionError("%s did not come true in %.0f s" % (text, seconds))
        time.sleep(0.01)


def mistake(call, *arguments, **named):
    """The exception that the call raises; fails when it raises none."""
    try:
        result = call(*arguments, **named)
    except Exception as error:
        return error
    raise AssertionError("no exception, but %r" % (result,))


def only(kind, effects):
    """Those effects of a brain that are of one kind."""
    return [effect for effect in effects if type(effect) is kind]


class MasterCase(unittest.TestCase):
    """One master for the class, with this machine as its node; SOURCE is its environment, if there is one."""

    SOURCE = None

    @classmethod
    def setUpClass(cls):
        cls.master = MasterNode(PORT=0)
        cls.master.start_master_server()
        if cls.SOURCE is not None:
            cls.master.load_envir(cls.SOURCE, from_file=False)

    @classmethod
    def tearDownClass(cls):
        cls.master.shutdown()

    def load(self, function, arguments):
        self.master.register_target_function(function)
        self.master.load_args(arguments)


class Background(object):
    """function(*arguments) in a thread; ``result`` waits for what it returns, or raises what it raised."""

    def __init__(self, function, *arguments, **named):
        self._outcome = None
        self._thread = threading.Thread(target=self._run, args=(function, arguments, named))
        self._thread.daemon = True
        self._thread.start()

    def _run(self, function, arguments, named):
        try:
            self._outcome = (function(*arguments, **named), None)
        except BaseException as error:
            self._outcome = (None, error)

    def done(self):
        return self._outcome is not None

    def result(self, seconds=SECONDS):
        wait_until(self.done, seconds, "the end of a thread")
        if self._outcome[1] is not None:
            raise self._outcome[1]
        return self._outcome[0]


@contextlib.contextmanager
def patched(module, name, value):
    own = name in vars(module)
    before = vars(module).get(name)  # not getattr: of a class, 2.7 gives an unbound method
    setattr(module, name, value)
    try:
        yield
    finally:
        if own:
            setattr(module, name, before)
        else:
            delattr(module, name)


def keep_main(test):
    """Undo at the test's end what it does to ``__main__``; from now on it is no script's."""
    kept = sys.modules["__main__"], sys.argv, script._script, script._unguarded[:], script._ran[:]

    def undo():
        sys.modules["__main__"], sys.argv, script._script, script._unguarded[:], script._ran[:] = kept
        sys.modules.pop(script.MAIN_NAME, None)

    sys.modules.pop(script.MAIN_NAME, None)
    script._unguarded[:] = script._ran[:] = []
    test.addCleanup(undo)


def be_script(text, folder, name="script.py"):
    """Let ``__main__`` be this script; after ``keep_main``."""
    path = write(os.path.join(folder, name), text)
    main = types.ModuleType("__main__")
    main.__file__ = path
    sys.modules["__main__"] = main
    script._script = script._found()
    exec(compile(text, path, "exec"), main.__dict__)
    return main


def serve_script(text):
    """What a worker process asks for its master's script."""
    return lambda what, digest: ({"found": True}, [memoryview(text.encode("ascii"))])


@contextlib.contextmanager
def quiet_stderr():
    """What is written there meanwhile, as a file of text."""
    kept, sys.stderr = sys.stderr, io.StringIO() if sys.version_info[0] > 2 else io.BytesIO()
    try:
        yield sys.stderr
    finally:
        sys.stderr = kept


@contextlib.contextmanager
def switching_often():
    """Between threads: what needs a lock and has none is found soon."""
    if hasattr(sys, "setswitchinterval"):
        change, before, often = sys.setswitchinterval, sys.getswitchinterval(), 1e-6
    else:
        change, before, often = sys.setcheckinterval, sys.getcheckinterval(), 1  # py2
    change(often)
    try:
        yield
    finally:
        change(before)


class Log(logging.Handler):
    """The messages of the logger "minimalcluster" while it is entered (``assertLogs`` is not in 2.7)."""

    def __init__(self, level=logging.INFO):
        logging.Handler.__init__(self, level)
        self._messages = []

    def emit(self, record):
        self._messages.append("%s %s" % (record.levelname, record.getMessage()))

    @property
    def messages(self):
        logs.log.flush(SECONDS)
        return list(self._messages)

    def having(self, text):
        return [message for message in self.messages if text in message]

    def __enter__(self):
        logs.log.flush(SECONDS)
        logger = logging.getLogger("minimalcluster")
        self._level_before = logger.level
        logger.setLevel(self.level)
        logger.addHandler(self)
        return self

    def __exit__(self, *exc_info):
        logs.log.flush(SECONDS)
        logger = logging.getLogger("minimalcluster")
        logger.removeHandler(self)
        logger.setLevel(self._level_before)


@contextlib.contextmanager
def directory():
    path = os.path.realpath(tempfile.mkdtemp(prefix="minimalcluster-test-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def directory_for(test):
    """One for a test, gone when it ends."""
    entered = directory()
    path = entered.__enter__()
    test.addCleanup(entered.__exit__, None, None, None)
    return path


def read(path):
    with open(path) as file:
        return file.read()


def write(path, text=""):
    with open(path, "w") as file:
        file.write(text)
    return path


def write_key(path, key):
    """A key file that nobody else can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(key)
    return path


def free_port():
    sock = socket.socket()
    try:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
    finally:
        sock.close()


# -- interpreters ---------------------------------------------------------------------------------

_interpreters = {}


def interpreters():
    """{(major, minor): path} of every supported CPython on this machine that starts."""
    if not _interpreters:
        for path in [sys.executable] + _candidates():
            version = _version(path)
            if version == (2, 7) or version >= (3, 6):
                _interpreters.setdefault(version, path)
    return _interpreters


def _candidates():
    found = []
    for root in (os.environ.get("PYENV_ROOT"), os.path.expanduser("~/.pyenv")):
        if root:
            found += sorted(glob.glob(os.path.join(root, "versions", "*", "bin", "python")))
    names = ["python2.7"] + ["python3.%d" % minor for minor in range(6, 15)]
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found += [path for path in (os.path.join(folder, name) for name in names) if os.access(path, os.X_OK)]
    return found


def _version(path):
    code = "import sys; print(sys.version_info[0], sys.version_info[1])"
    try:
        # pyenv's shims exist for versions that are not chosen, and then only complain.
        process = subprocess.Popen([path, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        text = process.communicate()[0].decode("ascii", "replace")
        return tuple(int(part) for part in text.strip("()\r\n").replace(",", " ").split())
    except (OSError, ValueError):
        return ()


def other_major():
    """An interpreter of the other major version; skips the test when there is none."""
    for version, path in sorted(interpreters().items()):
        if version[0] != sys.version_info[0]:
            return path
    raise unittest.SkipTest("no interpreter of the other major version is on this machine")


# -- processes ------------------------------------------------------------------------------------


class Process(object):
    """``python -c code`` or ``python file`` in a process of its own; told is its standard input, as JSON."""

    def __init__(self, code=None, told=None, python=None, variables=None, file=None):
        environment = dict(os.environ, PYTHONPATH=ROOT, PYTHONUNBUFFERED="1", **(variables or {}))
        self._popen = subprocess.Popen(
            [python or sys.executable] + (["-c", code] if file is None else [file]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, close_fds=True,
            preexec_fn=getattr(os, "setsid", None),
        )  # fmt: skip
        self.pid = self._popen.pid
        self._read = []
        self._popen.stdin.write(json.dumps(told).encode("ascii") + b"\n")
        self._popen.stdin.close()
        self._reader = Background(self._read_all)

    def _read_all(self):
        for line in iter(self._popen.stdout.readline, b""):
            self._read.append(line.decode("utf-8", "replace"))
        self._popen.stdout.close()

    def output(self):
        return "".join(self._read)

    def wait_for_output(self, text, seconds=SECONDS):
        def come():
            return text in self.output() or (self._popen.poll() is not None and self._reader.done())

        wait_until(come, seconds, lambda: "%r in %r" % (text, self.output()))
        if text not in self.output():
            raise AssertionError("it ended without %r:\n%s" % (text, self.output()))
        return self.output()

    def running(self):
        return self._popen.poll() is None

    def wait(self, seconds=SECONDS):
        """The exit code; all output has been read then, unless a grandchild holds the pipe."""
        wait_until(lambda: not self.running(), seconds, lambda: "the end of a process that wrote %r" % self.output())
        wait_until(self._reader.done, 5.0, "the end of its output")
        return self._popen.poll()

    def interrupt(self):
        """Ctrl-C, as a terminal sends it: to the whole process group."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self):
        """SIGKILL, and wait until it is gone."""
        if self.running():
            self._popen.kill()
        self._popen.wait()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.kill()


_NODE = """
import json, logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
from minimalcluster import WorkerNode
told = json.loads(sys.stdin.readline())
WorkerNode("127.0.0.1", told["port"], told["key"], told["nprocs"]).join_cluster()
print("join_cluster returned")
"""


def start_node(port, key, nprocs=1, python=None, name=""):
    """A WorkerNode in a process of its own; its tasks see the name as the variable NODE_NAME."""
    told = {"port": port, "key": key, "nprocs": nprocs}
    return Process(_NODE, told, python, {"NODE_NAME": name})


def node_of(master, nprocs=1, python=None, name=""):
    """The same, and wait until the master lists it."""
    node = start_node(master.PORT, master.AUTHKEY, nprocs, python, name)
    try:
        wait_until(
            lambda: not node.running() or node.pid in [each.pid for each in master.list_workers()], what="a node's joining"
        )
        if not node.running():
            raise AssertionError("the node ended: %s" % node.output())
    except BaseException:
        node.kill()
        raise
    return node


def _all_processes():
    """{pid: (parent, (pid, start time), state)}, from /proc."""
    if not os.path.exists("/proc/self/stat"):
        raise unittest.SkipTest("this system has no /proc to count processes in")
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = read("/proc/%s/stat" % name)
            except (IOError, OSError):
                continue  # it has just ended
            fields = text[text.rindex(")") + 2 :].split()
            found[int(name)] = (int(fields[1]), (int(name), fields[19]), fields[0])
    return found


def descendants(pid=None):
    """The living children of a process, and theirs, each as (pid, start time)."""
    table = _all_processes()
    family, found = set([pid or os.getpid()]), set()
    while True:
        more = [child for child, (parent, _, _) in table.items() if parent in family and child not in family]
        if not more:
            return found
        family.update(more)
        # A node's guardian is its child for a moment, before it is nobody's.
        living = [child for child in more if table[child][2] not in "ZX"]
        found.update(table[child][1] for child in living if "orphans.guard" not in _command(child))


def alive(identities):
    """Those of them that still live."""
    return set(identities) & set(identity for _, identity, state in _all_processes().values() if state not in "ZX")


def living():
    """The ids of all living processes."""
    return set(pid for pid, (_, _, state) in _all_processes().items() if state not in "ZX")


def worker_processes(pid, count):
    """The (pid, start time) of a node's worker processes, once it has so many."""

    def found():
        # Not the node's guardian, nor what has been forked and not become another program yet (slow on 2.7).
        workers = set(each for each in descendants(pid) if "minimalcluster.node.worker" in _command(each[0]))
        return workers if len(workers) == count else None

    return wait_until(found, what="%d worker processes" % count)


def _command(pid):
    try:
        return read("/proc/%d/cmdline" % pid)
    except (IOError, OSError):
        return ""  # it has just ended


def kill(identity):
    try:
        os.kill(identity[0], signal.SIGKILL)
    except OSError:
        pass  # it was quicker


def wait_for_death(identities, seconds=10.0):
    wait_until(lambda: not alive(identities), seconds, "the end of %s" % sorted(identities))


def in_a_fork(function, seconds=SECONDS):
    """Call it in a forked process; that one's status, 0 unless it raises. One that hangs is killed, and a failure."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    statuses = []

    def ended():
        pid, status = os.waitpid(child, os.WNOHANG)
        statuses.extend([status] if pid else [])
        return pid

    try:
        wait_until(ended, seconds, "the end of a forked process")
    finally:
        if not statuses:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return statuses[0]


# -- tasks that can be held and counted -----------------------------------------------------------

#: Tasks tell that they run, and wait, through files in a directory: no test has to guess how long something takes.
_GATES = '''
import os, time
DIRECTORY = %r

def note(name):
    """One more byte in the file: how often something happened."""
    descriptor = os.open(os.path.join(DIRECTORY, str(name)), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b".")
    os.close(descriptor)

def wait_for(name):
    end = time.time() + 60
    while not os.path.exists(os.path.join(DIRECTORY, str(name))):
        if time.time() > end:
            raise RuntimeError("the gate %%s was never opened" %% name)
        time.sleep(0.002)
'''


class Gates(object):
    """The test's end of them. ``source`` goes before an environment's own."""

    def __init__(self, path):
        self._path = path
        self.source = _GATES % str(path)

    def noted(self, name):
        path = os.path.join(self._path, str(name))
        return os.path.getsize(path) if os.path.exists(path) else 0

    def wait_for(self, name, count=1):
        wait_until(lambda: self.noted(name) >= count, what="%d times %s" % (count, name))

    def open(self, name):
        write(os.path.join(self._path, str(name)))


def prepare(master, source, name, arguments):
    master.load_envir(source, from_file=False)
    master.register_target_function(name)
    master.load_args(arguments)


def run(master, source, name, arguments, **options):
    """The seed's four calls."""
    prepare(master, source, name, arguments)
    return master.execute(**options)


# -- a node by hand -------------------------------------------------------------------------------


class RawNode(object):
    """Proves the key and speaks the wire's messages, as the test wants them: to replay, to lie, to fall silent."""

    def __init__(self, port, key, role=handshakes.NODE, node_id=None):
        self.id = node_id or os.urandom(16)
        self.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
        handshake = handshakes.ClientHandshake(key, os.urandom(32), role, self.id, sys.version_info[:2], "the master", 2)
        while handshake.channel is None:
            self.socket.sendall(handshake.receive(self._bytes()))
        self._channel = handshake.channel
        self._arrived = list(self._channel.feed(handshake.leftover()))

    def _bytes(self):
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError("the master closed the connection")
        return data

    def join(self, slots=1, **changes):
        info = {
            "id": "".join("%02x" % byte for byte in bytearray(self.id)), "slots": slots, "held": [], "hostname": "raw",
            "pid": 1, "python": "%d.%d.%d" % sys.version_info[:3], "platform": "test",
        }  # fmt: skip
        info.update(changes)
        self.send(protocol.Join(dict((name, value) for name, value in info.items() if value is not None)))
        return self

    def send(self, message):
        self.socket.sendall(b"".join(bytes(buffer) for buffer in self._channel.frame(message)))

    def receive(self, kind):
        """The next message of that kind; others before it are dropped. EOFError when the master closes."""
        while True:
            while self._arrived:
                message = self._arrived.pop(0)
                if isinstance(message, kind):
                    return message
            self._arrived += self._channel.feed(self._bytes())

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.socket.close()


# -- a network that does harm ---------------------------------------------------------------------


class Proxy(object):
    """Passes TCP connections on to a port, by default one of this machine, until it is told to do harm.

    piece_bytes: send no more than so many bytes at a time. flip: the direction ("up" to the
    target, "down" from it) in which the next data gets one bit wrong. refusing: close new ones.
    """

    def __init__(self, target, host="127.0.0.1"):
        self._target = (host, target)
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(16)
        self.port = self._listener.getsockname()[1]
        self.piece_bytes = None
        self.flip = None
        self.flipped = 0
        self.refusing = False
        self.accepted = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._pairs = []
        Background(self._accept)

    def _accept(self):
        while True:
            try:
                near = self._listener.accept()[0]
            except (OSError, socket.error):
                return
            if self.refusing:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target)
            except (OSError, socket.error):
                near.close()
                continue
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.append((near, far))
            self.accepted += 1
            Background(self._pump, near, far, "up")
            Background(self._pump, far, near, "down")

    def _pump(self, source, sink, direction):
        try:
            while True:
                data = bytearray(source.recv(1 << 16))
                if not data:
                    break
                self._flowing.wait()
                if self.flip == direction:
                    self.flip = None
                    data[len(data) // 2] ^= 1
                    self.flipped += 1
                size = self.piece_bytes or len(data)
                for start in range(0, len(data), size):
                    sink.sendall(bytes(data[start : start + size]))
        except (OSError, socket.error):
            pass
        finally:
            self._close(source, sink)

    @staticmethod
    def _close(*socks):
        for sock in socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it; close() alone does not
            except (OSError, socket.error):
                pass
            sock.close()

    def stall(self):
        self._flowing.clear()

    def flow(self):
        self._flowing.set()

    def cut(self):
        """Reset every connection, both ways."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for sock in pair:
                try:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                except (OSError, socket.error):
                    pass
                self._close(sock)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._listener.close()
        self._flowing.set()
        self.cut()
