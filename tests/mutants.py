"""Check the checker: small bugs planted into the brains and the journal, one at a time; the simulation must find each.

``python -m tests.mutants`` prints, for each, the first seed that finds it. A mutant is a function,
a piece of its text and what is put there instead; a piece that is no longer in the source is an
error, so that the list keeps up with the code. What a simulated cluster meets too rarely (an
overlap of two results, two deaths in one shortened piece, two former
attempts that a journal has of one task, a parked node that goes) is left to test_scheduler.py; a cut across what
a former master had cut, too; large results of its attempts, before which tasks are still to be cut, to test_window.py.
"""
from __future__ import absolute_import, division, print_function

import argparse
import contextlib
import inspect
import multiprocessing
import sys
import textwrap

from minimalcluster.wire import checks, frames, protocol
from minimalcluster.brain import agent, leases, ledger, policy, scheduler
from minimalcluster.master import journal, sessions, window
from tests import simulation

#: Each must be found within this many seeds. The suite runs 2,000; the bug that is found last needs 2,072.
SEEDS_MAX = 3000

_S, _L, _A, _C, _J = scheduler.Scheduler, ledger.Ledger, agent.Agent, sessions.Sessions, journal.Journal
_L, _W, _W2 = ledger.Ledger, frames._Outgoing, frames.Channel

