"""infer.py --faces: the faces of photographs, from the command line to the files."""

import re

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

import infer
from core.checkpoint.files import TrainingState, save_checkpoint
from core.config import changed, check_config
from core.faces.cascades import CASCADES
from core.faces.detection import find_faces
from core.inference import upscale
from core.shipped import FILES
from model import build_network
from model.sampling.noise import seeded_noise
from tests.core.conftest import SMALL

PHOTOS = {  # a network for photographs: any, twice as large, without attention
    "datasets.val.use_crop": True,
    "datasets.val.r_resolution": 16,
    "model.unet.attn_res": [],
    "model.unet.mid_attention": False,
}


@pytest.fixture(scope="module")
def astronaut():
    """72 pixels wide and high, of which the face has half."""
    whole = Image.fromarray(skimage.data.astronaut()).resize((128, 128), Image.Resampling.BICUBIC)
    return whole.crop((16, 0, 88, 72))


@pytest.fixture
def run(small_checkpoint, tmp_path, capsys):
    """run(*arguments) -> (exit code, stdout, stderr) of infer.py, from the folder `in`, or some inputs, into `out`."""
    config = changed(check_config(SMALL), PHOTOS)
    torch.manual_seed(0)
    weights = build_network(config.model).state_dict()
    save_checkpoint(tmp_path / "photos", config, TrainingState(weights, weights))
    (tmp_path / "in").mkdir()

    def run(*arguments, network=tmp_path / "photos", out=tmp_path / "out", inputs=(tmp_path / "in",)):
        command = "-r", network, "-i", *inputs, "-o", out, "--device", "cpu", *arguments
        try:
            code = infer.main([*map(str, command)])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_a_face_is_made_by_the_network_for_faces(run, astronaut, small_checkpoint, tmp_path):
    astronaut.save(tmp_path / "in" / "a.png")
    faces = "--faces", small_checkpoint, "--save-faces", tmp_path / "faces"
    assert run(out=tmp_path / "without")[0] == 0
    code, stdout, stderr = run(*faces)
    assert (code, stderr) == (0, "")
    (face,) = find_faces(astronaut)
    assert f", 1 face of {round(face.side)} pixels\n" in stdout

    with_face, without = (np.asarray(Image.open(tmp_path / name / "a.png")).astype(int) for name in ("out", "without"))
    change = np.abs(with_face - without).max(2)
    y, x = np.mgrid[:144, :144] / 2
    is_face = (np.abs(x - face.centre[0]) < face.side / 2 + 1) & (np.abs(y - face.centre[1]) < face.side / 2 + 1)
    assert change[~is_face].max() == 0 and change[is_face].mean() > 1

    made, cut = Image.open(tmp_path / "faces" / "a_face1.png"), Image.open(tmp_path / "faces" / "a_face1_lr.png")
    assert made.size == (round(2 * face.side),) * 2 and cut.size == (round(face.side),) * 2
    small = np.asarray(
        astronaut.crop(tuple(round(v) for v in (*face[:2], *np.add(face[:2], face.side)))).resize(cut.size)
    )
    assert np.corrcoef(small.ravel(), np.asarray(cut).ravel())[0, 1] > 0.95


def test_faces_of_a_mirrored_photograph_are_mirrored_too(run, astronaut, small_checkpoint, tmp_path):
    """Whether a flag or the preset says so; --no-mirrored counts more than the preset."""
    astronaut.save(tmp_path / "in" / "a.png")
    ways = [], ["--mirrored"], ["--preset", "mirrored"], ["--preset", "mirrored", "--no-mirrored"]
    made = []
    for way in ways:
        assert run(*way, "--faces", small_checkpoint, "--save-faces", tmp_path / "faces")[0] == 0
        made.append(np.asarray(Image.open(tmp_path / "faces" / "a_face1.png")))
    plain, by_flag, by_preset, not_mirrored = made
    assert np.array_equal(by_flag, by_preset) and not np.array_equal(by_flag, plain)
    assert np.array_equal(not_mirrored, plain)


@pytest.mark.parametrize("other", ["a_face1", "a_face2_lr"])
@pytest.mark.parametrize("faces_first", [True, False])
def test_no_face_over_another_result(run, astronaut, small_checkpoint, tmp_path, other, faces_first):
    """...nor a result over a face, where they go to one folder, by whatever name."""
    photo, like_face = tmp_path / "in" / "a.png", tmp_path / "in" / f"{other}.png"
    astronaut.save(photo)
    astronaut.resize((16, 16)).save(like_face)
    first, second = (photo, like_face) if faces_first else (like_face, photo)
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    code, _, stderr = run("--faces", small_checkpoint, "--save-faces", tmp_path / "link", inputs=(first, second))
    file = tmp_path / "out" / like_face.name
    told = f"may have a face that becomes {file}"
    if not faces_first:
        told = f"becomes {file} already, as a face of this one may"
    again = "give it in another run, with another --output, --suffix or --save-faces"
    assert (code, stderr) == (1, f"left out: {second}: {first} {told}; {again}\n")
    made = {file.name for file in (tmp_path / "out").iterdir()}
    assert made == ({"a.png", "a_face1.png", "a_face1_lr.png"} if faces_first else {like_face.name})


