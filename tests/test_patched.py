"""Programs that have replaced parts of Python with their own: green threads, frozen clocks (row 79)."""
from __future__ import absolute_import, division, print_function

import importlib
import subprocess
import sys
import unittest

from tests import support

#: A face does its work, or says in a sentence why it does not.
CLUSTER = """
import sys
from minimalcluster import MasterNode, StateError
if __name__ == "__main__":
    try:
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            print(master.map(abs, [-1, -2]))
    except StateError as error:
        print("refused: %s" % error)
"""

FROZEN = """
import sys, time
%s
from minimalcluster import ClusterExecutor
from tests.test_patched import endless
if __name__ == "__main__":
    with ClusterExecutor(1) as executor:
        print(executor.submit(abs, -1).result(), list(executor.map(abs, [-1, -2])))
        for call in (
            lambda: executor.options(deadline=0.2).submit(endless).result(),
            lambda: executor.options(timeout=0.2).submit(endless).result(),
            lambda: list(executor.options(deadline=0.2).map(endless, [1])),
            lambda: list(executor.map(endless, [1], timeout=0.2)),
        ):
            try:
                call()
            except Exception as error:
                print(type(error).__name__)
"""
FROZEN_OUTPUT = "1 [1, 2]\nDeadlineExceededError\nCallTimeoutError\nDeadlineExceededError\nTimeoutError\n"


def endless(*ignored):
    import time

    while True:
        time.sleep(0.01)


def green(library):
    """A task that works with green threads of its own."""
    if library == "gevent":
        from gevent import monkey

        monkey.patch_all()
        import gevent

        jobs = [gevent.spawn(abs, -number) for number in range(3)]
        gevent.joinall(jobs)
        return [job.value for job in jobs]
    import warnings

    warnings.simplefilter("ignore")
    import eventlet

    eventlet.monkey_patch()
    return list(eventlet.GreenPool().imap(abs, [0, -1, -2]))


def output_of(code):
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], cwd=support.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        universal_newlines=True,
    )  # fmt: skip
    return support.Background(process.communicate).result(60)[0]


def needs(*libraries):
    missing = []
    for library in libraries:
        try:
            importlib.import_module(library)
        except ImportError:
            missing.append(library)
    return unittest.skipIf(missing, "%s is not installed here" % " and ".join(missing))


class GreenThreads(unittest.TestCase):
    @needs("gevent")
    def test_row_79_gevent_is_refused_in_a_sentence(self):
        for patch in ("all()", "all(thread=False)", "thread()", "select()", "subprocess()", "queue()", "socket()"):
            output = output_of("from gevent import monkey; monkey.patch_%s\n" % patch + CLUSTER)
            self.assertIn("refused: gevent has replaced", output, patch)
            self.assertEqual(1, output.count("\n"), output)
        for patch in ("time()", "ssl()", "builtins()"):
            self.assertEqual("[1, 2]\n", output_of("from gevent import monkey; monkey.patch_%s\n" % patch + CLUSTER), patch)

    @needs("eventlet")
    def test_row_79_eventlet_is_refused_in_a_sentence(self):
        for patch in ("", "thread=True"):
            output = output_of("import eventlet; eventlet.monkey_patch(%s)\n" % patch + CLUSTER)
            self.assertIn("refused: eventlet has replaced", output, patch)
        self.assertEqual("[1, 2]\n", output_of("import eventlet; eventlet.monkey_patch(thread=False)\n" + CLUSTER))

    @needs("gevent")
    def test_row_79_gevent_in_a_task(self):
        self.assertEqual("[[0, 1, 2], [0, 1, 2], [0, 1, 2]]\n", self.in_tasks("gevent"))

    @needs("eventlet")
    def test_row_79_eventlet_in_a_task(self):
        self.assertEqual("[[0, 1, 2], [0, 1, 2], [0, 1, 2]]\n", self.in_tasks("eventlet"))

    def in_tasks(self, library):
        task = "from tests.test_patched import green\n"
        return output_of(task + CLUSTER.replace("abs, [-1, -2]", "green, [%r] * 3" % library))


class FrozenClocks(unittest.TestCase):
    @needs("freezegun")
    def test_row_79_freezegun(self):
        freeze = "import freezegun; freezegun.freeze_time('2020-01-01').start()"
        if sys.platform.startswith("linux"):
            self.assertEqual(FROZEN_OUTPUT, output_of(FROZEN % freeze))
        self.assertEqual(FROZEN_OUTPUT, output_of(FROZEN % ("import minimalcluster.faces.executor; " + freeze)))

    @unittest.skipIf(sys.version_info < (3, 6), "faces are for Python 3")
    def test_row_79_a_clock_that_stands_still(self):
        stop = "import minimalcluster.faces.executor; time.monotonic = time.time = time.perf_counter = lambda: 5.0"
        self.assertEqual(FROZEN_OUTPUT, output_of(FROZEN % stop))


if __name__ == "__main__":
    unittest.main()