#: (what is wrong, class or module, function, text, its replacement)
MUTANTS = [
    ("a lease leaks when its node is lost", _S, "_remove", "self._lose(lease)", "pass"),
    ("a lost piece is not queued again", _L, "lose", "self.enqueue(piece)", "pass"),
    ("a piece is queued again while another node runs it", _L, "lose", "elif not piece.held:", "else:"),
    ("an attempt's number is used again", _S, "_remove", "self._changed = True", "self._next_attempt -= 1"),
    ("a duplicate is delivered", _S, "_tasks_done", "if end > piece.lo:", "if True:"),
    ("a duplicate failure is delivered", _S, "_task_failed", "or event.first < piece.lo", ""),
    ("an event of a replaced session is taken", _S, "handle", "and node.session == event.session", ""),
    ("an event of a closed session is taken", _S, "handle", "and node.connected", ""),
    ("a lost connection is waited for without end", _S, "_node_disconnected", "self._now + RECONNECT_SECONDS", "self._now + 1e9"),
    ("a silent node is never given up", scheduler, "_lost_at", "node.heard_at + NODE_LOST_SECONDS", "node.heard_at + 1e9"),
    ("what a node no longer holds stays leased to it", _S, "_reconcile", "if attempt not in held:", "if False:"),
    ("what a node still holds is queued as well", _L, "take_up", "self._dequeue(piece)", "pass"),
    ("a finished piece's attempts are not fenced", _L, "end", "del self.attempts[lease.attempt]", "pass"),
    ("leases of a finished piece stay", _L, "finish", "self.end(lease)", "pass"),
    ("what was given back is lost", _L, "give_back", "self.enqueue(rest)", "pass"),
    ("given back by one of two holders, it is lost", _L, "give_back", "if piece.job.stopped:", "if piece.job.stopped or piece.held > 1:"),
    ("the rest of a piece that was cut is lost", _L, "cut", "self.enqueue(rest)", "pass"),
    ("deaths are not counted", _S, "_attempt_died", "list(piece.deaths) + [Death(", "[Death("),
    ("the first task of a chunk is blamed for any death", _S, "_attempt_died", "if not lease.one_by_one and hi - lo > 1:", "if False:"),
    ("what follows a deadly task is lost", _S, "_attempt_died", "self._ledger.enqueue(Piece(job, lo + 1, hi))", "pass"),
    ("a death too few makes poison", _S, "_suspect", " < job.options.attempts_max", " + 1 < job.options.attempts_max"),
    ("one retry too few", _S, "_task_failed", "failures <= job.options.retries", "failures < job.options.retries"),
    ("one retry too many", _S, "_task_failed", "failures <= job.options.retries", "failures <= job.options.retries + 1"),
    ("a retried task is counted as delivered", _S, "_task_failed", "self._ledger.advance(", "self._ledger.deliver("),
    ("a job that was stopped goes on", _S, "_task_failed", "if job.options.stop_on_error and", "if False and"),
    ("a cancelled job keeps its leases", _L, "stop", "self.end(lease)", "pass"),
    ("any unfit node explains any stop", _S, "_finish_what_is_done", "job.unrunnable", "next(iter(job.ineligible.values()), None)"),
    ("one unfit node ends the job", _S, "_attempt_unfit", "self._may_run(job, ())", "False"),
    ("where no worker process starts, what is held stays", _A, "_notice_whether_stuck", "if stuck is not None:", "if False:"),
    ("where no worker process could start nothing is handed out ever again", _S, "_node_starting", "None if event.stuck is None else self._now + event.stuck", "node.stuck_until or self._now + 1e9"),
    ("a draining node is given more", _S, "_node_draining", "node.draining = True", "pass"),
    ("credit is ignored", _L, "file", "held < 2 * slots", "held < 9 * slots"),
    ("a growing job counts its first tasks again", _L, "grow", "total - job.total", "total"),
    ("taking back kills what runs", _S, "_ask_back", "lease.attempt, False", "lease.attempt, True"),
    ("tasks of any job are copied", ledger, "_may_be_copied", "terms.idempotent and", ""),
    ("a task is copied again and again", policy, "_may_be_copied", "piece.copied or piece.held > 1 or", ""),
    ("there is no end of copies", policy, "to_copy", "copies_max(job) - job.copied", "10 ** 9"),
    ("of two copies the one that raises takes the other with it", _S, "_gives_way", "self._ledger.end(lease)", "self._ledger.finish(piece)"),
    ("what one of two holders gives back is queued while the other runs it", _S, "_attempt_released", "self._ledger.end(lease)", "self._ledger.end(lease); self._ledger.enqueue(piece)"),
    ("a node that runs a task alone is given more", _L, "file_connection", "0 if node.exclusive else slots", "slots"),
    ("what is to run alone joins others", _A, "_must_wait", "held.is_exclusive or ", ""),
    ("a node that ran a task alone is given nothing any more", _L, "_leave", "node.exclusive -= 1", "pass"),
    ("a job is cut beyond its limit", _L, "cut", "min(job.cursor + size, job.limit)", "job.cursor + size"),
    ("what was cut once waits for the limit, too", leases.Job, "ready", "bool(self.pieces) or ", ""),
    ("the limit is not what the reader has taken", window.Window, "limit_for", "self.taken + self._results_max", "self._reached + self._results_max"),
    ("a limit that rises is not told", window.Window, "took", "STEPS * (", "0 * ("),
    ("an attempt's number is used again after a restart of the master", _S, "__init__", "epoch << EPOCH_SHIFT", "1 << EPOCH_SHIFT"),
    ("what a former master delivered runs again", _L, "resume", "gaps_between(spans, job.total)", "gaps_between([], job.total)"),
    ("nobody has time to come back to the next master", _S, "_job_resumed", "self._now + ADOPT_SECONDS", "self._now"),
    ("who does not come back to the next master is waited for without end", _S, "_job_resumed", "self._now + ADOPT_SECONDS", "self._now + 1e9"),
    ("what nobody knows to be running is not queued again", _L, "resume", "left = list(gaps)", "left = []"),
    ("behind what a former master had cut nothing is cut", _L, "_skip", "job.cursor = job.skips.pop()[1]", "pass"),
    ("a parked node is never admitted", _S, "_admit_parked", "self._admit(event)", "pass"),
    ("a former master's node is admitted before the job comes", _S, "_node_joined", "elif event.held and", "elif False and"),
    ("what was adopted is queued as well", _L, "take_up", "piece.job.awaited.pop(piece, None)", "pass"),
    ("an adopted attempt's job is not defined anew", _S, "_reconcile", "self._do(Define(node.id, job.id))", "pass"),
    ("a cancelled task that waits is handed out", _L, "having", "return job.places.having(task)", "return next((each.piece for each in self.attempts.values() if each.piece.job is job and each.piece.lo <= task < each.piece.hi), None)"),
    ("a cancelled task that nobody has had is handed out", _L, "_cut_next", "job.cursor = end", "job.cursor = end - 1"),
    ("the rest of a cancelled task's piece is lost", _L, "cancel", "self.enqueue(Piece(job, lo, hi, piece.deaths))", "pass"),
    ("a cancelled task's attempt may still deliver", _L, "cancel", "self.finish(piece)", "piece.state is QUEUED and self._dequeue(piece); [self._leave(lease) for lease in piece.leases]; piece.state = DONE"),
    ("what an interrupted job runs is killed at once", _S, "_job_stopped", "self._stop(job, kill=False)", "job.stopped = True; self._ledger.touched.add(job)"),
    ("deadlines are by the wall clock", _S, "handle", "self._now = now", "import time; self._now = time.time()"),
    ("a job that can be handed out is not in line", _L, "file_touched", "if not job.lined_up and job.ready:", "if not job.turn and job.ready:"),
    ("a job that waited is never in line again", _L, "front", "job.lined_up = False", "pass"),
    ("a node that has ended a lease is not among the idle", _L, "_leave", "self.file(node)", "pass"),
    ("a node that has a lease stays among the idle", _L, "_begin", "self.file(node)", "pass"),
    ("what is too young to be taken back is never looked at again", _L, "to_take_back", "self.givers.note(node)", "pass"),
    ("what makes progress is not asked for again", _L, "may_be_asked", "self.givers.note(lease.node)", "pass"),
    ("a node that has something to give is not looked at", _L, "file", "self.givers.note(node)", "pass"),
    ("what is done is still found by its tasks", _L, "finish", 'piece.state = PIECE_TRANSITIONS[piece.state]["finish"]', "pass"),
    ("a new piece is not found by its tasks", _L, "enqueue", "piece.job.places.put(piece)", "pass"),
    ("a finished job's speeds stay", _L, "remove_job", "node.measured.discard(job.id)", "pass"),
    ("a job's end leaves its nodes eager", _L, "remove_job", "node.short.discard(job.id)", "pass"),
    ("a connection's end leaves what was measured", _L, "forget_session", "del self.jobs[job_id].speeds[node.id]", "pass"),
    ("a node that is gone is still unfit for jobs", _L, "remove_node", "del job.ineligible[node.id]", "pass"),
    ("a lost connection is noticed as late as a silent node", _S, "_connection_changed", "self._lost_at.note(node)", "pass"),
    ("what a former master's nodes may run is not noticed in time", _S, "_job_resumed", "self._queued_again_at.note(job)", "pass"),
    ("who explained once is never asked again", _S, "_explain", "self._explained_at.note(job)", "pass"),
    ("slots of a lost node count", _L, "file_connection", " if node.serving else 0", ""),
    ("a node beats before its master has taken it in", _A, "_keep_in_touch", "if self._joined:", "if self._linked:"),
    ("what is held is not told", _A, "_all_held", "reported.union(self._held)", "set()"),
    ("what is reported and not acknowledged is not told as held", _A, "_all_held", "for message in self._reports.values()", "for message in ()"),
    ("a report is forgotten when it is sent", _A, "_report", "self._reports[self._next_report] = message", "if not self._joined: self._reports[self._next_report] = message"),
    ("an acknowledgement covers one report too many", _A, "_on_acknowledge", "<= message.report", "<= message.report + 1"),
    ("kept reports are not sent again", _A, "_on_joined", "for report in self._reports.values():", "for report in ():"),
    ("reports are sent before the master has answered", _A, "_report", "if self._joined:", "if self._linked:"),
    ("a report's number is used again", _A, "_link_up", "self._alone_at = None", "self._alone_at = None; self._next_report = 1"),
    ("a dead process is not reported", _A, "_child_exited", "self._report(protocol.Died(0, slot.attempt, held.next, event.info))", "pass"),
    ("a death is put down to the chunk's first task", _A, "_child_exited", "slot.attempt, held.next,", "slot.attempt, held.end - 1,"),
    ("what was waiting is dropped without a word", _A, "_on_revoke", "if not message.kill:", "if False:"),
    ("a drained node leaves before its results are acknowledged", _A, "_finish_if_drained", "and not self._reports", ""),
    ("a drained node leaves before its tasks end", _A, "_finish_if_drained", "and not self._held", ""),
    ("draining ends with the connection", _A, "_link_down", "self._finish_if_drained()", "self._draining and self._finish('left', None)"),
    ("heartbeats stop", _A, "_keep_in_touch", "self._beat()", "pass"),
    ("a silent master is waited for without end", _A, "_keep_in_touch", "self._heard_at + MASTER_LOST_SECONDS", "self._heard_at + 1e9"),
    ("a part of a message is no sign of life for a node", _A, "_master_heard", "self._heard_at = self._now", "pass"),
    ("neither bytes nor beats are a sign of life for the master", _S, "handle", "node.heard_at = now", "node.heard_at = node.heard_at if type(event) is NodeHeard else now"),
    ("the master does not beat", _C, "_beat", "session.send(protocol.Acknowledge(session.answered))", "pass"),
    ("the master beats too late", _C, "_beat", "now + BEAT_SECONDS", "now + 6 * BEAT_SECONDS"),
    ("a part of a job passes the job's definition", protocol, "order", '[("attempt", attempt), ("part of", job)], [("job", job)]', '[("attempt", attempt), ("part of", job)], []'),
    ("the end of a job passes what is left of it", protocol, "order", '[("job", job), ("part of", job)]', "[]"),
    ("a small report passes a large one", protocol, "order", 'return ["report"], ["report"]', "return [], []"),
    ("a large message's last piece is taken for all of it", _W, "take", "self.number if whole else self.number + LAST", "self.number"),
    ("what waits is forgotten when its first piece has gone", _W2, "pull", "if outgoing.sent == outgoing.size:", "if outgoing.sent:"),
    ("a process that died leaves its slot empty", _A, "_child_exited", "= EMPTY, None", "= STARTING, None"),
    ("the next master does not hear what an attempt gave back", _A, "_on_acknowledge", "if not isinstance(report, protocol.Released) or", "if True or"),
    ("a task may take as long as it likes", _A, "_limit", "self._now + self._limit_of(slot)", "self._now + 1e9"),
    ("a time limit counts before the task's own code", _A, "_limit_of", "max(slot.timeout, READY_SECONDS)", "slot.timeout"),
    ("a task's time goes on after its end", _A, "_end", "slot.kill_at, slot.timeout_at = IDLE, None, None, None", "slot.kill_at = IDLE, None, None"),
    ("what took too long also counts as a death", _A, "_time_out", "self._end(slot)", "pass"),
    ("what took too long goes on", _A, "_time_out", "self._do(KillChild(slot.number))", "pass"),
    ("a job that ended while the link was down is kept", _A, "_link_up", "set(self._definitions)", "set()"),
    ("a job is forgotten while attempts wait with it", _A, "_forget_what_is_over", "self._over - waiting", "self._over"),
    ("a job that goes on is forgotten", _A, "_on_define", "self._over.discard(message.job)", "pass"),
    ("a dropped object is answered from what is gone", _A, "_on_drop", "self._files.pop(name, None)", "self._files.get(name)"),
    ("what was asked for is not asked again", _A, "_on_joined", "in self._fetches.values():", "in ():"),
    ("only the first who asks gets a shared object", _A, "_kept", "self._answer(askers,", "self._answer(askers[:1],"),
    ("who asks for a kept object gets another's answer", _A, "_fetch", "self._answer([asker],", "self._answer([(slot.number, 1)],"),
    ("a dead process's request is answered to the next one", _A, "_child_exited", "if asker[0] != slot.number", ""),
    ("a result is acknowledged before it is on the disk", _C, "_acknowledge", "if not dirty:", "if True:"),
    ("what waits for the disk is acknowledged meanwhile", _C, "_acknowledge", "if self._syncing is None:", "if True:"),
    ("what came while the disk wrote is taken for written", _C, "_synced", "delivered, self._syncing = self._syncing or [], None", "delivered, self._syncing = [(each, each.report) for each in self._sessions.values()], None"),
    ("a field of an odd message is not looked at", checks, "_check_info", "if not rule.holds(info[name]):", "if False:"),
    ("the numbers of an odd message are not looked at", checks, "check", "if not least <= message[at] <= most:", "if False:"),
    ("results that are none are taken", checks, "_has_results", "if len(payload) != ", "if False and len(payload) != "),
    ("a full journal is not written to the disk", _J, "sync", "os.fsync(self._file.fileno())", "pass"),
    ("grants are not in the journal", _J, "grant", "self._append(GRANT, ", "(GRANT, "),
    ("failures are not in the journal", _J, "failed", "self._append(FAILED, ", "(FAILED, "),
    ("a torn record stays, and the next one is written over it", _J, "_load", "self._cut(self._good)", "pass"),
    ("a record's content is not checked", _J, "_records", "if not hmac.compare_digest(self._tag(b\"body\"", "if False and not hmac.compare_digest(self._tag(b\"body\""),
    ("a changed record ends the journal without a word", _J, "_records", "raise self._changed(number, at)", "return"),
    ("a record that a power cut tore is taken for a changed one", _J, "_records", "if end == size or blocks.only_zeros_from(end - 1):", "if end == size:"),
    ("the results of a run before are forgotten", _J, "outcomes", "place, count = _same, min(count, total)", "place, count, taken = _same, min(count, total), bytearray(b\"\\1\" * total)"),
    ("a record is tagged without the one before it", _J, "_append", "self._before = tag", "pass"),
]  # fmt: skip


