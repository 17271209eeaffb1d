"""The benchmark: what a delivery, a connection and a part cost, beside a floor; see README.md."""
