"""Sets what must be set before any test imports gRPC."""

from __future__ import annotations

import os

# Ray forks this process, and gRPC's fork handlers abort one child in twenty while calls are in flight. No child here
# uses gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
