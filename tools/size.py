"""Lines of code of the core's files: blank lines, comments and docstrings apart.

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
    total_code = total = 0
    for path in paths:
        with open(path, encoding="utf-8") as file:
            source = file.read()
        code, every = len(code_lines(source)), len(source.splitlines())
        total_code, total = total_code + code, total + every
        print("%6d code of %5d lines  %s" % (code, every, os.path.relpath(path)))
    print("%6d code of %5d lines  in %d files" % (total_code, total, len(paths)))


if __name__ == "__main__":
    main(sys.argv[1:])
