"""What is shipped: no dependencies, one wheel for every Python that is the same wherever it is built, a version that the
change log knows."""
from __future__ import absolute_import, division, print_function

import ast
import contextlib
import glob
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile

import minimalcluster
from tests import support

PACKAGE = os.path.join(support.ROOT, "minimalcluster")
#: The .venv of `make`: interpreters need nothing installed, so the tools that build a wheel are there.
BUILDERS = [
    sys.executable,
    os.path.join(support.ROOT, ".venv", "bin", "python"),
    os.path.join(support.ROOT, ".venv", "Scripts", "python.exe"),
]
#: May be imported where it is installed, never needed (the extras of pyproject.toml, and cryptography).
OPTIONAL = {"cloudpickle", "cryptography", "joblib", "numpy", "distributed", "dask", "ray"}
#: The standard library's names for queue, pickle and builtins there, and what finds modules.
ONLY_ON_2 = {"Queue", "cPickle", "__builtin__", "imp"}


def text_of(*names):
    with io.open(os.path.join(support.ROOT, *names), encoding="utf-8") as file:
        return file.read()


def output_of(command, **named):
    """What it prints; its failure shows everything it printed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=None, **named)
    output = process.communicate()[0].decode("utf-8", "replace")
    if process.returncode:
        raise AssertionError("%s: exit code %d\n%s" % (" ".join(command), process.returncode, output))
    return output


def has_module(python, name):
    if not os.path.exists(python):
        return False
    with open(os.devnull, "wb") as nothing:
        return subprocess.call([python, "-c", "import " + name], stdout=nothing, stderr=nothing, cwd=os.sep) == 0


@contextlib.contextmanager
def folder():
    path = tempfile.mkdtemp(prefix="minimalcluster-packaging-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@unittest.skipUnless(hasattr(sys, "stdlib_module_names"), "before 3.10 Python cannot list its own modules")
class Imports(unittest.TestCase):
    def test_only_the_standard_library_is_imported(self):
        """No module of the package imports what is neither its own, nor Python's, nor optional."""
        for path in sources():
            for name in imported(ast.parse(text_of(path))):
                self.assertTrue(is_standard(name) or name in OPTIONAL, "%s imports %s" % (os.path.basename(path), name))

    def test_a_third_party_import_would_be_found(self):
        tree = ast.parse("import os, numpy.linalg\nfrom . import x\ndef f():\n    from yaml import load\n"
                         "if TYPE_CHECKING:\n    import mypy")  # fmt: skip
        self.assertEqual([name for name in imported(tree) if not is_standard(name)], ["numpy", "yaml"])


def sources():
    """The package's files."""
    return sorted(glob.glob(os.path.join(PACKAGE, "*.py")) + glob.glob(os.path.join(PACKAGE, "*", "*.py")))


