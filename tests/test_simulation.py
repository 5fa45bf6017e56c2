"""The simulation as a test: 1,000 seeds under each of two Pythons, 200 under the others, those that once failed, and
that it can fail at all."""
from __future__ import absolute_import, division, print_function

import io
import os
import sys
import unittest

from tests import mutants, simulated_faults, simulation

#: A seed's run is the same under every Python, so that two of them may do most.
FIRST, COUNT = {(3, 13): (0, 1000), (3, 11): (1000, 1000)}.get(sys.version_info[:2], (0, 200))
SEEDS = int(os.environ.get("MINIMALCLUSTER_SEEDS", COUNT))
FAULTS = (
    simulated_faults.STRIKES + simulated_faults.LATE_STRIKES + simulated_faults.LATEST_STRIKES
    + simulated_faults.GROWTH_STRIKES + simulated_faults.CONDITIONS + simulated_faults.LATE_CONDITIONS + simulated_faults.LATEST_CONDITIONS
)  # fmt: skip
REGRESSIONS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "regressions.txt")


def failed_once():
    with io.open(REGRESSIONS, encoding="ascii") as file:
        return [int(line.split()[0]) for line in file if line.strip() and not line.startswith("#")]



class SimulationTest(unittest.TestCase):
    def test_no_seed_breaks_a_rule(self):
        report = simulation.run_seeds(range(FIRST, FIRST + SEEDS))
        missing = set(FAULTS) - set(report.faults) - {"late_nodes", "slow_node"}
        if SEEDS >= 200:
            self.assertEqual(missing, set(), "faults that never struck")

    def test_seeds_that_failed_once(self):
        simulation.run_seeds(failed_once())

    def test_a_seed_tells_the_same_story_each_time(self):
        worlds = [simulation.World(7), simulation.World(7)]
        for world in worlds:
            world.run()
        self.assertEqual(worlds[0].hash, worlds[1].hash)
        self.assertNotEqual(worlds[0].hash, 0)

    def test_a_failure_tells_seed_hash_and_story(self):
        with mutants.planted(*self.mutant("a lost piece is not queued again")):
            with self.assertRaises(simulation.Failure) as caught:
                simulation.run_seeds(range(50))
        lines = str(caught.exception).split("\n")
        self.assertRegex(lines[0], r"^seed \d+, event log [0-9a-f]{8}: at \d+\.\d+ s ")
        self.assertGreater(len(lines), 5)

    def test_planted_bugs_are_found(self):
        # A sample; python -m tests.mutants tries them all.
        for name in ("an attempt's number is used again", "a draining node is given more", "a dead process is not reported"):
            with mutants.planted(*self.mutant(name)):
                seed, _ = mutants.first_finder(range(60))
            self.assertIsNotNone(seed, name)

    def test_every_mutant_still_fits_the_code(self):
        for mutant in mutants.MUTANTS:
            with mutants.planted(*mutant[1:]):
                pass

    @staticmethod
    def mutant(name):
        return [mutant for mutant in mutants.MUTANTS if mutant[0] == name][0][1:]

    if not hasattr(unittest.TestCase, "assertRegex"):  # py2
        assertRegex = unittest.TestCase.assertRegexpMatches


if __name__ == "__main__":
    unittest.main()
