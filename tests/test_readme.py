"""What the documents say is so: scripts run, commands parse, links lead somewhere, signatures and failures are as written."""
from __future__ import absolute_import, division, print_function

import ast
import inspect
import math
import importlib
import io
import os
import re
import shlex
import sys
import unittest

from minimalcluster import MasterNode, WorkerNode
from minimalcluster.brain import leases, scheduler
from minimalcluster.brain import options
from minimalcluster.command import cli
from minimalcluster.compat import PY2
from tests import commands, support, test_house

DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/decisions.md", "docs/executor.md", "docs/inside.md", "docs/joblib.md", "docs/outgrow.md", "docs/performance.md", "docs/protocol.md", "docs/reliability.md", "docs/scale.md", "docs/security.md"]
KEY = MasterNode(PORT=0).AUTHKEY
faces = unittest.skipIf(PY2, "this block needs Python 3.6 or later")
asyncio_run = unittest.skipIf(sys.version_info < (3, 7), "this block needs asyncio.run, of Python 3.7")
try:
    import joblib
except ImportError:
    joblib = None


def document(name):
    with io.open(os.path.join(support.ROOT, name), encoding="utf-8") as file:
        return file.read()


def section(title):
    """The README's text from a heading to the next one of its rank or a higher one."""
    lines = document("README.md").splitlines()
    start = lines.index(title)
    rank = title.index(" ")
    for end in range(start + 1, len(lines)):
        if re.match(r"#{1,%d} " % rank, lines[end]):
            return "\n".join(lines[start:end])
    return "\n".join(lines[start:])


