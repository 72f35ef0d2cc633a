"""What can go wrong, by whose hand it is: the request's or the data's."""


class LatentkitError(Exception):
    """One sentence for the user: what is wrong, where, and what to do."""


class RequestError(LatentkitError):
    """Arguments, file listing or headers rule the request out, before any tensor is read."""


class DataError(LatentkitError):
    """The content of a file cannot be processed."""
