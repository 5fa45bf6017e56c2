"""Key files: what is read, and what is refused because somebody else could have read or exchanged it."""
from __future__ import absolute_import, division, print_function

import os
import stat
import unittest

from minimalcluster import KeyFileError
from minimalcluster.compat import as_text
from minimalcluster.wire import key_files, keys
from tests import support
from tests.support import mistake

KEY = keys.generate_key(os.urandom(32))
posix = unittest.skipIf(os.name == "nt", "Windows' modes say nothing of other users")


class Files(unittest.TestCase):
    def setUp(self):
        self.folder = support.directory_for(self)
        self.path = os.path.join(self.folder, "key")

    def refused(self, *texts, **options):
        error = mistake(key_files.read, options.get("path", self.path))
        self.assertIs(KeyFileError, type(error))
        for text in texts + (options.get("path", self.path),):
            self.assertIn(text, str(error))
        self.assertNotIn(KEY, str(error))

    def write(self, data):
        support.write_key(self.path, "")
        with open(self.path, "wb") as file:
            file.write(data)

    def mode(self, path):
        return stat.S_IMODE(os.stat(path).st_mode)

    @posix
    def test_row_46_links_are_not_followed(self):
        other = os.path.join(self.folder, "other")
        os.symlink(support.write_key(other, KEY), self.path)
        self.refused("symbolic link")

    @posix
    def test_row_46_a_file_that_others_can_read_is_refused_with_the_remedy(self):
        for mode in (0o644, 0o640, 0o604, 0o660, 0o601):
            self.write(KEY.encode("ascii"))
            os.chmod(self.path, mode)
            self.refused("readable by others (mode %04o); run: chmod 600 %s" % (mode, self.path))
            os.chmod(self.path, 0o600)
            self.assertEqual(KEY, key_files.read(self.path))

    @unittest.skipUnless(hasattr(os, "geteuid") and os.geteuid() == 0, "only root can give a file away")
    def test_row_46_another_users_file_is_refused(self):
        self.write(KEY.encode("ascii"))
        os.chown(self.path, 12345, -1)
        self.refused("belongs to another user (uid 12345, you are 0)")

    def test_what_is_no_file_and_no_key(self):
        self.refused("cannot be read", "copy the master's key file there")
        self.refused(path=self.folder)
        self.write(b"x" * 5000)
        self.refused("is no key file")
        self.write(b"caf\xe9 caf\xe9 caf\xe9 caf\xe9")
        self.refused("is not text")
        with support.patched(key_files, "EMPTY_SECONDS", 0.02):
            for nothing in (b"", b" \r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\xff\xfe"):
                self.write(nothing)
                self.refused("is empty")

    @unittest.skipUnless(hasattr(os, "mkfifo"), "there are no named pipes here")
    def test_a_pipe_blocks_nobody(self):
        os.mkfifo(self.path, 0o600)
        self.refused("is no file")

    def test_row_46_what_editors_and_shells_add_makes_no_other_key(self):
        for data in (b"%s\n", b"%s\r\n", b"\xef\xbb\xbf%s", b"\xef\xbb\xbf%s\r\n", b" %s ", b"%s"):
            self.write(data.replace(b"%s", KEY.encode("ascii")))
            self.assertEqual(KEY, key_files.read(self.path))
        for encoding in ("utf-16-le", "utf-16-be"):
            self.write((u"\ufeff" + as_text(KEY) + u"\r\n").encode(encoding))
            self.assertEqual(KEY, key_files.read(self.path))


if __name__ == "__main__":
    unittest.main()
