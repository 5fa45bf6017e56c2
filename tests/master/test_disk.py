"""What may hang on a disk runs in its own thread, in order, whatever the functions do."""
from __future__ import absolute_import, division, print_function

import threading
import unittest

from minimalcluster.master import disk
from tests import support


class Order(unittest.TestCase):
    def setUp(self):
        self.disk, self.done = disk.Disk(), []
        self.addCleanup(self.disk.close, support.SECONDS)

    def test_who_asks_does_not_wait_and_the_order_is_kept(self):
        go = threading.Event()
        self.disk.do(go.wait, support.SECONDS)
        for number in range(10):
            self.disk.do(self.done.append, number)
        self.assertEqual([], self.done)
        go.set()
        self.disk.close(support.SECONDS)
        self.assertEqual(list(range(10)), self.done)

    def test_what_raises_ends_nothing(self):
        def fail(error):
            raise error

        with support.Log() as log:
            for error in (OSError("disk"), KeyboardInterrupt(), SystemExit(3)):
                self.disk.do(fail, error)
            self.disk.do(self.done.append, "behind")
            self.disk.close(support.SECONDS)
            self.assertEqual(3, len(log.having("the rest goes on")))
        self.assertEqual(["behind"], self.done)

    def test_without_a_thread_it_is_done_at_once(self):
        def refuse(thread):
            raise RuntimeError("can't start new thread")

        with support.patched(threading.Thread, "start", refuse):
            self.disk.do(self.done.append, "done")
        self.assertEqual(["done"], self.done)


if __name__ == "__main__":
    unittest.main()
