"""Every input that is kept, and each that was ever found to break a rule, under every Python."""
from __future__ import absolute_import, division, print_function

import hmac
import os
import pickle
import unittest

from minimalcluster import compat
from minimalcluster.brain import agent, scheduler
from minimalcluster.master import journal
from minimalcluster.payload import safe
from minimalcluster.wire import addresses, checks, frames, handshakes, keys, protocol
from tests.fuzz import files, seeds, wire
from tests.fuzz.targets import TARGETS


def kept(target):
    """{name: content} of the inputs of a target."""
    found, folder = {}, os.path.join(seeds.CORPUS, target)
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            found[name] = file.read()
    return found


class Corpus(unittest.TestCase):
    @classmethod
    def tearDownClass(cls):
        files.remove_folder()

    def replay(self, target):
        for name, data in sorted(kept(target).items()):
            try:
                self.assertGreater(TARGETS[target].function(data), 0)
            except Exception as error:
                text = "%s: %s; repeat: python3 -m tests.fuzz %s tests/fuzz/corpus/%s/%s"
                self.fail(text % (type(error).__name__, error, target, target, name))

    def test_frames(self):
        self.replay("frames")

    def test_objects(self):
        self.replay("objects")

    def test_handshake(self):
        self.replay("handshake")

    def test_master(self):
        self.replay("master")

    def test_node(self):
        self.replay("node")

    def test_journal(self):
        self.replay("journal")

    def test_key_file(self):
        self.replay("key_file")

    def test_address(self):
        self.replay("address")

    def test_pickles(self):
        self.replay("pickles")

    def test_every_field_of_a_message_has_right_values(self):
        for kind, row in checks._ROWS.items():
            for name, rule in (row.info or {}).items():
                self.assertIn(name, wire.RIGHT, "a new field of %s: add right values of it" % kind.__name__)
                self.assertTrue(any(map(rule.holds, wire.RIGHT[name])), name)

    def test_every_target_has_one(self):
        self.assertEqual(sorted(TARGETS), sorted(os.listdir(seeds.CORPUS)))
        for target in TARGETS:
            self.assertTrue(kept(target) and hasattr(self, "test_" + target))


class Rules(unittest.TestCase):
    """A target that cannot fail finds nothing: with a defect in the code, one of the kept inputs shows it."""

    def found(self, target, place, name, broken):
        before = vars(place)[name]
        setattr(place, name, broken)
        try:
            for data in kept(target).values():
                try:
                    TARGETS[target].function(data)
                except Exception:
                    return
            self.fail("%s did not find it" % target)
        finally:
            setattr(place, name, before)
            files.remove_folder()

    def test_an_error_without_a_name_is_found(self):
        def broken(*arguments):
            raise AttributeError("x")

        for target, place, name in (
            ("frames", protocol, "_buffers"), ("objects", checks, "_check_info"), ("handshake", handshakes, "_answer"),
            ("master", scheduler.Scheduler, "_node_left"), ("node", agent.Agent, "_outcome"), ("journal", journal, "_unpacked"),
            ("key_file", keys, "oddness"), ("address", addresses, "_different"),
        ):  # fmt: skip
            self.found(target, place, name, broken)

    def test_a_reader_that_keeps_too_much_is_found(self):
        self.found("frames", frames.Channel, "receiving", 10**9)

    def test_a_channel_without_a_proof_is_found(self):
        self.found("handshake", hmac, "compare_digest", lambda one, other: True)

    def test_a_key_that_reads_as_another_one_is_found(self):
        self.found("key_file", keys, "as_key", lambda key: bytes(bytearray(compat.as_bytes(key))[:-1]))

    def test_a_brain_that_loses_tasks_is_found(self):
        self.found("master", scheduler.Scheduler, "_lose", lambda self, lease: None)
        self.found("node", agent.Agent, "_report", lambda self, message: None)

    def test_a_pickle_that_calls_is_found(self):
        self.found("pickles", safe, "loads", pickle.loads)


if __name__ == "__main__":
    unittest.main()
