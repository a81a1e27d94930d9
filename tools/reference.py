#!/usr/bin/env python3
"""Build the API reference of the three packages: `python tools/reference.py site`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pdoc

PACKAGES = ("bgem3", "langchain_bgem3", "llamaindex_bgem3")

if __name__ == "__main__":
    # pdoc reads a module's dictionary, where names that load on first use are not yet.
    for package in map(import_module, PACKAGES):
        for name in package.__all__:
            setattr(package, name, getattr(package, name))
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*PACKAGES, output_directory=Path(sys.argv[1]))
