"""The training loop, and the stages of the paper on top of it."""
