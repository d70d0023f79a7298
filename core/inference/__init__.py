"""Images in, larger images out: what `infer.py` does, and `upscale` from Python.

`command.py`       infer.py, once its flags are read
`upscaling.py`     from Python: images of Pillow or files, one after the other
`files.py`         from the command line: files, in batches of one size, each written as soon as it is done
`network_choice.py`, `result_sizes.py`, `about.py`       which network makes an image, how large, and what it is for
`input_files.py`, `output_files.py`, `file_progress.py`  what is read and written, and how far that has come
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.inference.upscaling import upscale

__all__ = ["upscale"]


def __getattr__(name: str) -> Any:
    """`upscale`, imported when it is asked for: infer.py tells its options before torch is there."""
    if name != "upscale":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from core.inference.upscaling import upscale

    return upscale
