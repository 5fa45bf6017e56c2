"""``MasterNode``: the seed's calls on top of ``Cluster``."""
from __future__ import absolute_import, division, print_function

import atexit
import logging
import os
import threading
import weakref

from . import environment, errors, protocol, scheduler, values
from .cluster import Cluster
from .compat import as_bytes, as_text, integer_types, native, ordered_dict, raise_from
from .jobs import End, Failure, Job, Outcomes  # noqa: F401 # Outcomes in a type comment
from .progress import progress_for

log = logging.getLogger("minimalcluster")

FINISH, STOP, RETURN = "finish", "stop", "return"
_LOOPBACK = ("127.", "localhost", "::1")
_KEY_BYTES_MIN = 16
#: Wake up this often while waiting, so that Ctrl-C is heard where a lock's wait cannot be interrupted.
_WAIT_SECONDS = 1.0


class MasterNode(object):
    """The master of a cluster; see README.md for the calls in their usual order.

    HOST: the address to listen on ('127.0.0.1': this machine only; '0.0.0.0': all networks).
    PORT: 0 takes a free one; ``.PORT`` tells it. AUTHKEY: text or bytes; None makes a strong
    random key, to be read from ``.AUTHKEY``. chunksize: tasks shipped together; None lets the
    cluster measure. A context manager: leaving it shuts down.
    """

    def __init__(self, HOST="127.0.0.1", PORT=8888, AUTHKEY=None, chunksize=None):
        # type: (str, int, object, int | None) -> None
        if not isinstance(PORT, integer_types) or not 0 <= PORT < 65536:
            raise ValueError("PORT must be 0 (any free one) to 65535, not %r" % (PORT,))
        self.HOST, self.PORT = native(HOST), PORT
        self.AUTHKEY = protocol.generate_key(os.urandom(32)) if AUTHKEY is None else AUTHKEY
        _check_key(self.HOST, as_bytes(self.AUTHKEY))
        self.chunksize = _checked_chunksize(chunksize)
        self._cluster = None  # type: Cluster | None
        self._source = None  # type: environment.Source | None
        self._module = None  # type: object
        self._function = None  # type: str | None
        self._values = ()  # type: range | tuple
        self._arguments = None  # type: values.AnyArguments | None
        self._turn = threading.Lock()  # one execute() at a time
        self._shut_down = False
        _open_masters.add(self)

    # -- the cluster ------------------------------------------------------------------------------

    def start_master_server(self, if_join_as_worker=True):
        # type: (bool) -> None
        """Open the port; with ``if_join_as_worker`` this machine joins with all its processors.

        Raises OSError (socket.error on 2.7) that names the address when it cannot be listened on.
        """
        if self._shut_down:
            raise errors.StateError("this master was shut down; make a new MasterNode")
        if self._cluster is None:
            cluster = Cluster(self.HOST, self.PORT, self.AUTHKEY)
            cluster.start()
            self._cluster, self.PORT = cluster, cluster.port
        if if_join_as_worker:
            self.join_as_worker()

    def join_as_worker(self):
        # type: () -> None
        """Let this machine work with all its processors; at any time, also during a job."""
        self._running().join_local()

    def stop_as_worker(self):
        # type: () -> None
        """Stop this machine's own work; what it had not finished is done by other nodes, or waits for one."""
        self._running().leave_local()

    def list_workers(self):
        # type: () -> list
        """One WorkerInfo per node: hostname, worker processes, process id, busy (1/0), and more, by name."""
        return self._running().workers()

    def share(self, value):
        # type: (object) -> object
        """A handle that stands for the object in arguments: sent once to each node, kept there until ``drop()``."""
        return self._running().share(value)

    def shutdown(self):
        # type: () -> None
        """Tell the nodes, end the local worker processes, free the port. May be called again."""
        self._shut_down = True
        _open_masters.discard(self)
        if self._cluster is not None:
            self._cluster.stop()

    def __enter__(self):
        # type: () -> MasterNode
        return self

    def __exit__(self, *exc_info):
        # type: (*object) -> None
        self.shutdown()

    def _running(self):
        # type: () -> Cluster
        if self._shut_down:
            raise errors.StateError("this master was shut down; make a new MasterNode")
        if self._cluster is None:
            raise errors.StateError("the master is not running: call start_master_server() first")
        return self._cluster

    # -- the job ----------------------------------------------------------------------------------

    def load_envir(self, source, from_file=True):
        # type: (str, bool) -> None
        """The source that defines the function: the path of a .py file, or with from_file=False the text itself.

        It is run here once, so that its mistakes show at once. Raises IOError, SyntaxError, or
        SourceError when running it raises; the environment before the call is kept then.
        """
        made = environment.from_file(source) if from_file else environment.from_text(source)
        module = environment.load(made)
        if self._function is not None and made != self._source:
            try:
                environment.find(module, self._function)
            except errors.TargetError:
                self._function = None  # it was the former environment's; execute() asks for a new one
        self._source, self._module = made, module

    @property
    def environment(self):
        # type: () -> object
        """The loaded environment as a module: its classes make arguments, its functions can be tried here."""
        return self._module

    def register_target_function(self, function_name):
        # type: (str) -> None
        """The environment's callable to run. Raises TargetError for a name it does not define."""
        if self._module is None:
            raise errors.StateError("no environment is loaded: call load_envir() before register_target_function()")
        if not isinstance(function_name, (str, type(u""))):
            raise TypeError("the function's name must be text, not %r" % (function_name,))
        environment.find(self._module, native(function_name))  # type: ignore[arg-type]
        self._function = native(function_name)

    def load_args(self, args):
        # type: (object) -> None
        """The arguments, one a task: a sequence of unique, hashable values.

        Raises ArgumentsError naming index and value; the arguments before the call are kept then.
        """
        checked = _checked_arguments(args)
        self._arguments = values.arguments(checked)
        self._values = checked

    def execute(self, on_error=FINISH, chunksize=None, progress=None):
        # type: (str, int | None, object) -> dict
        """Run the function on every argument: a dict of argument -> result, in argument order.

        on_error: "finish" runs everything, then raises TaskError if a task failed; "stop" hands
        out nothing more after the first failure; "return" puts the exceptions into the dict.
        progress: None shows a line on a terminal when it takes long, True and False force it, a
        function is called with (done, total) now and then.
        """
        if on_error not in (FINISH, STOP, RETURN):
            raise ValueError("on_error must be 'finish', 'stop' or 'return', not %r" % (on_error,))
        with self._turn:
            cluster = self._running()
            if self._source is None or self._function is None:
                missing = "load_envir()" if self._source is None else "register_target_function()"
                raise errors.StateError("nothing to run: call %s first" % missing)
            if self._arguments is None:
                raise errors.StateError("no arguments: call load_args() first")
            job = _SourceJob(self._source, self._function, self._values, self._arguments, on_error,
                       _checked_chunksize(chunksize) or self.chunksize)  # fmt: skip
            return job.run(cluster, progress_for(progress, job.total))


