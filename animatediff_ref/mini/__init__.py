"""The mini world that ships with the repository: names of models to files, and their cards."""
