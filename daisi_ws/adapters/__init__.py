"""The ports over real technology: NATS, Redis, gRPC, HTTP and WebSocket."""

import os

# gRPC's core writes lines of its own to standard error, past the log; read at its first import.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