class _SourceJob(Job):
    """One ``execute``: the environment's function over the loaded arguments."""

    closed = True

    def __init__(self, source, function, keys, arguments, on_error, chunksize):
        # type: (environment.Source, str, range | tuple, values.AnyArguments, str, int | None) -> None
        super(_SourceJob, self).__init__()
        self._source, self._function = source, function
        self._keys, self._arguments, self._on_error = keys, arguments, on_error
        self.total = len(arguments)
        self.options = scheduler.DEFAULTS._replace(chunksize=chunksize, stop_on_error=on_error == STOP)
        self._outcomes = [_MISSING] * self.total  # type: list
        self._failed = {}  # type: dict # index -> node

    def definition(self):
        # type: () -> tuple
        source = self._source
        info = {
            "kind": "source", "module": source.module, "filename": as_text(source.filename),
            "is_text": source.is_text, "function": self._function,
        }  # fmt: skip
        return info, [source.data]

    def encode(self, first, count):
        # type: (int, int) -> list
        return self._arguments.encode(first, count)

    def run(self, cluster, progress):
        # type: (Cluster, object) -> dict
        number = cluster.submit(self)
        done = 0
        try:
            while True:
                arrival = self.take(_WAIT_SECONDS)
                if isinstance(arrival, End):
                    break
                if arrival is not None:
                    self._keep(arrival)
                    done += len(arrival.values)
                progress.show(done)  # type: ignore[attr-defined]
        except BaseException:  # Ctrl-C: the cluster stays usable
            cluster.cancel(number)
            raise
        finally:
            progress.end(done)  # type: ignore[attr-defined]
        return self._result(arrival.error)

    def _keep(self, outcomes):
        # type: (Outcomes) -> None
        first, found = outcomes
        self._outcomes[first : first + len(found)] = found
        if values.all_scalars(found):
            return
        for index, outcome in enumerate(found, first):
            if isinstance(outcome, Failure):
                self._failed[index] = outcome.node
                self._outcomes[index] = outcome.error

    def _result(self, error):
        # type: (BaseException | None) -> dict
        if error is not None:
            raise error
        if not self._failed or self._on_error == RETURN:
            return ordered_dict(zip(self._keys, self._outcomes))
        return self._raise()

    def _raise(self):
        # type: () -> dict
        results, failures = ordered_dict(), ordered_dict()
        for index, (key, outcome) in enumerate(zip(self._keys, self._outcomes)):
            if index in self._failed:
                failures[key] = outcome
            elif outcome is not _MISSING:
                results[key] = outcome
        first = min(self._failed)
        argument, cause = self._keys[first], self._outcomes[first]
        text = "%d of %d tasks failed, the first of them %s(%s) on %s with %s: %s" % (
            len(failures), self.total, self._function, values.shortened(argument), self._failed[first],
            type(cause).__name__, cause,
        )  # fmt: skip
        if self._on_error == STOP:
            text += " (stopped there: %d tasks were not run)" % (self.total - len(results) - len(failures))
        remote = getattr(cause, "__cause__", None)  # py2: only who was given one has one
        if isinstance(remote, errors.RemoteTraceback):
            text += "\n" + remote.tb
        error = errors.TaskError(text, argument, self._failed[first], results, failures)
        raise_from(error, cause)
        raise AssertionError("unreachable")


