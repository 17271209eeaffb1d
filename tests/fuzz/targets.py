"""All fuzz targets."""

from __future__ import annotations

from typing import Final

from tests.fuzz import json_targets, stream_targets, wire_targets
from tests.fuzz.target import Target

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for module in (json_targets, wire_targets, stream_targets)
    for target in module.TARGETS
}
