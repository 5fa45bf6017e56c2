"""The rules of ARCHITECTURE.md and docs/inside.md, read from the source with ``ast``: nothing is imported here but to look."""
from __future__ import absolute_import, division, print_function

import ast
import bz2
import io
import json
import os
import shutil
import subprocess
import sys
import tokenize
import unittest
import zlib

from minimalcluster.brain.agent import Agent
from minimalcluster.brain.scheduler import Scheduler
from tests import support

PACKAGE = os.path.join(support.ROOT, "minimalcluster")
TESTS = os.path.join(support.ROOT, "tests")

#: The folders are the floors. What is in a folder may import what is in the same folder or in one before it; the files
#: beside them (errors, compat and what these need) are for all.
FLOORS = ["wire", "payload", "brain", "node", "master", "faces", "engines", "command"]
#: Of the floors below it, a folder may know these only; what is not listed may know all.
KNOWS = {"wire": [], "payload": [], "brain": ["wire"], "node": ["wire", "payload", "brain"]}
#: The brains know the words, not how they are proved, framed and carried.
BRAIN_KNOWS = {"wire.protocol"}
FOR_ALL = {"errors", "compat", "cgroups", "logs", "pieces"}
PURE = ("wire.protocol", "wire.checks", "wire.frames", "wire.keys", "wire.handshakes", "wire.limits", "brain")
IMPURE_MODULES = {"socket", "select", "time", "threading", "subprocess", "os", "random", "logging"}
#: Who reads and writes user data; the rest passes it on unopened.
PICKLERS = ("compat", "payload.by_value", "payload.script", "payload.values", "payload.functions", "payload.safe", "payload.shares", "master.journal")
#: Impure by the back door.
IMPURE_OF_COMPAT = {"monotonic", "perf_counter", "socketpair", "queue", "cpu_count", "in_main_thread"}
#: For Python 3 alone; everything else is core and runs on 2.7.
PYTHON_3_FOLDERS = {"faces", "engines"}
FUTURE = "from __future__ import absolute_import, division, print_function"
CLOCKS = {"time", "monotonic", "perf_counter"}
FUNCTION_LINES_MAX = 70
#: Of the sources that a node needs, TLS included: as they are, compressed by zlib (112,967 bytes in November 2026), and as
#: code alone, by bz2 (54,500; by zlib 67,200). Part 8 wants to send less than 64 kB.
#: The first was 114,000 before part 7: large values in pieces, plain values by the chunk.
NODE_BYTES_MAX, NODE_CODE_BYTES_MAX = 118000, 64000


def every_module():
    """The dotted name of each module of the package, as ``brain.agent``; a folder's own is ``brain``."""
    names = []
    for folder, _, files in os.walk(PACKAGE):
        parts = os.path.relpath(folder, PACKAGE).split(os.sep)
        for name in files:
            if name.endswith(".py"):
                names.append(".".join([part for part in parts if part != "."] + [name[:-3]]).replace(".__init__", ""))
    return sorted(names)


def modules():
    """On 2.7 without those it cannot parse."""
    return [name for name in every_module() if sys.version_info[0] > 2 or folder_of(name) not in PYTHON_3_FOLDERS]


def folder_of(name):
    """The floor of a module; "" for what lies beside the folders."""
    first = name.split(".")[0]
    return first if first in FLOORS else ""


def path_of(name):
    path = os.path.join(PACKAGE, *name.split("."))
    return os.path.join(path, "__init__.py") if os.path.isdir(path) else path + ".py"


def text_of(name):
    with io.open(path_of(name), encoding="utf-8") as file:
        return file.read()


def code_alone(text):
    """A source without its comments and docstrings; each statement keeps its line."""
    lines, at_start, left_out = text.split("\n"), True, []
    for kind, _, start, end, _ in tokenize.generate_tokens(io.StringIO(text).readline):
        if kind == tokenize.COMMENT or (kind == tokenize.STRING and at_start):
            left_out.append((start, end, "" if kind == tokenize.COMMENT else '""'))
        if kind not in (tokenize.NL, tokenize.COMMENT):
            at_start = kind in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    for (first, column), (last, end), instead in reversed(left_out):
        line = lines[first - 1][:column] + instead + lines[last - 1][end:]
        lines[first - 1 : last] = [line.rstrip()] + [""] * (last - first)
    return "\n".join(lines)


def parsed(name):
    if name not in _parsed:
        with open(path_of(name), "rb") as file:
            _parsed[name] = ast.parse(file.read(), path_of(name))
    return _parsed[name]


_parsed = {}


def is_pure(name):
    return name in PURE or folder_of(name) in PURE


def imports(name, tree):
    """(module, name or None) of each import below a node; of this package as ``minimalcluster.brain.agent``."""
    folder = ["minimalcluster"] + ([folder_of(name)] if folder_of(name) else [])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(folder[: len(folder) + 1 - node.level]) if node.level else ""
            for alias in node.names:
                yield ".".join(part for part in (base, node.module) if part), alias.name


