"""Cluster: what a proved node may say, and what becomes of it when it says something else."""
from __future__ import absolute_import, division, print_function

import contextlib
import io
import json
import logging
import os
import socket
import sys
import threading
import time
import unittest

from minimalcluster import FrameTooLarge, MasterNode, StateError, TaskError, logs
from minimalcluster.wire import handshakes, keys, protocol
from minimalcluster.wire.limits import ODD_MESSAGES_MAX
from minimalcluster.payload import sources, values
from minimalcluster.brain import agent, leases, scheduler
from minimalcluster.master import sessions
from minimalcluster.master.cluster import Cluster
from minimalcluster.errors import InternalError, RemoteError
from minimalcluster.master.job import End, Job, Outcomes
from minimalcluster.node.node import Node
from tests import attackers, odd_messages, support
from tests.support import mistake

IDENTITY = "f = lambda x: x"


def done(grant, results, report=1, first=None):
    first = grant.first if first is None else first
    return protocol.Done(report, grant.attempt, first, len(results), 1000, support.encoded(results))


class NodeMessagesTest(unittest.TestCase):
    """A master without worker processes of its own, and nodes that are spoken by hand."""

    def setUp(self):
        self.master = MasterNode(PORT=0)
        self.addCleanup(self.master.shutdown)
        self.master.start_master_server(if_join_as_worker=False)
        self.log = support.Log()
        self.log.__enter__()
        self.addCleanup(self.log.__exit__)

    def node(self, **named):
        node = support.RawNode(self.master.PORT, self.master.AUTHKEY, **named)
        self.addCleanup(node.socket.close)
        return node

    def execute(self, arguments, **options):
        support.prepare(self.master, IDENTITY, "f", arguments)
        return support.Background(self.master.execute, **options)

    def closed(self, node):
        self.assertRaises(EOFError, node.receive, ())

    def test_a_job_by_hand(self):
        node = self.node().join()
        node.receive(protocol.Joined)
        job = self.execute([10, 20], chunksize=2)
        definition, grant = node.receive(protocol.DefineJob), node.receive(protocol.Grant)
        self.assertEqual(definition.info["function"], "f")
        self.assertEqual(definition.payload[0].tobytes(), IDENTITY.encode("ascii"))
        self.assertEqual((grant.job, grant.first, grant.count), (definition.job, 0, 2))
        node.send(done(grant, ["a", "b"]))
        self.assertEqual(job.result(), {10: "a", 20: "b"})
        said = [node.receive((protocol.Acknowledge, protocol.ForgetJob)) for _ in range(2)]
        self.assertEqual(set(said), set([protocol.Acknowledge(1), protocol.ForgetJob(definition.job)]))

    def test_what_many_jobs_wait_for_is_logged_once(self):
        def explain():
            self.master._cluster._explained_until = float("inf")
            for number in range(300):
                self.master._cluster._explain(scheduler.Explain("job %d waits" % (number % 3)))

        self.master._cluster._ask(explain)
        self.assertEqual(3, len(self.log.having(" waits")))

    def test_a_node_that_comes_back_is_told_which_shared_objects_are_of_no_use(self):
        handle = self.master.share([1, 2])
        node = self.node().join(shared=["former", handle.name, "dropped"])
        self.assertEqual(["former", "dropped"], [node.receive(protocol.Drop).info["name"] for _ in range(2)])
        handle.drop()
        self.assertEqual(handle.name, node.receive(protocol.Drop).info["name"])

    def test_a_former_masters_work_waits_for_the_first_job(self):
        node = self.node().join(held=[7, 8])
        support.wait_until(self.master.list_workers, what="its place in the list")
        self.assertEqual([1], [each.busy for each in self.master.list_workers()])
        node.receive(protocol.Acknowledge)  # else it would take this master for lost
        job = self.execute([10])  # which knows nothing of that work
        self.assertEqual(set([7, 8]), set(node.receive(protocol.Revoke).attempt for _ in range(2)))
        node.receive(protocol.Joined)
        self.assertEqual(1, len(self.master.list_workers()))
        node.send(done(node.receive(protocol.Grant), ["a"]))
        self.assertEqual(job.result(), {10: "a"})
        # From the first job on nobody waits.
        late = self.node().join(held=[9])
        self.assertEqual(9, late.receive(protocol.Revoke).attempt)

    def test_a_former_masters_work_does_not_wait_for_ever(self):
        node = self.node().join(held=[7])
        node.receive(protocol.Acknowledge)
        gone = self.node().join(held=[8])
        gone.receive(protocol.Acknowledge)
        gone.socket.close()
        support.wait_until(lambda: len(self.master.list_workers()) == 1, what="the other's end")
        self.master._cluster._scheduler._park_until = 0.0  # the next beat finds its time over
        self.assertEqual(7, node.receive(protocol.Revoke).attempt)
        node.receive(protocol.Joined)

    def test_a_node_with_a_former_masters_work_hears_of_the_end(self):
        node = self.node().join(held=[7])
        node.receive(protocol.Acknowledge)
        self.master.shutdown()
        node.receive(protocol.Farewell)

    def test_results_come_twice(self):
        node = self.node().join()
        job = self.execute([10, 20], chunksize=1)
        first = node.receive(protocol.Grant)
        for _ in range(3):
            node.send(done(first, ["first"]))
        second = first
        while second.first == first.first:
            second = node.receive(protocol.Grant)
        node.send(done(first, ["again, under the next number"], 2))
        node.send(done(second, ["second"], 3))
        node.send(done(second, ["again, after the end"], 4))
        self.assertEqual(job.result(), {10: "first", 20: "second"})
        while node.receive(protocol.Acknowledge).report < 4:
            pass
        self.assertEqual(len(self.master.list_workers()), 1)

    def test_results_of_an_attempt_nobody_made(self):
        node = self.node().join()
        job = self.execute([10])
        grant = node.receive(protocol.Grant)
        node.send(done(grant._replace(attempt=grant.attempt + 1), ["invented"]))
        node.send(done(grant._replace(attempt=1), ["of another master's time"], 2))
        node.send(done(grant, ["right"], 3))
        self.assertEqual(job.result(), {10: "right"})

    def test_skipped_results_are_handed_out_again(self):
        node = self.node().join()
        job = self.execute([10, 20, 30], chunksize=3)
        grant = node.receive(protocol.Grant)
        node.send(done(grant, ["third"], first=2))
        again = node.receive(protocol.Grant)
        self.assertEqual((again.first, again.count), (0, 2))
        self.assertNotEqual(again.attempt, grant.attempt)
        node.send(done(grant, ["late", "late"], 2))
        node.send(done(again, [1, 2], 3))
        self.assertEqual(job.result(), {10: 1, 20: 2, 30: "third"})

    def test_row_58_a_disk_that_hangs_holds_up_no_answer(self):
        go, sync = threading.Event(), os.fsync

        def slow(descriptor):
            if threading.current_thread().name == "minimalcluster-disk":
                go.wait(support.SECONDS)
            sync(descriptor)

        self.addCleanup(go.set)
        node = self.node().join(slots=2)
        with support.directory() as folder, support.patched(os, "fsync", slow):
            job = self.execute([10, 20], chunksize=1, journal=os.path.join(folder, "journal"))
            first, second = node.receive(protocol.Grant), node.receive(protocol.Grant)
            node.send(done(first, ["a"]))
            while not self.master._cluster._syncing:
                node.send(protocol.Heartbeat({}))
                self.assertEqual(0, node.receive(protocol.Acknowledge).report)
            node.send(protocol.Heartbeat({}))
            self.assertEqual(0, node.receive(protocol.Acknowledge).report)  # not on the disk
            node.send(done(second, ["b"], 2))
            go.set()
            while node.receive(protocol.Acknowledge).report < 2:
                pass
            self.assertEqual({10: "a", 20: "b"}, job.result())

    def test_second_connection_of_a_node_replaces_the_first(self):
        first = self.node().join()
        job = self.execute([10])
        grant = first.receive(protocol.Grant)
        second = self.node(node_id=first.id).join(held=[grant.attempt])
        second.receive(protocol.Joined)
        self.closed(first)
        self.assertEqual([worker.connected for worker in self.master.list_workers()], [True])
        second.send(done(grant, ["kept"]))  # it holds the attempt still: nothing was handed out again
        self.assertEqual(job.result(), {10: "kept"})

    def test_row_51_the_master_beats_unasked(self):
        node = self.node().join()
        with support.patched(sessions, "BEAT_SECONDS", 0.05):
            for _ in range(5):
                self.assertEqual(node.receive(protocol.Acknowledge).report, 0)

    def test_row_51_a_slow_node_is_not_lost(self):
        node = self.node().join()
        node.receive(protocol.Joined)
        job = self.execute([10])
        grant = node.receive(protocol.Grant)
        known = next(iter(self.master._cluster._scheduler._nodes.values()))
        large = b"".join(bytes(buffer) for buffer in node._channel.frame(done(grant, ["x" * 10**6])))
        for start in range(0, len(large) - 1, len(large) // 4):
            known.heard_at = before = known.heard_at - 1.0
            node.socket.sendall(large[start : start + len(large) // 4])
            support.wait_until(lambda: known.heard_at > before, what="a sign of life from a part of a message")
        node.socket.sendall(large[start + len(large) // 4 :])
        self.assertEqual(job.result(), {10: "x" * 10**6})

    def test_heartbeat_tells_why_worker_processes_do_not_start(self):
        node = self.node().join()
        job = self.execute([1, 2])
        support.wait_until(lambda: self.master.status().jobs and self.master.status().jobs[0].running)
        node.send(protocol.Heartbeat({"held": [], "starting": 1, "trouble": u"no room"}))
        support.wait_until(lambda: "no room" in self.master.status().jobs[0].why, what="the reason in status()")
        self.assertIn("worker processes cannot start", str(self.master.status()))
        support.wait_until(lambda: self.log.having("worker processes cannot start"))
        self.assertFalse(job.done())

    def test_anything_before_join(self):
        node = self.node()
        node.send(protocol.Heartbeat({}))
        self.closed(node)
        support.wait_until(lambda: self.log.having("Heartbeat before Join"))

    def test_malformed_join(self):
        for name, value in odd_messages.ODD[protocol.Join] + [("id", None), ("slots", None)]:
            self.closed(self.node().join(**{name: value}))
            support.wait_until(lambda: self.log.having("a malformed Join: "))
        self.assertEqual(self.master.list_workers(), [])

    def test_row_59_an_odd_message_costs_its_connection_and_no_more(self):
        good, job = self.node().join(), self.execute(range(100, 140), chunksize=1)
        good.receive(protocol.Joined)
        for kind, about in (
            (protocol.Done, (0, 1, [b"P", b"no pickle"])), (protocol.Failed, (0, {}, [])), (protocol.Died, ({},)), (protocol.Unfit, ({},)),
        ):  # fmt: skip
            for change in odd_messages.ODD[kind]:
                odd = self.node().join()
                grant = odd.receive(protocol.Grant)
                message = kind(1, grant.attempt, grant.first, *about) if kind is not protocol.Done else kind(1, grant.attempt, grant.first, 1, 0, about[2])  # fmt: skip
                odd.send(odd_messages.made_odd(message, change))
                self.closed(odd)
                good.send(protocol.Heartbeat({}))  # a connection costs 2.7 a second: it would be taken for lost
        # What they had is done by the other.
        for number in range(1, 41):
            message = good.receive(protocol.Grant)
            good.send(done(message, [message.first], number))
        self.assertEqual(dict((100 + index, index) for index in range(40)), job.result())

    def test_row_49_a_node_that_sends_odd_messages_again_and_again_stays_out(self):
        first = self.node()
        for number in range(ODD_MESSAGES_MAX):
            node = self.node(node_id=first.id).join() if number else first.join()
            node.receive(protocol.Joined)
            node.send((protocol.Heartbeat({"starting": -1}), protocol.Revoke(1, 0), protocol.Done(1, 1, 0, 1, 0, [b"X"]))[number % 3])
            self.closed(node)
        refused = self.node(node_id=first.id).join().receive(protocol.Farewell).info
        self.assertIn("3 messages that no node sends", refused["refused"])
        self.assertEqual([], self.master.list_workers())
        self.assertEqual(1, len(self.log.having("node raw is refused: it has sent 3")))
        self.node().join().receive(protocol.Joined)  # another node of the same machine

    def test_what_was_changed_on_the_way_is_not_the_nodes_fault(self):
        first = self.node()
        for number in range(ODD_MESSAGES_MAX + 1):
            node = self.node(node_id=first.id).join() if number else first.join()
            node.receive(protocol.Joined)
            frame = bytearray(b"".join(node._channel.frame(protocol.Heartbeat({}))))
            frame[-1] ^= 1
            node.socket.sendall(bytes(frame) if number % 2 else attackers.head(17, 2**50))
            self.closed(node)

    def test_an_odd_answer_is_that_tasks_error(self):
        node, job = self.node().join(), self.execute([10, 20, 30], chunksize=1, on_error="return")
        for number, payload in enumerate(([b"P", b"no pickle"], [b"P", values.dumps([])], [b"E", b"no pickle"]), 1):
            grant = node.receive(protocol.Grant)
            node.send(protocol.Done(number, grant.attempt, grant.first, 1, 0, payload))
        self.assertEqual([RemoteError] * 3, [type(each) for each in job.result().values()])

    def test_message_of_a_master(self):
        node = self.node().join()
        node.receive(protocol.Joined)
        node.send(protocol.Revoke(1, 0))
        self.closed(node)
        support.wait_until(lambda: self.log.having("Revoke from a node"))

    def test_worker_process_at_the_port_for_nodes(self):
        self.assertRaises(EOFError, self.node, role=handshakes.CHILD)
        support.wait_until(lambda: self.log.having("is no node"))

    def test_other_major_python(self):
        node = self.node().join(python="1.5.2")
        self.assertIn("do not mix", node.receive(protocol.Farewell).info["refused"])
        self.assertEqual(self.master.list_workers(), [])

    def test_node_that_leaves(self):
        node = self.node().join()
        node.receive(protocol.Joined)
        node.send(protocol.Farewell({"left": True}))
        self.closed(node)
        self.assertEqual(self.master.list_workers(), [])

    def test_node_that_drains_gets_no_more(self):
        node = self.node().join()
        node.receive(protocol.Joined)
        node.send(protocol.Farewell({"draining": True}))
        job = self.execute([10])
        with support.node_of(self.master):
            self.assertEqual(job.result(), {10: 10})
        node.send(protocol.Heartbeat({"held": []}))
        kinds = (protocol.Grant, protocol.Acknowledge)
        self.assertIsInstance(node.receive(kinds), protocol.Acknowledge)

    def test_shutdown_says_farewell(self):
        node = self.node().join()
        node.receive(protocol.Joined)
        self.master.shutdown()
        self.assertEqual(node.receive(protocol.Farewell).info, {})

    def test_shutdown_says_farewell_before_a_node_has_joined(self):
        node = self.node()
        shutdown = support.Background(self.master.shutdown)
        self.assertEqual(node.receive(protocol.Farewell).info, {})
        node.socket.close()
        shutdown.result()


class _Fake(Job):
    """Ten tasks that return nothing to speak of."""

    total, closed = 10, True
    options = leases.DEFAULTS

    def definition(self):
        return {"kind": "source", "module": "m", "filename": "f", "is_text": True, "function": "f"}, [b"f = lambda x: x"]

    def encode(self, first, count):
        return [b"R", b"%x,1" % first]

    def all_of_it(self):
        outcomes = {}
        while True:
            arrival = self.take(support.SECONDS)
            if isinstance(arrival, Outcomes):
                outcomes.update(enumerate(arrival.values, arrival.first))
            else:
                return outcomes, arrival


class _Broken(_Fake):
    def encode(self, first, count):
        raise RuntimeError("a defect in a job")


class _Spy(object):
    """In place of a lock: counts who comes."""

    def __init__(self, lock):
        self._lock, self.entered = lock, 0

    def __enter__(self):
        self.entered += 1
        self._lock.acquire()

    def __exit__(self, *exc_info):
        self._lock.release()


def throw(error):
    raise error


class ClusterTest(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster("127.0.0.1", 0, keys.generate_key(b"k" * 32))
        self.addCleanup(self.cluster.stop)

    def test_before_start(self):
        self.assertRaises(StateError, self.cluster.workers)
        self.assertRaises(StateError, self.cluster.join_local)
        self.cluster.stop()

    def test_one_snapshot_has_what_people_are_told(self):
        self.cluster.start()
        number = self.cluster.submit(_Fake())
        other = self.cluster.submit(_Fake())
        found = self.cluster.snapshot()
        self.assertEqual([number, other], [job["id"] for job in found["jobs"]])
        for job, told in zip(found["jobs"], self.cluster.status().jobs):
            self.assertEqual(("job", 10, 0), (job["name"], job["total"], job["done"]))
            self.assertEqual([job[name] for name in told._fields if "seconds" not in name], [
                value for name, value in zip(told._fields, told) if "seconds" not in name])
        self.assertEqual([other], [job["id"] for job in self.cluster.snapshot([other])["jobs"]])
        self.assertEqual([], self.cluster.snapshot(())["jobs"])
        json.dumps(found)  # it is plain data
        for each in (number, other):
            self.cluster.cancel(each)
        self.cluster.join_local(1)
        (node,), (worker,) = self.cluster.snapshot()["nodes"], self.cluster.workers()
        self.assertEqual(worker, tuple(node[name] for name in worker._fields))
        self.assertEqual((1, os.getpid(), True), (worker.nprocs, worker.pid, worker.connected))

    def test_jobs_side_by_side(self):
        self.cluster.start()
        self.cluster.join_local()
        jobs = [_Fake() for _ in range(5)]
        numbers = [self.cluster.submit(job) for job in jobs]
        self.assertEqual(len(set(numbers)), 5)
        for job in jobs:
            self.assertEqual(job.all_of_it(), (dict((n, n) for n in range(10)), End(None)))
        self.assertEqual(self.cluster.snapshot()["jobs"], [])

    def test_each_job_has_a_number_of_its_own_whatever_thread_submits_it(self):
        code = sources.loaded.current()  # 2.7 looks at all modules each time
        with support.switching_often(), support.patched(self.cluster._loop, "call", lambda *event: None), support.patched(
            sources.loaded, "current", lambda: code
        ):
            threads = [support.Background(lambda: [self.cluster.submit(_Fake()) for _ in range(2000)]) for _ in range(4)]
            numbers = [number for thread in threads for number in thread.result()]
        self.assertEqual(8000, len(set(numbers)))

    def test_row_20_its_own_node_is_not_taken_for_lost(self):
        """It never came back: after a suspension, or 10 s in C code that keeps the interpreter's lock, nothing ran any more."""
        with support.patched(scheduler, "NODE_LOST_SECONDS", 0.2), support.patched(agent, "MASTER_LOST_SECONDS", 0.2):
            self.cluster.start()
            self.cluster.join_local()
            self.cluster._loop.call(time.sleep, 0.5)
            job = _Fake()
            self.cluster.submit(job)
            self.assertEqual(job.all_of_it(), (dict((n, n) for n in range(10)), End(None)))

    def test_cancelled(self):
        self.cluster.start()
        job = _Fake()
        self.cluster.cancel(self.cluster.submit(job))
        self.assertEqual(job.all_of_it(), ({}, End(None)))

    def test_jobs_hear_how_many_worker_processes_there_are(self):
        class Told(_Fake):
            total, closed = 0, False  # it goes on

            def __init__(self):
                super(Told, self).__init__()
                self.slots = []

            def slots_changed(self, slots):
                self.slots.append(slots)

        before, after = Told(), Told()
        self.cluster.start()
        self.cluster.submit(before)
        self.cluster.join_local(2)
        self.cluster.submit(after)
        self.cluster.settle()
        self.assertEqual(([0, 2], [2]), (before.slots, after.slots))
        self.cluster.leave_local()
        support.wait_until(lambda: before.slots[1:] == after.slots == [2, 0], what="the end of the worker processes")

    def test_stopped(self):
        self.cluster.start()
        waiting = _Fake()
        self.cluster.submit(waiting)
        self.cluster.stop()
        self.cluster.stop()
        outcomes, end = waiting.all_of_it()
        self.assertEqual(outcomes, {})
        self.assertIsInstance(end.error, StateError)
        self.assertRaises(StateError, self.cluster.workers)

    def test_a_job_that_cannot_be_sent_fails_alone(self):
        self.cluster.start()
        jobs = [_Fake(), _Broken(), _Fake()]
        for job in jobs:
            self.cluster.submit(job)
        self.cluster.join_local()
        first, broken, last = [job.all_of_it()[1].error for job in jobs]
        self.assertEqual((first, str(broken), last), (None, "a defect in a job", None))

    def test_what_fails_in_its_thread_is_the_askers(self):
        self.cluster.start()
        for error in (OSError(24, "no descriptor is left"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()):
            with self.assertRaises(type(error)) as caught:
                self.cluster._ask(throw, error)
            self.assertIs(error, caught.exception)
        self.assertEqual([], self.cluster.workers())

    def test_what_fails_there_and_was_asked_by_none_is_logged(self):
        self.cluster.start()
        with support.Log() as log:
            self.cluster._loop.call(throw, KeyboardInterrupt())
            self.cluster._loop.call(self.cluster._loop.later, 0.0, lambda: throw(SystemExit(3)))
            support.wait_until(lambda: len(log.having("please report this")) == 2)
        self.assertEqual([], self.cluster.workers())

    def test_it_cannot_be_asked_nor_waited_for_in_its_own_thread(self):
        """Garbage is collected there, and a __del__ method may do anything."""
        self.cluster.start()
        self.assertIn("in its own thread", str(mistake(self.cluster._ask, self.cluster.workers)))
        self.cluster._ask(self.cluster.stop)
        support.wait_until(lambda: not self.cluster._thread.is_alive(), what="the end")

    def test_joining_with_no_descriptor_left_fails_for_who_asked(self):
        self.cluster.start()
        node = support.RawNode(self.cluster.port, keys.generate_key(b"k" * 32)).join()
        self.addCleanup(node.socket.close)
        node.receive(protocol.Joined)
        with support.patched(Node, "open", lambda node: throw(OSError(24, "Too many open files"))):
            self.assertEqual(24, mistake(self.cluster.join_local).errno)
        self.assertEqual(1, len(self.cluster.workers()))
        self.cluster.join_local(1)
        self.assertEqual(2, len(self.cluster.workers()))

    def test_a_broken_invariant_ends_it_and_everybody_hears_why(self):
        self.cluster.start()
        waiting, late = _Fake(), _Fake()
        number = self.cluster.submit(waiting)  # no node is there
        with support.Log() as log:
            self.cluster._loop.call(self.cluster._event, scheduler.JobSubmitted(number, 1, leases.DEFAULTS))
            texts = [str(waiting.all_of_it()[1].error), str(mistake(self.cluster.workers))]
            self.cluster.submit(late)
            texts.append(str(late.all_of_it()[1].error))
            support.wait_until(lambda: log.having("please report this"))
        self.assertEqual(1, len(set(texts)), texts)
        self.assertIn("the master failed: InternalError: job %d is submitted twice" % number, texts[0])

    def test_an_error_inside_of_a_brain_is_a_broken_invariant(self):
        self.cluster.start()
        job = _Fake()
        self.cluster.submit(job)
        with support.Log():
            self.cluster._loop.call(self.cluster._event, scheduler.TimePassed)  # the class, in place of one
            error = job.all_of_it()[1].error
        self.assertIsInstance(error.__cause__, InternalError)
        self.assertIn("submitted", str(error))  # what happened before

    def test_two_ends_at_once_both_come_after_the_end(self):
        spy, order, close = _Spy(self.cluster._ending), [], self.cluster._library.close

        def slow_close():
            support.wait_until(lambda: spy.entered == 2, what="the second end")
            close()
            order.append("ended")

        def stop():
            self.cluster.stop()
            order.append("returned")

        self.cluster.start()
        self.cluster._ending, self.cluster._library.close = spy, slow_close
        for each in [support.Background(stop) for _ in range(2)]:
            each.result()
        self.assertEqual(["ended", "returned", "returned"], order)

    def test_row_57_what_handlers_of_the_log_do_holds_up_no_master(self):
        go, logger = threading.Event(), logging.getLogger("minimalcluster")
        raising, waiting = logging.Handler(), logging.Handler()
        raising.emit = lambda record: throw(KeyboardInterrupt())
        waiting.emit = lambda record: go.wait(support.SECONDS)
        self.cluster.start()
        with support.Log():  # at a level at which there is something to say
            for handler in (waiting, raising):
                logger.addHandler(handler)
                self.addCleanup(logger.removeHandler, handler)
                self.addCleanup(go.set)
                job = _Fake()
                self.cluster.submit(job)
                self.cluster.join_local(1)
                self.assertEqual(10, len(job.all_of_it()[0]))
                self.cluster.leave_local()
            go.set()
            with support.patched(sys, "stderr", io.StringIO()):
                logs.log.flush(support.SECONDS)
            for handler in (waiting, raising):
                logger.removeHandler(handler)

    def test_strangers_fill_no_log(self):
        self.cluster.start()
        with support.Log() as log:
            for number in range(1, 31):
                with contextlib.closing(socket.create_connection(("127.0.0.1", self.cluster.port))) as stranger:
                    stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
                support.wait_until(lambda: self.cluster._strangers == number, what="a refusal")  # noqa: B023
            self.assertEqual(20, len(log.having("was refused: ")))
            self.cluster._loop.call(self.cluster._count_strangers)
            support.wait_until(lambda: log.having("10 more connections were refused"))


class SizeTest(unittest.TestCase):
    """Row 10: what is larger than the limit is its own task's error, in a chunk of any size."""

    LIMIT = 1 << 16
    SOURCE = """
size = len
def make(n):
    from minimalcluster.wire import handshakes, keys, protocol
    protocol.OBJECT_BYTES_MAX = 1 << 16
    return b"x" * n
"""

    def run_with(self, name, arguments, culprit):
        before, protocol.OBJECT_BYTES_MAX = protocol.OBJECT_BYTES_MAX, self.LIMIT
        try:
            with MasterNode(PORT=0) as master:
                master.start_master_server()
                for chunksize in (None, 7, 1):
                    with self.assertRaises(TaskError) as caught:
                        support.run(master, self.SOURCE, name, arguments, chunksize=chunksize)
                    self.assertEqual(list(caught.exception.errors), [culprit])
                    self.assertIsInstance(caught.exception.errors[culprit], FrameTooLarge)
                    self.assertEqual(len(caught.exception.results), len(arguments) - 1)
        finally:
            protocol.OBJECT_BYTES_MAX = before

    def test_row_10_argument_over_the_limit(self):
        arguments = [(n, b"x" * 20000) for n in range(20)] + [(99, b"y" * 100000)] + [(n, b"z" * 20000) for n in range(20)]
        self.run_with("size", arguments, arguments[20])

    def test_row_10_result_over_the_limit(self):
        self.run_with("make", [10, 200000, 20] + list(range(20000, 20020)), 200000)


if __name__ == "__main__":
    unittest.main()
