"""Config, checkpoints, training, validation, inference, reports: all that the commands do."""

from requirements import require_packages

require_packages()
