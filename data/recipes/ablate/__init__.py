"""The ablations: what each part is for. Trainings that differ in one thing, and tables of what came of them."""
