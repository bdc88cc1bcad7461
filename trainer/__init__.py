"""The real training program, and what starts and watches it."""
