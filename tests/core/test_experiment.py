"""Which checkpoint of a folder a run goes on from."""

import pytest

from core.experiment import checkpoint_to_resume, checkpoint_to_validate


@pytest.mark.parametrize("find", [checkpoint_to_resume, checkpoint_to_validate])
def test_a_run_keeps_to_the_checkpoint_that_was_the_latest_of_a_folder(small_config, tmp_path, find):
    """...so that its processes, the report and the teacher that a student notes mean the same."""
    folder = tmp_path / "others"
    folder.mkdir()
    for step in (3, 20):
        (folder / f"I{step}_E1_gen.safetensors").touch()
    assert find(small_config, str(folder)) == folder / "I20_E1"
    for named in ("faces", str(folder / "I3_E1"), str(folder / "nothing")):
        assert find(small_config, named) == named
