"""What the user gave cannot be used: one exception for all of it.

The command line turns an `InputError` into a message and exit status 2; any other exception is a
defect of the program and keeps its traceback.
"""


class InputError(ValueError):
    """A file, option or value from outside is wrong; the message says name, expected, got, where."""
