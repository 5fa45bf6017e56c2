"""What the tests of executors and pools send to worker processes, and the executor that they share."""
from __future__ import absolute_import, division, print_function

import contextlib
import gc
import os
import pickle
import shutil
import signal
import sys
import time
import unittest

from tests import support

PYTHON_3 = sys.version_info >= (3, 6)
if PYTHON_3:

    from minimalcluster import ClusterExecutor

faces = unittest.skipUnless(PYTHON_3, "the faces are for Python 3.6 and later")
SECONDS = support.SECONDS


def mul(x, y):
    return x * y


def capture(*args, **kwargs):
    return args, kwargs


def pid_of(_=None):
    return os.getpid()


def pid_after(seconds):
    time.sleep(seconds)
    return os.getpid()


def fail(error):
    raise error


def fail_on(x, bad):
    if x == bad:
        raise ValueError("not %d" % x)
    return x


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(fatal, *arguments):
    """Kills its process if that is among the arguments."""
    if fatal in arguments:
        die()
    return len(arguments)


def long_text(number):
    time.sleep(0.01)
    return "%d" % number * 16384


def first_dies_and_waits(number, folder):
    """Task 0 ends its worker process when "die" is there; begun again it waits for "end". Its other calls are quick."""
    if number == 0:
        again = os.path.exists(os.path.join(folder, "die"))
        touch_and_wait(os.path.join(folder, "again" if again else "first"), os.path.join(folder, "end" if again else "die"))
        if not again:
            os._exit(3)
    return "%d" % number * 16384


def leave(error_class):
    raise error_class("left")


def note_and_count(notes, x):
    notes.append(x)
    return len(notes)


def touch(path):
    support.write(path, str(os.getpid()))


def touch_and_wait(path, gate):
    touch(path)
    end = time.time() + 60
    # A test that failed takes the folder with it: its tasks must not hold up the tests that follow.
    while not os.path.exists(gate) and os.path.exists(path) and time.time() < end:
        time.sleep(0.005)
    return path


def note_and_return(folder, value, more=None):
    support.write(os.path.join(folder, str(value)), "ran")
    return value


def note_and_fail_on(folder, x, bad):
    note_and_return(folder, x)
    return fail_on(x, bad)


def noted_and_fails_once(path):
    """Raises until its third run."""
    with open(path, "a") as file:
        file.write(".")
    if len(support.read(path)) < 3:
        raise OSError("not yet")
    return "at last"


def chained():
    try:
        {}["missing"]
    except KeyError as error:
        outer = ValueError("outer", 7)
        outer.__cause__ = error
        if hasattr(outer, "add_note"):
            outer.add_note("a note for you")
        raise outer


def in_context():
    try:
        int("x")
    except ValueError:
        raise LookupError("while handling")


_status = []


def initialize(value):
    _status.append(value)


def fail_to_initialize(why):
    raise ValueError(why)


def status():
    return list(_status)


class Thing(object):
    def method(self):
        return "called"


def make_thing(_):
    return Thing()


class Two(Exception):
    """Its pickle comes back, and so do its attributes."""

    def __init__(self, a, b):
        Exception.__init__(self, a, b)
        self.a, self.b = a, b


class Empty(Exception):
    """False, as every object without elements."""

    def __len__(self):
        return 0


class Unloadable(Exception):
    """Can be pickled and not unpickled."""

    def __init__(self, a, b):
        Exception.__init__(self, "%s and %s" % (a, b))


class CannotPickle(object):
    def __reduce__(self):
        raise pickle.PicklingError("made not to be pickled")


class ExitAtPickle(object):
    def __reduce__(self):
        raise SystemExit(3)


def fail_to_load(error_class, text):
    raise error_class(text)


class CannotLoad(object):
    def __reduce__(self):
        return fail_to_load, (pickle.UnpicklingError, "made not to be unpickled")


class CannotLoadHere(object):
    """Loads in worker processes, not where the executor is."""

    def __init__(self, pid):
        self.pid = pid

    def __reduce__(self):
        return load_elsewhere, (self.pid,)


def load_elsewhere(pid):
    if os.getpid() == pid:
        raise ValueError("not here")
    return CannotLoadHere(pid)


class DeadlyToLoad(object):
    """Ends any process that unpickles it."""

    def __reduce__(self):
        return os._exit, (3,)


class Unheard(BaseException):
    """No ``except Exception`` meets it."""


class RaisesHere(object):
    """Can be unpickled everywhere but where the executor is."""

    def __init__(self, pid, kind):
        self.about = pid, kind

    def __reduce__(self):
        return raises_here, (RaisesHere,) + self.about


class RaisesHereError(Exception):
    def __init__(self, pid, kind):
        super(RaisesHereError, self).__init__("odd")
        self.about = pid, kind

    def __reduce__(self):
        return raises_here, (RaisesHereError,) + self.about


def raises_here(made, pid, kind):
    if os.getpid() == pid:
        raise kind()
    return made(pid, kind)


def raise_what_raises_here(pid, kind):
    raise RaisesHereError(pid, kind)


class ExitAtLoad(object):
    def __reduce__(self):
        return fail_to_load, (SystemExit, "at load")


def instance_of(kind):
    return kind()


def collected_arguments():
    gc.collect()
    return sum(isinstance(each, Thing) for each in gc.get_objects())


def length(value):
    return len(value)


def lambda_free_context(_):
    in_context()


def make_unloadable():
    raise Unloadable("a", "b")


@contextlib.contextmanager
def interrupting(results, it_is_time=lambda: True):
    """Ctrl-C while a map's next result is waited for, as soon as it is time."""
    take = results._job.take

    def interrupted(seconds):
        if not it_is_time():
            return take(seconds)
        del results._job.take
        raise KeyboardInterrupt

    results._job.take = interrupted
    yield


class Running(unittest.TestCase):
    """Tests that share one executor with two worker processes."""

    @classmethod
    def setUpClass(cls):
        cls.executor = ClusterExecutor(2)

    @classmethod
    def tearDownClass(cls):
        cls.executor.shutdown(wait=True)
        del cls.executor

    def raised(self, future, kind):
        """The future's exception, which must be of exactly this kind."""
        error = future.exception(SECONDS)
        self.assertIs(kind, type(error), "%r" % error)
        return error


class Journaled(unittest.TestCase):
    """Tests with a journal in a folder of their own."""

    def setUp(self):
        self.folder = support.directory_for(self)
        self.ran, self.path = os.path.join(self.folder, "ran"), os.path.join(self.folder, "run.journal")
        os.mkdir(self.ran)
        self.addCleanup(os.environ.__setitem__, "HOME", os.environ.get("HOME", ""))
        os.environ["HOME"] = self.folder  # the user's key is there

    def view(self, **terms):
        executor = ClusterExecutor(2)
        self.addCleanup(executor.shutdown)
        return executor.options(journal=self.path, **terms)

    def executed(self):
        """What has run since this was last asked."""
        names = os.listdir(self.ran)
        shutil.rmtree(self.ran)
        os.mkdir(self.ran)
        return sorted(map(int, names))
