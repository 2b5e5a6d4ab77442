"""What at least two of the other wings stand on."""
