"""For pages: clips shown, galleries, and how much a page computes."""
