"""Pictures and clips: the artwork, one character, stills composed of both, and footage."""
