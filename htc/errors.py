"""The one exception whose message is meant for the user's eyes."""


class UserError(Exception):
    """Something the user can mend: the message is one sentence that names the file, key or value and what to do.

    The command line prints the sentence alone and exits with status 2; everything else is a bug and keeps its trace.
    """

    @property
    def sentence(self) -> str:
        """The message alone: PyTorch wraps what a data loader's worker raises into the worker's trace."""
        last = str(self).rstrip().rsplit("\n", 1)[-1]
        return last.removeprefix(f"{type(self).__module__}.{type(self).__name__}: ")
