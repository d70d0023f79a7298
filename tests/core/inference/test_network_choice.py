"""Which network an image gets where none is named, and what a network says that it is for."""

import json

import pytest
from PIL import Image

import core.inference.network_choice
import infer
from core.checkpoint.files import TrainingState, load_checkpoint, save_checkpoint
from core.checkpoint.tensor_files import read_safetensors, write_safetensors
from core.config import changed, check_config
from core.errors import UserError
from core.export import main as export
from core.shipped import FILES, sampled_by, shipped_file
from tests.core.conftest import SMALL

CARD = {"purpose": "waves", "inputs": [8, 16], "magnifications": [1, 4], "data": "sines", "licence": "free"}
OF_DDIM = "the solver is dpm++, and only ddim has it"


@pytest.fixture
def shipped(small_network, tmp_path, monkeypatch):
    """`faces` makes whole images of 80 pixels; `photos` makes any image twice as large. Each has a card."""
    config, weights = check_config(SMALL), small_network.state_dict()
    changes = {
        "faces": {"datasets.val.l_resolution": 16, "datasets.val.r_resolution": 80, "card": CARD},
        "photos": {
            "datasets.val.use_crop": True,
            "datasets.val.r_resolution": 16,
            "card": {"purpose": "any photograph"},
        },
    }
    for name, change in changes.items():
        save_checkpoint(tmp_path / name, changed(config, change), TrainingState(weights, weights))
        monkeypatch.setitem(FILES, name, tmp_path / f"{name}_gen.safetensors")
    for name in FILES.keys() - changes.keys():
        monkeypatch.setitem(FILES, name, tmp_path / "gone.safetensors")
    monkeypatch.chdir(tmp_path.parent)
    return FILES


@pytest.fixture
def images(tmp_path, make_image):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in {"a": (10, 12), "b": (65, 20), "c": (64, 30), "d": (70, 66)}.items():
        make_image(*size).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def run(tmp_path, capsys):
    def run(*arguments):
        try:
            code = infer.main([*map(str, arguments)])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_each_image_gets_the_network_that_suits_its_size(shipped, images, run, tmp_path, monkeypatch):
    loaded = []

    def load(name, *rest):
        loaded.append(name)
        return load_checkpoint(name, *rest)

    monkeypatch.setattr(core.inference.network_choice, "load_checkpoint", load)
    code, stdout, stderr = run("-i", images, "-o", tmp_path / "out", "--device", "cpu")
    assert code == 0 and loaded == [shipped["faces"], shipped["photos"]]
    sizes = {name: Image.open(tmp_path / "out" / f"{name}.png").size for name in "abcd"}
    assert sizes == {"a": (67, 80), "b": (130, 40), "c": (80, 38), "d": (140, 132)}
    chosen = [line for line in stdout.splitlines() if " for " in line]
    told = " (faces: waves; photos: any photograph; -r chooses)"
    assert chosen == [
        f"faces for {images / 'a.png'}, as its longer side has at most 64 pixels{told}",
        f"photos for {images / 'b.png'}, as its longer side has more than 64 pixels",
    ]
    assert len(stderr.splitlines()) == 1  # one notice of a network: 12 pixels become 80, which is more than 4 times


def test_an_image_whose_network_is_missing_fails_alone_where_it_is_the_first(shipped, images, run, tmp_path):
    shipped["faces"].unlink()
    code, stdout, stderr = run("-i", images, "-o", tmp_path / "out", "--device", "cpu", "--scale", "2")
    assert code == 1 and "2 of 4 images" in stdout and stderr.count("the file of this network is missing") == 2
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"b.png", "d.png"}


def test_a_network_by_name_does_all(shipped, images, run, tmp_path):
    code, stdout, stderr = run("-r", "photos", "-i", images, "-o", tmp_path / "out", "--device", "cpu")
    assert (code, stderr) == (0, "") and "chooses" not in stdout
    assert Image.open(tmp_path / "out" / "a.png").size == (20, 24)


def test_a_network_that_a_preset_needs_in_place_of_another_is_told(shipped, images, run, tmp_path, monkeypatch):
    monkeypatch.setitem(FILES, "faces-chain", shipped["faces"])
    command = "-r", "faces", "-i", images, "-o", tmp_path / "out", "--device", "cpu", "--scale", "1", "--preset", "fast"
    told = "faces-chain in place of faces, which makes one call: preset fast is a chain of several"
    assert run(*command)[1].splitlines().count(told) == 1
    assert "in place of" not in run(*command[:-1], "instant")[1]


@pytest.fixture
def own(shipped, small_network, tmp_path, monkeypatch):
    """A checkpoint of the user's own, called `faces`, in the working directory: it makes any image three times as
    large."""
    change = {"datasets.val.use_crop": True, "datasets.val.r_resolution": 24}
    weights = small_network.state_dict()
    folder = tmp_path / "work"
    save_checkpoint(folder / "faces" / "I3_E1", changed(check_config(SMALL), change), TrainingState(weights, weights))
    monkeypatch.chdir(folder)
    return folder / "faces" / "I3_E1_gen.safetensors"