def test_faces_in_another_folder_take_no_names(run, astronaut, small_checkpoint, tmp_path):
    for name in ("a", "a_face1", "a_face2", "a_face1_lr_face0"):
        astronaut.resize((16, 16)).save(tmp_path / "in" / f"{name}.png")
    way = "--faces", small_checkpoint, "--save-faces"
    assert run(*way, tmp_path / "faces")[0] == 0
    assert run(*way, tmp_path / "out", "--suffix", "_x2", out=tmp_path / "out")[0] == 0  # a_x2_face1, and a_face1_x2


def test_no_face_over_an_input(run, astronaut, small_checkpoint, tmp_path):
    files = [tmp_path / "in" / f"{name}.png" for name in ("a", "a_face1")]
    for file in files:
        astronaut.save(file)
    before = files[1].read_bytes()
    code, _, stderr = run("--faces", small_checkpoint, "--save-faces", tmp_path / "in", inputs=files)
    told = f"error: {files[1]} is an input, which a face of {files[0]} may overwrite; give another --save-faces\n"
    assert (code, stderr) == (2, told) and files[1].read_bytes() == before and not (tmp_path / "out").exists()


def test_without_a_face_all_is_as_without_the_flag(run, small_checkpoint, tmp_path):
    Image.fromarray(skimage.data.coffee()).resize((72, 48)).save(tmp_path / "in" / "cup.png")
    assert run(out=tmp_path / "without")[0] == 0
    code, stdout, _ = run("--faces", small_checkpoint)
    assert code == 0 and ", no face of 16 to 64 pixels\n" in stdout
    assert (tmp_path / "out" / "cup.png").read_bytes() == (tmp_path / "without" / "cup.png").read_bytes()


def test_a_network_for_whole_images_looks_for_no_faces(run, astronaut, small_checkpoint, tmp_path):
    astronaut.resize((32, 32)).save(tmp_path / "in" / "a.png")
    code, stdout, _ = run("--faces", small_checkpoint, network=small_checkpoint)
    assert code == 0 and "a.png  32x32 -> 32x32" in stdout and "face of" not in stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--save-faces", "x"], "--save-faces needs --faces"),
        (["--face-detector", "lbp"], "--face-detector needs --faces"),
        (["--faces", "nowhere"], "nowhere: no such checkpoint"),
        (["--faces", "./photos"], "--faces ./photos: this network was trained on crops"),
        (["--faces", "CHECKPOINT", "--save-faces", "in/x"], "is inside the input"),
        (["--faces", "CHECKPOINT", "--save-faces", "in/a.png"], "a.png"),
    ],
)
def test_what_does_not_go_is_one_line(run, astronaut, small_checkpoint, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    astronaut.save(tmp_path / "in" / "a.png")
    code, _, stderr = run(*(small_checkpoint if word == "CHECKPOINT" else word for word in arguments))
    assert code == 2 and told in stderr and len(stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.cuda
def test_a_gpu_makes_the_faces_of_the_cpu(run, astronaut, small_checkpoint, tmp_path, monkeypatch):
    """...from the same noise, which each device draws otherwise."""

    def drawn_on_the_cpu(noise, seeds, batch, device):
        draw = seeded_noise(seeds, batch, torch.device("cpu"))
        return lambda i, shape: draw(i, shape).to(device)

    monkeypatch.setattr("model.sampler.noise_of_chain", drawn_on_the_cpu)
    astronaut.save(tmp_path / "in" / "a.png")
    images, told = [], []
    for device in ("cpu", "cuda"):
        faces = "--faces", small_checkpoint, "--precision", "float32", "--device", device
        code, stdout, stderr = run(*faces, out=tmp_path / device)
        assert code == 0, stderr
        told += re.findall(r"\d+ faces? of \d+ pixels", stdout)
        images.append(np.asarray(Image.open(tmp_path / device / "a.png")).astype(float))
    assert len(told) == 2 and told[0] == told[1]
    assert np.square(images[0] - images[1]).mean() < 255**2 / 10**3.5  # 35 dB


def test_from_python_as_by_the_command_line(run, astronaut, small_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(FILES, "faces", small_checkpoint.with_name("I3_E1_gen.safetensors"))
    astronaut = astronaut.copy()
    astronaut.putalpha(Image.linear_gradient("L").resize(astronaut.size))
    astronaut.save(tmp_path / "in" / "a.png")
    assert run("--faces", "--seed", 3)[0] == 0
    options = {"network": tmp_path / "photos", "scale": None, "seed": 3, "device": "cpu"}
    [with_face], [without] = (upscale([astronaut], **options, faces=faces) for faces in (True, False))
    assert np.array_equal(with_face, Image.open(tmp_path / "out" / "a.png"))
    assert not np.array_equal(with_face, without)


def test_the_command_line_knows_every_detector():
    for name in CASCADES:
        assert infer.parse_arguments(["-i", "a", "-o", "b", "--faces", "--face-detector", name]).face_detector == name
