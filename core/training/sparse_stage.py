"""The sparse stage of a run: when it begins, and the masker that keeps it sparse."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import Optimizer

from core.checkpoint.files import TrainingState
from core.config import Config
from sparse import Masker


def build_masker(
    network: nn.Module,
    optimizer: Optimizer,  # of all its parameters
    config: Config,
    saved: TrainingState | None,  # what the run continues from
    synchronize: Callable[[list[Tensor]], None],  # makes masks equal in all processes
) -> Masker | None:
    """The masker that the config's `sparse` section describes; None for dense training.

    Its schedule is that of the sparse stage, from `start` to n_iter: a run that is sparse from its first step has start
    0, one that continues a dense or a published checkpoint has that one's step, and later checkpoints tell theirs.
    Masks without a training file begin a run of their own, at step 0.
    """
    options = dict(config.sparse)
    if not options.pop("enabled"):
        return None
    start = stage_start(saved)
    options["update_until"] = start + max(round(options["update_until"] * (config.train.n_iter - start)), 1)
    state = None
    if saved and saved.masks:
        state = {"masks": saved.masks, "steps": saved.step, "updates": 0, "seed": config.train.seed, **saved.masker}
    return Masker(
        network,
        optimizer,
        **options,
        start=start,
        keep="largest" if saved else "random",  # of a dense checkpoint, what it has learnt
        seed=config.train.seed,
        synchronize=synchronize,
        state=state,
    )


def stage_start(saved: TrainingState | None) -> int:
    """The step after which the sparse stage of a run begins that continues from `saved`."""
    return saved.masker.get("start", saved.step) if saved else 0


def masker_counters(masker: Masker) -> dict[str, int]:
    """What TrainingState.masker holds of it."""
    return {"start": masker.schedule.start, "updates": masker.updates, "seed": masker.seed}
