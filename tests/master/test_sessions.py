"""The part of a master that is about its nodes: its tables, which the simulation uses as well, and what it says when."""
from __future__ import absolute_import, division, print_function

import ast
import inspect
import unittest

from minimalcluster import errors
from minimalcluster.brain import scheduler
from minimalcluster.master import cluster, sessions
from minimalcluster.wire import checks, protocol
from tests.simulated_master import Master


def effects_in_the_source():
    """What scheduler.py and ledger.py pass to ``_do``."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(scheduler))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "_do":
            names = [each.func.id for each in ast.walk(node) if isinstance(each, ast.Call) and hasattr(each.func, "id")]
            found.update(vars(scheduler)[name] for name in names if name in vars(scheduler))
    return {each for each in found if isinstance(each, type) and issubclass(each, tuple)}


def is_missing(method):
    return "NotImplementedError" in method.__code__.co_names


class Tables(unittest.TestCase):
    """A new message or effect is in the tables, or these fail; and each master has a method for it."""

    def test_all_that_a_node_may_say(self):
        said = {kind for kind, row in checks._ROWS.items() if checks.NODE in row.by}
        self.assertEqual(said, set(sessions.SAID))

    def test_all_effects_of_the_scheduler(self):
        self.assertEqual(effects_in_the_source(), set(sessions.EFFECTS))

    def test_all_reports(self):
        reports = {kind for kind in sessions.SAID if "report" in kind._fields}
        self.assertEqual(reports, set(sessions.OUTCOMES))
        self.assertEqual({"_outcome"}, {sessions.SAID[kind] for kind in reports})

    def test_the_cluster_and_the_simulation_have_a_method_for_each(self):
        for master in (cluster.Cluster, Master):
            for name in list(sessions.SAID.values()) + list(sessions.EFFECTS.values()) + ["_event"]:
                method = getattr(master, name)
                self.assertFalse(is_missing(getattr(method, "__func__", method)), "%s.%s" % (master.__name__, name))


class Recorder(sessions.Sessions):
    def __init__(self):
        self.events, self.errands = [], []
        super(Recorder, self).__init__(7, None, lambda *errand: self.errands.append(errand))

    def _event(self, event):
        self.events.append(event)


class Peer(sessions.Session):
    def __init__(self, number):
        self.heard, self.ended = [], []
        super(Peer, self).__init__(number, self.heard.append, "elsewhere", self.ended.append)


class Job(object):
    journal = "its journal"


def join(held=()):
    return protocol.Join({"id": "a", "slots": 2, "held": list(held), "hostname": "h", "pid": 1})


class SessionsTest(unittest.TestCase):
    def setUp(self):
        self.master = Recorder()

    def joined(self, number=1):
        peer = Peer(number)
        self.master._said(peer, join())
        self.master._admit(scheduler.Admit("a", number))
        return peer

    def test_nobody_says_anything_before_the_scheduler_has_admitted_it(self):
        peer = Peer(1)
        self.master._said(peer, protocol.Heartbeat({}))
        self.assertIsInstance(peer.ended[0], errors.ProtocolError)
        self.assertEqual([], self.master.events)

    def test_a_second_join_ends_the_session(self):
        peer = self.joined()
        self.master._said(peer, join())
        self.assertIsInstance(peer.ended[0], errors.ProtocolError)

    def test_a_newer_connection_of_a_node_replaces_the_older_one_whichever_speaks_first(self):
        older, newer = self.joined(1), Peer(2)
        self.master._said(newer, join())
        self.assertEqual(1, len(older.ended))
        late = Peer(1)
        self.master._said(late, join())
        self.assertEqual(1, len(late.ended))
        self.assertIs(newer, self.master._sessions["a"])

    def test_a_report_is_acknowledged_when_it_is_delivered(self):
        peer = self.joined()
        self.master._said(peer, protocol.Released(3, 1, 0))
        self.master._acknowledge(10.0)
        self.assertEqual(protocol.Acknowledge(3), peer.heard[-1])
        self.master._acknowledge(10.0)
        self.assertEqual(2, len(peer.heard))

    def test_with_a_journal_it_is_acknowledged_when_that_is_on_the_disk(self):
        peer = self.joined()
        self.master._jobs[1] = Job()
        self.master._said(peer, protocol.Released(3, 1, 0))
        self.assertIs(self.master._jobs[1], self.master._job_of_outcome(1))
        self.master._acknowledge(10.0)
        self.master._said(peer, protocol.Released(4, 1, 0))
        self.master._acknowledge(10.0)
        self.assertEqual([protocol.Joined], [type(message) for message in peer.heard])
        self.master._synced()
        self.assertEqual(protocol.Acknowledge(3), peer.heard[-1])
        self.assertEqual(1, len(self.master.errands))

    def test_all_nodes_hear_something_every_few_seconds(self):
        peer = self.joined()
        self.master._beat(10.0)
        self.master._beat(10.0 + sessions.BEAT_SECONDS / 2)
        self.assertEqual([protocol.Joined, protocol.Acknowledge], [type(message) for message in peer.heard])
        self.assertIn(10.0 + sessions.BEAT_SECONDS, self.master._moments())

    def test_what_a_node_says_of_its_starting_processes_is_told_once(self):
        peer = self.joined()
        for _ in range(2):
            self.master._said(peer, protocol.Heartbeat({"starting": 1, "trouble": "no memory"}))
        kinds = [type(event) for event in self.master.events[1:]]
        self.assertEqual([scheduler.NodeStarting, scheduler.NodeHeard, scheduler.NodeHeard], kinds)


if __name__ == "__main__":
    unittest.main()