_MISSING = object()


def _checked_arguments(args):
    # type: (object) -> range | tuple
    if isinstance(args, values.range_type):
        return args
    if isinstance(args, (dict, set, frozenset)) or not hasattr(args, "__len__") or not hasattr(args, "__getitem__"):
        raise errors.ArgumentsError(
            "the arguments must be a sequence (a list, a tuple, a range), not %s: %s; try list(...)"
            % (type(args).__name__, values.shortened(args))
        )
    values_ = tuple(args)  # type: tuple # type: ignore[arg-type]
    try:
        if len(set(values_)) == len(values_):
            return values_
    except TypeError:
        pass
    seen = {}  # type: dict
    for index, value in enumerate(values_):
        try:
            earlier = seen.setdefault(value, index)
        except TypeError:
            raise errors.ArgumentsError(
                "argument %d cannot be hashed, and the result is a dict by argument: %s of type %s; try a tuple"
                % (index, values.shortened(value), type(value).__name__)
            )
        if earlier != index:
            raise errors.ArgumentsError(
                "argument %d is a duplicate of argument %d: %s; "
                "the result is a dict by argument, so they must be unique"
                % (index, earlier, values.shortened(value))
            )
    return values_


def _checked_chunksize(chunksize):
    # type: (int | None) -> int | None
    if chunksize is not None and (not isinstance(chunksize, integer_types) or chunksize < 1):
        raise ValueError(
            "chunksize must be a whole number from 1 on, or None to let the cluster measure, not %r" % (chunksize,)
        )
    return chunksize


def _check_key(host, key):
    # type: (str, bytes) -> None
    if not key:
        raise ValueError("AUTHKEY is empty; AUTHKEY=None makes a strong one, to be read from .AUTHKEY")
    if len(key) >= _KEY_BYTES_MIN:
        return
    text = "AUTHKEY has %d bytes, at least %d are needed; AUTHKEY=None makes a strong one, to be read from .AUTHKEY"
    if not host.startswith(_LOOPBACK):
        raise ValueError((text + " (HOST %r can be reached from other machines)") % (len(key), _KEY_BYTES_MIN, host))
    log.warning(text, len(key), _KEY_BYTES_MIN)


_open_masters = weakref.WeakSet()  # type: weakref.WeakSet


@atexit.register
def _shut_down_all():
    # type: () -> None
    for master in list(_open_masters):
        master.shutdown()
