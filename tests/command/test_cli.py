"""The command line: what it takes, what it says, and with which exit status it ends."""
from __future__ import absolute_import, division, print_function

import argparse
import json
import os
import signal
import sys
import unittest

import minimalcluster
from minimalcluster import MasterNode, WorkerNode
from minimalcluster.master import journal
from minimalcluster.command import cli
from minimalcluster.node.boot import KEY_VARIABLE
from minimalcluster.wire import keys
from tests import commands, support

KEY = "mck-" + "0123456789abcdef" * 4
NOBODY = "127.0.0.1:9"  # never dialled: the key is looked at first


def run(*arguments, **options):
    return commands.run(commands.minimalcluster(*arguments), **options)


class HelpTest(unittest.TestCase):
    def shown(self, arguments, *texts):
        code, output = run(*arguments)
        self.assertEqual(code, 0, output)
        for text in texts:
            self.assertIn(text, output)

    def test_help(self):
        self.shown(["--help"], "demo", "node", "--version")
        self.shown(["demo", "--help"], "--quick", "Exit status 0 only if")
        self.shown(["node", "--help"], "HOST:PORT", "--nprocs", "--key-file", "--key-stdin", "--quiet", KEY_VARIABLE)

    def test_version(self):
        self.shown(["--version"], "minimalcluster %s\n" % minimalcluster.__version__)


class UsageTest(unittest.TestCase):
    def refused(self, arguments, *texts):
        code, output = run(*arguments)
        self.assertEqual(code, cli.EXIT_USAGE, output)
        for text in ("usage: ",) + texts:
            self.assertIn(text, output)
        self.assertNotIn("Traceback", output)

    def test_no_command_and_unknown_ones(self):
        self.refused([])
        self.refused(["dance"], "dance")
        self.refused(["node"])
        self.refused(["demo", "--slow"], "--slow")
        self.refused(["node", NOBODY, "--nprocs", "many"], "--nprocs", "many")

    def test_bad_address(self):
        self.refused(["node", "localhost"], "'localhost' is not of the form HOST:PORT, for example")

    def test_addresses(self):
        for text in ("", ":", "localhost", "localhost:", ":8888", "localhost:0", "localhost:65536", "localhost:-1",
                     "localhost:http", "localhost:88 88", "localhost:8888/"):  # fmt: skip
            self.assertRaises(argparse.ArgumentTypeError, cli._address, text)
        self.assertEqual(cli._address("localhost:65535"), ("localhost", 65535))
        self.assertEqual(cli._address("[::1]:8888"), ("::1", 8888))


class KeyTest(unittest.TestCase):
    """Where a node's key comes from, and what is said when it does not come."""

    def refused(self, arguments, *texts, **options):
        code, output = run("node", NOBODY, *arguments, **options)
        self.assertEqual(code, cli.EXIT_FAILED, output)
        self.assertEqual(output.count("\n"), 1, output)
        self.assertTrue(output.startswith("minimalcluster: "), output)
        for text in texts:
            self.assertIn(text, output)

    def test_no_key(self):
        self.refused([], "no key", "--key-file", "--key-stdin", KEY_VARIABLE)

    def test_row_46_no_argument_is_a_key_and_none_is_shown(self):
        secret = keys.generate_key(os.urandom(32))
        for words in (["--key", secret], ["--key=" + secret], ["--authkey", secret], [secret], ["--nprocs", secret]):
            code, output = run("node", NOBODY, *words)
            self.assertEqual(code, cli.EXIT_USAGE, output)
            self.assertNotIn(secret[4:], output)

    def test_empty_key(self):
        with support.directory() as path:
            file = support.write_key(os.path.join(path, "key"), " \n")
            self.refused(["--key-file", file], "the key from %s is empty" % file)
        self.refused([], "the key from %s is empty" % KEY_VARIABLE, variables={KEY_VARIABLE: ""})
        self.refused(["--key-stdin"], "the key from standard input is empty", given=b"")

    def test_unreadable_key_file(self):
        with support.directory() as path:
            self.refused(["--key-file", os.path.join(path, "absent")], os.path.join(path, "absent"))
            self.refused(["--key-file", path], path)
            file = support.write_key(os.path.join(path, "key"), "")
            with open(file, "wb") as opened:
                opened.write(b"\xff\xfe\x00")
            self.refused(["--key-file", file], file, "is not text")

    @unittest.skipIf(getattr(os, "geteuid", lambda: 0)() == 0, "every file is readable for root (and on Windows)")
    def test_forbidden_key_file(self):
        with support.directory() as path:
            file = support.write_key(os.path.join(path, "key"), KEY)
            os.chmod(file, 0)
            self.refused(["--key-file", file], file)

    def test_a_named_source_that_fails_is_fatal(self):
        self.refused(["--key-file", "absent"], "absent", variables={KEY_VARIABLE: KEY})


