"""The core imports the standard library only."""

import pkgutil
import subprocess
import sys

import search_agent

SCRIPT = """
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
allowed = set(sys.stdlib_module_names) | {{"search_agent"}}
foreign = {{name.split(".")[0] for name in sys.modules}} - allowed - before
print(",".join(sorted(foreign)))
"""


def test_the_core_loads_no_framework() -> None:
    modules = [m.name for m in pkgutil.walk_packages(search_agent.__path__, "search_agent.")]
    assert len(modules) > 10
    # -S keeps site-packages out of reach: an import from there would fail, not merely show
    script = "import sys; before = {n.split('.')[0] for n in sys.modules}\n" + SCRIPT.format(modules=modules)
    root = search_agent.__path__[0].rsplit("/", 1)[0]
    result = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=root, env={}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""
