"""What a member may say: each field of each message, one by one and at random; and what the brains make of what passes."""
from __future__ import absolute_import, division, print_function

import unittest
from random import Random

from minimalcluster.wire import checks, protocol
from minimalcluster.brain import agent, leases, scheduler
from minimalcluster.master.sessions import OUTCOMES
from minimalcluster.errors import ProtocolError
from tests import odd_messages, support
from tests.odd_messages import INFINITY

_TOLD = {"type": "ValueError", "text": "t", "traceback": "tb", "pickled": True, "notes": ["n"], "chain": [{"type": "K", "how": "cause"}]}
#: One good message of each kind.
GOOD = [
    protocol.Join({"id": "ab", "slots": 2, "held": [7], "hostname": "h", "pid": 1, "python": "3.6.1", "platform": "L", "shared": ["s"]}),
    protocol.Heartbeat({"starting": 1, "trouble": "t", "held": [], "stuck": 8.0}),
    protocol.Done(1, 2, 3, 2, 5, [b"P", b"pickle"]),
    protocol.Done(1, 2, 3, 2, 5, [b"E", b"one", b"two"]),
    protocol.Failed(1, 2, 3, 4, dict(_TOLD), [b"pickle"]),
    protocol.Released(1, 2, 3),
    protocol.Died(1, 2, 3, {"exit": "code 1", "lines": ["l"], "memory": True, "peak_memory": 5}),
    protocol.Unfit(1, 2, 3, dict(_TOLD)),
    protocol.Output({"pid": 1, "stream": "stderr", "text": "t"}),
    protocol.Fetch(1, {"what": "share", "name": "n", "pickle": 5}),
    protocol.Leaving(),
    protocol.Begun(1),
    protocol.Helpers({"pids": [7]}),
    protocol.DefineJob(1, {"kind": "source", "timeout": 1.5, "leave_after": 2, "served": 3}, [b"source"]),
    protocol.Grant(1, 2, 3, 4, 1, [b"R", b"0,1"]),
    protocol.Revoke(1, 1),
    protocol.ForgetJob(1),
    protocol.Acknowledge(1),
    protocol.Joined({"epoch": 1}),
    protocol.Farewell({"left": True, "draining": True, "refused": "r", "at_once": True}),
    protocol.Fetched(1, {"found": True, "error": "e", "names": ["n"], "path": "p", "sizes": [1]}, [b"data"]),
    protocol.Drop({"name": "n"}),
]
JUNK = [None, True, False, 0, 1, -1, 2**63 - 1, 2**64, -(2**64), 10**9, 1.5, -0.5, INFINITY, -INFINITY, float("nan"), u"", u"x", u"\udc80", [], [5], ["x"], [None], {}, {"a": 1}, [[]], [{}]]  # fmt: skip


def speakers(message):
    return [speaker for speaker in (checks.NODE, checks.MASTER, checks.CHILD) if speaker in vars(checks)["_ROWS"][type(message)].by]


def passes(message):
    try:
        checks.check(message, speakers(message)[0])
    except ProtocolError:
        return False
    return True


class Fields(unittest.TestCase):
    def test_every_kind_has_its_row_and_a_good_one_passes(self):
        self.assertEqual(set(vars(protocol)["_LAYOUTS"]), set(vars(checks)["_ROWS"]))
        self.assertEqual(set(vars(protocol)["_LAYOUTS"]), set(map(type, GOOD)))
        for message in GOOD:
            for speaker in speakers(message):
                checks.check(message, speaker)

    def test_nobody_says_what_is_anothers(self):
        for message in GOOD:
            for speaker in {checks.NODE, checks.MASTER, checks.CHILD}.difference(speakers(message)):
                self.assertIn(type(message).__name__ + " from " + speaker, str(support.mistake(checks.check, message, speaker)))

    def test_each_odd_field_is_named(self):
        for message in GOOD:
            for change in odd_messages.ODD.get(type(message), ()):
                odd = odd_messages.made_odd(message, change)
                error = support.mistake(checks.check, odd, speakers(message)[0])
                self.assertIsInstance(error, ProtocolError)
                self.assertIn("malformed " + type(message).__name__, str(error))
                if change[0] != "payload":
                    self.assertIn(change[0], str(error))

    def test_a_field_that_is_needed_and_missing_is_named(self):
        for name in ("id", "slots", "held"):
            info = dict(GOOD[0].info)
            del info[name]
            self.assertIn("no " + name, str(support.mistake(checks.check, protocol.Join(info), checks.NODE)))

    def test_unknown_fields_are_fine(self):
        for message in GOOD:
            if "info" in message._fields:
                self.assertTrue(passes(message._replace(info=dict(message.info, news=[INFINITY]))))

    def test_results_are_counted(self):
        for count, buffers in ((1, []), (1, [b"P"]), (2, [b"E", b"x"]), (1, [b"E", b"x", b"y"]), (1, [b"?", b"x"]), (1, [b"P", b"x", b"y"])):
            self.assertFalse(passes(protocol.Done(1, 2, 3, count, 5, buffers)), (count, buffers))

    def test_a_limit_without_an_end_is_one(self):
        self.assertTrue(passes(protocol.DefineJob(1, {"timeout": INFINITY}, [])))


