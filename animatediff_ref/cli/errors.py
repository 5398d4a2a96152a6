"""What the user did wrong, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def plain_errors() -> Iterator[None]:
    """End the program with one line and exit code 2 where the input was bad.

    Any other error is a fault of ours and keeps its trace.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
