"""The standard library's manners, on Python 3: executor, Pool, joblib."""
