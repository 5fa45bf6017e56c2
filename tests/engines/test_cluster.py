"""An engine's node by itself: the master's messages in, its messages out; the test ends each call of the engine."""
from __future__ import absolute_import, division, print_function

import sys
import unittest

from minimalcluster import errors
from minimalcluster.brain import agent
from minimalcluster.payload import values
from minimalcluster.wire import protocol as p
from tests import support

PYTHON_3 = sys.version_info >= (3, 6)
if PYTHON_3:
    from concurrent.futures import Future

    from minimalcluster.engines import cluster
    from minimalcluster.engines.courier import Courier, Backend
else:
    Courier = Backend = object

DEFINITION = p.DefineJob(7, {"kind": "call"}, [b"definition"])


class Crash(Exception):
    pass


class Fake(Backend):
    name = "Fake"
    died = (Crash,)

    def __init__(self):
        self.number, self.open, self.cancelled, self.closed = 2, [], [], False

    def workers(self):
        return self.number

    def submit(self, function, *arguments):
        future = Future()
        self.open.append((arguments[2], [thing[0] for thing in arguments[3:]], future))
        return future

    def cancel(self, future, running):
        self.cancelled.append((future, running))

    def close(self):
        self.closed = True


class DirectCourier(Courier):
    """It does its errands in the thread of the test, and at once."""

    def _run(self):
        pass

    def put(self, errand, *arguments):
        errand(*arguments)


class Loop(object):
    def call(self, function, *arguments):
        function(*arguments)

    def spare(self, function, argument, failed):
        function(argument)


