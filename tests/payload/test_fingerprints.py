"""What a journal knows things by: equal from run to run, another one when a source behind it is edited."""
from __future__ import absolute_import, division, print_function

import os
import pickle
import sys
import threading
import unittest

from minimalcluster.payload import functions, shares
from minimalcluster.payload.fingerprints import Contents, code_imported
from tests import commands, support
from tests.sent import PYTHON_3

if PYTHON_3:
    from importlib import reload

try:
    import cloudpickle
except ImportError:
    cloudpickle = None


def of(value):
    return Contents().of_value(value)


class Sources(unittest.TestCase):
    def setUp(self):
        self.folder, self.time = support.directory_for(self), 1000000000
        sys.path.insert(0, self.folder)
        self.addCleanup(sys.path.remove, self.folder)
        os.mkdir(os.path.join(self.folder, "behind"))
        self.module("behind/__init__.py", "")
        self.module("behind/shape.py", "import behind_more\nclass Point(object): pass\n")
        self.module("behind_more.py", "")
        self.module("behind_other.py", "def f(): pass\n")
        for name in ("behind", "behind.shape", "behind_more", "behind_other"):
            self.addCleanup(sys.modules.pop, name, None)
            __import__(name)
        self.shape, self.other = sys.modules["behind.shape"], sys.modules["behind_other"]

    def module(self, name, text):
        path = support.write(os.path.join(self.folder, *name.split("/")), text)
        self.time += 2  # Python takes two files of one size and second for the same
        os.utime(path, (self.time, self.time))

    def edit(self, name, text):
        self.module(name, text)
        reload(sys.modules[name[:-3].replace("/", ".")])

    def test_of_scalars_nothing_but_they_count(self):
        values = [1, True, 1.0, u"1", b"1", None, 2]
        self.assertEqual([of(value) for value in values], [of(value) for value in values])
        distinct = set(map(of, values))
        self.assertEqual(len(values), len(distinct))

    def test_equal_shared_objects_are_one(self):
        name = "0123456789abcdef" * 2
        first, second = [shares.Shared("%s-%d" % (name, number), [1], lambda name: None) for number in range(2)]
        other = shares.Shared("f" * 32 + "-0", [2], lambda name: None)
        self.assertEqual(of((first, 1)), of((second, 1)))
        self.assertNotEqual(of((first, 1)), of((other, 1)))
        for text in (name[::-1] + "-%d", name + "-%d"):  # some other text of the user's, beside one
            self.assertNotEqual(of((first, text % 8)), of((first, text % 9)))

    def test_an_edit_of_the_module_that_it_names_or_of_what_that_imports(self):
        things = [self.shape.Point(), [1, (self.shape.Point(),)], self.shape.Point]
        before = [of(each) for each in things]
        self.assertEqual(before, [of(each) for each in things])
        for name, text in (("behind/shape.py", "class Point(object): x = 1\n"), ("behind_more.py", "y = 1\n")):
            self.edit("behind/shape.py", "import behind_more\nclass Point(object): pass\n")
            things = [self.shape.Point(), [1, (self.shape.Point(),)], self.shape.Point]
            between = [of(each) for each in things]
            self.module(name, text)
            self.assertEqual(between, [of(each) for each in things], "it has not been loaded")
            self.edit(name, text)
            things = [self.shape.Point(), [1, (self.shape.Point(),)], self.shape.Point]
            self.assertFalse(set(between) & {of(each) for each in things}, name)

    def test_no_edit_of_another_module(self):
        things = [self.shape.Point(), "behind_others"][: 2 if PYTHON_3 else 1]  # 2.7 finds it in there
        before, other = of(things), of(self.other.f)
        self.edit("behind_other.py", "def f(): return 1\n")
        self.assertEqual(before, of(things))
        self.assertNotEqual(other, of(self.other.f))

    def test_a_module_that_was_imported_later_counts_from_then_on(self):
        contents = Contents()
        contents.of_value([1])
        self.module("behind_late.py", "class Late(object): pass\n")
        self.addCleanup(sys.modules.pop, "behind_late", None)
        late = __import__("behind_late").Late()
        before = contents.of_value(late)
        self.edit("behind_late.py", "class Late(object): x = 1\n")
        self.assertNotEqual(before, of(sys.modules["behind_late"].Late()))

    def test_each_module_is_read_once(self):
        contents = Contents()
        before = contents.of_value("behind.shape")
        self.edit("behind/shape.py", "")
        self.assertEqual(before, contents.of_value("behind.shape"))

    def test_what_cannot_be_pickled_equals_nothing(self):
        lock = threading.Lock()
        self.assertNotEqual(of(lock), of(lock))

    def test_the_imports_of_a_source(self):
        before = code_imported(b"import behind_more")
        self.assertEqual((b"", before), (code_imported(b"import os"), code_imported(b"from behind_more import z\n")))
        self.edit("behind_more.py", "z = 1\n")
        self.assertNotEqual(before, code_imported(b"import behind_more"))

    def test_of_the_script_what_it_imports(self):
        support.keep_main(self)
        support.be_script("import behind_more\n", self.folder)
        data = pickle.dumps("__main__", 4 if PYTHON_3 else 2)
        before = Contents().of(data)
        self.edit("behind_more.py", "z = 1\n")
        self.assertNotEqual(before, Contents().of(data))

    def test_of_the_script_all_but_what_its_guard_hides(self):
        support.keep_main(self)
        found = []
        for text in ("x = 1\nif __name__ == '__main__':\n    x = 2\n", "x = 1\nif __name__ == '__main__':\n    x = 3\n", "x = 2\n"):
            support.be_script(text, self.folder)
            found.append(Contents().of(pickle.dumps("__main__", 4 if PYTHON_3 else 2)))
        self.assertEqual(found[0], found[1])
        self.assertNotEqual(found[1], found[2])


