"""Ends a command in one line, exit code 2, where packages that it needs are not installed.

Every folder may import this module, as it imports none of them.
"""

import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec

PACKAGES = ("torch", "numpy", "yaml", "lmdb", "PIL", "tensorboard", "tqdm", "jinja2", "skimage", "safetensors")
SH = ", or let sh run.sh infer (or demo) do that in .venv"


def require_packages(names: Sequence[str] = PACKAGES, file: str = "requirements.txt") -> None:
    """To be called before the first of the packages is imported; file: the requirements that name them."""
    if missing := [name for name in names if find_spec(name) is None]:
        advice = f"{shlex.quote(sys.executable)} -m pip install -r {file}{SH if names is PACKAGES else ''}"
        print(f"error: {', '.join(missing)} not installed for {sys.executable}: {advice}", file=sys.stderr)
        sys.exit(2)