def ours(name, tree):
    """The modules of this package that are imported below a node."""
    found = set()
    for module, imported in imports(name, tree):
        if module.split(".")[0] == "minimalcluster":
            found.update(part.partition(".")[2] for part in (module, "%s.%s" % (module, imported)))
    return found.intersection(modules())


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def lines_of(function):
    # 2.7 and 3.6 know no end_lineno.
    return max(getattr(node, "lineno", 0) for node in ast.walk(function)) - function.lineno + 1


def tests_of(name):
    parts = name.split(".")
    return os.path.join(TESTS, *(parts[:-1] + ["test_%s.py" % parts[-1]]))


class Imports(unittest.TestCase):
    def test_every_folder_is_a_floor(self):
        folders = [name for name in os.listdir(PACKAGE) if os.path.exists(os.path.join(PACKAGE, name, "__init__.py"))]
        self.assertEqual(sorted(FLOORS), sorted(folders))

    def test_they_point_downward_only(self):
        for name in modules():
            tree = parsed(name)
            if name in ("__init__", "__main__"):
                continue  # above all floors; what they import is loaded on demand
            for imported in ours(name, tree) - FOR_ALL:
                floor, below = folder_of(name), folder_of(imported)
                self.assertTrue(floor, "%s is for all and must not import %s" % (name, imported))
                if imported != below:  # the folder's own module says nothing
                    allowed = KNOWS.get(floor, FLOORS[: FLOORS.index(floor)]) + [floor]
                    self.assertIn(below, allowed, "%s must not import %s" % (name, imported))
                if floor == "brain" and below == "wire" and imported != "wire":
                    self.assertIn(imported, BRAIN_KNOWS, "%s must not import %s" % (name, imported))

    def test_there_is_no_circle_in_a_folder(self):
        left = {name: {each for each in ours(name, parsed(name)) if each.count(".")} - {name} for name in modules()}
        left.pop("__init__")
        while left:
            free = [name for name in left if not left[name].intersection(left)]
            self.assertTrue(free, "a circle among %s" % sorted(left))
            for name in free:
                del left[name]

    def test_a_node_loads_nothing_of_the_master_and_above(self):
        """What a machine that only works must have: ``node`` and the folders below it. Part 8 sends just that."""
        code = "import json, sys, minimalcluster.node.link, minimalcluster.node.worker; print(json.dumps(sorted(sys.modules)))"
        output = subprocess.check_output([sys.executable, "-c", code], cwd=support.ROOT)
        loaded = [name.partition(".")[2] for name in json.loads(output.decode()) if name.startswith("minimalcluster.")]
        names = [name for name in loaded if os.path.exists(path_of(name))]  # 2.7 keeps names that it did not find, too
        self.assertIn("node.worker", names)
        self.assertEqual([], [name for name in names if folder_of(name) in FLOORS[FLOORS.index("node") + 1 :]])
        texts = list(map(text_of, names + ["wire.tls"]))  # which a node loads when it encrypts
        self.assertLess(len(zlib.compress("".join(texts).encode("utf-8"), 9)), NODE_BYTES_MAX)
        if sys.version_info[0] > 2:  # its tokenizer wants bytes
            code = list(map(code_alone, texts))
            for text in code:
                compile(text, "<code alone>", "exec")
            self.assertLess(len(bz2.compress("".join(code).encode("utf-8"), 9)), NODE_CODE_BYTES_MAX)

    def test_what_starts_imports_what_it_needs_then(self):
        """Each of these takes as long as a tenth of this package or more, and a program may never need it."""
        late = {"asyncio", "decimal", "multiprocessing", "ssl", "tempfile", "uuid"}
        for name, later in (
            ("master.masternode", late if sys.version_info[0] > 2 else set()),
            # Before 3.7, concurrent.futures imports all of itself.
            ("faces.executor" if sys.version_info >= (3, 7) else "node", late),
            ("node.worker", late | {"logging", "subprocess"}),
            ("node.orphans", late | {"logging", "subprocess", "socket", "minimalcluster.compat"}),
        ):
            code = "import json, sys; import minimalcluster.%s; print(json.dumps(sorted(sys.modules)))" % name
            output = subprocess.check_output([sys.executable, "-S", "-c", code], cwd=support.ROOT)
            self.assertEqual(set(), later.intersection(json.loads(output.decode())), name)

    def test_the_command_line_imports_lazily(self):
        # A machine that cannot import one face can still print the help.
        top = [node for node in parsed("command.cli").body if isinstance(node, (ast.Import, ast.ImportFrom))]
        self.assertEqual(set(), ours("command.cli", ast.Module(body=top)) - FOR_ALL)

    def test_of_the_agent_the_cluster_uses_events_only(self):
        # The node's decisions are the node's, also when it lives in the master's process.
        used = {
            node.attr
            for node in ast.walk(parsed("master.cluster"))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "agent"
        }
        handled = {event.__name__ for event in Agent(1, {})._handlers}
        self.assertTrue(used)
        self.assertLessEqual(used, handled)

    def test_the_brains_are_pure(self):
        for name in filter(is_pure, modules()):
            for module, imported in imports(name, parsed(name)):
                self.assertNotIn(module.split(".")[0], IMPURE_MODULES, name)
                if module == "minimalcluster.compat":
                    self.assertNotIn(imported, IMPURE_OF_COMPAT, name)
                    self.assertNotEqual("*", imported, name)
            opened = [node for node in ast.walk(parsed(name)) if isinstance(node, ast.Name) and node.id == "open"]
            self.assertFalse(opened, "%s opens a file" % name)

    def test_few_modules_open_pickles(self):
        for name in modules():
            found = set(module for module, _ in imports(name, parsed(name)))
            found |= set(imported for module, imported in imports(name, parsed(name)) if module == "minimalcluster.compat")
            picklers = found & {"pickle", "cPickle", "shelve", "marshal", "multiprocessing.connection"}
            self.assertTrue(not picklers or name in PICKLERS, "%s imports %s" % (name, picklers))


    def test_one_place_makes_channels(self):
        """The handshake, when it has verified the proof: there is no other way to a usable connection."""
        makers = []
        for name in modules():
            calls = [node for node in ast.walk(parsed(name)) if isinstance(node, ast.Call)]
            made = [node for node in calls if getattr(node.func, "id", getattr(node.func, "attr", "")) == "Channel"]
            makers += [name] * len(made)
        self.assertEqual(["wire.handshakes"], makers)


