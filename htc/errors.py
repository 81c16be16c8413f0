"""The one exception whose message is meant for the user's eyes."""


class UserError(Exception):
    """Something the user can mend: the message is one sentence that names the file, key or value and what to do.

    The command line prints the message alone and exits with status 2; everything else is a bug and keeps its trace.
    """
