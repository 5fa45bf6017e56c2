"""An import of the package, whatever module of it, does nothing but read Python's and its own files."""
from __future__ import absolute_import, division, print_function

import json
import os
import sys
import unittest

from minimalcluster.compat import PY2
from tests import support

#: Imports all modules given, and prints what happened meanwhile. Before 3.8 Python itself does not tell: there, what
#: would start something is replaced.
LOOK = """
import importlib, json, os, socket, subprocess, sys, threading
told = json.loads(sys.stdin.readline())
names, ours, seen = told["names"], tuple(told["folders"]), []
def look(event, arguments):
    if event == "open":
        path = arguments[0]
        # A number is a descriptor that was opened by its path before: so a compiled module is written.
        if not isinstance(path, int) and not (isinstance(path, str) and os.path.realpath(path).startswith(ours)):
            seen.append("open %r" % (path,))
    elif event.startswith(("socket.", "subprocess.", "_thread.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn")):
        seen.append("%s %r" % (event, arguments))
def never(name):
    def call(*arguments, **named):
        seen.append("%s %r" % (name, arguments))
        raise OSError(name)
    return call
if hasattr(sys, "addaudithook"):
    sys.addaudithook(look)
else:
    subprocess.Popen.__init__, threading.Thread.start = never("Popen"), never("a thread")
    os.popen, os.fork, os.system = never("popen"), never("fork"), never("system")
    socket.getaddrinfo = socket.gethostbyname = never("resolving")
    socket.socket.__init__ = never("a socket")
for name in names:
    importlib.import_module(name)
print(json.dumps(seen[:]))
"""


class Import(unittest.TestCase):
    def test_it_opens_no_socket_resolves_no_name_and_starts_nothing(self):
        told = {"names": modules(), "folders": [os.path.realpath(each) + os.sep for each in (support.ROOT, sys.prefix, getattr(sys, "base_prefix", sys.prefix))]}
        with support.Process(LOOK, told) as process:
            self.assertEqual(process.wait(), 0, process.output())
            self.assertEqual([], json.loads(process.output().splitlines()[-1]))


def modules():
    """The names of all modules of the package; not the one that runs the command, nor the one that imports joblib, which
    reads what it likes; of 2.7 without those for Python 3."""
    names = []
    for folder, folders, files in os.walk(os.path.join(support.ROOT, "minimalcluster")):
        folders[:] = [each for each in folders if each != "__pycache__" and not (PY2 and each in ("faces", "engines"))]
        package = os.path.relpath(folder, support.ROOT).replace(os.sep, ".")
        names += [package + "." + each[:-3] for each in files if each.endswith(".py")]
    return sorted(name.replace(".__init__", "") for name in names if not name.endswith(("__main__", "joblib_backend")))


if __name__ == "__main__":
    unittest.main()