def table(text):
    """The rows of a table, without its head, as lists of cells."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not re.match(r"^-+$", row[0])]


def scripts():
    return re.findall(r"^```python\n(.*?)^```$", document("README.md"), re.MULTILINE | re.DOTALL)


POOL = """[0, 1, 4, 9, 16]
144
[1, TypeError("can't multiply sequence by non-int of type 'str'"%s)]
""" % ("," if sys.version_info < (3, 7) else "")


class ScriptsTest(unittest.TestCase):
    """Every Python block of the README, run as the file it is meant to be."""

    def script(self, *texts):
        found = [script for script in scripts() if all(text in script for text in texts)]
        self.assertEqual(len(found), 1, texts)
        return found[0]

    def output_of(self, script):
        with support.directory() as path:
            file = self.saved(path, "script.py", script)
            code, output = commands.run([file], directory=path)
        self.assertEqual(code, 0, output)
        return output

    def saved(self, path, name, script):
        with io.open(os.path.join(path, name), "w", encoding="utf-8") as file:
            # 2.7's print is a statement; in a script of its own a reader would add this line, as the examples do.
            file.write((u"from __future__ import print_function\n" if PY2 else u"") + script)
        return file.name

    def test_each_block_has_a_test_here(self):
        self.assertEqual(len(scripts()), 14)

    def test_first_script(self):
        script = smaller(self.script("PORT=0", "count_primes"))
        self.assertEqual(self.output_of(script), "7216 primes between one and two million\n")

    def test_errors(self):
        output = self.output_of(self.script("except TaskError"))
        self.assertIn("1 of 4 tasks failed, the first of them invert(0) on ", output)
        self.assertIn("invert = lambda x: 1.0 / x", output)
        self.assertIn("\n3 succeeded: 0.25\n", output)
        self.assertIn("\n1 failed: ZeroDivisionError('", output)

    def test_environment(self):
        output = self.output_of(self.script("class Circle"))
        self.assertEqual(output, "radius 1: area 3.14\nradius 2: area 12.57\n")

    def test_two_machines(self):
        """The master's script, the node's script and the node's command line, as three machines."""
        here = {"0.0.0.0": "127.0.0.1", "192.168.1.5": "127.0.0.1", "8888": str(support.free_port())}

        def all_there(script):
            """It is a small job now: it waits for the nodes."""
            wait = u"    import time\n    while len(master.list_workers()) < 3:\n        time.sleep(0.01)\n"
            return script.replace(u"    results = master.execute()\n", wait + u"    results = master.execute()\n")

        def local(text):
            for there, replacement in here.items():
                text = text.replace(there, replacement)
            return text

        line = [line for line in command_lines() if line[:1] == ["node"]]
        self.assertEqual(line, [["node", "192.168.1.5:8888", "--key-file", "key"]])
        with support.directory() as path:
            support.write_key(os.path.join(path, "key"), KEY + "\n")
            master = self.saved(path, "master.py", local(all_there(smaller(self.script('HOST="0.0.0.0"')))))
            node = self.saved(path, "node.py", local(self.script("WorkerNode(")))
            with commands.Command([master], directory=path) as master:
                support.wait_until(lambda: listening(int(here["8888"])), what="the master's port")
                by_command = commands.minimalcluster(*[local(word) for word in line[0]])
                with commands.Command([node], directory=path) as first, commands.Command(by_command, directory=path) as second:
                    for process in (master, first, second):
                        self.assertEqual(process.wait(2 * support.SECONDS), 0, process.output())
        self.assertIn("7216 primes between one and two million\n", master.output())
        self.assertEqual(len(re.findall(r"^\S+ did [1-9]\d* tasks$", master.output(), re.MULTILINE)), 3, master.output())

    def test_each_section_of_its_own_program_has_a_script(self):
        for part in re.split(r"^### ", section("## From your own program"), flags=re.MULTILINE)[1:]:
            self.assertEqual(part.count("```python\n"), 1, part.splitlines()[0])

    @faces
    def test_executor(self):
        output = self.output_of(self.script("executor.submit(pow"))
        self.assertEqual(output, "%d\n%d\n" % (2 ** 100, 753))

    @faces
    def test_pool(self):
        self.assertEqual(self.output_of(self.script("import Pool")), POOL)

    @unittest.skipUnless(hasattr(joblib, "parallel_config"), "this block needs joblib 1.3 or later")
    def test_joblib(self):
        self.assertEqual(self.output_of(self.script("joblib")), "[0.0, 1.0, 2.0, 3.0, 4.0]\n")

    @asyncio_run
    def test_asyncio(self):
        self.assertEqual(self.output_of(self.script("asyncio")), "2432902008176640000\n1.0\n2.0\n3.0\n")

    @faces
    def test_shared_data(self):
        self.assertEqual(self.output_of(self.script("executor.share(")), "[200000, 200000, 100000]\n")

    def test_a_function_of_the_program(self):
        self.assertEqual(self.output_of(self.script("master.map(math.factorial")), "[6, 6, 120]\n")

    @faces
    def test_engine(self):
        self.assertEqual(self.output_of(self.script("ExecutorEngine")), "[1, 2, 3]\n")

    def test_journal(self):
        """Run twice at the same place: the second one has the file."""
        with support.directory() as path:
            file = self.saved(path, "script.py", self.script("squares.journal"))
            for _ in range(2):
                code, output = commands.run([file], directory=path, variables={"HOME": path})
                self.assertEqual((code, output), (0, "332833500\n"))
            self.assertTrue(os.path.exists(os.path.join(path, "squares.journal")))

    @faces
    def test_journal_of_calls(self):
        with support.directory() as path:
            file = self.saved(path, "script.py", self.script("calls.journal"))
            for _ in range(2):
                code, output = commands.run([file], directory=path, variables={"HOME": path})
                self.assertEqual((code, output), (0, "%d\n" % sum(map(math.factorial, range(100)))))
            code, output = commands.run(commands.minimalcluster("journal", "show", "calls.journal"), directory=path, variables={"HOME": path})
            self.assertEqual((code, output), (0, "submitted calls: 100 done, 0 failed\n"))


def smaller(script):
    """A tenth of the work, for the tests' sake."""
    count = script.count("2 * 10 ** 6")
    assert count == 1, script
    return script.replace("2 * 10 ** 6", "11 * 10 ** 5")


def listening(port):
    import socket

    try:
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    except (OSError, socket.error):
        return False


def command_lines():
    """The words behind ``python3 -m minimalcluster`` of every indented line that starts so."""
    return [shlex.split(str(words)) for words in re.findall(r"^    python3 -m minimalcluster ?(.*)$", document("README.md"), re.MULTILINE)]