@contextlib.contextmanager
def planted(owner, function, text, replacement):
    # type: (object, str, str, str) -> object
    """The class or module with this bug in it; the function may be a property."""
    original = vars(owner)[function]
    original = getattr(original, "fget", original)
    source = textwrap.dedent(inspect.getsource(original))
    if text not in source:
        raise LookupError("%s.%s no longer contains %r: bring the mutant up to date" % (owner.__name__, function, text))
    lines = source.replace(text, replacement, 1).splitlines()
    outer = ["def made(__class__):  # which super() wants"] + ["    " + line for line in lines] + ["    return " + function]
    namespace = {}  # type: dict
    exec(compile("\n".join(outer), "<mutant of %s>" % function, "exec"), original.__globals__, namespace)
    # In the function itself: a table may hold it, too.
    made = namespace["made"](owner)
    made = getattr(made, "fget", made)
    code, original.__code__ = original.__code__, made.__code__
    try:
        yield
    finally:
        original.__code__ = code


def first_finder(seeds):
    # type: (object) -> tuple
    """(the first of these seeds that fails, its message's first line), or (None, "")."""
    for seed in seeds:  # type: ignore[attr-defined]
        try:
            simulation.World(seed).run()
        except simulation.Failure as failure:
            return seed, str(failure).split("\n")[0]
    return None, ""


