"""In a notebook's kernel: what is typed into cells, and the stop button."""
from __future__ import absolute_import, division, print_function

import os
import unittest

from tests import support

try:
    import cloudpickle  # noqa: F401 # without it nothing that is typed in can be sent
    import nbclient
    import nbformat
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import KernelManager

    KernelSpecManager().get_kernel_spec("python3")
except Exception as error:  # the kernel's files may be missing, too
    MISSING = "nbclient, ipykernel and cloudpickle are not all installed for this Python (%s)" % error
else:
    MISSING = None

EXAMPLE = os.path.join(support.ROOT, "examples", "notebook.ipynb")

START = """
import os, time
from minimalcluster import ClusterExecutor
ex = ClusterExecutor(2)
FOLDER = %r

def slow(x):
    open(os.path.join(FOLDER, "%%d-%%d" %% (x, os.getpid())), "w").close()
    time.sleep(600)
"""


class Notebook(object):
    """A kernel, as a notebook's server starts it."""

    def __enter__(self):
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(cwd=support.ROOT)
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=2 * support.SECONDS)
        self.pid = self._manager.provisioner.pid
        return self

    def __exit__(self, *exc_info):
        self.end()

    def end(self):
        """As the server does it: a request, and when that is not obeyed within seconds, SIGKILL."""
        if self._manager.has_kernel:
            self._client.stop_channels()
            self._manager.shutdown_kernel()
            self._manager.cleanup_resources()

    def run(self, source):
        """Run a cell: what it writes, the repr of its last value, the name of its error, as one text."""
        texts = []
        self._client.execute_interactive(
            source, output_hook=lambda message: texts.append(_text(message)), timeout=2 * support.SECONDS
        )
        return "".join(texts)

    def press_stop_when(self, condition):
        def press():
            support.wait_until(condition)
            self._manager.interrupt_kernel()

        return support.Background(press)


def _text(message):
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        return content["text"]
    if kind == "error":
        return "%s: %s" % (content["ename"], content["evalue"])
    return content["data"]["text/plain"] if kind == "execute_result" else ""