#: Reads one line of what is exported, and closes the pipe.
ENOUGH = """
import subprocess, sys
command = [sys.argv[1], "-m", "minimalcluster", "journal", "export", sys.argv[2]]
process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
process.stdout.readline()
process.stdout.close()
print(process.wait())
"""


class KeyCommandTest(unittest.TestCase):
    def setUp(self):
        self.folder = support.directory_for(self)

    def run_key(self, *arguments, **options):
        options.setdefault("directory", self.folder)
        return run("key", *arguments, **options)

    def test_new(self):
        code, output = self.run_key("new", "key")
        self.assertEqual(code, 0, output)
        key = support.read(os.path.join(self.folder, "key")).strip()
        self.assertNotIn(key, output)
        self.assertIn("(fingerprint %s)" % keys.fingerprint(key), output)
        code, output = self.run_key("fingerprint", "key")
        self.assertEqual((code, output), (0, keys.fingerprint(key) + "\n"))

    def test_new_keeps_what_is_there(self):
        file = support.write_key(os.path.join(self.folder, "key"), KEY)
        code, output = self.run_key("new", "key")
        self.assertEqual(code, cli.EXIT_FAILED)
        self.assertIn("minimalcluster: KeyFileError: key is there already", output)
        self.assertEqual(KEY, support.read(file))

    def test_without_a_file_in_the_users_folder(self):
        home = os.path.join(self.folder, "home")
        for words in (["new"], ["fingerprint"]):
            code, output = self.run_key(*words, variables={"MINIMALCLUSTER_HOME": home})
            self.assertEqual(code, 0, output)
        self.assertEqual(["key"], os.listdir(home))

    def test_no_fingerprint_of_a_passphrase(self):
        support.write_key(os.path.join(self.folder, "key"), "a passphrase of mine, not a random key")
        code, output = self.run_key("fingerprint", "key")
        self.assertEqual(code, cli.EXIT_FAILED)
        self.assertIn("was not generated", output)
        self.assertNotIn("passphrase of mine", output)


