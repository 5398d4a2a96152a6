"""Files of the method's parts, both ways: read, told apart, written and converted. No mathematics."""
