"""``python -m animatediff_ref.cli``."""

from animatediff_ref.cli import app

app()
