"""Config, checkpoints, training, validation, inference, reports: all that the commands do.

Where the packages are not installed that this takes, a command says so in a line.
"""

import sys
from importlib.util import find_spec

REQUIRED = ("torch", "numpy", "yaml", "lmdb", "PIL", "tensorboard", "tqdm", "jinja2", "skimage", "safetensors")

if missing := [name for name in REQUIRED if find_spec(name) is None]:
    print(
        f"error: {', '.join(missing)} not installed for {sys.executable}: pip install -r requirements.txt, "
        "or let sh run.sh infer (or demo) do that in .venv",
        file=sys.stderr,
    )
    sys.exit(2)
