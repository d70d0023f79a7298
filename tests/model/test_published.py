"""Published state dicts: the architecture read off them, the conversion, and what it refuses."""

import json

import pytest
import torch

from model import ModelError, build_network
from model.published import SCHEDULE_BUFFERS, convert_reference_state, parameter_order, read_architecture
from model.reference import convert_reference_state as public_name


def test_the_public_name_of_the_conversion():
    assert public_name is convert_reference_state


@pytest.fixture
def face_state(golden):
    """The published face model: every key and shape, without memory behind it."""
    shapes = json.loads((golden / "reference_checkpoint_keys.json").read_text())
    betas = torch.linspace(1e-6, 1e-2, 2000, dtype=torch.float64).float()
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()} | {"betas": betas}


def test_face_model_architecture(face_state):
    model = read_architecture(face_state)
    assert model["unet"] == {
        "in_channel": 6, "out_channel": 3, "inner_channel": 64, "norm_groups": 32,
        "channel_multiplier": [1, 2, 4, 8, 8], "attn_res": [16], "res_blocks": 2, "dropout": 0.0,
    }  # fmt: skip
    assert model["lr_encoder"] == {"n_resblocks": 16, "n_feats": 64}
    assert model["beta_schedule"]["val"] == {
        "schedule": "linear", "n_timestep": 2000, "linear_start": 1e-6, "linear_end": 1e-2,
    }  # fmt: skip


def test_face_model_fits(face_state):
    with torch.device("meta"):
        network = build_network(read_architecture(face_state))
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in convert_reference_state(face_state).items()
    }
    assert sum(face_state[key].numel() for key in parameter_order(face_state)) == 116_590_885


def test_unused_tensors_may_be_there_or_not(tiny):
    assert len(tiny.all_keys) > len(tiny.state) + len(SCHEDULE_BUFFERS)
    full = {key: tiny.state.get(key, torch.zeros(shape)) for key, shape in tiny.all_keys.items()}
    converted, expected = convert_reference_state(full), tiny.network.state_dict()
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[key], expected[key]) for key in expected)


def test_wrapped_keys(tiny):
    wrapped = {f"module.{key}": value for key, value in tiny.state.items()}
    assert convert_reference_state(wrapped).keys() == tiny.network.state_dict().keys()


def test_refusals_name_the_keys(tiny):
    state = dict(tiny.state)
    del state["denoise_fn.mid.0.attn.out.bias"]
    state["denoise_fn.surplus.weight"] = torch.zeros(1)
    with pytest.raises(ModelError) as refusal:
        convert_reference_state(state)
    message = str(refusal.value)
    assert "denoise_fn.mid.0.attn.out.bias" in message and "denoise_fn.surplus.weight" in message
    assert "\n" not in message
    with pytest.raises(ModelError, match="no key denoise_fn"):
        convert_reference_state({"weight": torch.zeros(1)})


def test_a_schedule_that_is_not_linear_is_not_guessed(tiny):
    state = tiny.state | {"betas": torch.linspace(0.01, 0.1, 40) ** 2}
    with pytest.raises(ModelError, match="linear"):
        read_architecture(state)
