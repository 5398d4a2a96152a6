"""How the mini world was made: its pictures, its models, and the measures of both. ``data/README.md`` has the order."""
