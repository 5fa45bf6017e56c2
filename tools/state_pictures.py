"""Make the pictures of docs/inside.md from the tables of states, so that they cannot differ from the code.

    python3 tools/state_pictures.py

``tests/brain/test_leases.py`` fails where they differ.
"""

from __future__ import absolute_import, division, print_function

import io
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from minimalcluster.brain import leases  # noqa: E402

DOCUMENT = os.path.join(ROOT, "docs", "inside.md")
TABLES = (("piece", leases.NEW, leases.PIECE_TRANSITIONS), ("lease", leases.NEW, leases.LEASE_TRANSITIONS))


def picture(first, transitions):
    # type: (str, dict) -> str
    """The table as a diagram in mermaid's words; what happens in the same way is on one arrow."""
    arrows = {}  # type: dict # (from, to) -> what happens
    for state, row in transitions.items():
        for what, then in row.items():
            arrows.setdefault((state, then), []).append(what)
    order = list(transitions)
    lines = ["    [*] --> %s" % first]
    for (state, then), what in sorted(arrows.items(), key=lambda arrow: [order.index(each) for each in arrow[0]]):
        lines.append("    %s --> %s: %s" % (state, then, ", ".join(sorted(what))))
    lines += ["    %s --> [*]" % state for state, row in transitions.items() if not row]
    return "```mermaid\nstateDiagram-v2\n%s\n```" % "\n".join(lines)


def with_pictures(text):
    # type: (str) -> str
    """The document with each picture as its table has it."""
    for name, first, transitions in TABLES:
        begin, end = "<!-- states of a %s -->\n" % name, "\n<!-- end -->"
        before, rest = text.split(begin, 1)
        text = before + begin + picture(first, transitions) + end + rest.split(end, 1)[1]
    return text


def read():
    # type: () -> str
    with io.open(DOCUMENT, encoding="utf-8") as file:
        return file.read()


if __name__ == "__main__":
    made = with_pictures(read())
    with io.open(DOCUMENT, "w", encoding="utf-8", newline="\n") as document:
        document.write(made)
