"""`python -m daisi_ws` is the same as the console script `daisi-ws`."""

from __future__ import annotations

from daisi_ws.cli import main

if __name__ == "__main__":
    main()
