"""Errors that a user can mend: bad input, a server that is not there, a file that cannot be read."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line for a person: the value, the place (file, row, column or flag) and the way out. The command
    line prints it without a traceback and exits with code 2; the web UI shows it beside the start form.
    """
