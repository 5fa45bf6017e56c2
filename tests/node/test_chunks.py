"""Chunks in the process that runs them, without a connection to a node."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster.node import chunks
from minimalcluster.payload import environment, values
from minimalcluster.wire import protocol

SOURCE = """
def f(x):
    if x == 3:
        raise ValueError(x)
    return x + 1
"""


class Growing(list):
    """Results to which another thread appends one as often as they are counted."""

    def __len__(self):
        self.append("one more")
        return super(Growing, self).__len__()


class TakenAway(unittest.TestCase):
    def taken(self, results):
        attempt = chunks.Attempt(protocol.Grant(1, 1, 0, 6, 0, []))
        attempt.items, attempt.before, attempt.results = list("abcdef"), 1, results
        return attempt.take_away(), "".join(attempt.items)

    def test_all_but_what_is_done_and_the_one_that_runs(self):
        for done, expected in ((0, (5, "a")), (2, (3, "abc")), (4, (1, "abcde")), (5, (0, "abcdef")), (6, (0, "abcdef"))):
            self.assertEqual(expected, self.taken(["before"] + ["done"] * done))

    def test_nothing_from_one_that_goes_on_in_this_moment(self):
        self.assertEqual((0, "abcdef"), self.taken(Growing(["before"])))


class Collected(unittest.TestCase):
    def test_results_are_collected_for_half_of_the_chunk_within_limits(self):
        for count, seconds, expected in ((1000, None, 0.02), (10, 0.001, 0.02), (400, 0.01, 2.0), (100, 0.01, 0.5), (99, 9.0, 2.0)):
            self.assertEqual(expected, chunks.flush_seconds(count, seconds))


class Runs(unittest.TestCase):
    def setUp(self):
        self.sent = []
        self.known = chunks.Known(lambda what, name: ({"found": False}, []))
        self.runner = chunks.ChunkRunner(self.known, self.sent.append)
        source = environment.from_text(SOURCE)
        info = {"kind": "source", "module": source.module, "filename": source.filename, "is_text": True, "function": "f"}
        self.known.define(protocol.DefineJob(1, info, [memoryview(source.data)]))

    def run_chunk(self, arguments, attempt=1, careful=0):
        payload = values.arguments(arguments).encode(0, len(arguments))
        self.runner.run(protocol.Grant(attempt, 1, 0, len(arguments), careful, payload))
        sent, self.sent[:] = list(self.sent), []
        return sent

    def test_results_and_failures_come_in_the_order_of_the_tasks(self):
        sent = self.run_chunk([1, 2, 3, 4])
        self.assertEqual(0, sent[0].first)
        self.assertEqual(4, sum(message.count if isinstance(message, protocol.Done) else 1 for message in sent))
        failed = [message for message in sent if isinstance(message, protocol.Failed)]
        self.assertEqual([(2, "ValueError")], [(message.first, message.info["type"]) for message in failed])

    def test_one_by_one_each_task_is_reported_by_itself(self):
        self.run_chunk([1] * 8)
        self.assertEqual([1] * 8, [message.count for message in self.run_chunk([1] * 8, careful=1)])

    def test_what_was_given_back_before_it_began_does_not_run(self):
        self.runner.give_back(2)
        self.assertEqual([protocol.Released(0, 2, 0)], self.run_chunk([1, 2], attempt=2))

    def test_what_cannot_be_loaded_makes_the_chunk_unfit(self):
        self.known.define(protocol.DefineJob(1, dict(self.known.definitions[1].info, function="g"), self.known.definitions[1].payload))
        sent = self.run_chunk([1, 2])
        self.assertEqual([(protocol.Unfit, "TargetError")], [(type(message), message.info["type"]) for message in sent])

    def test_a_forgotten_job_leaves_nothing(self):
        self.run_chunk([1])
        self.assertEqual([[1]] * 3, [list(each) for each in (self.known.definitions, self.known.functions, self.known.task_seconds)])
        self.known.forget(1)
        self.assertEqual([[]] * 3, [list(each) for each in (self.known.definitions, self.known.functions, self.known.task_seconds)])


if __name__ == "__main__":
    unittest.main()
