"""Devices: named, refused in one line, and the same arithmetic for whatever runs on one."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

import core.inference.command
import core.validation
import infer
import sr
from core.device import is_out_of_memory, one_thread, pick_device
from core.errors import UserError
from core.processes import Processes

MATMUL, CONVOLUTION = torch.backends.cuda.matmul, torch.backends.cudnn


@pytest.fixture
def config_file(small_config, tmp_path):
    """The small experiment, to be trained for two steps and validated, in float32."""
    config = small_config.to_dict()
    config["datasets"]["train"] = {**config["datasets"]["val"], "batch_size": 2}
    config["train"] = {"n_iter": 2, "val_freq": 100, "save_checkpoint_freq": 100, "optimizer": {"lr": 1e-3}}
    config["sample"]["precision"] = "float32"
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.fixture
def command(monkeypatch, exact_float32):
    """command(*arguments of sr.py): run in this process, which starts without TF32."""

    def run(*arguments):
        MATMUL.allow_tf32 = CONVOLUTION.allow_tf32 = False
        monkeypatch.setattr(sys, "argv", ["sr.py", *map(str, arguments)])
        sr.main()

    return run


def test_everything_computes_alike(config_file, command, make_image, tmp_path, monkeypatch):
    """Validation within a training and by itself, and inference."""
    seen = []

    def look(*arguments, **options):
        seen.append((MATMUL.allow_tf32, CONVOLUTION.allow_tf32))
        return 0

    def validate(*arguments):
        look()
        return {"mean": {}, "of_sets": {}, "picture": np.zeros((1, 1, 3), np.uint8)}

    monkeypatch.setattr(core.validation, "validate", validate)
    monkeypatch.setattr("core.phases.write_pages", lambda config, log: None)  # there are no results
    monkeypatch.setattr(core.inference.command, "super_resolve_files", look)
    command("-p", "train", "-c", config_file, "--device", "cpu")
    command("-p", "val", "-c", config_file, "--device", "cpu")
    make_image(8, 8).save(tmp_path / "a.png")
    MATMUL.allow_tf32 = CONVOLUTION.allow_tf32 = False
    checkpoint = tmp_path / "experiments" / "small" / "checkpoint"
    infer.main(["-r", str(checkpoint), "-i", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--device", "cpu"])
    assert seen == [(True, True)] * 3


@pytest.mark.cuda
def test_a_checkpoint_validates_to_the_same_bits_within_its_training_and_alone(config_file, command, monkeypatch):
    within_training, alone = [], []
    original = core.validation.super_resolve

    def recorded(into):
        def super_resolve(*arguments, **options):
            into.append(original(*arguments, **options).cpu())
            return into[-1]

        return super_resolve

    monkeypatch.setattr(core.validation, "super_resolve", recorded(within_training))
    command("-p", "train", "-c", config_file, "--device", "cuda")
    monkeypatch.setattr(core.validation, "super_resolve", recorded(alone))
    command("-p", "val", "-c", config_file, "--device", "cuda")
    assert len(alone) == len(within_training) > 0
    assert all(torch.equal(a, b) for a, b in zip(within_training, alone, strict=True))


def test_gpu_ids_are_chosen_before_a_device_is_asked_for(config_file, command, monkeypatch):
    def join(device):
        raise UserError(f"sees {os.environ['CUDA_VISIBLE_DEVICES']}")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr(Processes, "from_environment", join)
    for option in ("-gpu", "--gpu_ids"):
        with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as here:
            said = []
            here.setattr("core.errors.say_once", said.append)
            command("-c", config_file, option, "1,2")
        assert said == ["error: sees 1,2"]


def test_flags_change_nothing_but_the_config(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sr.py", "-c", "x.yaml", "-gpu", "3", "--density", "0.2"])
    before = dict(os.environ)
    assert sr.flags(sr.parse_arguments())["sparse.density"] == 0.2
    assert os.environ == before


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(UserError, match=f"--device {name}"):
        pick_device(name)


@pytest.mark.parametrize("name", ["mps", "xpu", "cuda:99", "nonsense", "meta", "vulkan", "cuda:-1", "", "hpu"])
def test_a_device_that_is_not_there_is_one_line(name):
    with pytest.raises(UserError, match=f"^--device {name}: ") as error:
        pick_device(name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.slow
def test_deterministic_computing():
    """...of the whole process, so asked in one of its own."""
    script = (
        "import torch; from core.device import compute_deterministically; compute_deterministically();"
        "print(torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_one_thread_for_a_while():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with pytest.raises(ZeroDivisionError), one_thread():
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",  # of the driver, as when a graph is made
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "GET was unable to find an engine to execute this computation",  # of cuDNN, with no room for its workspace
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    ],
)
def test_lack_of_memory_has_many_names(text):
    assert is_out_of_memory(RuntimeError(text))


def test_lack_of_memory_behind_another_error():
    """As when a capture ends that lack of memory has spoiled."""
    for first in (torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("shapes do not match")):
        try:
            try:
                raise first
            finally:
                raise RuntimeError("operation failed due to a previous error during capture")
        except RuntimeError as error:
            assert is_out_of_memory(error) == isinstance(first, torch.OutOfMemoryError)
