"""`python -m bgem3` is the command line."""

from bgem3.cli.main import main

if __name__ == "__main__":
    main()
