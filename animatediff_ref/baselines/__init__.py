"""Other ways to make a clip with a text-to-image model, which the paper compares with (section 5.1)."""
