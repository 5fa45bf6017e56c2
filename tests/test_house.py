"""The house rules of DESIGN.md 3 and 4, read from the source with ``ast``: nothing is imported here but to look."""
from __future__ import absolute_import, division, print_function

import ast
import io
import os
import shutil
import subprocess
import sys
import unittest

from minimalcluster.agent import Agent
from minimalcluster.scheduler import Scheduler
from tests import support

PACKAGE = os.path.join(support.ROOT, "minimalcluster")
TESTS = os.path.join(support.ROOT, "tests")

#: Who may import whom inside the package; errors and compat are for all. A new module is written down here first.
ALLOWED = {
    "__init__": "",
    "__main__": "cli",
    "errors": "",
    "cgroups": "",
    "compat": "cgroups",
    "logs": "",
    "disk": "logs",
    "protocol": "",
    "checks": "protocol",
    "leases": "",
    "policy": "leases",
    "status": "leases",
    "stories": "",
    "ledger": "leases policy",
    "scheduler": "protocol leases ledger policy status stories",
    "agent": "protocol stories",
    "environment": "",
    "values": "",
    "functions": "environment values by_value script",
    "journal": "logs values protocol",
    "script": "imports",
    "by_value": "imports script",
    "terminable": "",
    "contents": "by_value functions script shares sources values",
    "jobs": "contents values leases journal progress status terminable",
    "progress": "logs",
    "addresses": "",
    "transport": "addresses logs protocol",
    "scratch": "",
    "shares": "scratch",
    "imports": "",
    "sources": "environment imports",
    "library": "logs protocol shares imports sources values script",
    "child": "checks boot orphans protocol functions environment values shares imports script",
    "boot": "",
    "orphans": "boot logs",
    "printed": "",
    "printer": "logs",
    "node": "checks addresses boot logs printed protocol agent transport shares orphans",
    "cluster": "checks boot logs printer disk protocol scheduler agent transport node library shares sources journal values status functions",
    "master": "addresses protocol scheduler cluster contents environment functions values jobs progress status script",
    "demo": "master progress",
    # Faces: on what is below, never on one another (a pool is an executor with other manners).
    "futures": "jobs",
    "call_journal": "contents journal values jobs",
    "streams": "logs call_journal values jobs",
    "turns": "jobs logs",
    "inputs": "functions shares values",
    "calls": "call_journal streams turns futures cluster leases functions sources jobs shares status values",
    "maps": "inputs turns calls contents jobs values",
    "results": "futures calls maps jobs status terminable",
    "executor": "addresses futures calls maps results master cluster protocol functions jobs status script",
    "pool": "logs futures calls maps results executor master cluster scheduler protocol functions values jobs status",
    "engines": "logs functions calls cluster scheduler protocol agent node child values jobs shares imports",
    "joblib_backend": "futures streams calls executor master cluster scheduler functions values jobs shares by_value",
    "cli": "",  # and anything inside of a function: see test_the_command_line_imports_lazily
}
FOR_ALL = {"errors", "compat"}
PURE = ("protocol", "checks", "leases", "policy", "ledger", "status", "stories", "scheduler", "agent")
IMPURE_MODULES = {"socket", "select", "time", "threading", "subprocess", "os", "random", "logging"}
#: Who reads and writes user data; the rest passes it on unopened.
PICKLERS = ("compat", "by_value", "script", "values", "functions", "shares", "journal")
#: Impure by the back door.
IMPURE_OF_COMPAT = {"monotonic", "perf_counter", "socketpair", "queue", "cpu_count", "in_main_thread"}
#: Faces for Python 3 alone (DESIGN.md 3); everything else is core and runs on 2.7.
FACES = {
    "call_journal", "streams", "turns", "inputs", "futures", "calls", "maps", "results", "executor", "pool", "joblib_backend",
    "engines",
}  # fmt: skip
FUTURE = "from __future__ import absolute_import, division, print_function"
CLOCKS = {"time", "monotonic", "perf_counter"}
FUNCTION_LINES_MAX = 70


def modules():
    """Name of each module of the package; on 2.7 without those it cannot parse."""
    names = sorted(name[:-3] for name in os.listdir(PACKAGE) if name.endswith(".py"))
    return [name for name in names if name not in FACES] if sys.version_info[0] == 2 else names


def text_of(name):
    with io.open(os.path.join(PACKAGE, name + ".py"), encoding="utf-8") as file:
        return file.read()


def parsed(name):
    with open(os.path.join(PACKAGE, name + ".py"), "rb") as file:
        return ast.parse(file.read(), name + ".py")


