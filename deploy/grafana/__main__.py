"""Writes dashboards/*.json. With --check, fails if one of them is not what the code gives."""

from __future__ import annotations

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import serving, training

FOLDER = Path(__file__).parent / "dashboards"


def main(argv: list[str]) -> int:
    stale = []
    for dashboard in (serving.DASHBOARD.build(), training.DASHBOARD.build()):
        file = FOLDER / f"{dashboard.uid}.json"
        fresh = JSONEncoder(indent=2).encode(dashboard) + "\n"
        if not file.exists() or file.read_text(encoding="utf-8") != fresh:
            stale.append(file.name)
            if "--check" not in argv:
                file.write_text(fresh, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'stale; run make dashboards' if '--check' in argv else 'written'}")
    return int(bool(stale) and "--check" in argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