def imported(tree):
    """The first word of every absolute import, in functions too."""
    names = set()
    for node in ast.walk(WithoutTypeChecking().visit(tree)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return sorted(names)


class WithoutTypeChecking(ast.NodeTransformer):
    """Drops the bodies of ``if TYPE_CHECKING:``: they never run."""

    def visit_If(self, node):
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
        return node


def is_standard(name):
    return name in ONLY_ON_2 or name == "minimalcluster" or name in sys.stdlib_module_names


class Version(unittest.TestCase):
    def test_the_change_log_begins_with_this_version(self):
        versions = re.findall(r"^## \[?v?(\d[\w.]*)", text_of("CHANGELOG.md"), re.MULTILINE)
        self.assertTrue(versions, "CHANGELOG.md has no line like: ## 1.0.0")
        self.assertEqual(versions[0], minimalcluster.__version__)

    def test_pyproject_names_no_dependency(self):
        self.assertIn("\ndependencies = []\n", text_of("pyproject.toml"))


class Workflows(unittest.TestCase):
    def test_actions_are_pinned_by_commit(self):
        """A tag can be moved to other code; the comment says which release the commit is."""
        for path in glob.glob(os.path.join(support.ROOT, ".github", "workflows", "*")):
            for used in re.findall(r"uses: *(.*)", text_of(path)):
                self.assertTrue(re.match(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", used), used)


class Wheel(unittest.TestCase):
    """One wheel, built once per run, installed with this interpreter's own pip."""

    @classmethod
    def setUpClass(cls):
        builders = [python for python in BUILDERS if has_module(python, "build, setuptools")]
        if not builders:
            raise unittest.SkipTest("no Python here has the package 'build' (`make wheel` installs it into .venv)")
        cls.folder = tempfile.mkdtemp(prefix="minimalcluster-wheel-")
        cls.builder = builders[0]
        try:
            cls.source = cls.copy_source("source")
            output_of([cls.builder, "-m", "build", "--no-isolation", cls.source], cwd=cls.folder)
            (cls.path,), (cls.sdist,) = [find(cls.source, ending) for ending in (".whl", ".tar.gz")]
        except BaseException:
            cls.tearDownClass()
            raise

    @classmethod
    def copy_source(cls, name):
        source = os.path.join(cls.folder, name)
        compiled = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(PACKAGE, os.path.join(source, "minimalcluster"), ignore=compiled)
        os.mkdir(os.path.join(source, "tools"))
        for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", os.path.join("tools", "backend.py")):
            shutil.copy(os.path.join(support.ROOT, name), os.path.join(source, name))
        return source

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder, ignore_errors=True)

    def test_it_is_for_every_python(self):
        name = "minimalcluster-%s-py2.py3-none-any.whl" % minimalcluster.__version__
        self.assertEqual(os.path.basename(self.path), name)
        with zipfile.ZipFile(self.path) as wheel:
            about = "minimalcluster-%s.dist-info/" % minimalcluster.__version__
            tags = wheel.read(about + "WHEEL").decode("ascii")
            metadata = wheel.read(about + "METADATA").decode("utf-8").splitlines()
            names = set(wheel.namelist())
        self.assertIn("Tag: py2-none-any", tags)
        self.assertIn("Tag: py3-none-any", tags)
        needs = [line for line in metadata if line.startswith("Requires-Dist:") and "extra ==" not in line]
        self.assertEqual(needs, [])
        modules = {os.path.relpath(path, support.ROOT).replace(os.sep, "/") for path in sources()}
        self.assertEqual(modules - names, set())

    def test_it_is_the_same_wherever_and_whenever_it_is_built(self):
        """The wheel comes from the sdist here. There both come from a checkout: with another user's rights, at another
        time and place, beside what an older build has left."""
        there = self.copy_source(os.path.join("another", "place"))
        os.makedirs(os.path.join(there, "build", "lib", "minimalcluster"))
        support.write(os.path.join(there, "build", "lib", "minimalcluster", "removed.py"), "x = 1")
        for path in find(there, ""):
            os.utime(path, (10**9, 10**9))
            os.chmod(path, 0o600)
        hooks = "import os; os.umask(0o077); import backend; backend.build_sdist('dist'); backend.build_wheel('dist')"
        variables = dict(os.environ, PYTHONPATH="tools", TZ="Asia/Tokyo", SOURCE_DATE_EPOCH="1500000000")
        output_of([self.builder, "-c", hooks], cwd=there, env=variables)
        names = [os.path.join("dist", os.path.basename(path)) for path in (self.path, self.sdist)]
        for name in names:
            self.assertEqual(digest(os.path.join(self.source, name)), digest(os.path.join(there, name)), name)

    def test_this_pythons_pip_installs_it_and_the_command_runs(self):
        if not has_module(sys.executable, "pip"):
            self.skipTest("this Python has no pip")
        with folder() as prefix:
            output_of([
                sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-index", "--no-deps",
                "--no-cache-dir", "--ignore-installed", "--prefix", prefix, self.path,
            ], cwd=prefix)  # fmt: skip
            (package,) = find(prefix, os.sep + os.path.join("minimalcluster", "__init__.py"))
            (script,) = find(prefix, os.sep + "minimalcluster" + (".exe" if os.name == "nt" else ""))
            variables = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.dirname(package)))
            self.assertIn(minimalcluster.__version__, output_of([script, "--version"], cwd=prefix, env=variables))
            where = output_of([sys.executable, "-c", "import minimalcluster as m; print(m.__file__); m.MasterNode"],
                              cwd=prefix, env=variables)  # fmt: skip
            self.assertTrue(os.path.realpath(where.strip()).startswith(os.path.realpath(prefix)), where)


def find(top, ending):
    """Files below top whose path ends so."""
    paths = [os.path.join(folder_, name) for folder_, _, names in os.walk(top) for name in names]
    return [path for path in paths if path.endswith(ending)]


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


if __name__ == "__main__":
    unittest.main()
