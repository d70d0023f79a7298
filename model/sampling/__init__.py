"""What `model/sampler.py` is made of.

`plan.py`, `key_steps.py`, `trajectory.py`     which timesteps a chain visits, and where the encoder runs
`solvers.py`, `steps.py`, `noise.py`           how a step is taken
`group_decoding.py`                            one encoder state, decoded for several steps
`calibration.py`                               how much the encoder's state changes along a chain
`checks.py`                                    which arguments are refused
"""
