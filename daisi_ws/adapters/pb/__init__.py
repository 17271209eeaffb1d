"""Generated from `proto/` by `scripts/proto`; edit the .proto files, then run it again."""