class JournalTest(unittest.TestCase):
    def setUp(self):
        self.enterings = support.directory()
        self.folder = self.enterings.__enter__()
        self.addCleanup(self.enterings.__exit__, None, None, None)
        self.path = os.path.join(self.folder, "run.journal")
        before = dict((name, os.environ.get(name)) for name in ("HOME", "USERPROFILE"))
        os.environ.update(HOME=self.folder, USERPROFILE=self.folder)  # the user's key is there
        self.addCleanup(self.restore, before)

    def restore(self, before):
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value

    def write(self, results, ended=True):
        """One run: these results, and the next task failed."""
        kept = journal.Journal(self.path)
        kept.begin("t", "a", 9, "work", lambda: [journal.content_key(b"%d" % n) for n in range(9)])
        kept.done(0, len(results), support.encoded(results))
        kept.failed(len(results), {"type": "ValueError", "text": u"caf\xe9"}, [])
        if ended:
            kept.close()
        else:
            kept.sync()
        return kept

    def test_show(self):
        self.write([1, 2])
        kept = self.write([1, 2, 3], ended=False)
        code, output = run("journal", "show", self.path)  # while a run has it open
        kept._file.close()
        self.assertEqual(code, 0, output)
        first, second = output.splitlines()
        self.assertEqual(first, "run 1: work on 9 arguments: 2 done, 1 failed, ended")
        self.assertEqual(second, "run 2: work on 9 arguments: 3 done, 1 failed, not ended: it runs, or was killed")

    def test_export(self):
        self.write([0.5, {"a": [None]}, (1, 2), float("nan"), complex(1, 2), {1: 2}])
        code, output = run("journal", "export", self.path)
        self.assertEqual(code, 0, output)
        lines = [json.loads(line) for line in output.splitlines()]
        self.assertEqual([line["task"] for line in lines], list(range(7)))
        self.assertEqual(set((line["run"], line["function"]) for line in lines), set([(1, "work")]))
        self.assertEqual([line.get("result") for line in lines], [0.5, {"a": [None]}] + [None] * 5)
        self.assertEqual([line.get("repr") for line in lines[2:]], ["(1, 2)", "nan", "(1+2j)", "{1: 2}", None])
        self.assertEqual((lines[6]["error"], lines[6]["text"]), ("ValueError", u"caf\xe9"))

    def test_submitted_calls(self):
        self.write([1])
        kept = journal.Journal(self.path)
        kept.calls_done([b"a" * 16, b"b" * 16], support.encoded([7, (8,)]))
        kept.call_failed(b"c" * 16, {"type": "ValueError", "text": "no"}, [])
        kept.close()
        code, output = run("journal", "show", self.path)
        self.assertEqual(
            (code, output.splitlines()[1:]), (0, ["submitted calls: 2 done, 1 failed"]), output
        )
        code, output = run("journal", "export", self.path)
        lines = [json.loads(line) for line in output.splitlines()][2:]
        self.assertEqual([line["call"] for line in lines], ["61" * 16, "62" * 16, "63" * 16])
        self.assertEqual([lines[0]["result"], lines[1]["repr"], lines[2]["error"]], [7, "(8,)", "ValueError"])

    def test_who_reads_has_seen_enough(self):
        self.write(list(range(20000)))
        with commands.Command(["-c", ENOUGH, sys.executable, self.path]) as process:
            self.assertEqual((process.wait(), process.output()), (0, "1\n"))

    def test_it_leaves_the_file_as_it_is(self):
        self.write([1, 2])
        with open(self.path, "ab") as file:
            file.write(b"torn")
        with open(self.path, "rb") as file:
            before = file.read()
        for action in ("show", "export"):
            code, output = run("journal", action, self.path)
            self.assertEqual(code, 0, output)
        with open(self.path, "rb") as file:
            self.assertEqual(file.read(), before)

    def test_what_it_refuses(self):
        for action in ("show", "export"):
            absent = os.path.join(self.folder, "absent")
            for path in (absent, self.folder, support.write(os.path.join(self.folder, "empty")), cli.__file__):
                code, output = run("journal", action, path)
                self.assertEqual(code, cli.EXIT_FAILED, output)
                self.assertEqual(output.count("\n"), 1, output)
                self.assertIn(path, output)
            self.assertFalse(os.path.exists(absent))
        code, output = run("journal")
        self.assertEqual(code, cli.EXIT_USAGE, output)