@pytest.mark.parametrize("preset", [[], ["--preset", "fast"]])
def test_a_checkpoint_of_ones_own_comes_before_a_shipped_one_of_its_name(own, images, run, tmp_path, preset):
    """...whatever the preset, and a line says so."""
    command = "-r", "faces", "-i", images / "a.png", images / "b.png", "-o", tmp_path / "out", "--device", "cpu"
    code, _, stderr = run(*command, *preset)
    assert code == 0 and Image.open(tmp_path / "out" / "a.png").size == (30, 36)
    assert stderr.count("faces is your checkpoint faces/I3_E1_gen.safetensors, not the network that comes with") == 1


@pytest.mark.parametrize(("named", "lines"), [("faces", 1), ("./faces", 0)])
@pytest.mark.parametrize(("main", "options"), [(infer.main, ["--about"]), (export, ["-o", "new.safetensors"])])
def test_every_command_says_so_unless_it_is_named_by_its_path(own, run_main, main, options, named, lines):
    code, _, stderr = run_main(main, "-r", named, *options)
    assert code == 0 and stderr.count("is your checkpoint faces/I3_E1_gen.safetensors") == lines


def test_a_network_that_nobody_named_is_the_shipped_one(own, images, run, tmp_path):
    code, stdout, _ = run("-i", images / "a.png", "-o", tmp_path / "out", "--device", "cpu")
    assert code == 0 and Image.open(tmp_path / "out" / "a.png").size == (67, 80) and "faces: waves" in stdout
    about = run("--about")[1]
    assert about.startswith("faces: ") and str(shipped_file("faces")) in about


def test_a_folder_without_a_checkpoint_is_none(shipped, images, run, tmp_path, monkeypatch):
    """A folder of images may be called `faces`."""
    (tmp_path / "work" / "faces").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    code, stdout, _ = run("-r", "faces", "-i", images / "a.png", "-o", tmp_path / "out", "--device", "cpu")
    assert code == 0 and Image.open(tmp_path / "out" / "a.png").size == (67, 80) and "your checkpoint" not in stdout


def test_without_the_network_for_photographs_that_for_faces_does_all(shipped, images, run, tmp_path):
    shipped["photos"].unlink()
    code, stdout, _ = run("-i", images, "-o", tmp_path / "out", "--device", "cpu")
    assert code == 0 and "photos: not there yet" in stdout
    assert Image.open(tmp_path / "out" / "b.png").size == (80, 25)
    code, _, stderr = run("-r", "photos", "-i", images, "-o", tmp_path / "other", "--device", "cpu")
    assert code == 2 and stderr.startswith("error: photos: ") and "use -r faces\n" in stderr
    assert not (tmp_path / "other").exists()


def test_a_damaged_network_fails_only_the_images_that_need_it(shipped, images, run, tmp_path):
    shipped["photos"].write_bytes(shipped["photos"].read_bytes()[:9000])
    code, stdout, stderr = run("-i", images, "-o", tmp_path / "out", "--device", "cpu")
    assert code == 1 and "2 of 4 images" in stdout
    assert len([line for line in stderr.splitlines() if "photos_gen.safetensors: truncated" in line]) == 2


@pytest.mark.parametrize(
    ("size", "options", "told"),
    [
        ((7, 5), [], "has 7 pixels on its longer side; the network is for 8 to 16"),
        ((16, 9), ["--scale", "6"], "is made 6 times as large; the network is for 1 to 4 times"),
        ((16, 9), ["--scale", "4"], None),
    ],
)
def test_notices(shipped, run, tmp_path, make_image, size, options, told):
    for name in "ab":
        make_image(*size).save(tmp_path / f"{name}.png")
    inputs = [tmp_path / "a.png", tmp_path / "b.png"]
    code, _, stderr = run("-r", "faces", "-i", *inputs, "-o", tmp_path / "out", "--device", "cpu", *options)
    assert code == 0
    assert stderr.splitlines() == (
        [f"notice: {inputs[0]} {told} (faces); it may come out worse, as others like it"] if told else []
    )


def test_a_flag_that_does_nothing_is_told_of_each_network_once(shipped, images, run, tmp_path):
    options = ["-i", images, "-o", tmp_path / "out", "--device", "cpu"]
    code, _, stderr = run(*options, "--solver", "dpm++", "--eta", "0.5", "--key-steps", "none", "--decode-batch", "1")
    assert code == 0
    assert sorted(line for line in stderr.splitlines() if "no effect" in line) == [
        f"notice: --{flag} has no effect with {name}: {why}"
        for flag, why in (("decode-batch", "every step is a key step"), ("eta", OF_DDIM))
        for name in ("faces", "photos")
    ]
    assert "no effect" not in run(*options, "--eta", "0.5")[2]  # their solver is ddim
    assert "no effect" not in run(*options, "--eta", "0", "--solver", "dpm++")[2]


