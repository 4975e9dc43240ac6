"""The one exception a user is meant to read."""


class InputError(Exception):
    """Wrong input (a file, a record, a setting). Its text is one line: what, where, and the remedy.

    The command line prints the text without a traceback and exits with status 2.
    """
