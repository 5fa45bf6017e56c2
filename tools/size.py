"""Lines of code, by file and by folder: blank lines, comments and docstrings apart.

python3 tools/size.py FILE ...
"""

import ast
import io
import os
import sys
import tokenize

_NO_CODE = (
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
)  # fmt: skip


def code_lines(source):
    """Numbers of the lines that hold code."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(ast.parse(source))


def docstring_lines(tree):
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            lines.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def main(paths):
    folders = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            source = file.read()
        counts = len(code_lines(source)), len(source.splitlines())
        print("%6d code of %5d lines  %s" % (*counts, os.path.relpath(path)))
        folders.setdefault(os.path.dirname(os.path.relpath(path)), []).append(counts)
    folders["all"] = [counts for found in folders.values() for counts in found]
    print()
    for folder, found in folders.items():
        code, every = map(sum, zip(*found))
        print("%6d code of %5d lines  in %2d files of %s" % (code, every, len(found), folder))


if __name__ == "__main__":
    main(sys.argv[1:])
