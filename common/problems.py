"""What ends a command in one line and not in a traceback."""


class Problem(Exception):
    """Something that whoever gave the command can put right. The message is one line that says what and where."""
