"""Training and distillation.

`trainer.py`       the training loop; `distillation.py`, the same with a distillation's loss
`gradients.py`, `optimizer.py`, `ema.py`, `sparse_stage.py`  what a step is made of
`batch_memory.py`  what is refused as no memory could hold it
`stopping.py`      signals: nothing is lost
`board.py`, `mask_updates.py`, `layer_history.py`, `kept_checkpoints.py`  what a run leaves behind
"""