class CommandsTest(unittest.TestCase):
    def test_command_lines_parse(self):
        lines = command_lines()
        self.assertIn(["demo"], lines)
        for words in lines:
            self.assertTrue(callable(cli._parser().parse_args(words).run), words)

    def test_options_exist(self):
        """Whatever the README calls an option of the commands is one, and none is left out."""
        known = set()
        for action in cli._parser()._subparsers._group_actions[0].choices.values():
            known.update(option for option in action._option_string_actions if option.startswith("--"))
        known.discard("--help")
        said = set(re.findall(r"`[^`\n]*?(--[a-z-]+)", section("## Every call")))
        said.discard("--help")
        self.assertEqual(said, known)

    def test_key_command(self):
        """The line that makes a key makes one that is good enough for any HOST."""
        self.assertIn(["key", "new", "key"], command_lines())
        with support.directory() as path:
            code, output = commands.run(commands.minimalcluster("key", "new", "key"), directory=path)
            self.assertEqual(code, 0, output)
            self.assertEqual(len(KEY), len(MasterNode("0.0.0.0", 0, key_file=os.path.join(path, "key")).AUTHKEY))

    def test_make_targets(self):
        targets = set(re.findall(r"^([a-z]+):", document("Makefile"), re.MULTILINE))
        for name in DOCUMENTS:
            text = document(name)
            for line in re.findall(r"^    make (\S+(?: \S+)*)", text, re.MULTILINE) + re.findall(r"`make ([^`]+)`", text):
                wanted = [word for word in line.split() if re.match(r"^[a-z]+$", word)]
                self.assertTrue(set(wanted) <= targets, "%s: make %s" % (name, line))


class ReliabilityTest(unittest.TestCase):
    """docs/reliability.md names a test for every row, and each is there."""

    def rows(self):
        text = document("docs/reliability.md").split("## The faults, and what is right")[1].split("\n## ")[0]
        return [cells for cells in table(text) if cells[0].isdigit()]

    def test_every_row_is_shown(self):
        numbers = [int(cells[0]) for cells in self.rows()]
        self.assertEqual((list(range(1, 39)), sorted(set(numbers))), (numbers[:38], numbers))
        chaos = document("tools/chaos.py")
        for number, _, _, shown in self.rows():
            names = re.findall(r"`([^`]+)`", shown)
            for name in names:
                self.assertTrue(self.exists(name), "row %s: there is no %s" % (number, name))
            if "chaos" in re.sub(r"`[^`]+`", "", shown):
                self.assertIn("@row(%s, " % number, chaos)
            else:
                self.assertTrue(names, "nothing shows row %s" % number)

    @staticmethod
    def exists(name):
        module, case, method = name.rsplit(".", 2)
        body = re.split(r"(?m)^class ", document("tests/%s.py" % module.replace(".", "/")))
        return any(re.match(case + r"\(", each) and "    def %s(" % method in each for each in body)

    def test_what_is_bounded_is_bounded_so(self):
        units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
        text = document("docs/reliability.md").split("## What is bounded")[1].split("\n## ")[0]
        rows = [cells for cells in table(text) if cells[2].startswith("`")]
        self.assertGreater(len(rows), 10)
        for what, most, where in rows:
            if where.startswith("`faces.") and sys.version_info[0] == 2:
                continue  # a face
            module, _, name = where.strip("`").rpartition(".")
            number, unit = most.split()[:2]
            value = getattr(importlib.import_module("minimalcluster." + module), name)
            self.assertEqual(int(number) * units.get(unit, 1), value, what)

    def test_the_tool_runs_tests_that_exist(self):
        text = document("tools/chaos.py")
        for name in re.findall(r'_END \+ "(\.[^"]+)"', text):
            self.assertTrue(self.exists("test_end_to_end" + name), name)
        for name in re.findall(r'"((?:\w+\.)?test_\w+\.\w+\.\w+)"', text):
            self.assertTrue(self.exists(name), name)


class SecurityTest(unittest.TestCase):
    """docs/security.md and tools/attack.py name tests that are there."""

    def test_every_row_is_shown(self):
        rows = [cells for cells in table(document("docs/security.md")) if cells[0].isdigit()]
        self.assertEqual(list(range(39, 51)), [int(cells[0]) for cells in rows])
        for number, _, _, shown in rows:
            for name in re.findall(r"`([^`]+)`", shown):
                self.assertTrue(ReliabilityTest.exists(name), "row %s: there is no %s" % (number, name))
            if "attack" in re.sub(r"`[^`]+`", "", shown):
                self.assertIn("@row(%s, " % number, document("tools/attack.py"))


    def test_no_example_shows_a_key(self):
        """People copy them, and then many have the same one."""
        names = DOCUMENTS + ["examples/" + name for name in os.listdir(os.path.join(support.ROOT, "examples"))]
        for name in [each for each in names if os.path.isfile(os.path.join(support.ROOT, each))]:
            self.assertFalse(re.findall(r"mck-[0-9a-f]{8}", document(name)), name)