@pytest.mark.parametrize(
    ("steps", "options", "told"),
    [
        (1, ["--steps", "5"], "of 1 call: leave out --steps"),
        (4, ["--start", "0.5", "--steps", "1"], "of 4 calls: leave out --steps, --start"),
        (1, ["--preset", "mirrored", "--solver", "ddim", "--steps", "1"], None),
        (2, ["--steps", "2"], None),
        (4, [], None),
    ],
)
def test_a_chain_that_a_student_never_learnt_is_told_once(
    small_network, make_image, run, tmp_path, steps, options, told
):
    for name in "ab":
        make_image(8, 8).save(tmp_path / f"{name}.png")
    taught = {"solver": "ddim", "steps": steps, "key_steps": "none", "start": 0.9}
    config, weights = changed(check_config(SMALL), {"phase": "distill", "sample": taught}), small_network.state_dict()
    save_checkpoint(tmp_path / "student", config, TrainingState(weights, weights))
    images = tmp_path / "a.png", tmp_path / "b.png"
    code, _, stderr = run(
        "-r", tmp_path / "student", "-i", *images, "-o", tmp_path / "out", "--device", "cpu", *options
    )
    other = "or name a diffusion network with -r for others"
    assert code == 0 and stderr.splitlines() == (
        [f"notice: {tmp_path / 'student'} learnt only one chain, {told}, {other}"] if told else []
    )


def test_the_diffusion_network_of_a_student_is_named(shipped, small_network, images, run, tmp_path):
    config = changed(load_checkpoint(shipped["faces"]).config, {"phase": "distill", "sample": {"steps": 1}})
    weights = small_network.state_dict()
    save_checkpoint(tmp_path / "faces", config, TrainingState(weights, weights))
    command = "-i", images / "a.png", "-o", tmp_path / "out", "--device", "cpu", "--size", "48"
    told = "notice: faces learnt only one chain, of 1 call: leave out --steps, or name faces-chain with -r for others\n"
    assert run(*command, "--steps", "3")[2] == told and run(*command)[2] == ""


def test_about(shipped, run):
    code, stdout, stderr = run("--about")
    assert (code, stderr) == (0, "") and [line[:7] for line in stdout.splitlines() if line[:1] not in ("", " ")] == [
        "faces: ",
        "photos:",
    ]
    told = [line.split(maxsplit=1) for line in run("--about", "-r", "faces")[1].splitlines()]
    assert ["purpose", "waves"] in told and ["inputs", "8 to 16 pixels, the longer side"] in told


def test_about_a_network_without_a_card(small_checkpoint, run):
    code, stdout, _ = run("--about", "-r", small_checkpoint)
    assert code == 0 and "whole images like those of waves, 8 to 32 pixels (by its config)" in stdout
    assert f"python -m core.export -r {small_checkpoint}_gen.safetensors -o NEW.safetensors --card FILE" in stdout


def test_a_card_is_written_by_export(small_checkpoint, tmp_path, capsys):
    card = tmp_path / "card.yaml"
    command = ["-r", str(small_checkpoint), "--card", str(card), "-o"]
    card.write_text(json.dumps({"card": CARD}))
    export([*command, str(tmp_path / "x.safetensors")])
    assert load_checkpoint(tmp_path / "x.safetensors").config.card == CARD
    card.write_text("purpose: waves")
    with pytest.raises(SystemExit):
        export([*command, str(tmp_path / "y.safetensors")])
    assert "no section card" in capsys.readouterr().err and not (tmp_path / "y.safetensors").exists()


@pytest.mark.parametrize(
    "card",
    [
        {"purpose": "two\nlines"},
        {"purpose": "\x1b[2J"},
        {"purpose": "x" * 301},
        {"purpose": "x", "inputs": [64, 16]},
        {"purpose": "x", "inputs": [16, float("nan")]},
        {"purpose": "x", "shape": 1},
        "waves",
    ],
)
def test_a_hostile_card_is_refused_in_one_line(small_checkpoint, tmp_path, card):
    tensors, metadata = read_safetensors(small_checkpoint.with_name("I3_E1_gen.safetensors"))
    config = json.loads(metadata["config"]) | {"card": card}
    write_safetensors(tmp_path / "x.safetensors", tensors, metadata | {"config": json.dumps(config)})
    with pytest.raises(UserError, match=r"x\.safetensors: .*card") as error:
        load_checkpoint(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "preset", "sampled"),
    [
        ("faces", None, "faces"),
        ("faces", "instant", "faces"),
        ("faces", "mirrored", "faces"),
        ("faces", "fast", "faces-chain"),
        ("faces-small", "mirrored", "faces-small"),
        ("faces-small", "method", "faces-small-chain"),
        ("photos", "fast", "photos"),  # which refuses it
        ("faces-chain", "mirrored", "faces-chain"),
    ],
)
def test_chains_are_of_the_diffusion_network(name, preset, sampled):
    assert sampled_by(name, preset) == sampled
