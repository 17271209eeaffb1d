"""The ports over real technology: NATS, Redis, gRPC, HTTP and WebSocket."""
