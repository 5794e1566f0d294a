"""The error class for mistakes that the user can fix."""


class UserError(ValueError):
    """A mistake of the user; the command line prints its message as one line and exits with code 2."""
