"""What must be set before any test imports gRPC."""

from __future__ import annotations

import os

# Ray starts its processes by a fork of this one, and gRPC's handlers abort one child in twenty while calls are under
# way. Nothing here uses gRPC in a child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