@unittest.skipIf(cloudpickle is None, "cloudpickle is not installed")
class ByValue(unittest.TestCase):
    def test_the_names_that_cloudpickle_gives_to_classes_do_not_count(self):
        code = "import sys\nsys.path.insert(0, %r)\n" % support.ROOT + BY_VALUE
        found = []
        for _ in range(2):
            with support.Process(code) as script:
                self.assertEqual(0, script.wait(), script.output())
                found.append(script.output())
        self.assertEqual(found[0], found[1])
        self.assertEqual("3", found[0].split()[0])

    def test_an_argument_that_looks_like_one_counts(self):
        class Mine(object):
            pass

        texts = ["%032x" % number for number in (1, 2)]
        self.assertNotEqual(*[of((Mine, text)) for text in texts])
        self.assertEqual(*[of((Mine, texts[0])) for _ in range(2)])

    def test_a_module_that_what_travels_by_value_uses(self):
        with support.directory() as folder:
            path = support.write(os.path.join(folder, "behind_lambda.py"), "x = 1\n")
            sys.path.insert(0, folder)
            self.addCleanup(sys.path.remove, folder)
            self.addCleanup(sys.modules.pop, "behind_lambda", None)
            behind_lambda = __import__("behind_lambda")
            function = lambda: behind_lambda.x  # noqa: E731
            before = of(function)
            self.assertEqual(functions.SAME_MINOR, functions.pack(function).needs)
            support.write(path, "x = 22\n")
            self.assertEqual(before, of(function))
            reload(behind_lambda)
            self.assertNotEqual(before, of(function))


BY_VALUE = """
import hashlib
from minimalcluster.payload.fingerprints import Contents
class Point(object):
    def double(self): return Point, 2 * self.x
class Line(Point):
    pass
def of(value): return hashlib.sha256(Contents().of_value(value)).hexdigest()
found = [of(Point()), of(Line()), of((Line, Point))]
print(len(set(found)), *found)
"""


class Edited(unittest.TestCase):
    """The same script with one edit: nothing of what it could change is taken from the journal."""

    def test_the_class_of_an_argument(self):
        self.check("script", "def value(self): return 1", "def value(self): return 11")

    def test_the_module_of_an_arguments_class(self):
        self.check("shape", "self.value() + helper.STEP", "self.value() + 10")

    def test_what_that_imports(self):
        self.check("helper", "STEP = 0", "STEP = 10")

    def test_the_module_of_the_function(self):
        self.check("helper", "return item.get()", "return item.get() + 10")

    @unittest.skipUnless(PYTHON_3, "2.7 has no packages without __init__.py")
    def test_row_75_a_module_below_a_folder_without_init_that_the_function_imports_when_it_runs(self):
        helper = HELPER.replace("    return item.get()", "    from plain import deep\n    return item.get() + deep.STEP")
        self.check("plain/deep", "STEP = 0", "STEP = 10", {"helper": helper, "plain/deep": "STEP = 0\n"})

    def test_row_75_a_module_with_a_name_like_ours(self):
        helper = HELPER.replace("import os", "import os, minimalcluster_tasks").replace(
            "return item.get()", "return item.get() + minimalcluster_tasks.STEP"
        )
        more = {"helper": helper, "minimalcluster_tasks": "STEP = 0\n"}
        self.check("minimalcluster_tasks", "STEP = 0", "STEP = 10", more)

    def check(self, name, before, after, more=()):
        """With the script for its classes, and, where cloudpickle is, by value, too."""
        for start in ("import sys\nsys.modules['cloudpickle'] = None\n", "")[: 1 if cloudpickle is None else 2]:
            folder = support.directory_for(self)
            texts = dict({"script": start + SCRIPT % support.ROOT, "helper": HELPER, "shape": SHAPE}, **dict(more))
            self.assertIn(before, texts[name])
            edited = dict(texts, **{name: texts[name].replace(before, after)})
            for expected, ran, sources in ((1, 1, texts), (1, 0, texts), (11, 1, edited), (11, 0, edited)):
                for each, text in sources.items():
                    if "/" in each and not os.path.isdir(os.path.join(folder, os.path.dirname(each))):
                        os.makedirs(os.path.join(folder, os.path.dirname(each)))
                    support.write(os.path.join(folder, each + ".py"), text)
                script, log = os.path.join(folder, "script.py"), support.write(os.path.join(folder, "ran"))
                ways = 3 if PYTHON_3 else 1  # in which it runs it
                told = commands.run([script], variables={"HOME": folder}, directory=folder)
                self.assertEqual((0, ["%r" % ([expected] * ways)]), (told[0], told[1].splitlines()[-1:]), told)
                self.assertEqual("x" * ran * ways, support.read(log))


SHAPE = """
import helper
class Shape(object):
    def get(self): return self.value() + helper.STEP
"""

HELPER = """
import os
STEP = 0
def run(item):
    with open(os.path.join(os.path.dirname(__file__), "ran"), "a") as file:
        file.write("x")
    return item.get()
"""

SCRIPT = """
import sys
sys.path[:0] = [%r]
import helper, shape
from minimalcluster import MasterNode
class Point(shape.Shape):
    def value(self): return 1
if __name__ == "__main__":
    with MasterNode(PORT=0) as master:
        master.start_master_server()
        found = master.map(helper.run, [Point()], journal="map.journal")
        if sys.version_info >= (3,):
            from minimalcluster import ClusterExecutor
            with ClusterExecutor(master=master) as executor:
                found += executor.options(journal="executor.journal").map(helper.run, [Point()])
                found += [executor.options(journal="calls.journal").submit(helper.run, Point()).result()]
    print(found)
"""


if __name__ == "__main__":
    unittest.main()
