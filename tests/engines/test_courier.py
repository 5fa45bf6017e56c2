"""The thread that talks to an engine."""
from __future__ import absolute_import, division, print_function

import sys
import unittest

from minimalcluster.wire import protocol
from tests import support

PYTHON_3 = sys.version_info >= (3, 6)
if PYTHON_3:
    from concurrent.futures import Future

    from minimalcluster.compat import queue
    from minimalcluster.engines import courier
    from minimalcluster.engines.courier import Courier, Backend
    from minimalcluster.engines.flights import Flight
else:
    Backend = object

GRANT = protocol.Grant(1, 7, 0, 1, 0, [b"P"])


class Fake(Backend):
    def __init__(self):
        self.calls, self.kept, self.future = [], [], None

    def workers(self):
        raise ValueError("the client is closed")

    def submit(self, function, *arguments):
        self.calls.append(arguments)
        self.future = Future()
        return self.future

    def keep(self, brought):
        self.kept.append(brought[0])
        return "kept"

    def cancel(self, future, running):
        raise ValueError("it cannot")


@unittest.skipUnless(PYTHON_3, "engines are for Python 3")
class CourierTest(unittest.TestCase):
    def setUp(self):
        self.backend, self.answers = Fake(), queue.Queue()
        self.courier = Courier(self.backend, "token", lambda function, *arguments: function(*arguments))
        self.addCleanup(self.courier.put, self.courier.end, lambda: None)

    def submit(self, *needs):
        """Submit a chunk; return what comes with it."""
        flight = Flight(0, GRANT)
        self.courier.put(self.courier.submit, flight, 1, GRANT, list(needs), lambda *landed: self.answers.put(landed))
        self.wait()
        return self.backend.calls[-1][3:], flight

    def wait(self):
        """Until all before this is done."""
        done = queue.Queue()
        self.courier.put(done.put, None)
        done.get(True, support.SECONDS)

    def test_what_is_short_goes_with_the_chunk_and_what_is_long_is_kept_once(self):
        short, long, unknown = ("definition", 1), ("definition", 2), ("module", "x")
        self.courier.put(self.courier.learn, short, {}, [b"s"])
        self.courier.put(self.courier.learn, long, {}, [b"l" * (courier.ATTACH_BYTES_MAX + 1)])
        for _ in range(2):
            things, _ = self.submit(short, long, unknown)
            self.assertEqual(((short, {}, [b"s"]), "kept", (unknown, {"found": False}, [])), things)
        self.assertEqual([long], self.backend.kept)
        self.courier.put(self.courier.forget, long)
        self.assertEqual({"found": False}, self.submit(long)[0][0][1])

    def test_only_shared_objects_stay_as_they_were_brought(self):
        for need in (("share", "a"), ("share bytes", "a"), ("module", "x")):
            self.courier.put(self.courier.learn, need, {}, [])
        self.wait()
        self.assertTrue(self.courier.knows(("share", "a")))
        self.assertFalse(self.courier.knows(("module", "x")))
        self.courier.put(self.courier.drop, "a")
        self.submit()
        self.assertFalse(self.courier.knows(("share", "a")) or self.courier.knows(("share bytes", "a")))
        self.assertEqual(("a",), self.backend.calls[-1][1])

    def test_a_call_lands_with_its_outcome_or_its_error(self):
        _, flight = self.submit()
        self.assertIs(self.backend.future, flight.future)
        self.backend.future.set_result("outcome")
        self.assertEqual((flight, 1, "outcome", None), self.answers.get(True, support.SECONDS))
        self.assertIsNone(flight.future)
        self.backend.submit = None
        self.submit()
        self.assertIsInstance(self.answers.get(True, support.SECONDS)[3], TypeError)

    def test_an_engine_that_cannot_be_closed_says_so_and_the_end_goes_on(self):
        self.backend.close = None
        with support.Log() as log:
            self.courier.put(self.courier.end, lambda: self.answers.put("closed"))
            self.assertEqual("closed", self.answers.get(True, support.SECONDS))
            support.wait_until(lambda: log.having("cannot be closed"))

    def test_an_engine_that_cannot_cancel_or_count_does_not_end_it(self):
        _, flight = self.submit()
        self.courier.put(self.courier.cancel, flight, True)
        self.courier.put(self.courier.count, self.fail)
        self.wait()


if __name__ == "__main__":
    unittest.main()
