"""A container's share of the processors, read from files as Linux has them."""
from __future__ import absolute_import, division, print_function

import os
import unittest

from minimalcluster import cgroups
from tests import support

TWO = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
ONE = (
    "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:29 %s /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    "33 31 0:30 %s /sys/fs/cgroup/cpu,cpuacct ro master:11 - cgroup cgroup rw,cpu,cpuacct\n"
)


class QuotaTest(unittest.TestCase):
    def quota(self, groups, mounts, **files):
        """files: what is in them, by their path below /sys/fs/cgroup, with __ for /."""
        root = support.directory_for(self)
        for path, text in [("proc/self/cgroup", groups), ("proc/self/mountinfo", mounts)] + [
            ("sys/fs/cgroup/" + name.replace("__", "/").replace("_max", ".max").replace("cfs", "cpu.cfs"), text)
            for name, text in files.items()
        ]:
            path = os.path.join(root, path)
            if not os.path.isdir(os.path.dirname(path)):
                os.makedirs(os.path.dirname(path))
            support.write(path, text)
        return cgroups.quota(root)

    def test_row_79_version_2(self):
        for text, processors in (
            ("150000 100000\n", 1.5), ("max 100000\n", None), ("10000 100000\n", 0.1), ("", None), ("odd\n", None), ("0 0", None),
        ):  # fmt: skip
            self.assertEqual(processors, self.quota("0::/\n", TWO, cpu_max=text))

    def test_row_79_the_least_of_the_groups_above(self):
        files = {"pods__cpu_max": "300000 100000", "pods__mine__cpu_max": "max 100000", "other__cpu_max": "1000 100000"}
        self.assertEqual(3.0, self.quota("0::/pods/mine\n", TWO, **files))
        self.assertEqual(2.0, self.quota("0::/pods/mine\n", TWO, **dict(files, pods__mine__cpu_max="200000 100000")))

    def test_row_79_version_1(self):
        groups = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"
        files = {"cpu,cpuacct__cfs_quota_us": "250000\n", "cpu,cpuacct__cfs_period_us": "100000\n"}
        # In the container its group is where the whole hierarchy is elsewhere.
        self.assertEqual(2.5, self.quota(groups, ONE % ("/docker/abc", "/docker/abc"), **files))
        self.assertEqual(2.5, self.quota(groups, ONE % ("/", "/"), **files))
        self.assertEqual(None, self.quota(groups, ONE % ("/", "/"), **dict(files, **{"cpu,cpuacct__cfs_quota_us": "-1\n"})))
        below = dict((name.replace("acct__", "acct__docker__abc__"), text) for name, text in files.items())
        self.assertEqual(2.5, self.quota(groups, ONE % ("/", "/"), **below))

    def test_row_79_both_versions_on_one_machine(self):
        groups = "4:cpu,cpuacct:/\n0::/\n"
        unified = TWO.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
        files = {"cpu,cpuacct__cfs_quota_us": "400000", "cpu,cpuacct__cfs_period_us": "100000"}
        self.assertEqual(4.0, self.quota(groups, ONE % ("/", "/") + unified, **files))

    def test_a_group_that_cannot_be_seen_from_here(self):
        self.assertEqual(1.0, self.quota("0::/../../other\n", TWO, cpu_max="100000 100000"))
        self.assertEqual(1.0, self.quota("0::/a/.b\n", TWO, **{"a__cpu_max": "100000 100000"}))

    def test_no_linux(self):
        self.assertIsNone(cgroups.quota(support.directory_for(self)))
        self.assertIsNone(self.quota("", ""))
        self.assertIsNone(self.quota("odd", "odd"))


if __name__ == "__main__":
    unittest.main()
