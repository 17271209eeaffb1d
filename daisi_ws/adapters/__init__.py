"""The ports over real technology: NATS, Redis, gRPC, HTTP and WebSocket."""

import os

# gRPC's core writes lines of its own to standard error, past the log; read at its first import.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# Its newer engine hands each message from a polling thread of its own to the one that waits for
# completions: without it there is a wake-up less each way. Versions without these switches ignore
# them.
os.environ.setdefault(
    "GRPC_EXPERIMENTS",
    "-event_engine_client,-event_engine_listener,-event_engine_callback_cq",
)
