"""``latentkit``, as a script and as ``python -m latentkit``: it takes signals before anything else is loaded."""

from latentkit.cli.interrupts import listen


def main() -> None:
    """Run the command line and exit with its status."""
    listen()
    from latentkit.cli.main import main

    main()


if __name__ == "__main__":
    main()
