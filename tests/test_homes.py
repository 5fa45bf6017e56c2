"""Programs started where something that programs usually have is not there (row 78)."""
from __future__ import absolute_import, division, print_function

import os
import subprocess
import sys
import unittest

from minimalcluster.node import boot
from tests import support

PROGRAM = """
import os, sys
sys.path.insert(0, %(root)r)
if __name__ == "__main__":
    %(before)s
    from minimalcluster import MasterNode
    with MasterNode(PORT=0) as master:
        master.start_master_server()
        master.load_envir("def f(pair):\\n    print('printed')\\n    return sum(pair[1]) + pair[0]", from_file=False)
        master.register_target_function("f")
        shared = master.share((1, 2, 3))
        master.load_args([(number, shared) for number in range(3)])
        results = sorted(pair[0] for pair in master.execute(progress=True)), sorted(master.execute().values())
    with open(%(out)r, "w") as file:
        file.write(repr(results))
"""
RIGHT = repr(([0, 1, 2], [6, 7, 8]))
#: As daemons begin: nobody's child, in no terminal, without a folder and without standard streams.
DAEMON = """if os.fork():
        sys.exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    for number in range(3):
        os.close(number)"""


@unittest.skipIf(os.name == "nt", "started by a shell")
class HomesTest(unittest.TestCase):
    def setUp(self):
        self.folder = support.directory_for(self)
        self.out = os.path.join(self.folder, "out")

    def works(self, words="", before="pass", **variables):
        """The program does, started by ``sh`` with these words behind its command."""
        path = support.write(
            os.path.join(self.folder, "program.py"), PROGRAM % {"root": support.ROOT, "before": before, "out": self.out}
        )
        inherited = dict(os.environ, **variables)
        environment = dict((name, value) for name, value in inherited.items() if value is not None)
        process = subprocess.Popen(
            ["sh", "-c", 'exec "$0" "$1" ' + words, sys.executable, path], env=environment, cwd=self.folder,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output = support.Background(process.communicate).result(60)[0]
        self.assertEqual(0, process.returncode, output)
        support.wait_until(lambda: os.path.exists(self.out) and support.read(self.out) == RIGHT, what=output)
        os.remove(self.out)

    def test_row_78_closed_standard_streams(self):
        for words in ("<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
            self.works(words)

    def test_row_78_standard_streams_that_are_none(self):
        self.works(before="sys.stdin = sys.stdout = sys.stderr = None")

    def test_row_78_a_daemon(self):
        self.works(before=DAEMON)

    def test_row_78_no_home_no_terminal_no_locale(self):
        self.works("</dev/null", HOME=None, TERM=None, LANG="C", LC_ALL="C")

    def test_row_78_no_environment_at_all(self):
        self.works(before="os.environ.clear()")

    def test_row_78_a_folder_that_was_removed(self):
        gone = os.path.join(self.folder, "gone")
        remove = "os.mkdir(%r); os.chdir(%r); os.rmdir(%r)" % (gone, gone, gone)
        self.works(before=remove)
        self.assertIsNone(boot.folder())  # where there is one it is ours

    def test_row_78_no_folder_for_temporary_files(self):
        self.works(TMPDIR=os.path.join(self.folder, "none"))


if __name__ == "__main__":
    unittest.main()
