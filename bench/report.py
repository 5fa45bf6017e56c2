"""The figures of ``runner.py`` as tables, as a plot, and beside what the project wants to reach.

    python3 bench/report.py            prints all tables as Markdown
    python3 bench/report.py --check    what is to be reached, and reached; status 1 if a row falls short
    python3 bench/report.py --write    prints, and writes the tables and the plot into docs/

A figure is the median of the rounds, with the smallest and the largest behind it. A ratio is taken round by round,
because a machine's speed drifts, and is the median of these.
"""

import json
import math
import os
import re
import statistics
import sys
from collections import namedtuple

import peers
import workloads

RESULTS = os.path.join(peers.ROOT, ".bench", "results.json")
DOCUMENT = os.path.join(peers.ROOT, "docs", "performance.md")
PLOT = os.path.join(peers.ROOT, "docs", "performance.svg")

TABLES = [
    ("Small tasks", ["trip_us", "trip_p99_us", "submits_rate", "metg_map_us", "metg_submit_us"]),
    ("Maps", ["map_e4_rate", "map_e5_rate", "map_e6_rate", "map_e5_peak_mib", "map_e6_peak_mib"]),
    ("Maps over other items", ["tuples_us", "texts_us", "dicts_us", "dataclasses_us"]),
    ("Large values", ["bytes_rate", "arrays_rate", "shared_seconds", "shared_mib"]),
    ("Real work", ["start_seconds", "exit_seconds", "heavy_efficiency", "uneven_efficiency", "factorize_seconds"]),
    ("A worker process is killed", ["calm_seconds", "killed_seconds"]),
]
PLOTTED = ["trip_us", "submits_rate", "map_e6_rate", "bytes_rate", "start_seconds", "heavy_efficiency"]

#: value: (peer, figure). against: the same, or None where the bound is one of the figure itself. limit: of the ratio.
Bound = namedtuple("Bound", "value sign limit against")
Goal = namedtuple("Goal", "row bounds")

US, POOL, PPE = "Executor", "StandardPool", "ProcessPool"


def beside(figure, sign, limit, peer, ours=US):
    return Bound((ours, figure), sign, limit, (peer, figure))


def alone(figure, sign, limit, ours=US):
    return Bound((ours, figure), sign, limit, None)


GOALS = [
    Goal("one round trip", [
        beside("trip_us", "<=", 0.6, PPE),
        Bound((US, "trip_p99_us"), "<=", 2.0, (US, "trip_us")),
    ]),
    Goal("10^4 single submits", [
        beside("submits_rate", ">=", 5.0, PPE),
        beside("submits_rate", ">", 1.0, POOL),
    ]),
    Goal("map of x * 2 over range(10^6)", [
        beside("map_e6_rate", ">", 1.0, POOL, face) for face in (US, "Pool", "Execute")
    ]),
    Goal("the same over range(10^4)", [
        beside("map_e4_rate", ">", 1.0, PPE),
        beside("map_e4_rate", ">=", 0.8, POOL),
    ]),
    Goal("map over tuples, texts, dicts, dataclasses", [
        beside(figure, "<=", 1.0, POOL) for figure in ("tuples_us", "texts_us", "dicts_us", "dataclasses_us")
    ]),
    Goal("smallest task at 50 % efficiency (METG)", [
        alone("metg_map_us", "<=", 4.0),
        alone("metg_submit_us", "<=", 128.0),
    ]),
    Goal("start to first result, to exit", [
        beside("start_seconds", "<=", 1.5, PPE),
        beside("exit_seconds", "<=", 1.5, PPE),
    ]),
    Goal("values of 4 MiB there and back", [
        beside(figure, sign, limit, peer)
        for sign, limit, peer in ((">=", 2.0, PPE), (">", 1.0, "Mpi"))
        for figure in ("bytes_rate", "arrays_rate")
    ]),
    Goal("200 heavy-tailed tasks, efficiency", [alone("heavy_efficiency", ">=", 0.985)]),
    Goal("SIGKILL of a worker process at 30 % of the work", [
        Bound((US, "killed_seconds"), "<=", 1.2, (US, "calm_seconds")),
    ]),
    Goal("a node in another process, over TCP: round trip", [
        beside("trip_us", "<=", 1.6, US, each) for each in ("OverTcp", "OverTls")
    ]),
    Goal("a node in another process: map of 10^6", [
        beside("map_e6_rate", ">=", 0.95, US, each) for each in ("OverTcp", "OverTls")
    ]),
    Goal("a node in another process: values of 4 MiB over TLS", [
        alone("bytes_rate", ">=", 400.0, "OverTls"), alone("arrays_rate", ">=", 400.0, "OverTls"),
    ]),
    Goal("factorize", [beside("factorize_seconds", "<=", 1 / 0.99, POOL)]),
]  # fmt: skip