class Source(unittest.TestCase):
    def test_a_core_file_begins_with_the_future(self):
        for name in modules():
            if folder_of(name) not in PYTHON_3_FOLDERS:
                code = [node for node in parsed(name).body if not isinstance(node, ast.Expr)]
                lines = text_of(name).splitlines()
                self.assertEqual(FUTURE, lines[code[0].lineno - 1], "%s" % name)

    def test_python_2_can_parse_it(self):
        python = support.interpreters().get((2, 7))
        if python is None:
            self.skipTest("there is no python2.7 on this machine")
        # In a copy: 2.7 would put its .pyc files beside the sources.
        with support.directory() as folder:
            for name in every_module():
                if folder_of(name) not in PYTHON_3_FOLDERS:
                    shutil.copy(path_of(name), os.path.join(folder, name + ".py"))
            process = subprocess.Popen(
                [python, "-m", "compileall", "-q", folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            output = process.communicate()[0]
            self.assertEqual(0, process.returncode, output.decode("utf-8", "replace"))

    def test_the_library_prints_nothing(self):
        for name in modules():
            if folder_of(name) != "command":
                called = [node.func for node in ast.walk(parsed(name)) if isinstance(node, ast.Call)]
                printing = [each.lineno for each in called if isinstance(each, ast.Name) and each.id == "print"]
                self.assertFalse(printing, "%s prints in lines %s" % (name, printing))

    def test_nobody_asks_a_clock_that_a_program_may_have_frozen(self):
        for name in modules():
            named = [node for node in ast.walk(parsed(name)) if isinstance(node, ast.Attribute) and node.attr in CLOCKS]
            asked = [node.lineno for node in named if isinstance(node.value, ast.Name) and node.value.id == "time"]
            self.assertTrue(name == "compat" or not asked, "%s: compat.monotonic, in lines %s" % (name, asked))

    def test_no_bare_except(self):
        for name in modules():
            bare = [node.lineno for node in ast.walk(parsed(name)) if isinstance(node, ast.ExceptHandler) and not node.type]
            self.assertFalse(bare, "%s: a bare except in lines %s" % (name, bare))

    def test_functions_are_short(self):
        for name in modules():
            long = [each.name for each in functions(parsed(name)) if lines_of(each) > FUNCTION_LINES_MAX]
            self.assertFalse(long, "%s: more than %d lines: %s" % (name, FUNCTION_LINES_MAX, ", ".join(long)))

    def test_every_module_has_its_tests(self):
        missing = [
            name
            for name in modules()
            if not name.startswith("__") and name not in FLOORS and not os.path.exists(tests_of(name))
        ]
        self.assertEqual([], missing)


class Brains(unittest.TestCase):
    def test_they_have_the_doors_of_the_design(self):
        for brain in (Scheduler, Agent):
            for method in ("handle", "deadline", "validate", "story", "snapshot"):
                self.assertTrue(callable(getattr(brain, method, None)), "%s.%s" % (brain.__name__, method))


if __name__ == "__main__":
    unittest.main()
