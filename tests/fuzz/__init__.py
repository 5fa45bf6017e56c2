"""Random and malformed input for every reader of bytes that others may have written.

A target is a function that takes bytes, and raises ``choices.Wrong`` if a rule was broken (``targets.py`` has the
table). Atheris calls them with coverage as its guide (``tools/fuzz.py``), Hypothesis with examples of its own
(``test_properties.py``), and ``test_corpus.py`` with each file below ``corpus/``, under every Python.
"""