@unittest.skipIf(MISSING, MISSING)
class NotebookTest(unittest.TestCase):
    def test_what_is_typed_into_cells(self):
        with Notebook() as notebook:
            self.assertEqual(notebook.run("from minimalcluster import ClusterExecutor\nex = ClusterExecutor(2)"), "")
            notebook.run("offset = 1\ndef f(x):\n    return x * x + offset")
            self.assertEqual(notebook.run("list(ex.map(f, range(5)))"), "[1, 2, 5, 10, 17]")
            # Another definition of the same name, and another value of a global.
            notebook.run("offset = 100\ndef f(x):\n    return x + offset")
            self.assertEqual(notebook.run("list(ex.map(f, range(5)))"), "[100, 101, 102, 103, 104]")
            self.assertEqual(notebook.run("ex.submit(lambda x: x + offset, 1).result()"), "101")
            notebook.run(
                "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\n"
                "class Odd(Exception): pass\n"
                "def point(x):\n    if x % 2: raise Odd(x)\n    return Point(x)"
            )
            self.assertEqual(notebook.run("ex.submit(point, 2).result() == Point(2)"), "True")
            self.assertEqual(notebook.run("ex.submit(point, 3).result()"), "Odd: 3")
            # What a task prints goes another way than its result: it may come a moment later, in the next cell.
            said = "ex.submit(print, 'from the task').result()"
            support.wait_until(lambda: "from the task\n" in notebook.run(said), what="what the task has printed")
            self.assertEqual(notebook.run("await ex.run(point, 4)"), "Point(x=4)")

    def test_an_edited_module_is_seen(self):
        with support.directory() as folder, Notebook() as notebook:
            support.write(os.path.join(folder, "edited.py"), "def f(x):\n    return 'first'\n")
            start = "import sys\nsys.path.insert(0, %r)\nfrom minimalcluster import ClusterExecutor\nimport edited\n"
            self.assertEqual(notebook.run((start + "ex = ClusterExecutor(2)") % folder), "")
            self.assertEqual(notebook.run("set(ex.map(edited.f, range(4)))"), "{'first'}")
            support.write(os.path.join(folder, "edited.py"), "def f(x):\n    return 'the second'\n")
            notebook.run("import importlib; importlib.reload(edited)")
            self.assertEqual(notebook.run("set(ex.map(edited.f, range(4)))"), "{'the second'}")

    def test_the_stop_button(self):
        waits = {
            "a map": "list(ex.map(slow, range(10)))",
            "an unordered map": "for result in ex.map_unordered(slow, range(10)): pass",
            "one call": "ex.submit(slow, 1).result()",
            "many calls": "futures = [ex.submit(slow, x) for x in range(2)]; futures[0].result()",
        }
        for name, source in sorted(waits.items()):
            with support.directory() as folder, Notebook() as notebook:
                self.assertEqual(notebook.run(START % folder), "")
                button = notebook.press_stop_when(lambda: os.listdir(folder))
                self.assertRegex(notebook.run(source), "KeyboardInterrupt|Interrupted", name)
                button.result()
                if name == "many calls":  # as the standard's, they go on until they are told otherwise
                    self.assertEqual(notebook.run("[future.cancel_running() for future in futures]"), "[True, True]")
                self.assertEqual(notebook.run("sum(ex.map(abs, range(100)))"), "4950", name)

    def test_the_stop_button_of_other_faces(self):
        faces = {
            "execute": (
                "from minimalcluster import MasterNode\nmaster = MasterNode(PORT=0)\nmaster.start_master_server()\n"
                "master.register_target_function(slow)\nmaster.load_args(range(10))",
                "master.execute()",
                "master.register_target_function(abs); master.load_args(range(100)); sum(master.execute().values())",
            ),
            "joblib": (
                "import joblib, minimalcluster\nminimalcluster.register_joblib_backend()\n"
                "def run(f, n):\n"
                "    with joblib.parallel_config(backend='minimalcluster', executor=ex):\n"
                "        return joblib.Parallel(n_jobs=2)(joblib.delayed(f)(x) for x in range(n))",
                "run(slow, 10)",
                "sum(run(abs, 100))",
            ),
        }
        for name, (prepare, stop, again) in sorted(faces.items()):
            with support.directory() as folder, Notebook() as notebook:
                self.assertEqual(notebook.run(START % folder), "")
                self.assertEqual(notebook.run(prepare), "")
                button = notebook.press_stop_when(lambda: os.listdir(folder))
                self.assertRegex(notebook.run(stop), "KeyboardInterrupt|Interrupted", name)
                button.result()
                self.assertEqual(notebook.run(again), "4950", name)

    def test_the_kernels_end_is_the_workers_end(self):
        with support.directory() as folder, Notebook() as notebook:
            self.assertEqual(notebook.run(START % folder), "")
            notebook.run("futures = [ex.submit(slow, x) for x in range(9)]")
            support.wait_until(lambda: len(os.listdir(folder)) >= 2)
            workers = support.descendants(notebook.pid)
            self.assertGreaterEqual(len(workers), 2)
            notebook.end()
        support.wait_for_death(workers)

    def test_the_example(self):
        notebook = nbformat.read(EXAMPLE, as_version=4)
        where = {"metadata": {"path": support.ROOT}}
        nbclient.NotebookClient(notebook, timeout=int(4 * support.SECONDS), kernel_name="python3", resources=where).execute()
        written = [output.text for cell in notebook.cells for output in cell.get("outputs", ())]
        self.assertEqual(written[0], "26623 takes 307 steps\n")
        self.assertEqual(written[1], "63 numbers take more than 250\n")
        self.assertEqual(sorted(written[2].splitlines()), ["27 111", "6171 261", "871 178", "97 118"])
        self.assertEqual(written[3:], ["the game begins at 1, not at -5\n"])
        self.assertFalse(any(cell.get("outputs") for cell in nbformat.read(EXAMPLE, as_version=4).cells), "clear them")


if __name__ == "__main__":
    unittest.main()