def imports(tree):
    """(module, name or None) of each import below a node; relative ones begin with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield "." * node.level + (node.module or ""), alias.name


def siblings(tree):
    """The modules of this package that are imported below a node."""
    found = set()
    for module, name in imports(tree):
        if module == ".":
            found.add(name)
        elif module.startswith("."):
            found.add(module[1:])
        elif module.split(".")[0] == "minimalcluster":
            found.add(module.split(".")[1] if "." in module else name)
    return found.intersection(modules())


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def lines_of(function):
    # 2.7 and 3.6 know no end_lineno.
    return max(getattr(node, "lineno", 0) for node in ast.walk(function)) - function.lineno + 1


class Imports(unittest.TestCase):
    def test_they_point_downward_only(self):
        for name in modules():
            self.assertIn(name, ALLOWED, "%s.py: say in ALLOWED what it may import" % name)
            tree = parsed(name)
            if name == "__init__":  # what only type checkers read is loaded on demand
                tree = ast.Module(body=[node for node in tree.body if "TYPE_CHECKING" not in ast.dump(node)])
            if name == "cli":
                tree = ast.Module(body=[node for node in tree.body if not isinstance(node, ast.FunctionDef)])
            forbidden = siblings(tree) - set(ALLOWED[name].split()) - FOR_ALL
            self.assertFalse(forbidden, "%s.py must not import %s" % (name, ", ".join(sorted(forbidden))))

    def test_what_is_allowed_has_no_circle(self):
        left = {name: set(allowed.split()) for name, allowed in ALLOWED.items()}
        while left:
            free = [name for name in left if not left[name].intersection(left)]
            self.assertTrue(free, "a circle among %s" % sorted(left))
            for name in free:
                del left[name]

    def test_the_command_line_imports_lazily(self):
        # A machine that cannot import one face can still print the help.
        top = [node for node in parsed("cli").body if isinstance(node, (ast.Import, ast.ImportFrom))]
        self.assertEqual(set(), siblings(ast.Module(body=top)) - FOR_ALL)

    def test_of_the_agent_the_cluster_uses_events_only(self):
        # The node's decisions are the node's, also when it lives in the master's process.
        used = {
            node.attr
            for node in ast.walk(parsed("cluster"))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "agent"
        }
        handled = {event.__name__ for event in Agent(1, {})._handlers}
        self.assertTrue(used)
        self.assertLessEqual(used, handled)

    def test_the_brains_are_pure(self):
        for name in PURE:
            for module, imported in imports(parsed(name)):
                self.assertNotIn(module.split(".")[0], IMPURE_MODULES, "%s.py" % name)
                if module == ".compat":
                    self.assertNotIn(imported, IMPURE_OF_COMPAT, "%s.py" % name)
                    self.assertNotEqual("*", imported, "%s.py" % name)
            opened = [node for node in ast.walk(parsed(name)) if isinstance(node, ast.Name) and node.id == "open"]
            self.assertFalse(opened, "%s.py opens a file" % name)

    def test_few_modules_open_pickles(self):
        for name in modules():
            found = set(module for module, _ in imports(parsed(name)))
            found |= set(imported for module, imported in imports(parsed(name)) if module == ".compat")
            picklers = found & {"pickle", "cPickle", "shelve", "marshal", "multiprocessing.connection"}
            self.assertTrue(not picklers or name in PICKLERS, "%s.py imports %s" % (name, picklers))


class Source(unittest.TestCase):
    def test_a_core_file_begins_with_the_future(self):
        for name in modules():
            if name not in FACES:
                code = [node for node in parsed(name).body if not isinstance(node, ast.Expr)]
                lines = text_of(name).splitlines()
                self.assertEqual(FUTURE, lines[code[0].lineno - 1], "%s.py" % name)

    def test_python_2_can_parse_it(self):
        python = support.interpreters().get((2, 7))
        if python is None:
            self.skipTest("there is no python2.7 on this machine")
        # In a copy: 2.7 would put its .pyc files beside the sources.
        with support.directory() as folder:
            for name in os.listdir(PACKAGE):
                if name.endswith(".py") and name[:-3] not in FACES:
                    shutil.copy(os.path.join(PACKAGE, name), folder)
            process = subprocess.Popen(
                [python, "-m", "compileall", "-q", folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            output = process.communicate()[0]
            self.assertEqual(0, process.returncode, output.decode("utf-8", "replace"))

    def test_the_library_prints_nothing(self):
        for name in modules():
            if name not in ("cli", "demo"):
                called = [node.func for node in ast.walk(parsed(name)) if isinstance(node, ast.Call)]
                printing = [each.lineno for each in called if isinstance(each, ast.Name) and each.id == "print"]
                self.assertFalse(printing, "%s.py prints in lines %s" % (name, printing))

    def test_nobody_asks_a_clock_that_a_program_may_have_frozen(self):
        for name in modules():
            named = [node for node in ast.walk(parsed(name)) if isinstance(node, ast.Attribute) and node.attr in CLOCKS]
            asked = [node.lineno for node in named if isinstance(node.value, ast.Name) and node.value.id == "time"]
            self.assertTrue(name == "compat" or not asked, "%s.py: compat.monotonic, in lines %s" % (name, asked))

    def test_no_bare_except(self):
        for name in modules():
            bare = [node.lineno for node in ast.walk(parsed(name)) if isinstance(node, ast.ExceptHandler) and not node.type]
            self.assertFalse(bare, "%s.py: a bare except in lines %s" % (name, bare))

    def test_functions_are_short(self):
        for name in modules():
            long = [each.name for each in functions(parsed(name)) if lines_of(each) > FUNCTION_LINES_MAX]
            self.assertFalse(long, "%s.py: more than %d lines: %s" % (name, FUNCTION_LINES_MAX, ", ".join(long)))

    def test_every_module_has_its_tests(self):
        missing = [
            name
            for name in modules()
            if not name.startswith("__") and not os.path.exists(os.path.join(TESTS, "test_%s.py" % name))
        ]
        self.assertEqual([], missing)


class Brains(unittest.TestCase):
    def test_they_have_the_doors_of_the_design(self):
        for brain in (Scheduler, Agent):
            for method in ("handle", "deadline", "validate", "story", "snapshot"):
                self.assertTrue(callable(getattr(brain, method, None)), "%s.%s" % (brain.__name__, method))


if __name__ == "__main__":
    unittest.main()
