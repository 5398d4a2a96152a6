"""Sections 3 and 4 of the paper: the motion module and its way into a UNet, the adapters, and the objective."""
