"""``MasterNode``: the seed's calls on top of ``Cluster``."""
from __future__ import absolute_import, division, print_function

import atexit
import threading
import weakref

from .. import errors
from ..brain.options import FINISH, Options, checked_chunksize
from ..brain.status import ClusterStatus  # noqa: F401 # in a type comment
from ..compat import PY2, as_text, forbid_patched_threads, native, text_type
from ..payload import environment, functions, script, values
from ..payload.fingerprints import code_imported, of_definition
from ..payload.loaders import loader
from ..wire import addresses, encryption
from .cluster import Cluster
from .listed import ListedJob, Pairs, Target  # noqa: F401 # in a type comment
from .master_keys import master_key
from .progress import progress_for

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Iterable  # noqa: F401 # novm


class MasterNode(object):
    """The master of a cluster; see README.md for the calls in their usual order.

    HOST: the address to listen on ('127.0.0.1': this machine only; '' or None: all networks; a name: all of its
    addresses). ``.address`` is what nodes join at.
    PORT: 0 takes a free one; ``.PORT`` tells it. AUTHKEY: text or bytes; None makes a strong
    random key, to be read from ``.AUTHKEY``. chunksize: tasks shipped together; None lets the
    cluster measure. engine: work on Dask, Ray or an Executor instead (``minimalcluster.engines``,
    Python 3); no port is opened then. key_file: in place of AUTHKEY, the path of a file that holds it; if there is no
    such file, it is made with a new key. encrypt: True for TLS, False for none. ssl_context: for TLS with a certificate
    of your own. results: "safe" unpickles plain values only, so that no node can run code here. A context manager:
    leaving it shuts down.
    """

    def __init__(
        self, HOST="127.0.0.1", PORT=8888, AUTHKEY=None, chunksize=None, engine=None, key_file=None, encrypt=None,
        ssl_context=None, results="any",
    ):  # fmt: skip
        # type: (str, int, object, int | None, object, str | None, bool | None, object, str) -> None
        forbid_patched_threads()
        self.PORT = addresses.checked_port(PORT, "PORT")
        script.starts_a_cluster()
        self.HOST = addresses.checked_host(HOST, "HOST", everywhere=True)
        self.AUTHKEY = master_key(self.HOST, AUTHKEY, key_file)
        encryption.check(encrypt, ssl_context)
        self._encrypt, self._ssl_context = encrypt, ssl_context
        self.chunksize = checked_chunksize(chunksize)
        if engine is not None and not hasattr(engine, "cluster"):
            raise TypeError("engine must be an ExecutorEngine, DaskEngine or RayEngine, not %r" % (engine,))
        self._engine = engine
        self._load = loader(results, engine)
        self._cluster = None  # type: Cluster | None
        self._source = None  # type: environment.Source | None
        self._module = None  # type: environment.types.ModuleType | None
        self._function = None  # type: str | None # a name in the environment, or
        self._target = None  # type: Target | None # a callable, packed
        self._values = ()  # type: range | tuple
        self._arguments = None  # type: values.AnyArguments | None
        self._turn = threading.Lock()  # held by execute() and map(): one at a time
        self._shut_down = False
        _open_masters.add(self)

    # -- the cluster ------------------------------------------------------------------------------

    def start_master_server(self, if_join_as_worker=True):
        # type: (bool) -> None
        """Open the port. With ``if_join_as_worker`` this machine joins with all its processors.

        Raises OSError (socket.error on 2.7) that names the address when it cannot be listened on.
        """
        if self._shut_down:
            raise errors.StateError("this master was shut down; make a new MasterNode")
        if self._cluster is None:
            engine = self._engine
            cluster = self._own_cluster() if engine is None else engine.cluster()
            cluster.start()
            self._cluster, self.PORT = cluster, cluster.port
        if if_join_as_worker and self._engine is None:
            self.join_as_worker()

    def _own_cluster(self):
        # type: () -> Cluster
        return Cluster(
            self.HOST, self.PORT, self.AUTHKEY, encrypt=self._encrypt, ssl_context=self._ssl_context, load=self._load,
        )

    @property
    def address(self):
        # type: () -> tuple
        """(host, port) at which nodes join. If the master listens on all networks: this machine's address."""
        return addresses.reachable(self.HOST), self.PORT

    def join_as_worker(self):
        # type: () -> None
        """Let this machine work with all its processors. May be called during a job."""
        self._running().join_local()

    def stop_as_worker(self):
        # type: () -> None
        """Stop this machine's work. Its unfinished tasks go to other nodes, or wait for one."""
        self._running().leave_local()

    def list_workers(self):
        # type: () -> list
        """A WorkerInfo for each node: hostname, number of worker processes, process id, busy (1/0), and more."""
        return self._running().workers()

    def status(self):
        # type: () -> ClusterStatus
        """A ClusterStatus: the jobs' progress, what they wait for, how long they may take. From any thread."""
        return self._running().status()

    def share(self, value):
        # type: (object) -> object
        """A handle for the object, for use in arguments. The object is sent once to each node, until ``drop()``."""
        return self._running().share(value)

    def executor(self):
        # type: () -> object
        """A ``concurrent.futures.Executor`` on this cluster, also during execute(). Python 3.6 and later."""
        if PY2:  # py2
            raise errors.UsageError("executor() needs Python 3.6 or later: 2.7 has no concurrent.futures")
        from .. import ClusterExecutor  # imported on demand: faces are above this folder

        return ClusterExecutor(master=self)

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
        self._cluster.check_process()
        return self._cluster

    # -- the job ----------------------------------------------------------------------------------

    def load_envir(self, source, from_file=True):
        # type: (str, bool) -> None
        """Load the source that defines the function: the path of a .py file, or, with from_file=False, its text.

        It is run here once, so that its mistakes show at once. Raises IOError, SyntaxError, or
        SourceError when running it raises; the environment before the call is kept then.
        """
        made = environment.from_file(source) if from_file else environment.from_text(source)
        module = environment.load(made)
        if self._function is not None and made != self._source:
            try:
                environment.find(module, self._function)
            except errors.TargetError:
                self._function = None  # the new environment has no such function: one must be registered
        self._source, self._module = made, module

    @property
    def environment(self):
        # type: () -> object
        """The loaded environment as a module: make arguments of its classes, try its functions."""
        return self._module

    def register_target_function(self, function):
        # type: (object) -> None
        """Register what to run: the name of a callable that the environment defines, or a callable of this program.

        Raises TargetError for a name that the environment does not define or cannot call, and
        what the pickling raises for a callable that cannot travel (see functions.py).
        """
        if not isinstance(function, (bytes, text_type)) and callable(function):
            self._function, self._target = None, self._packed_target(function)
            return
        if not isinstance(function, (str, text_type)):
            raise TypeError("the function must be its name in the environment, or a callable, not %r" % (function,))
        if self._module is None:
            raise errors.StateError("no environment is loaded: call load_envir() before register_target_function()")
        environment.find(self._module, native(function))
        self._function, self._target = native(function), None

    def load_args(self, args):
        # type: (object) -> None
        """Load the arguments, one for each task: a sequence of unique, hashable values.

        Raises ArgumentsError naming index and value; the arguments before the call are kept then.
        """
        checked = _checked_arguments(args)
        self._arguments = values.arguments(checked, self._pack)
        self._values = checked

    def execute(self, on_error=FINISH, chunksize=None, progress=None, **options):
        # type: (str, int | None, object, object) -> dict
        """Run the function on every argument: a dict of argument -> result, in argument order.

        on_error: "finish" runs everything, then raises TaskError if a task failed; "stop" hands
        out nothing more after the first failure; "return" puts the exceptions into the dict.
        progress: None shows a line on a terminal when it takes long, True and False force it, a
        function is called with (done, total) now and then; what it raises ends the call. options: retries=,
        attempts_max=, timeout=, deadline=, journal=, idempotent=, as in ``options.Options``.

        Raises TaskError, DeadlineExceeded, JournalError, SourceError, StateError; on Ctrl-C, or
        SIGTERM, Interrupted (a KeyboardInterrupt). All that end a job early have ``.results``.
        """
        chosen = self._options(on_error, chunksize, options)
        self._running()  # before the lock: in a forked process it may never be released
        with self._turn:
            cluster = self._running()
            job = self._job(chosen)
            return job.run(cluster, progress_for(progress, job.total))

    def imap(self, on_error=FINISH, chunksize=None, **options):
        # type: (str, int | None, object) -> Pairs
        """As ``execute``, but an iterator of (argument, result) in argument order, each as soon as it is there.

        Failed arguments are left out, and when all is done TaskError says which they were; with
        on_error="return" their exceptions come as results. Closing the iterator cancels the rest;
        its ``status()`` tells how far it is.
        """
        chosen, cluster = self._options(on_error, chunksize, options), self._running()
        return self._job(chosen).iterate(cluster, True)

    def imap_unordered(self, on_error=FINISH, chunksize=None, **options):
        # type: (str, int | None, object) -> Pairs
        """As ``imap``, in the order in which the results come."""
        chosen, cluster = self._options(on_error, chunksize, options), self._running()
        return self._job(chosen).iterate(cluster, False)

    def map(self, function, items, on_error=FINISH, chunksize=None, progress=None, **options):
        # type: (Callable[..., Any], Iterable[Any], str, int | None, object, object) -> list[Any]
        """[function(item) for item in items], in order; items need be neither unique nor hashable.

        The loaded environment, function and arguments are not touched. TaskError's ``.results``
        and ``.errors`` have the items' positions as keys. Options as for ``execute``.
        """
        chosen = self._options(on_error, chunksize, options)
        if not callable(function):
            raise TypeError("the function must be a callable, not %s" % values.shortened(function))
        self._running()  # before the lock: in a forked process it may never be released
        items = items if isinstance(items, values.range_type) else list(items)
        arguments, target = values.arguments(items, self._pack), self._packed_target(function)
        with self._turn:
            cluster = self._running()  # before the job is made, since it opens its journal
            job = ListedJob(target, range(len(items)), arguments, chosen, items)
            return list(job.run(cluster, progress_for(progress, job.total)).values())

    def _pack(self, value):
        # type: (object) -> values.Packed
        return functions.pack(value, with_script=self._engine is None)

    def _packed_target(self, function):
        # type: (object) -> Target
        packed = self._pack(function)
        info, buffers = functions.requirements(packed.needs, with_script=self._engine is None), [packed.data]
        name = values.name_of(function)
        info.update(kind="function", star=False)
        return Target(name, info, buffers, lambda: of_definition(buffers))

    def _options(self, on_error, chunksize, options):
        # type: (str, int | None, dict) -> Options
        chosen = Options(on_error, self.chunksize if chunksize is None else chunksize, **options)
        if self._cluster is not None:
            self._cluster.check_options(chosen)  # before there is a journal
        return chosen

    def _job(self, options):
        # type: (Options) -> ListedJob
        target = self._target
        if self._function is not None and self._source is not None:
            target = _named_target(self._source, self._function, getattr(self._arguments, "needs", values.NOTHING))
        if target is None:
            missing = "load_envir()" if self._source is None else "register_target_function()"
            raise errors.StateError("nothing to run: call %s first" % missing)
        if self._arguments is None:
            raise errors.StateError("no arguments: call load_args() first")
        return ListedJob(target, self._values, self._arguments, options)


def _named_target(source, function, needs):
    # type: (environment.Source, str, str) -> Target
    """needs: the arguments' needs; an environment has none."""
    info = functions.requirements(needs, with_script=False)
    info.update({
        "kind": "source", "module": source.module, "filename": as_text(source.filename),
        "is_text": source.is_text, "function": function,
    })  # fmt: skip
    return Target(function, info, [source.data], lambda: [source.data, code_imported(source.data)])


def _checked_arguments(args):
    # type: (Any) -> range | tuple[Any, ...]
    if isinstance(args, values.range_type):
        return args
    if isinstance(args, (dict, set, frozenset)) or not hasattr(args, "__len__") or not hasattr(args, "__getitem__"):
        raise errors.ArgumentsError(
            "the arguments must be a sequence (a list, a tuple, a range), not %s: %s; try list(...)"
            % (type(args).__name__, values.shortened(args))
        )
    values_ = tuple(args)
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


_open_masters = weakref.WeakSet()  # type: weakref.WeakSet


@atexit.register
def _shut_down_all():
    # type: () -> None
    for master in list(_open_masters):
        master.shutdown()
