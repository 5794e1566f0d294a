"""The one kind of error that is the user's to mend."""


class UserError(ValueError):
    """A mistake of the person running it; the command line prints its message as one line and exits with 2."""
