"""Files of the method's parts, both ways: read, identified, written and converted. No mathematics."""
