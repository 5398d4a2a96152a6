"""From a text-to-image pipeline with a motion module to clips."""
