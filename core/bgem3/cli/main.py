"""`bgem3`: every command under one name, and the exit codes they share.

A command is a plain function with typer annotations in its group's file, which imports what is
heavy inside the function, so that `bgem3 --help` answers at once.
"""

from __future__ import annotations

import errno
import sys
from importlib import import_module
from importlib.metadata import version
from keyword import iskeyword
from typing import TYPE_CHECKING

from rich.console import Console

from bgem3.cli.output import drop_output, fill_streams, use_utf8
from bgem3.errors import BGEM3Error, InvalidInputError

if TYPE_CHECKING:
    import typer

# Command -> the module that holds its function.
COMMANDS: dict[str, str] = {
    "convert": "bgem3.cli.convert",
    "encode": "bgem3.cli.texts",
    "compare": "bgem3.cli.texts",
    "index": "bgem3.cli.collections",
    "search": "bgem3.cli.collections",
    "ingest": "bgem3.cli.ingest",
    "copy": "bgem3.cli.ingest",
    "export": "bgem3.cli.portable",
    "import": "bgem3.cli.portable",
    "info": "bgem3.cli.storage",
    "verify": "bgem3.cli.storage",
    "repair": "bgem3.cli.storage",
    "compact": "bgem3.cli.storage",
    "backfill": "bgem3.cli.backfill",
    "chat": "bgem3.cli.chat",
    "eval": "bgem3.cli.quality",
    "tune": "bgem3.cli.quality",
    "serve": "bgem3.cli.serve",
    "doctor": "bgem3.cli.doctor",
}

BAD_INPUT, FAILED = 2, 1


def make_app() -> typer.Typer:
    """Return the application with every command in it."""
    import typer

    app = typer.Typer(
        name="bgem3",
        help="Encode, index, search, serve and measure with all three representations of BGE-M3.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for name, module in COMMANDS.items():
        app.command(name)(getattr(import_module(module), function_name(name)))
    return app


def function_name(command: str) -> str:
    """Return the name of a command's function, e.g. `import_` for `import`."""
    return f"{command}_" if iskeyword(command) else command.replace("-", "_")


def _options() -> None:
    """Encode, index, search, serve and measure with all three representations of BGE-M3."""


def main() -> None:
    """Run the command line; exit 2 for bad input, 1 for anything else that went wrong on purpose."""
    fill_streams()
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"bgem3 {version('bgem3')}\n")
        return
    use_utf8()
    try:
        make_app()()
    except BGEM3Error as error:
        Console(stderr=True).print(f"[bold red]error:[/] {type(error).__name__}:", end=" ")
        sys.stderr.write(f"{error}\n")
        sys.exit(BAD_INPUT if isinstance(error, InvalidInputError) else FAILED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.stderr.write(
            f"error: cannot write {error.filename or 'the output'}: {error.strerror}. Fix: free disk space\n"
        )
        drop_output()
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(130)
