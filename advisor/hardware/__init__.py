"""What a machine has: probed here, or read from the catalogue."""
