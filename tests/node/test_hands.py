"""The base of all nodes: each effect of an agent has its method."""
from __future__ import absolute_import, division, print_function

import ast
import inspect
import sys
import unittest

from minimalcluster.brain import agent
from minimalcluster.node import hands, worker
from minimalcluster.node.node import Node
from minimalcluster.wire import checks, protocol
from tests import simulated_node

NODES, WORKERS = [Node, simulated_node.Node], [worker.Worker, simulated_node.Child]
if sys.version_info >= (3, 6):
    from minimalcluster.engines.cluster import EngineNode

    NODES.append(EngineNode)
    WORKERS.append(EngineNode)
CHILD_SAYS = [
    protocol.Done(0, 1, 0, 1, 5, [b"P", b""]), protocol.Failed(0, 1, 0, 5, {}, []), protocol.Released(0, 1, 0),
    protocol.Unfit(0, 1, 0, {}), protocol.Fetch(1, {"what": "module", "name": "m"}), protocol.Leaving(), protocol.Begun(1),
    protocol.Helpers({"pids": [1]}),
]  # fmt: skip


def effects_in_the_source():
    """What agent.py passes to ``_do``."""
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(agent))) if isinstance(node, ast.Call)]
    done = [call.args[0] for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "_do"]
    return {getattr(agent, each.func.id) for each in done}


def methods_of(kind, names):
    """Those that do not only say that they are missing."""
    found = [getattr(kind, name, None) for name in names]
    codes = [getattr(each, "__func__", each).__code__ for each in found if each is not None]
    return [code.co_name for code in codes if "NotImplementedError" not in code.co_names]


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


class TablesTest(unittest.TestCase):
    """A new message or effect is in the tables, or these fail; and whoever is a node has a method for it."""

    def test_each_effect_has_a_method_in_each_node_and_in_the_simulation(self):
        self.assertEqual(effects_in_the_source(), set(hands.EFFECTS))
        for kind in NODES:
            self.assertEqual(sorted(hands.EFFECTS.values()), sorted(methods_of(kind, hands.EFFECTS.values())))

    def test_the_agent_takes_all_that_a_master_may_say(self):
        said = {kind for kind, row in checks._ROWS.items() if checks.MASTER in row.by}
        self.assertEqual(said, set(agent.Agent(1, {})._said))
        # Of that, all but what is about the link goes on to worker processes.
        self.assertEqual(said - {protocol.Joined, protocol.Acknowledge}, set(worker.READ) | set(worker.SERVED))

    def test_whoever_is_a_worker_process_has_a_method_for_each_message(self):
        names = sorted(list(worker.READ.values()) + list(worker.SERVED.values()))
        for kind in WORKERS:
            self.assertEqual(names, sorted(methods_of(kind, names)))

    def test_the_agent_takes_all_that_a_worker_process_may_say(self):
        said = {kind for kind, row in checks._ROWS.items() if checks.CHILD in row.by}
        self.assertEqual(said, {type(message) for message in CHILD_SAYS})
        for message in CHILD_SAYS:
            node = agent.Agent(1, {"id": "1"})
            for event in (
                agent.LinkUp(), agent.MasterSaid(protocol.Joined({})), agent.TimePassed(), agent.ChildReady(0),
                agent.MasterSaid(protocol.DefineJob(7, {}, [])), agent.MasterSaid(protocol.Grant(1, 7, 0, 2, 0, [b"P"])),
            ):  # fmt: skip
                node.handle(event, 10.0)
            effects = node.effects_of(agent.ChildSaid(0, message), 10.0)
            if type(message) not in (protocol.Helpers, protocol.Begun, protocol.Leaving):  # these only change something
                self.assertEqual([agent.ToMaster], [type(effect) for effect in effects])
            node.validate()


class HandsTest(unittest.TestCase):
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
