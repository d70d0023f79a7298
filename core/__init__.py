"""Config, checkpoints, training, validation, inference, reports: all that the commands do (docs/architecture.md)."""

from requirements import require_packages

require_packages()
