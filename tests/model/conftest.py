"""The small network of the published code with its recorded tensors, built here."""

import json
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from model import build_network
from model.published import convert_reference_state


@pytest.fixture(scope="session")
def tiny(request):
    """`.network` with the published weights `.state`, `.tensors`, `.cases`, `.config` (config["model"])."""
    folder = request.config.rootpath / "tests" / "golden"
    recorded = json.loads((folder / "network_tiny.json").read_text())
    tensors = load_file(folder / "network_tiny.safetensors")
    unet = dict(recorded["unet"])
    config = {
        "diffusion": {"image_size": unet.pop("image_size"), "channels": 3, "conditional": True},
        "unet": unet,
        "lr_encoder": recorded["lr_encoder"],
        "beta_schedule": {"train": recorded["schedule"], "val": recorded["schedule"]},
    }
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    network = build_network(config).eval()
    network.load_state_dict(convert_reference_state(state))
    return SimpleNamespace(
        network=network, tensors=tensors, cases=recorded["cases"], config=config, state=state,
        all_keys=recorded["all_state_dict_keys"],
    )  # fmt: skip