class LinksTest(unittest.TestCase):
    def test_relative_links_exist(self):
        for name in DOCUMENTS:
            text = document(name)
            headings = set(anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE))
            for target in re.findall(r"\]\(([^)\s]+)\)", text):
                if target.startswith("#"):
                    self.assertIn(target[1:], headings, name)
                elif "://" not in target:
                    file = os.path.join(support.ROOT, os.path.dirname(name), target)
                    self.assertTrue(os.path.exists(file), "%s: %s" % (name, target))

    def test_the_picture_is_well_formed(self):
        from xml.dom import minidom

        picture = minidom.parse(os.path.join(support.ROOT, "docs", "cluster.svg"))
        self.assertEqual(picture.documentElement.tagName, "svg")
        self.assertIn("(docs/cluster.svg)", document("README.md"))

    def test_files_of_the_architecture(self):
        text = document("docs/inside.md").split("## Which file is for what")[1]
        files = [row[0].strip("`") for row in table(text)[1:]]
        for name in files:
            self.assertTrue(os.path.exists(os.path.join(support.ROOT, "minimalcluster", name)), name)
        there = test_house.every_module()
        modules = [name for name in there if name not in test_house.FLOORS or name == "engines"]
        rows = {os.path.join(support.ROOT, "minimalcluster", *name.split("/")) for name in files}
        missing = [name for name in modules if test_house.path_of(name) not in rows]
        self.assertEqual([], missing, "docs/inside.md does not name them")

    def test_names_of_the_architecture(self):
        """A place that the text names is there: `file.py:name` or `file.py:Class.method`."""
        for path, name in re.findall(r"`([\w/]+\.py):([\w.]+)`", document("ARCHITECTURE.md")):
            if PY2 and path.split("/")[0] in test_house.PYTHON_3_FOLDERS:
                continue  # 2.7 cannot parse it
            tree = ast.parse(support.read(os.path.join(support.ROOT, "minimalcluster", path)))
            for part in name.split("."):
                found = [node for node in tree.body if part in names_bound_by(node)]
                self.assertEqual(1, len(found), "%s has no %s" % (path, name))
                tree = found[0]


def names_bound_by(node):
    """What a statement of a module's or a class's body defines: classes, functions, constants."""
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [getattr(node, "name", None)]


