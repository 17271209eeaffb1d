"""The alerts as the Prometheus operator takes them.

python -m tests.ops.alerts > k8s/components/monitoring/prometheusrule.yaml
"""

from __future__ import annotations

import sys
import textwrap
from typing import Final

from tests.cluster import ROOT

RULES: Final = ROOT / "conf/prometheus/daisi-ws.rules.yml"
REMAKE: Final = "python -m tests.ops.alerts > k8s/components/monitoring/prometheusrule.yaml"

_HEAD: Final = """\
# Made from conf/prometheus/daisi-ws.rules.yml by: python -m tests.ops.alerts
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: daisi-ws
  labels:
    app.kubernetes.io/name: daisi-ws
spec:
"""


def prometheus_rule() -> str:
    """Return the resource, its groups as they stand in the file of rules."""
    rules = RULES.read_text(encoding="utf-8")
    return _HEAD + textwrap.indent(rules[rules.index("groups:\n") :], "  ")


if __name__ == "__main__":
    sys.stdout.write(prometheus_rule())
