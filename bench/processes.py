"""The processor time of other processes, as Linux counts it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

# Fields of /proc/PID/stat from the state on; the program's name before it may hold spaces. See proc(5).
_SESSION, _TIMES = 3, slice(11, 15)


def processor_s(pids: Iterable[int]) -> float:
    """Returns the seconds that the processes have used so far, with their children that have ended.

    A process that has ended counts nothing.
    """
    return sum(int(ticks) for pid in pids for ticks in _fields(pid)[_TIMES]) / os.sysconf("SC_CLK_TCK")


def in_sessions(leaders: Collection[int]) -> list[int]:
    """Returns the ids of the processes in the sessions that `leaders` began."""
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if (fields := _fields(pid)) and int(fields[_SESSION]) in leaders]


def _fields(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