class Results:
    def __init__(self, path=RESULTS):
        with open(path) as file:
            loaded = json.load(file)
        self.machine, self.versions, self.notes = loaded["machine"], loaded["versions"], loaded["notes"]
        self.rounds, self.quick, self.skipped = loaded["rounds"], loaded["quick"], loaded["skipped"]
        self._figures = loaded["figures"]

    def of(self, peer, figure):
        """{round: value}."""
        return self._figures.get(figure, {}).get(peer, {})

    def peers(self):
        found = {peer for each in self._figures.values() for peer in each}
        return [name for name in peers.ALL if name in found]

    def ratios(self, value, against):
        """Round by round, where both were measured."""
        these, those = self.of(*value), self.of(*against)
        return [these[number] / those[number] for number in these if those.get(number)]


# -- tables --------------------------------------------------------------------------------------------


def short(value):
    if math.isinf(value):
        return "-"
    if abs(value) >= 1e6:
        return "%.2f M" % (value / 1e6)
    if abs(value) >= 1000:
        return format(round(value), ",")
    return "%.0f" % value if abs(value) >= 100 else "%.3g" % value


def spread(values):
    """Median and, if there are several, the smallest and the largest."""
    middle = short(statistics.median(values))
    return middle if len(values) < 2 else "%s (%s - %s)" % (middle, short(min(values)), short(max(values)))


def times_better(results, peer, figure):
    """How many times better this project's executor was: above 1, it was."""
    ratios = results.ratios((peer, figure), (US, figure))
    if not ratios or figure.endswith("_mib"):
        return ""
    middle = statistics.median(ratios)
    if not middle or math.isinf(middle):
        return ""
    return " x %.2f" % (1 / middle if workloads.FIGURES[figure].more else middle)


def cell(results, peer, figure):
    values = [*results.of(peer, figure).values()]
    if not values:
        return ""
    return spread(values) + ("" if peer == US else times_better(results, peer, figure))


def table(results, figures):
    figures = [figure for figure in figures if any(results.of(peer, figure) for peer in results.peers())]
    if not figures:
        return ""
    titles = ["%s, %s" % (each.title, each.unit) if each.unit else each.title for each in map(title_of, figures)]
    lines = ["| | %s |" % " | ".join(titles), "|---" * (len(figures) + 1) + "|"]
    for peer in results.peers():
        cells = [cell(results, peer, figure) for figure in figures]
        if "killed_seconds" in figures and not cells[-1]:
            cells[-1] = results.notes.get(peer, {}).get("kill", "")
        if any(cells):
            lines.append("| %s | %s |" % (peers.ALL[peer].name, " | ".join(cells)))
    return "\n".join(lines)


def title_of(figure):
    return workloads.FIGURES[figure]


def head(results):
    about = dict(results.machine)
    versions = ", ".join("%s %s" % each for each in sorted(results.versions.items()))
    lines = [
        "Measured by `make bench%s` in %s minutes: %s, %d cores, %s, Python %s, %d worker processes, %d rounds "
        "(engines fewer), load %s before and %s after. %s."
        % (
            " QUICK=1" if results.quick else "", about["minutes"], about["processor"], about["cores"], about["system"],
            about["python"], about["workers"], results.rounds, about["load"][0], about["load after"][0], versions,
        ),
    ]  # fmt: skip
    lines += ["Skipped: %s, which %s." % (peers.ALL[name].name, why) for name, why in results.skipped.items()]
    lines.append(
        'A figure is the median of the rounds (smallest - largest). "x 2": in the same rounds, ClusterExecutor was '
        "twice as good (below 1: the peer was better)."
    )
    return "\n".join(lines)


def problems(results):
    """What a peer could not do, but the outcomes of kills, which have a table."""
    return [
        "- %s, %s: %s" % (peers.ALL[peer].name, workload, note)
        for peer, notes in results.notes.items()
        for workload, note in notes.items()
        if workload != "kill" and note != "has no such call"
    ]


def document(results):
    parts = [head(results), "### What is to be reached, and reached", check_table(results)[0]]
    for title, figures in TABLES:
        text = table(results, figures)
        if text:
            parts += ["### " + title, text]
    found = problems(results)
    if found:
        parts += ["### What failed", "\n".join(found)]
    return "\n\n".join(parts)


# -- what is to be reached -------------------------------------------------------------------------------


