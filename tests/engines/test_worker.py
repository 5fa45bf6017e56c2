"""What runs in an engine's worker process: what it remembers, and what it loads."""
from __future__ import absolute_import, division, print_function

import json
import subprocess
import sys
import unittest

from minimalcluster import StateError
from tests import support

PYTHON_3 = sys.version_info >= (3, 6)
if PYTHON_3:
    from minimalcluster.engines import worker


def add(a, b=0):
    return a + b


@unittest.skipUnless(PYTHON_3, "engines are for Python 3")
class PlacesTest(unittest.TestCase):
    """What a worker process remembers of masters and jobs is bounded."""

    def test_definitions(self):
        place = worker._Place()
        for job in range(worker.DEFINITIONS_MAX + 3):
            self.assertTrue(place.knows(job, ({}, [])))
            place.functions[job] = add
        self.assertEqual(worker.DEFINITIONS_MAX, len(place.definitions))
        self.assertEqual(set(place.definitions), set(place.functions))
        self.assertNotIn(0, place.definitions)

    def test_masters(self):
        for number in range(worker.PLACES_MAX + 3):
            worker._place("test-%d" % number)
        self.assertEqual(worker.PLACES_MAX, len(worker._places))

    def test_no_other_thread_asks_the_master(self):
        with self.assertRaisesRegex(StateError, "a task's own thread"):
            worker._fetch("module", "x")
        self.assertIsNone(worker._Imports.find_spec("no_such_module_at_all"))


@unittest.skipUnless(PYTHON_3, "engines are for Python 3")
class ImportTest(unittest.TestCase):
    def test_it_loads_nothing_of_the_master_and_the_faces(self):
        """All that an engine's pickle of ``run_chunk`` names is loaded, and not more of this package than a node has."""
        code = "import json, sys, minimalcluster.engines.worker; print(json.dumps(sorted(sys.modules)))"
        output = subprocess.check_output([sys.executable, "-c", code], cwd=support.ROOT)
        loaded = [name.split(".")[1:] for name in json.loads(output.decode()) if name.startswith("minimalcluster.")]
        above = [name for name in loaded if name[0] in ("master", "faces", "command", "engines")]
        self.assertEqual([["engines"], ["engines", "worker"]], above)

    def test_the_names_for_users_are_there_all_the_same(self):
        import minimalcluster.engines

        self.assertLessEqual(set(minimalcluster.engines.__all__), set(dir(minimalcluster.engines)))
        for name in minimalcluster.engines.__all__:
            self.assertEqual(name, getattr(minimalcluster.engines, name).__name__)
        with self.assertRaisesRegex(AttributeError, "no attribute 'GridEngine'"):
            minimalcluster.engines.GridEngine


if __name__ == "__main__":
    unittest.main()
