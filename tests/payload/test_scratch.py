"""A folder among the temporary files: whose it is, and when it is removed."""
from __future__ import absolute_import, division, print_function

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

from minimalcluster import compat
from minimalcluster.payload import scratch
from tests import support

#: Makes a folder with a file in it, says where, and waits to be killed.
OWNER = """
import os, sys, tempfile
tempfile.tempdir = sys.argv[1]
from minimalcluster.payload import scratch
folder = scratch.Scratch()
open(os.path.join(folder.path(), "a" + scratch.ENDING), "w").close()
sys.stdout.write(os.path.basename(folder.path()) + "\\n")
sys.stdout.flush()
sys.stdin.read()
"""


class ScratchTest(unittest.TestCase):
    def setUp(self):
        self.parent = support.directory_for(self)
        former, tempfile.tempdir = tempfile.tempdir, self.parent
        self.addCleanup(setattr, tempfile, "tempdir", former)

    def owner(self):
        """A process with a folder: (process, the folder's path)."""
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, self.parent], cwd=support.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.stdin.close)
        self.addCleanup(process.stdout.close)
        self.addCleanup(lambda: process.poll() is None and process.kill())
        return process, os.path.join(self.parent, compat.native(process.stdout.readline()).strip())

    def left_behind(self):
        process, path = self.owner()
        process.kill()
        process.wait()
        self.assertTrue(os.path.isdir(path))
        return path

    def users(self, *names):
        """A folder of the user's, with a file in it."""
        path = os.path.join(self.parent, *names)
        os.makedirs(path)
        support.write(os.path.join(path, "week.csv"), "a week of work")
        return path

    def assert_kept(self, path):
        scratch.remove_left_behind()
        self.assertTrue(os.path.exists(os.path.join(path, "week.csv")), path)

    def test_it_is_made_when_asked_for_and_removed_at_the_end(self):
        folder = scratch.Scratch()
        self.assertEqual([], os.listdir(self.parent))
        path = folder.path()
        self.assertEqual(path, folder.path())
        self.assertEqual([scratch.MARK], os.listdir(path))
        folder.close()
        folder.close()
        self.assertEqual([], os.listdir(self.parent))

    def test_row_76_what_a_killed_process_left_behind_is_removed_by_the_next_one(self):
        path = self.left_behind()
        folder = scratch.Scratch()
        self.addCleanup(folder.close)
        self.assertEqual([os.path.basename(folder.path())], os.listdir(self.parent))
        self.assertNotEqual(path, folder.path())

    def test_row_76_a_living_owner_keeps_its_folder_whatever_its_number(self):
        # In another container it may have any number, that of no process here for one: nobody asks for it.
        process, path = self.owner()
        scratch.remove_left_behind()
        self.assertEqual(["a" + scratch.ENDING, scratch.MARK], sorted(os.listdir(path)))
        process.stdin.close()
        process.wait()

    def test_row_76_a_folder_of_the_users_stays_whatever_its_name(self):
        for name in ("minimalcluster-2024-results", "minimalcluster-0-", "minimalcluster-", "minimalcluster-abcdefgh"):
            self.assert_kept(self.users(name))
        path = self.users("minimalcluster-99999999-x")
        support.write(os.path.join(path, scratch.MARK), "mine")
        self.assert_kept(path)
        support.write(os.path.join(path, scratch.MARK), "")
        self.assert_kept(path)
        file = os.path.join(self.parent, "minimalcluster-99999998")
        support.write(file, "")
        scratch.remove_left_behind()
        self.assertTrue(os.path.exists(file))

    def test_row_76_a_copy_of_a_folder_of_ours_is_the_users(self):
        path = self.left_behind()
        shutil.copytree(path, path + "-kept")
        scratch.remove_left_behind()
        self.assertFalse(os.path.exists(path))
        self.assertEqual(["a" + scratch.ENDING, scratch.MARK], sorted(os.listdir(path + "-kept")))

    def test_row_76_what_the_user_has_put_into_a_folder_of_ours_stays(self):
        path = self.left_behind()
        support.write(os.path.join(path, "notes.txt"), "a week of work")
        scratch.remove_left_behind()
        self.assertEqual(["notes.txt"], os.listdir(path))
        folder = scratch.Scratch()
        mine = os.path.join(folder.path(), "notes.txt")
        support.write(mine, "another one")
        folder.close()
        self.assertTrue(os.path.exists(mine))

    @unittest.skipUnless(hasattr(os, "symlink"), "there are no links")
    def test_row_76_links_are_not_followed(self):
        path = self.left_behind()
        elsewhere = support.directory_for(self)
        target = os.path.join(elsewhere, os.path.basename(path))
        shutil.move(path, target)
        os.symlink(target, path)
        scratch.remove_left_behind()
        self.assertEqual(["a" + scratch.ENDING, scratch.MARK], sorted(os.listdir(target)))
        other = os.path.join(self.parent, "minimalcluster-other")
        os.mkdir(other)
        os.symlink(os.path.join(target, scratch.MARK), os.path.join(other, scratch.MARK))
        scratch.remove_left_behind()
        self.assertTrue(os.path.lexists(os.path.join(other, scratch.MARK)))

    @unittest.skipIf(os.name == "nt" or os.geteuid() != 0, "only root can give files away")
    def test_row_76_another_users_folder_stays(self):
        path = self.left_behind()
        os.chown(path, 12345, 12345)
        scratch.remove_left_behind()
        self.assertTrue(os.path.isdir(path))
        os.chown(path, 0, 0)
        os.chown(os.path.join(path, scratch.MARK), 12345, 12345)
        scratch.remove_left_behind()
        self.assertTrue(os.path.isdir(path))

    def test_row_76_another_machines_folder_stays(self):
        path = self.left_behind()
        mark = os.path.join(path, scratch.MARK)
        lines = support.read(mark).splitlines(True)
        support.write(mark, "".join(lines[:2] + ["elsewhere\n", "another-boot\n"]))
        scratch.remove_left_behind()
        self.assertTrue(os.path.isdir(path))
        support.write(mark, "".join(lines[:2] + ["elsewhere\n"] + lines[3:]))  # another container here
        scratch.remove_left_behind()
        self.assertEqual(lines[3] == "-\n", os.path.isdir(path))

    def test_row_76_where_files_cannot_be_locked_only_the_owner_removes(self):
        path = self.left_behind()
        with support.patched(scratch, "lock_file", lambda file, wait=False: compat.NO_LOCKS):
            folder = scratch.Scratch()
            ours = folder.path()
            scratch.remove_left_behind()
            self.assertTrue(os.path.isdir(path) and os.path.isdir(ours))
            folder.close()
            self.assertFalse(os.path.exists(ours))

    def test_what_the_folder_does_not_hold_is_an_error_that_names_it(self):
        def full(file, wait=False):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with support.patched(scratch, "lock_file", full):
            with self.assertRaises(OSError) as caught:
                scratch.Scratch().path()
        self.assertEqual(self.parent, os.path.dirname(caught.exception.filename))
        self.assertEqual([], os.listdir(self.parent))
        tempfile.tempdir = os.path.join(self.parent, "none")
        with self.assertRaises(OSError) as caught:
            scratch.Scratch().path()
        self.assertEqual(tempfile.tempdir, os.path.dirname(caught.exception.filename))

    def test_a_folder_that_a_cleaner_has_removed_is_made_anew(self):
        folder = scratch.Scratch()
        self.addCleanup(folder.close)
        path = folder.path()
        shutil.rmtree(path)
        self.assertTrue(os.path.isdir(folder.path()))
        self.assertNotEqual(path, folder.path())

    @unittest.skipUnless(hasattr(os, "fork"), "there is no fork")
    def test_row_77_a_fork_removes_nothing_and_makes_its_own(self):
        folder = scratch.Scratch()
        self.addCleanup(folder.close)
        path = folder.path()

        def in_the_child():
            assert not folder.is_ours()
            assert folder.path() != path
            folder.close()

        self.assertEqual(0, support.in_a_fork(in_the_child))
        self.assertEqual([os.path.basename(path)], os.listdir(self.parent))
        scratch.remove_left_behind()  # and it still holds the lock
        self.assertTrue(os.path.isdir(path))


if __name__ == "__main__":
    unittest.main()