def anchor(heading):
    """A heading's name in a link, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


class SignaturesTest(unittest.TestCase):
    """The tables of calls say what the classes say."""

    def rows(self, title):
        for row in table(section(title))[1:]:
            self.assertEqual(len(row), 3, row)
            yield ast.parse(row[0].strip("`")).body[0].value

    def check(self, title, first, *others):
        """The calls of a table are those classes' or of the first one's methods."""
        kinds = dict((kind.__name__, kind) for kind in (first,) + others)
        names = []
        for call in self.rows(title):
            if isinstance(call, ast.Name):  # a property
                names.append(call.id)
                self.assertIsInstance(getattr(first, call.id), property)
                continue
            names.append(call.func.id)
            kind = kinds.get(call.func.id, first)
            function = kind.__init__ if call.func.id == kind.__name__ else getattr(kind, call.func.id)
            said = [argument.id for argument in call.args], [(word.arg, ast.literal_eval(word.value)) for word in call.keywords]
            self.assertEqual(said, signature(function), call.func.id)
        return names

    def test_master(self):
        names = self.check("### The master", MasterNode)
        self.assertEqual(names[:2], ["MasterNode", "start_master_server"])
        self.assertEqual(len(names), len(set(names)))
        public = [name for name, value in vars(MasterNode).items() if not name.startswith("_")]
        self.assertEqual(sorted(set(public) - set(names)), [])
        for name in ("join_as_worker", "stop_as_worker", "list_workers", "load_envir", "register_target_function", "load_args",
                     "execute", "shutdown"):  # the seed's # fmt: skip
            self.assertIn(name, names)

    def test_node(self):
        self.assertEqual(self.check("### The nodes", WorkerNode), ["WorkerNode", "join_cluster"])

    @faces
    def test_executor_and_pool(self):
        from minimalcluster import ClusterExecutor, Pool

        names = self.check("### The executor and the pool", ClusterExecutor, Pool)
        ours = [name for name in vars(ClusterExecutor) if not name.startswith("_")]
        self.assertEqual(set(names) | {"submit", "map", "shutdown"}, set(ours) | {"ClusterExecutor", "Pool"})

    def test_fields_of_list_workers(self):
        from minimalcluster.master.cluster import WorkerInfo

        row = next(row for row in table(section("### The master")) if "list_workers" in row[0])
        said = re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]*)`", row[1])))
        self.assertEqual(said, list(WorkerInfo._fields))

    def test_errors_exist(self):
        import minimalcluster

        for name in set(re.findall(r"`([A-Z]\w*(?:Error|Failed|Timeout|Mismatch|Died))`", document("README.md"))):
            builtins = dict(vars(sys.modules["__builtin__" if PY2 else "builtins"]), TimeoutError="not in 2.7")
            self.assertTrue(name in builtins or name in minimalcluster.__all__, name)


def signature(function):
    """([names without a default], [(name, default)]), without self; those that go by name only come last."""
    spec = inspect.getargspec(function) if PY2 else inspect.getfullargspec(function)
    by_name = [(name, spec.kwonlydefaults[name]) for name in getattr(spec, "kwonlyargs", ())]
    if spec[2] == "options":  # what **options may be
        by_name = [option for option in signature(options.Options.__new__)[1] if option[0] not in spec.args]
    defaults = spec.defaults or ()
    first = len(spec.args) - len(defaults)
    wanted = [re.sub("^_.*__", "", name) for name in spec.args[1:first]]  # __fn is private, so that fn= reaches the call
    return wanted, list(zip(spec.args[first:], defaults)) + by_name


class FailuresTest(unittest.TestCase):
    def test_each_row_has_its_test(self):
        rows = table(section("## What happens when things fail"))[1:]
        self.assertGreater(len(rows), 15)
        for what, happens in rows:
            named = re.search(r"<!-- ([\w.]+)\.(\w+)\.(test_\w+) -->$", happens)
            self.assertTrue(named, "no test is named for: %s" % what)
            module, case, method = (str(word) for word in named.groups())
            found = getattr(__import__("tests." + module, fromlist=["_"]), case)
            self.assertTrue(issubclass(found, unittest.TestCase), case)
            self.assertTrue(callable(getattr(found, method, None)), "%s: there is no %s.%s" % (what, case, method))


class SilentNodeTest(unittest.TestCase):
    """With a clock of our own; tests/simulation.py has it with many nodes and a network."""

    def granted(self, effects):
        return [effect for effect in effects if isinstance(effect, scheduler.Grant)]

    def test_silent_node(self):
        brain = scheduler.Scheduler()
        brain.handle(scheduler.JobSubmitted(1, 1, leases.DEFAULTS), 0.0)
        brain.handle(scheduler.NodeJoined("a", 1, 1, "first", []), 0.0)
        first = self.granted(brain.handle(scheduler.TimePassed(), 0.0))[0]
        brain.handle(scheduler.NodeJoined("b", 2, 1, "second", []), 0.0)
        for second in range(1, 10):
            brain.handle(scheduler.NodeHeard("b", 2), float(second))
            said = [type(effect) for effect in brain.handle(scheduler.TimePassed(), float(second))]
            self.assertEqual(said, [scheduler.Explain] if second == 6 else [])
        brain.handle(scheduler.NodeHeard("b", 2), 9.9)
        effects = brain.handle(scheduler.TimePassed(), 10.0)
        self.assertIn(("a", 1), [(each.node, each.session) for each in effects if isinstance(each, scheduler.Disconnect)])
        second = self.granted(effects)[0]
        self.assertEqual((second.node, second.first, second.count), ("b", 0, 1))

        # The first comes back with its result and is first after all: the second's is a duplicate.
        delivered = [each for each in brain.handle(scheduler.NodeJoined("a", 3, 1, "first", [first.attempt]), 11.0)]
        delivered += brain.handle(scheduler.TasksDone("a", 3, first.attempt, 0, 1, 0.1, [b"P", b"x"]), 11.0)
        delivered += brain.handle(scheduler.TasksDone("b", 2, second.attempt, 0, 1, 0.1, [b"P", b"y"]), 11.0)
        self.assertEqual([each.payload for each in delivered if isinstance(each, scheduler.Deliver)], [[b"P", b"x"]])
        self.assertEqual(len([each for each in delivered if isinstance(each, scheduler.Finish)]), 1)


if __name__ == "__main__":
    unittest.main()
