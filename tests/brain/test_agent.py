"""The node's brain: every rule, and every event in every state."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster.brain import agent as a
from minimalcluster.wire import protocol as p
from minimalcluster.errors import InternalError
from tests import support
from tests.support import only

JOB = 5
DEFINITION = p.DefineJob(JOB, {}, [b"source"])


def said(effects):
    """What the master hears."""
    return [effect.message for effect in effects if type(effect) is a.ToMaster]


def told(effects, slot=None):
    """What worker processes hear."""
    return [effect.message for effect in effects if type(effect) is a.ToChild and slot in (None, effect.slot)]


class Node(object):
    """An agent under a hand-held clock. Every method returns the effects."""

    def __init__(self, slots=1):
        self.brain = a.Agent(slots, {"id": "n", "hostname": "h"})
        self.slots = slots
        self.now = 50.0

    def do(self, event):
        effects = self.brain.handle(event, self.now)
        self.brain.validate()
        return effects

    def tick(self, seconds=0.0):
        self.now += seconds
        return self.do(a.TimePassed())

    def wait(self, seconds):
        """As a shell does: time passes from one deadline to the next."""
        effects, until = [], self.now + seconds
        while self.now < until:
            due = self.brain.deadline()
            effects += self.tick(until - self.now if due is None else min(max(0.0, due - self.now), until - self.now))
        return effects

    def master(self, message):
        return self.do(a.MasterSaid(message))

    def child(self, message, slot=0):
        return self.do(a.ChildSaid(slot, message))

    def exit(self, slot=0, how="signal 9"):
        return self.do(a.ChildExited(slot, {"exit": how, "lines": []}))

    def join(self):
        return self.do(a.LinkUp()) + self.master(p.Joined({}))

    def ready(self):
        """Joined, every worker process idle, the job defined."""
        self.join()
        self.tick()
        for slot in range(self.slots):
            self.do(a.ChildReady(slot))
        self.master(DEFINITION)
        return self

    def grant(self, attempt, first=0, count=4, job=JOB):
        return self.master(p.Grant(attempt, job, first, count, 0, [b"arguments"]))

    def done(self, attempt, first, count, slot=0):
        return self.child(p.Done(0, attempt, first, count, 1000, [b"results"]), slot)

    def release(self, attempt, first, slot=0):
        return self.child(p.Released(0, attempt, first), slot)

    def held(self):
        """What a heartbeat tells."""
        return self.brain._all_held()

    def states(self):
        return [slot["state"] for slot in self.brain.snapshot()["slots"]]


class AgentTest(unittest.TestCase):
    def node(self, slots=1):
        return Node(slots).ready()


class ExclusiveTest(AgentTest):
    def exclusive(self, node, attempt):
        return node.master(p.Grant(attempt, JOB, 0, 1, p.EXCLUSIVE, [b"arguments"]))

    def begun(self, effects):
        return [effect.message.attempt for effect in only(a.ToChild, effects) if isinstance(effect.message, p.Grant)]

    def test_it_begins_when_nothing_runs_and_nothing_begins_beside_it(self):
        node = self.node(3)
        self.assertEqual([1], self.begun(node.grant(1)))
        self.assertEqual([], self.begun(self.exclusive(node, 2)))
        self.assertEqual([], self.begun(node.grant(3)))
        self.assertEqual([2], self.begun(node.done(1, 0, 4)))
        self.assertEqual([], self.begun(node.grant(4)))
        self.assertEqual([3, 4], self.begun(node.done(2, 0, 1, slot=node.brain._held[2].slot.number)))

    def test_others_begin_when_it_dies_or_is_taken_back(self):
        node = self.node(2)
        self.exclusive(node, 1)
        node.grant(2)
        self.assertEqual([2], self.begun(node.do(a.ChildExited(0, {"exit": "signal 9"}))))
        self.exclusive(node, 3)
        node.tick()
        node.do(a.ChildReady(0))
        node.grant(4)
        self.assertEqual([4], self.begun(node.master(p.Revoke(3, 0))))


class LinkTest(AgentTest):
    def test_joining_tells_slots_and_what_is_held(self):
        node = Node(2)
        join, = said(node.do(a.LinkUp()))
        self.assertEqual(join, p.Join({"id": "n", "hostname": "h", "slots": 2, "held": [], "shared": []}))
        self.assertEqual(node.tick(), [])  # no process before the master has taken us in
        node.master(p.Joined({}))
        self.assertEqual(node.tick(), [a.StartChild(0), a.StartChild(1)])

    def test_heartbeats_list_what_is_held(self):
        node = self.node()
        node.grant(1)
        node.grant(2)
        self.assertAlmostEqual(node.brain.deadline(), node.now + a.HEARTBEAT_SECONDS)
        self.assertEqual(said(node.tick(a.HEARTBEAT_SECONDS)), [p.Heartbeat({"held": [1, 2]})])
        self.assertEqual(node.tick(), [])

    def test_heartbeats_tell_of_worker_processes_that_are_not_there(self):
        node = Node(2)
        node.join()
        node.tick()
        self.assertEqual(said(node.tick(a.HEARTBEAT_SECONDS)), [p.Heartbeat({"held": [], "starting": 2, "trouble": ""})])
        node.do(a.ChildExited(0, {"exit": "exit code 1", "lines": ["no room" * 100]}))
        beat, = said(node.tick(a.HEARTBEAT_SECONDS))
        self.assertEqual(beat.info["starting"], 2)
        self.assertEqual((beat.info["trouble"][:20], len(beat.info["trouble"])), ("exit code 1: no room", a.TROUBLE_MAX))
        for slot in range(2):
            node.do(a.ChildReady(slot))
        self.assertEqual(said(node.tick(a.HEARTBEAT_SECONDS)), [p.Heartbeat({"held": []})])

    def test_row_33_what_was_given_back_is_told_to_the_next_master_too(self):
        """The old one knew; the new one adopts the whole attempt, and would wait for the rest for ever."""
        node = self.node()
        node.grant(1, 0, 4)
        released, = said(node.release(1, 2))
        node.master(p.Acknowledge(1))
        node.do(a.LinkDown())
        self.assertEqual(said(node.join())[1:], [released])
        done, = said(node.done(1, 0, 2))
        node.master(p.Acknowledge(1))
        node.do(a.LinkDown())
        self.assertEqual(said(node.join())[1:], [released, done])
        node.master(p.Acknowledge(2))
        self.assertEqual(node.brain.snapshot()["reports"], [])

    def test_reports_are_kept_until_acknowledged_and_sent_again_in_order(self):
        node = self.node()
        node.grant(1)
        reports = [said(node.done(1, first, 1))[0] for first in range(3)]
        self.assertEqual([report.report for report in reports], [1, 2, 3])
        node.master(p.Acknowledge(1))
        node.do(a.LinkDown())
        self.assertEqual(said(node.done(1, 3, 1)), [])  # nobody is there
        join, = said(node.do(a.LinkUp()))
        self.assertEqual(join.info["held"], [1])  # finished, but not acknowledged
        self.assertEqual(said(node.tick(1.0)), [])  # not before the master has answered
        again = said(node.master(p.Joined({})))
        self.assertEqual(again[:2], reports[1:])
        self.assertEqual(again[2], p.Done(4, 1, 3, 1, 1000, [b"results"]))
        node.master(p.Acknowledge(4))
        self.assertEqual(node.held(), [])

    def test_a_silent_master_is_dropped(self):
        node = self.node()
        node.tick(a.MASTER_LOST_SECONDS - 1)
        node.master(p.Acknowledge(0))
        self.assertEqual(only(a.DropLink, node.tick(a.MASTER_LOST_SECONDS - 1)), [])
        self.assertEqual(len(only(a.DropLink, node.tick(1.0))), 1)
        self.assertGreater(node.brain.deadline(), node.now)

    def test_work_goes_on_without_a_master_and_is_offered_again(self):
        node = self.node()
        node.grant(1, 0, 2)
        node.grant(2, 2, 2)
        node.do(a.LinkDown())
        node.done(1, 0, 2)
        node.tick(a.ALONE_SECONDS - 1)
        self.assertEqual(node.states(), ["running"])  # the second one
        join, = said(node.do(a.LinkUp()))
        self.assertEqual(join.info["held"], [1, 2])

    def test_alone_for_too_long_everything_is_dropped(self):
        node = self.node()
        for attempt in (1, 2):
            node.grant(attempt, 4 * attempt)
        node.done(1, 4, 1)
        node.do(a.LinkDown())
        effects = node.tick(a.ALONE_SECONDS)
        self.assertEqual(only(a.KillChild, effects), [a.KillChild(0)])
        self.assertEqual(len(only(a.Warn, effects)), 1)
        self.assertGreater(node.brain.deadline(), node.now)
        # Connected again before the process is gone: nothing will come of what it ran.
        self.assertEqual(said(node.do(a.LinkUp()))[0].info["held"], [])
        self.assertEqual(said(node.master(p.Joined({})) + node.exit()), [])
        self.assertEqual(node.brain.snapshot()["held"], [])
        self.assertEqual(node.tick(), [a.StartChild(0)])

    def test_a_message_no_master_sends_drops_the_link(self):
        node = self.node()
        self.assertEqual([type(effect) for effect in node.master(p.Join({}))], [a.DropLink])

    def test_farewell_ends_the_node_and_its_processes(self):
        node = self.node(2)
        node.grant(1)
        effects = node.master(p.Farewell({}))
        leave = a.ToChild(1, p.Farewell({}))  # it has nothing to do: it may run its exit handlers
        self.assertEqual(effects, [a.KillChild(0), leave, a.Finished("the master shut down", None)])
        node.do(a.ChildExited(0, {"exit": "killed"}))
        self.assertEqual(node.tick(a.LEAVE_SECONDS - 0.1), [])
        self.assertEqual(node.tick(0.2), [a.KillChild(1)])
        node.do(a.ChildExited(1, {"exit": "killed"}))
        self.assertEqual((node.tick(100.0), node.brain.deadline()), ([], None))
        in_haste = self.node(2)
        effects = in_haste.master(p.Farewell({"at_once": True}))
        self.assertEqual(effects, [a.KillChild(0), a.KillChild(1), a.Finished("the master shut down", None)])
        refused = Node()
        refused.do(a.LinkUp())
        self.assertEqual(refused.master(p.Farewell({"refused": "2 and 3"}))[-1].refused, "2 and 3")


class WorkTest(AgentTest):
    def test_grants_go_to_idle_slots_oldest_first(self):
        node = self.node(2)
        self.assertEqual(told(node.grant(1), 0), [DEFINITION, p.Grant(1, JOB, 0, 4, 0, [b"arguments"])])
        self.assertEqual(len(told(node.grant(2), 1)), 2)
        self.assertEqual(node.grant(3) + node.grant(4), [])
        effects = node.done(2, 0, 4, slot=1)
        self.assertEqual([message.attempt for message in told(effects, 1)], [3])  # the job is known there
        self.assertEqual(node.held(), [1, 2, 3, 4])  # 2 is not acknowledged

    def test_a_grant_twice_is_held_once(self):
        node = self.node()
        node.grant(1)
        self.assertEqual(node.grant(1), [])

    def test_results_become_reports_as_they_come(self):
        node = self.node()
        node.grant(1)
        self.assertEqual(said(node.done(1, 0, 2)), [p.Done(1, 1, 0, 2, 1000, [b"results"])])
        failed = p.Failed(0, 1, 2, 500, {"text": "no"}, [])
        self.assertEqual(said(node.child(failed)), [failed._replace(report=2)])
        self.assertEqual(node.states(), ["running"])
        node.done(1, 3, 1)
        self.assertEqual(node.states(), ["idle"])

    def test_words_of_an_attempt_that_is_not_held_are_dropped(self):
        node = self.node(2)
        node.grant(1)
        for message in (p.Done(0, 9, 0, 1, 1, []), p.Released(0, 9, 0), p.Unfit(0, 9, 0, {})):
            self.assertEqual(node.child(message), [])
        self.assertEqual(node.done(1, 0, 1, slot=1), [])  # of another slot

    def test_row_65_what_tasks_print_is_passed_on_or_waits_for_the_master(self):
        node = self.node()
        output = p.Output({"pid": 1, "stream": "stdout", "text": "x\n"})
        self.assertEqual(said(node.child(output)), [output])
        node.do(a.LinkDown())
        self.assertEqual(node.child(output), [])
        self.assertEqual(said(node.join())[1:], [output])
        node.do(a.LinkDown())
        self.assertEqual(said(node.join())[1:], [])  # once

    def test_what_tasks_print_while_the_master_is_away_is_bounded_and_what_is_lost_is_said(self):
        node = self.node()
        node.do(a.LinkDown())
        texts = ["x" * (a.UNSAID_CHARACTERS_MAX - 1) + "\n", "1\n2\n", "3\n"]
        for text in texts:
            node.child(p.Output({"pid": 1, "stream": "stdout", "text": text}))
        kept, word = said(node.join())[1:]
        self.assertEqual(texts[0], kept.info["text"])
        self.assertIn("3 lines dropped", word.info["text"])
        self.assertEqual("stderr", word.info["stream"])

    def test_an_unfit_job_frees_the_slot(self):
        node = self.node()
        node.grant(1)
        node.grant(2)
        effects = node.child(p.Unfit(0, 1, 0, {"text": "no numpy"}))
        self.assertEqual(said(effects), [p.Unfit(1, 1, 0, {"text": "no numpy"})])
        self.assertEqual([message.attempt for message in told(effects)], [2])

    def test_a_job_is_forgotten_where_it_is_known(self):
        node = self.node(2)
        node.grant(1)
        self.assertEqual(node.master(p.ForgetJob(JOB)), [a.ToChild(0, p.ForgetJob(JOB)), a.LookBehind(0)])
        self.assertEqual(node.master(p.ForgetJob(JOB)), [])

    def test_a_job_that_ended_while_the_link_was_down_is_forgotten(self):
        node = self.node()
        node.grant(1)
        node.done(1, 0, 4)
        node.do(a.LinkDown())
        node.join()
        self.assertEqual(told(node.tick()), [p.ForgetJob(JOB)])
        self.assertEqual(node.brain.snapshot()["jobs"], [])

    def test_a_job_that_goes_on_when_the_link_is_up_again_is_kept(self):
        node = self.node()
        node.do(a.LinkDown())
        node.do(a.LinkUp())
        node.master(DEFINITION)  # comes before Joined
        node.master(p.Joined({}))
        node.tick()
        self.assertEqual(node.brain.snapshot()["jobs"], [JOB])

    def test_a_former_masters_job_is_kept_for_what_waits(self):
        node = self.node()
        node.grant(1)
        node.grant(2, 4)
        node.do(a.LinkDown())
        node.do(a.LinkUp())
        node.master(p.DefineJob(JOB + 1, {}, [b"source"]))  # what it calls the job
        node.master(p.Joined({}))
        self.assertEqual(node.tick(), [])
        self.assertEqual(told(node.done(1, 0, 4)), [p.Grant(2, JOB, 4, 4, 0, [b"arguments"])])
        self.assertEqual(told(node.tick()), [p.ForgetJob(JOB)])
        self.assertEqual(node.brain.snapshot()["jobs"], [JOB + 1])

    def test_a_job_is_not_forgotten_before_what_waits_has_begun(self):
        node = self.node()
        node.grant(1)
        node.grant(2)
        self.assertEqual(node.master(p.ForgetJob(JOB)), [])
        node.done(1, 0, 4)
        self.assertEqual(told(node.tick()), [p.ForgetJob(JOB)])

    def test_without_a_master_everything_is_forgotten_in_the_end(self):
        node = self.node()
        node.grant(1)
        node.done(1, 0, 4)
        node.do(a.LinkDown())
        self.assertEqual(told(node.tick(a.ALONE_SECONDS)), [p.ForgetJob(JOB)])
        self.assertEqual(node.brain.snapshot()["jobs"], [])

    def test_a_grant_of_a_job_that_was_not_defined(self):
        node = self.node()
        dropped, = node.grant(1, job=99)
        self.assertIsInstance(dropped, a.DropLink)
        self.assertIn("99", dropped.reason)
        self.assertEqual(node.held(), [])

    def test_what_a_job_left_behind_ends_with_its_worker_process_if_that_is_idle(self):
        node = self.node(2)
        node.grant(1)
        self.assertEqual(node.do(a.LeftBehind(0)), [])  # at work again
        self.assertEqual(node.do(a.LeftBehind(1)), [a.KillChild(1)])
        self.assertEqual(node.grant(2), [])  # it waits for a worker process
        node.exit(1)
        self.assertEqual(node.tick(), [a.StartChild(1)])
        node.do(a.ChildReady(1))
        self.assertEqual(len(node.held()), 2)


class GrowthTest(AgentTest):
    def test_added_slots_work_at_once_and_the_master_hears_of_them_by_the_next_join(self):
        node = Node(1).ready()
        node.grant(1)
        node.grant(2)
        self.assertEqual([], node.do(a.SlotsAdded(1)))
        self.assertEqual([a.StartChild(1)], node.tick())
        self.assertIn(2, [message.attempt for message in told(node.do(a.ChildReady(1)), 1) if isinstance(message, p.Grant)])
        node.do(a.LinkDown())
        self.assertEqual([2], [message.info["slots"] for message in said(node.do(a.LinkUp()))])


class CostTest(AgentTest):
    def looks(self, slots):
        """How often a slot is looked at in a pass that is about one of so many busy ones."""
        node, looks = Node(slots).ready(), [0]
        for attempt in range(1, slots + 2):
            node.grant(attempt, first=4 * attempt)

        class Counted(list):
            def __getitem__(self, index):
                looks[0] += 1
                return list.__getitem__(self, index)

            def __iter__(self):
                looks[0] += len(self)
                return list.__iter__(self)

        node.brain._slots = Counted(node.brain._slots)
        for event in (a.ChildSaid(0, p.Done(0, 1, 4, 4, 1, [b"P", b""])), a.MasterSaid(p.Acknowledge(1)), a.TimePassed()):
            node.brain.handle(event, node.now)
        node.brain.deadline()
        self.assertIn({"state": "running", "attempt": slots + 1}, node.brain.snapshot()["slots"])
        return looks[0] - slots  # those of the snapshot

    def test_a_pass_costs_the_same_for_any_number_of_slots(self):
        self.assertEqual(self.looks(10), self.looks(100))


class DeathTest(AgentTest):
    def test_a_death_is_reported_with_the_first_unfinished_task_and_the_process_replaced(self):
        node = self.node()
        node.grant(1, first=10)
        node.done(1, 10, 2)
        info = {"exit": "signal 9", "lines": []}
        self.assertEqual(said(node.exit()), [p.Died(2, 1, 12, info)])
        self.assertEqual(node.states(), ["empty"])
        self.assertEqual(node.tick(), [a.StartChild(0)])
        self.assertEqual(node.exit(how="exit code 1")[0].text, "a worker process could not start (exit code 1); next try in 0.2 s")

    def test_the_history_of_an_attempt_and_a_slot(self):
        node = self.node()
        node.grant(1)
        node.done(1, 0, 2)
        node.exit(how="signal 9")
        told = [words[2] for _, words in node.brain.story(1)]
        self.assertEqual(told, ["granted", "begun", "Done", "exited", "Died"])
        self.assertEqual([words[3] for _, words in node.brain.story("slot 0") if words[2] == "exited"], ["signal 9"])
        node.brain._held.clear()
        node.brain._slots[0].state, node.brain._slots[0].attempt = a.RUNNING, 1
        with self.assertRaises(InternalError) as caught:
            node.brain.validate()
        self.assertIn("begun", str(caught.exception))

    def test_a_process_that_never_speaks_is_ended_and_tried_again(self):
        node = self.node()
        node.exit()
        self.assertEqual(node.tick(), [a.StartChild(0)])
        self.assertNotIn(a.KillChild(0), node.wait(a.START_SECONDS - 1))
        self.assertIn(a.KillChild(0), node.wait(1))
        self.assertIn("could not start", node.exit(how="killed by signal 9 (SIGKILL)")[0].text)

    def test_row_52_a_process_that_starts_is_not_blamed_for_our_own_delay(self):
        node = self.node()
        node.exit()
        self.assertEqual(node.tick(), [a.StartChild(0)])
        self.assertNotIn(a.KillChild(0), node.tick(5 * a.START_SECONDS))  # this process was stopped meanwhile
        self.assertNotIn(a.KillChild(0), node.wait(a.START_SECONDS - 10))
        self.assertIn(a.KillChild(0), node.wait(10))

    def test_row_51_a_part_of_a_message_is_a_sign_of_life(self):
        node = self.node()
        for _ in range(20):
            node.do(a.MasterHeard())
            self.assertFalse([effect for effect in node.wait(a.MASTER_LOST_SECONDS - 1) if type(effect) is a.DropLink])
        self.assertTrue([effect for effect in node.wait(1.5) if type(effect) is a.DropLink])

    def test_the_next_process_is_told_of_the_job_again(self):
        node = self.node()
        node.grant(1)
        node.grant(2)
        node.exit()
        node.tick()
        self.assertEqual(told(node.do(a.ChildReady(0))), [DEFINITION, p.Grant(2, JOB, 0, 4, 0, [b"arguments"])])

    def test_an_idle_process_that_dies_is_replaced_without_a_word(self):
        node = self.node()
        self.assertEqual(node.exit(), [])
        self.assertEqual(node.tick(), [a.StartChild(0)])

    def test_starts_that_fail_are_tried_again_ever_later_up_to_a_bound(self):
        node = Node()
        node.join()
        waits = []
        for _ in range(12):
            self.assertEqual(only(a.StartChild, node.tick()), [a.StartChild(0)])
            self.assertEqual(len(only(a.Warn, node.exit())), 1)
            waits.append(node.brain._slots[0].start_at - node.now)
            node.now = node.brain._slots[0].start_at
        self.assertAlmostEqual(waits[0], 2 * a.RESTART_SECONDS_MIN)
        self.assertEqual(waits, sorted(waits))
        self.assertEqual(waits[-1], a.RESTART_SECONDS_MAX)
        node.tick()
        node.do(a.ChildReady(0))
        node.exit()
        self.assertEqual(only(a.StartChild, node.tick()), [a.StartChild(0)])  # it had started: at once


class RevokeTest(AgentTest):
    def test_what_waits_is_given_back_at_once(self):
        node = self.node()
        node.grant(1)
        node.grant(2, first=8)
        self.assertEqual(said(node.master(p.Revoke(2, 0))), [p.Released(1, 2, 8)])
        self.assertEqual(node.brain.snapshot()["held"], [1])

    def test_what_runs_gives_back_what_it_has_not_claimed(self):
        node = self.node()
        node.grant(1)
        self.assertEqual(node.master(p.Revoke(1, 0)), [a.ToChild(0, p.Revoke(1, 0))])
        self.assertEqual(said(node.release(1, 3)), [p.Released(1, 1, 3)])
        self.assertEqual(node.states(), ["running"])
        node.done(1, 0, 3)
        self.assertEqual(node.states(), ["idle"])

    def test_what_had_not_begun_when_it_was_released_ends_there(self):
        node = self.node()
        node.grant(1)
        node.release(1, 0)
        self.assertEqual(node.states(), ["idle"])

    def test_killing_ends_the_process_if_it_does_not_end_by_itself_and_reports_nothing(self):
        node = self.node()
        node.grant(1)
        node.done(1, 0, 1)
        node.master(p.Revoke(1, 1))
        self.assertEqual(node.held(), [])  # its report is forgotten as well
        self.assertEqual(said(node.done(1, 1, 1)), [])
        self.assertEqual(node.tick(a.KILL_SECONDS - 0.1), [])
        self.assertEqual(node.tick(0.1), [a.KillChild(0)])
        self.assertEqual(node.exit(), [])
        self.assertEqual(node.tick(), [a.StartChild(0)])

    def test_killing_what_ends_in_time_keeps_the_process(self):
        node = self.node()
        node.grant(1)
        node.grant(2)
        node.master(p.Revoke(1, 1))
        effects = node.done(1, 0, 4)
        self.assertEqual((said(effects), [message.attempt for message in told(effects)]), ([], [2]))
        self.assertEqual(only(a.KillChild, node.tick(a.KILL_SECONDS)), [])

    def test_a_process_that_was_killed_gets_nothing_more_whatever_it_still_says(self):
        node = self.node()
        node.grant(1)
        node.grant(2)
        node.master(p.Revoke(1, 1))
        self.assertEqual(node.tick(a.KILL_SECONDS), [a.KillChild(0)])
        self.assertEqual(told(node.done(1, 0, 4)), [])
        self.assertEqual(said(node.exit()), [])  # the second attempt is not blamed
        node.tick()
        self.assertEqual([message.attempt for message in told(node.do(a.ChildReady(0)))[1:]], [2])

    def test_killing_what_waits_drops_it(self):
        node = self.node()
        node.grant(1)
        node.grant(2)
        self.assertEqual(node.master(p.Revoke(2, 1)), [])
        self.assertEqual(node.held(), [1])

    def test_revoking_what_is_not_held_does_nothing(self):
        node = self.node()
        self.assertEqual(node.master(p.Revoke(9, 0)) + node.master(p.Revoke(9, 1)), [])


class StuckTest(AgentTest):
    """No worker process is there, and none starts: the node gives back what it holds and says so, until one starts."""

    def stuck(self, slots=1, **info):
        node, effects = Node(slots), []
        node.join()
        node.tick()
        node.master(DEFINITION)
        node.grant(1)
        for slot in range(slots):
            effects = node.do(a.ChildExited(slot, dict({"exit": "exit code 3"}, **info)))
        return node, said(effects)

    def test_row_63_what_it_holds_goes_back_and_the_master_hears_why(self):
        node, told = self.stuck()
        beat, released = told
        self.assertEqual((a.STUCK_SECONDS, "exit code 3"), (beat.info["stuck"], beat.info["trouble"]))
        self.assertEqual((p.Released, 1, 0), (type(released), released.attempt, released.first))
        self.assertEqual([], node.brain.snapshot()["held"])

    def test_row_63_what_is_granted_meanwhile_goes_back_at_once(self):
        node, _ = self.stuck()
        told = said(node.grant(2))
        self.assertEqual([(p.Released, 2)], [(type(each), each.attempt) for each in told])

    def test_row_63_one_that_starts_ends_it(self):
        node, _ = self.stuck()
        node.tick(0.3)
        told = said(node.do(a.ChildReady(0)))
        node.master(DEFINITION)
        self.assertEqual([None], [beat.info.get("stuck") for beat in told])
        self.assertNotIn(p.Released, [type(each) for each in said(node.grant(2))])

    def test_row_63_not_while_another_worker_process_is_there(self):
        node = self.node(2)
        node.do(a.ChildExited(1, {"exit": "exit code 3"}))
        node.tick()
        self.assertEqual([], said(node.do(a.ChildExited(1, {"exit": "exit code 3"}))))

    def test_row_61_of_a_shortage_a_change_is_awaited_for_longer(self):
        self.assertEqual(a.SHORT_SECONDS, self.stuck(shortage=True)[1][0].info["stuck"])

    def test_where_one_has_started_before_too(self):
        node = self.node()
        node.do(a.ChildExited(0, {"exit": "killed"}))
        node.tick()
        told = said(node.do(a.ChildExited(0, {"exit": "exit code 3"})))
        self.assertEqual([a.SHORT_SECONDS], [beat.info["stuck"] for beat in told])

    def test_after_a_reconnection_the_master_hears_it_first(self):
        node, _ = self.stuck()
        node.do(a.LinkDown())
        node.do(a.LinkUp())
        self.assertEqual(a.STUCK_SECONDS, said(node.master(p.Joined({"epoch": 1})))[0].info["stuck"])


class DrainTest(AgentTest):
    def test_an_idle_node_leaves_at_once(self):
        effects = self.node().do(a.DrainAsked())
        self.assertEqual(said(effects), [p.Farewell({"draining": True}), p.Farewell({"left": True})])
        self.assertEqual(effects[-1], a.Finished("left", None))
        self.assertIn(a.ToChild(0, p.Farewell({})), effects)

    def test_what_runs_ends_and_is_acknowledged_before_the_node_leaves(self):
        node = self.node()
        node.grant(1)
        node.grant(2)
        self.assertEqual(said(node.do(a.DrainAsked())), [p.Farewell({"draining": True})])
        node.master(p.Revoke(2, 0))
        self.assertEqual(only(a.Finished, node.done(1, 0, 4)), [])
        self.assertEqual(only(a.Finished, node.master(p.Acknowledge(1))), [])
        self.assertEqual(node.master(p.Acknowledge(2))[-1], a.Finished("left", None))

    def test_a_broken_connection_does_not_end_what_runs(self):
        node = self.node()
        node.grant(1)
        node.do(a.DrainAsked())
        self.assertEqual(node.do(a.LinkDown()), [])
        node.done(1, 0, 4)
        self.assertEqual(said(node.do(a.LinkUp()))[0].info["held"], [1])
        self.assertEqual([type(message) for message in said(node.master(p.Joined({})))], [p.Done, p.Farewell])
        self.assertEqual(node.master(p.Acknowledge(1))[-1], a.Finished("left", None))

    def test_without_a_master_a_draining_node_gives_up_in_the_end(self):
        node = self.node()
        node.grant(1)
        node.do(a.DrainAsked())
        node.done(1, 0, 4)
        node.do(a.LinkDown())
        self.assertEqual(node.tick(a.ALONE_SECONDS)[-1], a.Finished("left", None))


def _states():
    """Name -> an agent in that state."""

    def nothing(node):
        pass

    def linked(node):
        node.do(a.LinkUp())

    def joined(node):
        node.join()

    def starting(node):
        node.join()
        node.tick()

    def idle(node):
        node.ready()

    def running(node):
        node.ready()
        node.grant(1)
        node.grant(2)

    def reported(node):
        running(node)
        node.done(1, 0, 2)

    def revoked(node):
        running(node)
        node.master(p.Revoke(1, 0))

    def released(node):
        revoked(node)
        node.release(1, 3)

    def killing(node):
        running(node)
        node.master(p.Revoke(1, 1))

    def killed(node):
        killing(node)
        node.tick(a.KILL_SECONDS)

    def empty(node):
        running(node)
        node.exit()

    def alone(node):
        reported(node)
        node.do(a.LinkDown())

    def dropped(node):
        alone(node)
        node.tick(a.ALONE_SECONDS)

    def draining(node):
        running(node)
        node.do(a.DrainAsked())

    def draining_alone(node):
        draining(node)
        node.do(a.LinkDown())

    def finished(node):
        running(node)
        node.master(p.Farewell({}))

    def again(node):
        alone(node)
        node.do(a.LinkUp())

    return [
        nothing, linked, joined, starting, idle, running, reported, revoked, released, killing, killed, empty, alone,
        dropped, draining, draining_alone, finished, again,
    ]  # fmt: skip


EVENTS = [
    a.LinkUp(), a.LinkDown(), a.DrainAsked(), a.TimePassed(), a.ChildReady(0), a.ChildExited(0, {"exit": "exit code 1", "lines": ["x"]}),
    a.ChildSaid(0, p.Done(0, 1, 2, 1, 1, [b""])), a.ChildSaid(0, p.Failed(0, 1, 2, 1, {}, [])),
    a.ChildSaid(0, p.Released(0, 1, 3)), a.ChildSaid(0, p.Unfit(0, 1, 0, {})), a.ChildSaid(0, p.Output({"pid": 1, "stream": "stdout", "text": ""})),
    a.ChildSaid(0, p.Done(0, 99, 0, 1, 1, [])), a.MasterSaid(p.Joined({})), a.MasterSaid(DEFINITION),
    a.MasterSaid(p.Grant(1, JOB, 0, 4, 0, [b""])), a.MasterSaid(p.Grant(77, 6, 0, 4, 1, [b""])), a.MasterSaid(p.Revoke(1, 0)),
    a.MasterSaid(p.Revoke(1, 1)), a.MasterSaid(p.Revoke(2, 0)), a.MasterSaid(p.Revoke(2, 1)), a.MasterSaid(p.Revoke(99, 1)),
    a.MasterSaid(p.ForgetJob(JOB)), a.MasterSaid(p.ForgetJob(99)), a.MasterSaid(p.Acknowledge(0)), a.MasterSaid(p.Acknowledge(9)),
    a.MasterSaid(p.Farewell({})), a.MasterSaid(p.Heartbeat({})), a.Kept("name", {"found": True}),
    a.ChildSaid(0, p.Fetch(1, {"what": "module", "name": "m"})), a.MasterSaid(p.Fetched(1, {"found": False}, [])),
    a.MasterSaid(p.Drop({"name": "name"})), a.ChildSaid(0, p.Leaving()), a.LeftBehind(0), a.MasterHeard(), a.ChildSaid(0, p.Begun(1)),
    a.MasterSaid(DEFINITION._replace(info={"timeout": 3.0})), a.SlotsAdded(2),
]  # fmt: skip


class ModulesTest(AgentTest):
    """A module that a worker process asks for is the same for all of them."""

    def ask(self, node, slot, request):
        return node.child(p.Fetch(request, {"what": "module", "name": "5:m"}), slot)

    def test_the_master_is_asked_once(self):
        node = self.node(3)
        sent = only(a.ToMaster, self.ask(node, 0, 7))
        self.assertEqual([], self.ask(node, 1, 8))
        answer = node.master(p.Fetched(sent[0].message.request, {"found": True}, [b"source"]))
        self.assertEqual([(0, 7), (1, 8)], [(each.slot, each.message.request) for each in only(a.ToChild, answer)])
        later = only(a.ToChild, self.ask(node, 2, 9))
        self.assertEqual([p.Fetched(9, {"found": True}, [b"source"])], [each.message for each in later])

    def test_what_is_not_there_is_asked_for_again(self):
        node = self.node()
        for request in (7, 8):
            sent = only(a.ToMaster, self.ask(node, 0, request))
            node.master(p.Fetched(sent[0].message.request, {"found": False}, []))

    def test_it_keeps_so_many(self):
        node = self.node()
        with support.patched(a, "MODULES_KEPT_MAX", 2):
            for request in range(3):
                sent = only(a.ToMaster, node.child(p.Fetch(request, {"what": "module", "name": "5:m%d" % request})))
                node.master(p.Fetched(sent[0].message.request, {"found": True}, []))
        self.assertEqual(["5:m1", "5:m2"], list(node.brain._modules))


class TimeLimitTest(AgentTest):
    """A task's time limit is for its own code."""

    LIMITED = 9

    def limited(self, seconds=3.0, count=1):
        node = self.node()
        node.master(p.DefineJob(self.LIMITED, {"timeout": seconds}, [b"source"]))
        node.grant(1, count=count, job=self.LIMITED)
        node.now += 1.0
        return node

    def tick(self, node, seconds):
        """Time passes, and the master is heard of."""
        node.master(p.Acknowledge(0))
        return node.tick(seconds)

    def failure(self, effects):
        """The report that the task has had its time; its process is killed."""
        self.assertIn(a.KillChild(0), effects)
        report, = [message for message in said(effects) if isinstance(message, p.Failed)]
        self.assertEqual("TaskTimeout", report.info["type"])
        return report

    def test_row_66_it_counts_from_the_beginning_of_the_tasks_own_code(self):
        node = self.limited()
        self.assertEqual([], only(a.KillChild, self.tick(node, 100.0)))
        node.child(p.Begun(1))
        self.assertEqual([], only(a.KillChild, self.tick(node, 2.9)))
        report = self.failure(self.tick(node, 0.1))
        self.assertEqual("the call took longer than 3 s and was ended", report.info["text"])
        self.assertEqual((1, 0, 3000000000), report[1:4])
        self.assertEqual([a.LEAVING], node.states())

    def test_row_66_being_ready_has_a_limit_of_its_own(self):
        for seconds, limit in ((3.0, a.READY_SECONDS), (2 * a.READY_SECONDS, 2 * a.READY_SECONDS)):
            node = self.limited(seconds)
            self.assertEqual([], only(a.KillChild, self.tick(node, limit - 1.5)))
            text = self.failure(self.tick(node, 0.5)).info["text"]
            self.assertIn("was not begun within %g s" % limit, text)
            self.assertIn("initializer", text)

    def test_row_66_each_task_of_a_chunk_has_its_own(self):
        node = self.limited(count=3)
        node.child(p.Begun(1))
        self.tick(node, 2.0)
        node.done(1, 0, 1)
        self.tick(node, 2.0)  # its argument is unpickled
        node.child(p.Begun(1))
        self.assertEqual([], only(a.KillChild, self.tick(node, 2.9)))
        self.assertEqual(1, self.failure(self.tick(node, 0.1)).first)

    def test_what_is_given_back_changes_no_limit(self):
        node = self.limited(count=3)
        node.child(p.Begun(1))
        node.master(p.Revoke(1, 0))
        node.release(1, 1)
        self.failure(self.tick(node, 3.0))

    def test_what_is_being_ended_has_none(self):
        node = self.limited()
        node.master(p.Revoke(1, 1))
        node.child(p.Begun(1))
        self.assertEqual([], [report for report in said(node.tick(3.0)) if isinstance(report, p.Failed)])

    def test_it_goes_on_while_the_master_is_away(self):
        node = self.limited()
        node.child(p.Begun(1))
        node.do(a.LinkDown())
        self.assertIn(a.KillChild(0), node.tick(3.0))
        report, = [message for message in said(node.join()) if isinstance(message, p.Failed)]
        self.assertIn("longer than 3 s", report.info["text"])

    def test_jobs_without_one_have_none(self):
        node = self.node()
        node.grant(1)
        self.assertEqual([], only(a.KillChild, self.tick(node, 2 * a.READY_SECONDS)))


