"""Writes dashboards/*.json. With --check, fails if one of them is not what the code gives."""

from __future__ import annotations

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy import generated
from deploy.grafana import serving, training

FOLDER = Path(__file__).parent / "dashboards"

if __name__ == "__main__":
    built = [serving.DASHBOARD.build(), training.DASHBOARD.build()]
    files = [(FOLDER / f"{each.uid}.json", JSONEncoder(indent=2).encode(each) + "\n") for each in built]
    sys.exit(generated.main(files, "make dashboards"))