class SignalsTest(unittest.TestCase):
    def test_behind_its_end_a_signal_ends_the_process_without_a_traceback(self):
        during, handlers = [], [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        self.addCleanup(signal.signal, signal.SIGTERM, handlers[0])
        self.addCleanup(signal.signal, signal.SIGINT, handlers[1])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a background process, where it stays so

        def join_cluster(self):
            during.append(signal.getsignal(signal.SIGTERM))

        with support.patched(WorkerNode, "join_cluster", join_cluster), support.directory() as folder:
            path = support.write_key(os.path.join(folder, "key"), KEY)
            arguments = cli._parser().parse_args(["node", NOBODY, "--key-file", path, "--quiet"])
            self.assertEqual(0, arguments.run(arguments))
        self.assertEqual([cli._terminated], during)
        self.assertEqual(signal.SIG_DFL, signal.getsignal(signal.SIGTERM))
        self.assertEqual(signal.SIG_IGN, signal.getsignal(signal.SIGINT))


class NodeTest(unittest.TestCase):
    def setUp(self):
        self.master = MasterNode(PORT=0, AUTHKEY=KEY)
        self.addCleanup(self.master.shutdown)
        self.master.start_master_server(if_join_as_worker=False)
        self.address = "127.0.0.1:%d" % self.master.PORT

    def node(self, *arguments, **options):
        node = commands.Command(commands.minimalcluster("node", self.address, *arguments), **options)
        self.addCleanup(node.kill)
        return node

    def joined(self, node):
        def there():
            return self.master.list_workers() or not node.running()

        support.wait_until(there, what="a node's joining")
        self.assertTrue(node.running(), node.output())
        return self.master.list_workers()[0]

    def serves(self, *arguments, **options):
        """It joins, works, keeps the key to itself, and ends with 0 when the master shuts down."""
        node = self.node("--nprocs", "1", *arguments, **options)
        worker = self.joined(node)
        self.assertEqual((worker.pid, worker.nprocs), (node.pid, 1))
        source = "import os\ndef f(name):\n    return os.environ.get(name)\n"
        self.assertEqual(support.run(self.master, source, "f", [KEY_VARIABLE]), {KEY_VARIABLE: None})
        self.master.shutdown()
        self.assertEqual(node.wait(), 0, node.output())
        self.assertNotIn(KEY, node.output())
        self.assertNotIn("WARNING", node.output())
        return node.output()

    def test_key_from_a_file(self):
        with support.directory() as path:
            file = support.write_key(os.path.join(path, "key"), KEY + "\n")
            output = self.serves("--key-file", file, variables={KEY_VARIABLE: "the file comes first"})
        self.assertIn("connected to the master at %s" % self.address, output)

    def test_key_from_the_environment(self):
        self.serves(variables={KEY_VARIABLE: KEY})

    def test_key_from_standard_input(self):
        self.serves("--key-stdin", given=(KEY + "\n").encode("ascii"))

    def test_quiet(self):
        self.assertEqual(self.serves("--quiet", variables={KEY_VARIABLE: KEY}), "")

    def test_encrypt(self):
        node = self.node("--encrypt", variables={KEY_VARIABLE: KEY})
        self.assertEqual(node.wait(), cli.EXIT_FAILED)
        self.assertIn("minimalcluster: EncryptionError: %s does not encrypt" % self.address, node.output())
        self.master.shutdown()
        self.master = MasterNode(PORT=0, AUTHKEY=KEY, encrypt=True)
        self.addCleanup(self.master.shutdown)
        self.master.start_master_server(if_join_as_worker=False)
        self.address = "127.0.0.1:%d" % self.master.PORT
        self.serves("--encrypt", variables={KEY_VARIABLE: KEY})

    def test_all_processors_without_nprocs(self):
        worker = self.joined(self.node(variables={KEY_VARIABLE: KEY}))
        self.assertEqual(worker.nprocs, minimalcluster.compat.cpu_count())

    def test_wrong_key(self):
        wrong = KEY[:-1] + "0"
        node = self.node(variables={KEY_VARIABLE: wrong})
        self.assertEqual(node.wait(), cli.EXIT_FAILED)
        self.assertEqual(node.output().count("\n"), 1, node.output())
        self.assertIn("minimalcluster: AuthenticationError: the master at %s refused our key" % self.address, node.output())
        for secret in (KEY, wrong):
            self.assertNotIn(secret, node.output())

    @unittest.skipUnless(hasattr(os, "killpg"), "Ctrl-C cannot be sent to another process here")
    def test_interrupt(self):
        node = self.node("--nprocs", "1", variables={KEY_VARIABLE: KEY})
        self.joined(node)
        workers = support.worker_processes(node.pid, 1)
        node.interrupt()
        self.assertEqual(node.wait(), cli.EXIT_INTERRUPTED)
        self.assertNotIn("Traceback", node.output())
        support.wait_for_death(workers)
        support.wait_until(lambda: not self.master.list_workers(), what="the node's leaving")

    @unittest.skipUnless(hasattr(os, "killpg"), "Ctrl-C cannot be sent to another process here")
    def test_no_master_yet(self):
        self.master.shutdown()
        node = self.node(variables={KEY_VARIABLE: KEY})
        node.wait_for_output("cannot connect to %s" % self.address)
        self.assertIn("next try in", node.output())
        node.interrupt()
        self.assertEqual(node.wait(), cli.EXIT_INTERRUPTED)
        self.assertNotIn("Traceback", node.output())


if __name__ == "__main__":
    unittest.main()
