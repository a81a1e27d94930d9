"""The command line: one file a group of commands, joined in `main`."""
