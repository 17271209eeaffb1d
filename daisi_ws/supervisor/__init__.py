"""The supervisor: owns the ports, forks the workers, keeps each slot filled.

A plain process: no event loop, no client library, no thread. `fleet` decides (pure rules: events
in, actions out), `shell` acts.
"""
