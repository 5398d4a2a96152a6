"""The command line: a thin face over the package. Bad input ends with one line and exit code 2.

Nothing heavy is imported until a command runs, so ``--help`` answers at once.
"""

import typer

from animatediff_ref.cli.animate import animate
from animatediff_ref.cli.clips import clips
from animatediff_ref.cli.doctor import doctor
from animatediff_ref.cli.files import convert, inspect
from animatediff_ref.cli.study import study
from animatediff_ref.cli.train import train

app = typer.Typer(
    help="Animate personalised text-to-image models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (animate, train, inspect, convert, doctor):
    app.command()(command)
app.add_typer(clips, name="clips")
app.add_typer(study, name="study")
