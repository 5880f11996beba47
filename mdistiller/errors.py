"""The one exception a user can cause."""


class UserError(Exception):
    """Bad input: what was wrong, what was expected, what to type next, in one line.

    The command-line scripts print it on stderr and exit with status 2; nothing else is caught.
    """