def try_mutant(told):
    # type: (tuple) -> tuple
    """(the mutant's number, the first seed that finds it, how; with "" for one that fails without it too)."""
    number, seeds = told
    with planted(*MUTANTS[number][1:]):
        seed, how = first_finder(range(seeds))
    if seed is not None and first_finder([seed])[0] is not None:
        how = ""
    return number, seed, how


def main():
    # type: () -> int
    parser = argparse.ArgumentParser(description="Plant bugs, and see which seed of the simulation finds each.")
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX)
    parser.add_argument("--only", default="", help="parts of the names of those to try, between |")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processes (default: %(default)s)")
    told = parser.parse_args()
    wanted = [mutant[0] for mutant in MUTANTS if any(part in mutant[0] for part in told.only.split("|"))]
    tasks = [(number, told.seeds) for number, mutant in enumerate(MUTANTS) if mutant[0] in wanted]
    found, most = 0, 0
    pool = multiprocessing.Pool(told.jobs)
    try:
        for number, seed, how in pool.imap(try_mutant, tasks, 1):
            name = MUTANTS[number][0]
            if seed is None:
                print("NOT FOUND in %d seeds: %s" % (told.seeds, name))
            elif not how:
                print("seed %d fails without a planted bug too" % seed)
                return 1
            else:
                found += 1
                most = max(most, seed + 1)
                print("%4d seeds: %s\n            %s" % (seed + 1, name, how.split(" s ", 1)[-1][:110]))
            sys.stdout.flush()
    finally:
        pool.terminate()
    print("%d of %d planted bugs found, the last within %d seeds" % (found, len(tasks), most))
    return 0 if found == len(tasks) else 1


if __name__ == "__main__":
    sys.exit(main())