def in_words(bound):
    title, unit, _ = title_of(bound.value[1])
    ours = "" if bound.value[0] == US else peers.ALL[bound.value[0]].name + ": "
    if bound.against is None:
        return ours + title, "%s %s %s" % (bound.sign, short(bound.limit), unit)
    other, figure = bound.against
    what = title_of(figure).title if figure != bound.value[1] else peers.ALL[other].name
    return ours + title, "%s %.3g x %s" % (bound.sign, bound.limit, what)


def judged(results, bound):
    """(what was reached, whether it is enough; None: not measured)."""
    if bound.against is None:
        values = [*results.of(*bound.value).values()]
    else:
        values = results.ratios(bound.value, bound.against)
    if not values:
        return "not measured", None
    middle = statistics.median(values)
    compare = {"<=": middle <= bound.limit, ">=": middle >= bound.limit, ">": middle > bound.limit}
    return spread(values) + ("" if bound.against is None else " x"), compare[bound.sign]


def check_table(results):
    """(the table, the rows that fall short)."""
    lines, short_of = ["| what | figure | measured | reach | reached | |", "|---|---|---|---|---|---|"], []
    for goal in GOALS:
        for number, bound in enumerate(goal.bounds):
            what, reach = in_words(bound)
            reached, enough = judged(results, bound)
            values = [*results.of(*bound.value).values()]
            verdict = {True: "yes", False: "**falls short**", None: ""}[enough]
            row = goal.row if number == 0 else ""
            lines.append(
                "| %s | %s | %s | %s | %s | %s |"
                % (row, what, spread(values) if values else "", reach, reached, verdict)
            )
            if enough is False:
                short_of.append("%s: %s, reach %s, reached %s" % (goal.row, what, reach, reached))
    return "\n".join(lines), short_of


def check(results):
    text, short_of = check_table(results)
    print(text)
    unmeasured = text.count("| not measured |")
    print("\n%d of %d rows fall short, %d were not measured" % (len(short_of), text.count("\n") - 1, unmeasured))
    print("".join("  %s\n" % each for each in short_of), end="")
    return 1 if short_of else 0


# -- plot ----------------------------------------------------------------------------------------------


def plot(results, path):
    """Bars beside each other, for the figures that say most. False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "minimalcluster", "font.size": 8})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for axis, name in zip(axes.flat, PLOTTED):
        bars(axis, results, name)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    with open(path) as file:
        text = file.read()
    with open(path, "w") as file:  # a tenth of a pixel is enough, and half as large
        file.write(re.sub(r"\n\s*", "\n", re.sub(r"(?s)<!--.*?-->", "", re.sub(r"(\d\.\d)\d+", r"\1", text))))
    return True


def bars(axis, results, figure):
    shown = [(peer, [*results.of(peer, figure).values()]) for peer in results.peers() if results.of(peer, figure)]
    shown = [(peers.ALL[peer].name, statistics.median(values), peer in OURS) for peer, values in shown]
    title, unit, more = title_of(figure)
    shown.sort(key=lambda each: each[1], reverse=more)
    names, values, ours = zip(*shown) if shown else ((), (), ())
    from matplotlib.ticker import EngFormatter

    axis.barh(names, values, color=["#1f77b4" if each else "#b0b0b0" for each in ours])
    axis.invert_yaxis()
    if values and max(values) > 20 * min(values):
        axis.set_xscale("log")
    axis.minorticks_off()
    text = "%s%s: %s is better" % (title, ", " + unit if unit else "", "more" if more else "less")
    axis.set_title(text, fontsize=7, loc="right")
    axis.tick_params(left=False, labelsize=7)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


OURS = [each.__name__ for each in peers.OURS]


# -- the document ----------------------------------------------------------------------------------------


def write(text, path=DOCUMENT):
    """Put the text between the document's markers."""
    with open(path, encoding="utf-8") as file:
        whole = file.read()
    marked = re.sub("(?s)<!-- tables -->.*?<!-- end -->", lambda _: "<!-- tables -->\n%s\n<!-- end -->" % text, whole)
    with open(path, "w", encoding="utf-8") as file:
        file.write(marked)


def main():
    if not os.path.exists(RESULTS):
        raise SystemExit("nothing was measured yet: run make bench")
    results = Results()
    if "--check" in sys.argv:
        return check(results)
    text = document(results)
    print(text)
    if "--write" in sys.argv:
        drawn = plot(results, PLOT)
        write(text + ("\n\n![Figures of all peers](performance.svg)" if drawn else ""))
    else:
        plot(results, os.path.join(os.path.dirname(RESULTS), "performance.svg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
