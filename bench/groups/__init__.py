"""One module a group of measurements."""
