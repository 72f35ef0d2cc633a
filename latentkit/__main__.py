"""``python -m latentkit`` is ``latentkit``."""

from latentkit.cli.main import main

if __name__ == "__main__":
    main()