class Random_(unittest.TestCase):
    """A field of a good message becomes junk: it is refused, or every brain and hand can take it."""

    def messages(self, seed, count, kinds):
        draw = Random(seed).random
        good = [message for message in GOOD if type(message) in kinds]
        for _ in range(count):
            message = good[int(draw() * len(good))]
            for _ in range(1 + int(draw() * 2)):
                message = self.changed(message, draw)
            yield message

    def changed(self, message, draw):
        junk = JUNK[int(draw() * len(JUNK))]
        name = message._fields[int(draw() * len(message._fields))] if message._fields else None
        if name == "info":
            keys = sorted(message.info)
            return message._replace(info=dict(message.info, **{keys[int(draw() * len(keys))]: junk})) if keys else message
        if name == "payload":
            return message._replace(payload=[[], [b"P"], [b"E", b"x"], [b"P", b"no pickle"], [b""]][int(draw() * 5)])
        if name is not None and isinstance(junk, int):  # the wire has whole numbers of 64 bits
            return message._replace(**{name: max(-(2**63), min(junk, 2**63 - 1)) if draw() < 0.5 else int(draw() * 8)})
        return message

    def test_what_passes_from_nodes_the_scheduler_can_take(self):
        taken = 0
        kinds = (protocol.Done, protocol.Failed, protocol.Released, protocol.Died, protocol.Unfit, protocol.Join, protocol.Heartbeat)
        for seed in range(60):
            brain, now, session = scheduler.Scheduler(1), 0.0, 2
            options = leases.DEFAULTS._replace(chunksize=1 + seed % 5, retries=seed % 3, idempotent=seed % 2 == 0)
            brain.handle(scheduler.JobSubmitted(1, 40, options), now)
            for node in (1, 2):
                brain.handle(scheduler.NodeJoined("n%d" % node, node, 2, "n", []), now)
            brain.handle(scheduler.TimePassed(), now)
            attempts = sorted(vars(brain)["_attempts"])
            sessions = {"n1": 1, "n2": 2}
            for number, message in enumerate(self.messages(seed, 60, kinds)):
                node = "n%d" % (1 + number % 2)
                if "attempt" in message._fields and message.attempt < 5:  # aimed at what there is
                    message = message._replace(attempt=attempts[number % len(attempts)])
                if not passes(message):
                    continue
                taken, now = taken + 1, now + 0.01
                if type(message) is protocol.Join:
                    session += 1
                    held = message.info["held"] + attempts[number % len(attempts) :]  # also what the other has
                    sessions[node] = session
                    event = scheduler.NodeJoined(node, session, message.info["slots"], "n", held)
                elif type(message) is protocol.Heartbeat:
                    event = scheduler.NodeHeard(node, sessions[node])
                else:
                    event = OUTCOMES[type(message)](node, sessions[node], message)
                for each in (event, scheduler.TimePassed()):
                    brain.effects_of(each, now)
                    brain.validate()
                attempts = sorted(vars(brain)["_attempts"]) or attempts
        self.assertLess(1000, taken)

    def test_what_passes_from_masters_and_worker_processes_the_agent_can_take(self):
        taken = 0
        said = (protocol.Done, protocol.Failed, protocol.Released, protocol.Unfit, protocol.Fetch, protocol.Leaving, protocol.Begun, protocol.Helpers)
        asked = (
            protocol.DefineJob, protocol.Grant, protocol.Revoke, protocol.ForgetJob, protocol.Acknowledge, protocol.Fetched, protocol.Drop,
        )  # fmt: skip
        for seed in range(60):
            brain, now = agent.Agent(2, {"id": "ab"}), 0.0
            ready = [agent.LinkUp(), agent.MasterSaid(protocol.Joined({})), agent.TimePassed(), agent.ChildReady(0), agent.ChildReady(1)]
            ready += [agent.MasterSaid(protocol.DefineJob(job, {}, [])) for job in range(4)]
            ready += [agent.MasterSaid(protocol.Grant(attempt, 1, 0, 4, 0, [b"R", b"0,1"])) for attempt in range(4)]
            for event in ready:
                brain.handle(event, now)
            for number, message in enumerate(self.messages(seed, 100, said + asked)):
                speaker, event = (checks.CHILD, agent.ChildSaid(number % 2, message)) if type(message) in said else (checks.MASTER, agent.MasterSaid(message))  # fmt: skip
                try:
                    checks.check(message, speaker)
                except ProtocolError:
                    continue
                taken, now = taken + 1, now + 0.01
                for each in (event, agent.TimePassed()):
                    brain.effects_of(each, now)
                    brain.validate()
        self.assertLess(1000, taken)


if __name__ == "__main__":
    unittest.main()
