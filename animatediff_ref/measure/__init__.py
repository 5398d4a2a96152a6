"""Measures of clips: motion, marks of footage, CLIP scores, and intervals."""