class EveryEventInEveryStateTest(AgentTest):
    def test_no_event_breaks_an_invariant_in_any_state(self):
        for state in _states():
            for first in EVENTS:
                for second in EVENTS:
                    node = Node()
                    state(node)
                    for event in (first, second):
                        try:
                            effects = node.do(event)
                            node.tick()
                        except Exception as error:
                            self.fail("%s, then %r, %r: %s: %s" % (state.__name__, first, second, type(error).__name__, error))
                        for effect in effects:
                            self.assertIn(type(effect), EFFECTS)
                        due = node.brain.deadline()
                        self.assertTrue(due is None or due > node.now, (state.__name__, first, second, due))

    def test_every_event_and_message_is_among_them(self):
        handled = a.Agent(1, {})
        self.assertLessEqual(set(handled._handlers), {type(event) for event in EVENTS})
        self.assertLessEqual(set(handled._said), {type(e.message) for e in EVENTS if type(e) is a.MasterSaid})

    def test_a_finished_agent_does_nothing(self):
        for event in EVENTS:
            node = self.node()
            node.master(p.Farewell({}))
            effects = node.do(event)
            if type(event) is a.ChildSaid and type(event.message) is p.Fetch:  # an exit handler imports something
                self.assertEqual([(0, False)], [(each.slot, each.message.info["found"]) for each in effects])
            elif event != a.ChildSaid(0, p.Output({"pid": 1, "stream": "stdout", "text": ""})):  # what tasks last printed is passed on
                self.assertEqual(effects, [])

    def test_validate_finds_what_is_broken(self):
        node = self.node()
        node.grant(1)
        node.brain._held[1].next = 99
        with self.assertRaises(InternalError):
            node.brain.validate()
        node.brain._held[1].next = 0
        node.brain._over.add(99)
        with self.assertRaises(InternalError):
            node.brain.validate()
        node.brain._over.clear()
        node.brain._slots[0].attempt = None
        with self.assertRaises(InternalError):
            node.brain.validate()


EFFECTS = (a.ToMaster, a.ToChild, a.StartChild, a.KillChild, a.Keep, a.Discard, a.LookBehind, a.DropLink, a.Finished, a.Warn)


if __name__ == "__main__":
    unittest.main()