@unittest.skipUnless(PYTHON_3, "engines are for Python 3")
class NodeTest(unittest.TestCase):
    def setUp(self):
        self.engine, self.sent, self.dropped, self.ended, self.now = Fake(), [], [], [], 100.0
        with support.patched(cluster, "Courier", DirectCourier):
            self.node = cluster.EngineNode(
                self.engine, Loop(), 2, self.sent.append, self.dropped.append, lambda *said: self.ended.append(said)
            )
        self.node.tell(agent.LinkUp())
        self.said = self.hear(p.Joined({"epoch": 1}))
        self.hear(DEFINITION)

    def hear(self, *messages):
        """What the node says then."""
        for message in messages:
            self.node.tell(agent.MasterSaid(message))
        return self.rest()

    def rest(self):
        self.node.step(self.now)
        while self.node._events:
            self.node.step(self.now)
        self.node._agent.validate()
        said, self.sent[:] = list(self.sent), []
        return said

    def grant(self, attempt, first=0, count=2):
        return self.hear(p.Grant(attempt, 7, first, count, 0, values.ScalarArguments(list(range(first, first + count))).encode(0, count)))

    def land(self, reports, lacking=None):
        self.engine.open.pop(0)[2].set_result((reports, lacking))
        return self.rest()

    def crash(self, error=None):
        self.engine.open.pop(0)[2].set_exception(error or Crash("gone"))
        return self.rest()

    def done(self, attempt, first, count):
        return p.Done(0, attempt, first, count, 10, values.encode_results([0] * count))

    def test_it_joins_with_as_many_slots_as_the_engine_has_workers(self):
        self.assertEqual([p.Join], [type(message) for message in self.said])
        self.assertEqual((2, "Fake"), (self.said[0].info["slots"], self.said[0].info["hostname"]))

    def test_twice_as_many_chunks_stand_in_the_engines_queue(self):
        for attempt in range(1, 6):
            self.grant(attempt)
        self.assertEqual([1, 2, 3, 4], [grant.attempt for grant, _, _ in self.engine.open])
        self.land([self.done(1, 0, 2)])
        self.assertEqual([2, 3, 4, 5], [grant.attempt for grant, _, _ in self.engine.open])

    def test_outcomes_are_numbered_and_said_again_after_a_reconnection_until_they_are_acknowledged(self):
        self.grant(1)
        self.grant(2)
        self.assertEqual([(1, 1)], [(each.report, each.attempt) for each in self.land([self.done(1, 0, 2)])])
        self.node.tell(agent.LinkDown())
        self.node.tell(agent.LinkUp())
        self.assertEqual([1, 2], self.rest()[0].info["held"])
        self.assertEqual([1], [each.report for each in self.hear(p.Joined({"epoch": 1}))])
        self.hear(p.Acknowledge(1), DEFINITION)
        self.assertEqual([2], [each.report for each in self.land([self.done(2, 0, 2)])])

    def test_a_chunk_goes_on_with_what_it_lacked(self):
        self.grant(1, count=3)
        said = self.land([self.done(1, 0, 1)], ("module", "1:lab"))
        self.assertEqual([p.Done, p.Fetch], [type(message) for message in said])
        self.assertEqual({"what": "module", "name": "1:lab"}, {name: said[1].info[name] for name in ("what", "name")})
        self.assertEqual([], self.engine.open)
        self.hear(p.Fetched(said[1].request, {"found": True}, [b"source"]))
        grant, brought, _ = self.engine.open[0]
        self.assertEqual((1, 2), (grant.first, grant.count))
        self.assertEqual([("definition", 7), ("module", "1:lab")], brought)
        said = self.land([], ("module", "1:lab"))
        self.assertEqual([p.Unfit], [type(message) for message in said])

    def test_a_death_alone_is_reported_and_the_place_is_ready_at_once(self):
        self.grant(1, first=4)
        self.assertEqual([], self.crash())  # a suspect, and so alone from now on
        self.assertEqual((4, 1), self.engine.open[0][0][2:4])
        said = self.crash()
        self.assertEqual([p.Died], [type(message) for message in said])
        self.assertEqual((1, 4, "Fake says Crash: gone"), (said[0].attempt, said[0].first, said[0].info["exit"]))
        self.assertEqual(["idle"] * 4, [slot["state"] for slot in self.node.snapshot()["slots"]])
        self.grant(2, first=4, count=1)
        self.assertEqual([("definition", 7)], self.engine.open[0][1])  # it was defined again

    def test_what_is_revoked_before_it_starts_is_given_back(self):
        self.grant(1)
        self.grant(2)
        self.crash()
        self.grant(3)  # it waits for both suspects
        said = self.hear(p.Revoke(3, 0))
        self.assertEqual([(p.Released, 3, 0)], [(type(each), each.attempt, each.first) for each in said])
        self.assertEqual([], self.engine.cancelled)

    def test_what_is_revoked_on_its_way_is_cancelled_and_given_back_if_the_engine_can(self):
        self.grant(1)
        self.assertEqual([], self.hear(p.Revoke(1, 0)))
        self.assertEqual([False], [running for _, running in self.engine.cancelled])
        said = self.crash(cluster.CancelledError())
        self.assertEqual([(p.Released, 1, 0)], [(type(each), each.attempt, each.first) for each in said])

    def test_what_is_killed_is_cancelled_and_what_comes_of_it_is_dropped(self):
        self.grant(1)
        self.assertEqual([], self.hear(p.Revoke(1, 1)))
        self.assertEqual([True], [running for _, running in self.engine.cancelled])
        self.assertEqual([], self.land([self.done(1, 0, 2)]))
        self.assertEqual(["idle"] * 4, [slot["state"] for slot in self.node.snapshot()["slots"]])

    def test_odd_reports_are_not_believed(self):
        self.grant(1)
        said = self.land([p.Done(0, 1, 0, 0, 10, [])])
        self.assertEqual([p.Unfit], [type(message) for message in said])
        self.assertIn("its count is 0", said[0].info["text"])

    def test_other_numbers_of_workers(self):
        self.engine.elastic = True
        for attempt in range(1, 6):
            self.grant(attempt)
        self.engine.number = 3
        self.now += cluster.COUNT_SECONDS
        self.rest()
        self.assertEqual(1, len(self.dropped))
        self.node.tell(agent.LinkDown())  # as the cluster does
        self.node.tell(agent.LinkUp())
        said = self.rest()
        self.assertEqual((3, [1, 2, 3, 4, 5]), (said[0].info["slots"], said[0].info["held"]))
        self.hear(p.Joined({"epoch": 1}), DEFINITION)
        self.assertEqual([1, 2, 3, 4, 5], [grant.attempt for grant, _, _ in self.engine.open])
        self.engine.number = 1
        self.now += cluster.COUNT_SECONDS
        self.rest()
        self.assertEqual(2, len(self.dropped))
        self.node.tell(agent.LinkUp())
        self.assertEqual(1, self.rest()[0].info["slots"])

    def test_the_definition_of_a_job_is_forgotten_with_it(self):
        self.grant(1)
        self.land([self.done(1, 0, 2)])
        self.assertIn(("definition", 7), self.node._courier._brought)
        self.hear(p.ForgetJob(7))
        self.assertEqual({}, self.node._courier._brought)
        self.assertEqual({}, self.node._definitions)

    def test_a_dropped_object_is_told_to_the_worker_processes_once(self):
        self.grant(1)
        said = self.land([], ("share", "s"))
        self.hear(p.Fetched(said[0].request, {"found": True, "path": "/no/such", "name": "s"}, []))
        self.hear(p.Drop({"name": "s"}))
        self.hear(p.Drop({"name": "s"}))
        self.assertEqual(["s"], list(self.node._courier._dropped))

    def test_the_end(self):
        self.grant(1)
        self.hear(p.Farewell({}))
        self.assertEqual([True], [running for _, running in self.engine.cancelled])
        self.assertTrue(self.engine.closed)
        self.assertEqual([("the master shut down", None)], self.ended)

    def test_an_end_that_takes_long_is_not_waited_for(self):
        self.node._courier._backend.close = lambda: None
        self.node._courier._call = lambda function, *arguments: None
        self.hear(p.Farewell({}))
        self.assertEqual([], self.ended)
        self.now = self.node.deadline()
        self.rest()
        self.assertEqual([("the master shut down", None)], self.ended)


@unittest.skipUnless(PYTHON_3, "engines are for Python 3")
class WorkplaceTest(unittest.TestCase):
    def test_an_engine_without_workers_has_one_slot(self):
        engine = Fake()
        engine.number = 0
        self.assertEqual(1, cluster.OnEngine(engine).slots_at_start())

    def test_this_machine_is_not_asked_to_join_or_to_leave(self):
        place = cluster.OnEngine(Fake())
        self.assertRaisesRegex(errors.StateError, "add workers there", place.check_join)
        self.assertRaisesRegex(errors.StateError, "no worker here", place.check_leave)


if __name__ == "__main__":
    unittest.main()
