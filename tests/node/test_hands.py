"""The base of all nodes: each effect of an agent has its method."""
from __future__ import absolute_import, division, print_function

import ast
import inspect
import unittest

from minimalcluster.brain import agent
from minimalcluster.node import hands
from minimalcluster.node.node import Node
from minimalcluster.wire import protocol


def effects_in_the_source():
    """What agent.py passes to ``_do``."""
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(agent))) if isinstance(node, ast.Call)]
    done = [call.args[0] for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "_do"]
    return {getattr(agent, each.func.id) for each in done}


class Spare(object):
    """A loop that only spares."""

    def spare(self, function, argument, failed):
        try:
            function(argument)
        except ValueError as error:
            failed(argument, error)


class Recorder(hands.Hands):
    """It starts no process, but notes what it is asked for."""

    def __init__(self):
        self.sent, self.started = [], []
        super(Recorder, self).__init__(Spare(), 2, {"id": "1"}, self.sent.append, None, None)

    def start_child(self, effect):
        self.started.append(effect.slot)
        if len(self.started) == 1:
            raise ValueError("no process left")
        self.tell(agent.ChildReady(effect.slot))


class HandsTest(unittest.TestCase):
    def test_each_effect_has_a_method(self):
        self.assertEqual(effects_in_the_source(), set(hands.EFFECTS))
        for name in hands.EFFECTS.values():
            for kind in (hands.Hands, Node):
                self.assertTrue(callable(getattr(kind, name)))

    def test_a_step_handles_what_it_was_told_and_the_time(self):
        recorder = Recorder()
        recorder.tell(agent.LinkUp())
        self.assertEqual(0.0, recorder.deadline())
        recorder.step(10.0)
        self.assertEqual([protocol.Join], [type(message) for message in recorder.sent])
        self.assertEqual(10.0 + agent.HEARTBEAT_SECONDS, recorder.deadline())

    def test_an_effect_that_fails_does_not_keep_the_others_from_being_carried_out(self):
        recorder = Recorder()
        recorder.tell(agent.LinkUp())
        recorder.tell(agent.MasterSaid(protocol.Joined({"epoch": 1})))
        recorder.step(10.0)
        self.assertEqual([0, 1], recorder.started)
        self.assertEqual(["starting", "starting"], [slot["state"] for slot in recorder.snapshot()["slots"]])
        recorder.step(10.0)
        self.assertEqual(["starting", "idle"], [slot["state"] for slot in recorder.snapshot()["slots"]])


if __name__ == "__main__":
    unittest.main()
