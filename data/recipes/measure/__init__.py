"""What was measured of the finished world, and how it is shown."""
