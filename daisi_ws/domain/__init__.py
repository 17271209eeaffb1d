"""Pure rules: no I/O, no clock, no await. Only the standard library and msgspec."""
