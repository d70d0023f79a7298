"""Ways to sample that infer.py offers by name; docs/results.md tells what each gives and costs."""

from typing import Any

ONE_CALL = "instant"  # as a student of one call was taught; any other network does the same untaught, and blurs
MIRRORED = "mirrored"  # the mean of two such results, of the image and of its mirror image
ANCHORED = {
    "solver": "ddim", "eta": 0.0, "decode": "every", "mirrored": False,
    "consistency": 2, "start": 0.35, "prior_noise": 0.0,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {  # name -> what it changes in `sample`
    ONE_CALL: ANCHORED | {"steps": 1, "key_steps": "none"},
    MIRRORED: ANCHORED | {"steps": 1, "key_steps": "none", "mirrored": True},
    "fast": ANCHORED | {"steps": 5, "key_steps": "none"},
    "balanced": ANCHORED | {"steps": 20, "key_steps": "uniform:4", "decode": "ends"},
    "quality": ANCHORED | {"solver": "dpm++", "steps": 20, "key_steps": "none"},
    "method": ANCHORED | {"solver": "ddpm", "steps": None, "key_steps": "uniform:10", "decode": "first", "start": None},
}
OF_STUDENTS: dict[str, dict[str, Any]] = {  # those that a student can follow: they leave its chain as it was taught
    ONE_CALL: {"mirrored": False},
    MIRRORED: {"mirrored": True},
}
