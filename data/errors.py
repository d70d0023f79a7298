"""What is wrong with the data, in one line."""

LONGEST_REASON = 300  # characters; some messages quote the file


class DataError(Exception):
    """Says what is wrong, with which file or key, and how to mend it; the message is always one line."""

    def __init__(self, message: str):
        # A DataLoader re-raises a worker's error with the whole traceback as its message; the last line is ours.
        super().__init__(str(message).strip().split("\n")[-1].split("DataError: ")[-1])


def reason(error: BaseException) -> str:
    """The cause in a few words: the operating system's own, or the first line of the message, or the type."""
    words = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
    return words[:LONGEST_REASON] or type(error).__name__
