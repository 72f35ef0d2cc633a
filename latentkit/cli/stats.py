EXAMPLES = ""


def stats() -> None:
    """stub"""
