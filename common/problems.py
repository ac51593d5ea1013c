"""The base of errors that a command reports in one line."""


class Problem(Exception):
    """An error that the user can correct. The message is one line that says what is wrong and where."""
