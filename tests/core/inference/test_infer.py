"""The command line that super-resolves files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio

import core.inference.files
from core.checkpoint.files import load_checkpoint
from core.checkpoint.network_file import read_network_file
from core.config import PRESETS, changed
from core.config.sections import SampleSection
from core.inference.files import equal_sizes
from core.inference.result_sizes import target_size, usual_size
from core.sampling.super_resolution import sampling_settings
from core.shipped import FILES, sampled_by
from data.demo import make_demo
from data.images import LARGEST_SIDES
from infer import main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def infer(small_checkpoint, tmp_path, capsys):
    """infer(inputs, *options) -> (exit code, stdout, stderr), with results in tmp_path / "out"."""

    def run(inputs, *options, out=tmp_path / "out", checkpoint=small_checkpoint):
        paths = [str(path) for path in (inputs if isinstance(inputs, list) else [inputs])]
        try:
            code = main(["-r", str(checkpoint), "-i", *paths, "-o", str(out), "--device", "cpu", *options])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def photos(tmp_path, make_image):
    """A folder with images of two sizes and in two formats, one of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    make_image(9, 7, 1).save(folder / "a.png")
    make_image(8, 8, 2).save(folder / "b.jpg")
    make_image(9, 7, 3).save(folder / "trip" / "a.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder


def files(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def pixels(file):
    return np.asarray(Image.open(file))


def test_keeps_names_and_subfolders(infer, photos, tmp_path):
    code, stdout, stderr = infer(photos)
    assert (code, stderr) == (0, "")
    assert files(tmp_path / "out") == {"a.png", "b.png", "trip/a.png"}
    assert Image.open(tmp_path / "out" / "a.png").size == (32, 25)  # as large as the checkpoint's training images
    assert "9x7 -> 32x25" in stdout
    assert "3 of 3 images" in stdout


def test_the_time_of_an_image_and_its_mirror_image_is_told(infer, photos, monkeypatch):
    monkeypatch.setattr("core.sampling.chain_progress.LONG", 0)
    code, stdout, stderr = infer(photos / "a.png", "--mirrored", "--steps", "2", "--key-steps", "none")
    assert code == 0 and "step 1 of 4, about" in stdout + stderr


@pytest.mark.parametrize(
    ("option", "size"),
    [("--scale=2.5", (22, 18)), ("--size=41", (41, 32)), ("--size=11x30", (11, 30)), ("--scale=1", (9, 7))],
)
def test_sizes(infer, photos, tmp_path, option, size):
    assert infer(photos / "a.png", option)[0] == 0
    assert Image.open(tmp_path / "out" / "a.png").size == size


def test_usual_size(small_config):
    """Trained on whole images, a network makes images as large as those; on crops, all images larger by its factor."""
    whole, crops = small_config, changed(small_config, {"datasets.val.use_crop": True})
    assert [usual_size(size, whole) for size in ((8, 8), (16, 16), (10, 20))] == [(32, 32), (32, 32), (16, 32)]
    assert [usual_size(size, crops) for size in ((8, 8), (16, 16), (10, 20))] == [(32, 32), (64, 64), (40, 80)]


def test_an_image_larger_than_training_asks_for_a_size(infer, photos, tmp_path, make_image):
    make_image(40, 20).save(photos / "large.png")
    code, _, stderr = infer(photos / "large.png")
    assert code == 1 and len(stderr.splitlines()) == 1
    assert "large.png has 40x20 pixels, more than the 32x16 this network makes; --scale" in stderr
    assert infer(photos / "large.png", "--scale", "1.5")[0] == 0
    assert Image.open(tmp_path / "out" / "large.png").size == (60, 30)


def test_longer_side_of_a_portrait():
    assert target_size((10, 40), magnification=4, asked=(100,)) == (25, 100)
    assert target_size((1, 900), magnification=4, asked=(1000,)) == (1, 1000)


def test_a_result_is_its_own_whatever_is_beside_it(infer, photos, tmp_path):
    assert infer(photos, "--batch-size", "3", out=tmp_path / "many")[0] == 0
    assert infer(photos / "trip" / "a.png", out=tmp_path / "one")[0] == 0
    difference = pixels(tmp_path / "many" / "trip" / "a.png").astype(int) - pixels(tmp_path / "one" / "a.png")
    assert abs(difference).max() <= 1


def test_seed_and_other_settings_are_heard(infer, photos, tmp_path):
    settings = {
        "plain": [], "again": [], "seed": ["--seed", "1"], "steps": ["--steps", "2"], "solver": ["--solver", "ddpm"],
        "eta": ["--eta", "0.5"], "keys": ["--key-steps", "none"], "start": ["--start", "0.8"],
        "consistency": ["--consistency", "1"], "precision": ["--precision", "bf16"],
        "decode": ["--decode", "first"],
    }  # fmt: skip
    for name, options in settings.items():
        assert infer(photos / "a.png", *options, out=tmp_path / name)[0] == 0
    results = {name: pixels(tmp_path / name / "a.png").tobytes() for name in settings}
    assert results.pop("again") == results["plain"]
    assert len(set(results.values())) == len(results)
    infer(photos / "a.png", "--decode-batch", "1", "--no-compile", out=tmp_path / "split")
    assert abs(pixels(tmp_path / "split" / "a.png").astype(int) - pixels(tmp_path / "plain" / "a.png")).max() <= 1


def test_every_key_of_the_sample_section_is_a_flag(infer, capsys, photos):
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for name, key in SampleSection.entries().items():
        assert f"--{name.replace('_', '-')} " in told or f"--{name}, --no-{name} " in told
        assert " ".join(key.meaning.split()) in told
    code, _, stderr = infer(photos / "a.png", "--prior-noise", "1")
    assert code == 2 and stderr == "error: --prior-noise: sample.prior_noise is '1', but must be a number in [0, 1)\n"


def test_presets(infer, photos, tmp_path, small_config):
    """A preset is its flags in one word; flags beside it count more."""
    flags = ["--solver=ddim", "--steps=5", "--key-steps=none", "--consistency=2", "--start=0.35", "--decode=every"]
    for name, options in {"preset": ["--preset=fast"], "flags": flags, "both": ["--preset=fast", "--steps=3"]}.items():
        assert infer(photos / "a.png", *options, out=tmp_path / name)[0] == 0
    results = {name: pixels(tmp_path / name / "a.png").tobytes() for name in ("preset", "flags", "both")}
    assert results["preset"] == results["flags"] != results["both"]
    small_config = changed(small_config, {"model.beta_schedule.val.n_timestep": 2000})
    for preset, changes in PRESETS.items():
        assert sampling_settings(small_config, {}, preset) == {**small_config.sample, **changes}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "preset", "most_bytes"),
    [
        ("faces", "instant", 17e6),
        ("faces-small", "instant", 2.5e6),
        ("faces", "fast", 17e6),
        ("faces-small", "fast", 2.5e6),
    ],
)
def test_the_networks_for_faces_that_ship(name, preset, most_bytes, tmp_path):
    """Their files are small, 15 % dense, and say how to sample; a face comes nearer to the truth than by bicubic."""
    file = FILES[sampled_by(name, preset)]
    loaded = load_checkpoint(file)
    assert file.stat().st_size <= most_bytes and density(file) == pytest.approx(0.15, abs=1e-4)
    if preset == "instant":
        assert PRESETS["instant"].items() <= loaded.config.sample.items()
    else:
        assert loaded.encoder_change is not None  # --key-steps auto:N works
        assert PRESETS["balanced"].items() <= loaded.config.sample.items()

    make_demo(tmp_path, low=16, count=1)
    command = ["-r", name, "-i", str(tmp_path / "unseen.png"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*command, "--preset", preset]) == 0
    truth, result = (pixels(tmp_path / name) for name in ("unseen_truth.png", "out/unseen.png"))
    bicubic = np.asarray(Image.open(tmp_path / "unseen.png").resize((128, 128), Image.BICUBIC))
    assert peak_signal_noise_ratio(truth, result) > peak_signal_noise_ratio(truth, bicubic) + 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gain"), [("photos", 0), ("photos-faithful", 0.5)])
def test_the_networks_for_photographs_that_ship(name, gain, tmp_path):
    """A photograph of scikit-image, made small: four times as large, and nearer to the truth than by bicubic."""
    file = FILES[name]
    assert file.stat().st_size <= 2.5e6 and density(file) == pytest.approx(0.15, abs=1e-4)
    truth = Image.fromarray(astronaut()).crop((150, 0, 406, 256))
    small = truth.resize((64, 64), Image.BICUBIC)
    small.save(tmp_path / "a.png")
    command = ["-r", name, "-i", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main(command) == 0
    result, bicubic = pixels(tmp_path / "out/a.png"), np.asarray(small.resize((256, 256), Image.BICUBIC))
    truth = np.asarray(truth)
    assert peak_signal_noise_ratio(truth, result) > peak_signal_noise_ratio(truth, bicubic) + gain


def density(file):
    masks = read_network_file(file).masks.values()
    return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def test_alpha_is_kept(infer, tmp_path, make_image):
    image, alpha = make_image(8, 6), Image.linear_gradient("L").resize((8, 6))
    image.save(tmp_path / "opaque.png")
    image.putalpha(alpha)
    image.save(tmp_path / "clear.png")
    assert infer([tmp_path / "opaque.png", tmp_path / "clear.png"])[0] == 0
    opaque, clear = (Image.open(tmp_path / "out" / f"{name}.png") for name in ("opaque", "clear"))
    assert (opaque.mode, clear.mode) == ("RGB", "RGBA")
    assert np.array_equal(clear.convert("RGB"), opaque)
    assert np.array_equal(clear.getchannel("A"), alpha.resize((32, 24), Image.Resampling.BICUBIC))


def test_sixteen_bits_are_scaled_to_eight(infer, tmp_path, make_image):
    grey = np.asarray(make_image(8, 8).convert("L"))
    Image.fromarray(grey).save(tmp_path / "eight.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    assert infer([tmp_path / "eight.png", tmp_path / "sixteen.png"])[0] == 0
    assert np.array_equal(pixels(tmp_path / "out" / "eight.png"), pixels(tmp_path / "out" / "sixteen.png"))


def test_a_bad_file_does_not_stop_the_rest(infer, photos, tmp_path):
    (photos / "bad.png").write_bytes((photos / "a.png").read_bytes()[:60])
    code, stdout, stderr = infer(photos, "--batch-size", "2")
    assert code == 1
    assert len(stderr.splitlines()) == 1
    assert "bad.png" in stderr
    assert "3 of 4 images" in stdout
    assert files(tmp_path / "out") == {"a.png", "b.png", "trip/a.png"}


def test_an_image_larger_than_its_result_fails(infer, photos, tmp_path, make_image):
    make_image(30, 20).save(photos / "large.png")
    code, _, stderr = infer(photos, "--size", "24")
    assert code == 1
    assert "large.png has 30x20 pixels, more than the 24x16" in stderr
    assert files(tmp_path / "out") == {"a.png", "b.png", "trip/a.png"}


def test_a_result_that_cannot_be_written_fails(infer, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "trip").write_text("a file where a folder must be")
    code, _, stderr = infer(photos)
    assert code == 1
    assert "trip" in stderr
    assert files(tmp_path / "out") == {"a.png", "b.png", "trip"}


@pytest.mark.parametrize(("most", "said"), [(4, ["2 images"]), (2, ["2 images"]), (1, ["2 images", "2 decoder calls"])])
def test_out_of_memory_halves_the_batches(infer, photos, tmp_path, little_memory, most, said):
    assert infer(photos, out=tmp_path / "enough")[0] == 0
    little_memory("core.inference.files", most)
    code, stdout, stderr = infer(photos, "--batch-size", "2")
    lines = [line for line in stdout.splitlines() if "out of memory" in line]
    assert (code, stderr) == (0, "") and "3 of 3 images" in stdout
    if most == 4:
        assert not lines
    elif most == 2:
        assert len(lines) == 1 and "out of memory with 2 images at once: going on with 1" in lines[0]
    for name in files(tmp_path / "enough"):
        assert np.abs(pixels(tmp_path / "enough" / name).astype(int) - pixels(tmp_path / "out" / name)).max() <= 1
    if most == 1:
        assert [told in line for told, line in zip(said, lines, strict=False)] == [True, True]


def test_an_image_that_does_not_fit_into_memory(infer, photos, tmp_path, little_memory):
    little_memory("core.inference.files", 0)
    code, stdout, stderr = infer(photos, "--batch-size", "2")
    assert code == 1 and "0 of 3 images" in stdout
    assert len(stderr.splitlines()) == 3
    for line in stderr.splitlines():
        assert line.endswith(
            (
                "out of memory at 32x25; a smaller --scale or --size takes less",
                "at 32x32; a smaller --scale or --size takes less",
            )
        )


def test_another_fault_is_not_taken_for_lack_of_memory(infer, photos, monkeypatch):
    def fault(*arguments):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(core.inference.files, "super_resolve", fault)
    with pytest.raises(RuntimeError, match="shapes"):
        infer(photos)


def test_batches_are_of_equal_sizes(make_image):
    sizes = [(4, 4), (5, 4), (4, 4), (4, 4), (5, 4), (4, 5)]
    items = [core.inference.files.Item(n, make_image(*size), None, (9, 9)) for n, size in enumerate(sizes)]
    assert [[item.job for item in batch] for batch in equal_sizes(items, 2)] == [[0, 2], [1, 4], [3], [5]]


# ---------------------------------------------------------------------------------------------------------------------
# What is refused before anything is written.


def assert_refused(result, *words):
    code, stdout, stderr = result
    assert code == 2, stderr
    assert stdout == ""
    assert len(stderr.splitlines()) == 1
    assert stderr.startswith("error: ")
    for word in words:
        assert word in stderr


@pytest.mark.parametrize("how", ["the folder", "a link to it", "hard links"])
def test_inputs_are_never_overwritten(infer, photos, tmp_path, how):
    out = photos
    if how == "a link to it":
        out = tmp_path / "link"
        out.symlink_to(photos)
    if how == "hard links":
        out = tmp_path / "links"
        out.mkdir()
        os.link(photos / "a.png", out / "a.png")
    before = {name: (photos / name).read_bytes() for name in files(photos)}
    assert_refused(infer(photos, out=out), "a.png", "is an input")
    assert {name: (photos / name).read_bytes() for name in files(photos)} == before


def test_the_second_of_two_results_of_one_name_is_left_out(infer, photos, tmp_path, make_image):
    make_image(9, 7).save(photos / "a.bmp")
    code, stdout, stderr = infer(photos)
    assert code == 1 and "3 of 3 images" in stdout and "1 left out" in stdout
    assert stderr.startswith(f"left out: {photos / 'a.png'}: {photos / 'a.bmp'} becomes ") and stderr.count("\n") == 1
    assert files(tmp_path / "out") == {"a.png", "b.png", "trip/a.png"}


def test_what_is_no_file_is_left_out(infer, photos, tmp_path):
    """A pipe would be waited for without end."""
    os.mkfifo(photos / "pipe.png")
    (photos / "gone.png").symlink_to("nowhere")
    (photos / "camera.CR2").write_bytes(b"raw")
    (photos / "loop").symlink_to(photos)
    code, stdout, stderr = infer([photos, photos / "pipe.png"])
    assert code == 1 and "3 of 3 images" in stdout and "4 left out; 1 other file (.txt) not read" in stdout
    assert sorted(stderr.splitlines()) == [
        f"left out: {photos / 'camera.CR2'}: images of this type are not read here",
        f"left out: {photos / 'gone.png'}: a link to nothing",
        f"left out: {photos / 'pipe.png'}: a pipe, no file",
        f"left out: {photos / 'pipe.png'}: a pipe, no file",
    ]


def test_a_name_too_long_for_its_suffix(infer, photos, make_image):
    make_image(9, 7).save(photos / f"{'x' * 252}.bw", "SGI")  # 255 bytes, the most, and .png is one more
    code, stdout, stderr = infer(photos)
    assert code == 1 and "3 of 3 images" in stdout
    assert "cannot be written: File name too long" in stderr and stderr.count("\n") == 1


@pytest.mark.slow
def test_names_that_a_terminal_cannot_show(small_checkpoint, photos, tmp_path):
    (photos / "a.png").rename(photos / os.fsdecode(b"caf\xe9.png"))
    command = [
        sys.executable,
        "infer.py",
        "-r",
        small_checkpoint,
        "-i",
        photos,
        "-o",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"") and b"caf\\udce9.png" in done.stdout
    assert b"caf\xe9.png" in {os.fsencode(file.name) for file in (tmp_path / "out").iterdir()}


def test_a_file_given_twice_is_done_once(infer, photos):
    code, stdout, _ = infer([photos / "a.png", photos / "a.png"])
    assert code == 0
    assert "1 of 1 images" in stdout


def test_earlier_results_are_replaced_and_are_no_inputs(infer, photos):
    out = photos / "out"
    assert infer(photos, out=out)[0] == 0
    first = (out / "a.png").read_bytes()
    code, stdout, _ = infer(photos, "--seed", "9", out=out)
    assert code == 0
    assert "3 of 3 images" in stdout
    assert (out / "a.png").read_bytes() != first
    assert files(out) == {"a.png", "b.png", "trip/a.png"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scale", "0.5"], ["--scale", "1 or more"]),
        (["--scale", "big"], ["--scale", "big"]),
        (["--size", "12x"], ["--size", "WxH"]),
        (["--scale", "2", "--size", "30"], ["--scale", "--size"]),
        (["--batch-size", "0"], ["--batch-size"]),
        (["--steps", "0"], ["--steps", "1 or more"]),
        (["--steps", "21"], ["--steps", "at most", "20"]),
        (["--solver", "euler"], ["--solver", "ddim"]),
        (["--key-steps", "uniform:none"], ["--key-steps", "uniform:K"]),
        (["--start", "1.5"], ["--start", "(0, 1)"]),
        (["--seed", "-1"], ["--seed"]),
        (["--precision", "half"], ["--precision", "bf16"]),
        (["--device", "abacus"], ["--device", "abacus"]),
        (["--colour", "red"], ["--colour"]),
    ],
)
def test_wrong_options(infer, photos, tmp_path, options, words):
    assert_refused(infer(photos, *options), *words)
    assert not (tmp_path / "out").exists()


def test_wrong_paths(infer, photos, tmp_path, small_checkpoint):
    (tmp_path / "empty").mkdir()
    assert_refused(infer(tmp_path / "empty"), "no image")
    assert_refused(infer([photos, tmp_path / "gone.png"]), "gone.png", "no such file")
    assert_refused(infer(photos, out=photos / "a.png"), "is a file")
    assert_refused(infer(photos, checkpoint=tmp_path / "gone"), "gone")
    long = tmp_path / ("a" * 300)
    assert_refused(infer(long), "--input", "File name too long")
    assert_refused(infer(photos / "a.png", out=long), "cannot write into", "File name too long")
    assert_refused(infer(photos / "a.png", out=f"{long}.png"), "--output", "File name too long")
    assert_refused(infer(photos, "--faces", str(long)), "File name too long")
    (photos / "loop.png").symlink_to("loop.png")
    assert_refused(infer(photos / "loop.png"), "loop.png: a link that leads to itself")
    broken = tmp_path / "broken_gen.safetensors"
    broken.write_bytes(Path(f"{small_checkpoint}_gen.safetensors").read_bytes()[:5000])
    assert_refused(infer(photos, checkpoint=broken), "broken_gen", "truncated")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_as_a_program(photos, tmp_path, small_checkpoint):
    """Run from elsewhere, the script ends with these exit codes and without a traceback."""

    def run(*arguments):
        command = [sys.executable, str(ROOT / "infer.py"), "-r", str(small_checkpoint), "-i", "photos", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    refused = run()
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (2, "", 1)
    assert "-o" in refused.stderr
    shutil.copy(photos / "notes.txt", photos / "text.png")
    partly = run("-o", "out", "--device", "cpu")
    assert (partly.returncode, len(partly.stderr.splitlines())) == (1, 1)
    assert "text.png" in partly.stderr
    assert files(tmp_path / "out") == {"a.png", "b.png", "trip/a.png"}


@pytest.mark.cuda
def test_a_gpu_that_computes_deterministically_gives_the_same_bytes(photos, tmp_path, small_checkpoint):
    """...in two processes, whose noise is that of the seed, in half precision and by CUDA graphs."""
    command = [sys.executable, str(ROOT / "infer.py"), "-r", str(small_checkpoint), "-i", str(photos)]
    options = "--device", "cuda", "--deterministic", "--batch-size", "2", "--solver", "ddpm"
    for out in ("first", "second"):
        done = subprocess.run([*command, "-o", str(tmp_path / out), *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert files(tmp_path / "first") == {"a.png", "b.png", "trip/a.png"}
    for name in files(tmp_path / "first"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["faces", "faces-small"])
def test_a_shipped_network_gives_an_image_in_every_batch(infer, tmp_path, make_image, name):
    """...on a GPU in half precision, but for rounding."""
    (tmp_path / "in").mkdir()
    for n in range(5):
        make_image(16, 16, n).save(tmp_path / "in" / f"{n}.png")
    for batch_size in ("1", "5"):
        options = "--batch-size", batch_size, "--device", "cuda"
        assert infer(tmp_path / "in", *options, out=tmp_path / batch_size, checkpoint=name)[0] == 0
    for n in range(5):
        alone, together = (pixels(tmp_path / size / f"{n}.png").astype(int) for size in ("1", "5"))
        assert np.abs(alone - together).mean() < 0.3 and np.abs(alone - together).max() <= 4


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--scale=1e9", "than a PNG can have, 2,147,483,647"),
        ("--scale=1e308", "than a PNG can have, 2,147,483,647"),
        ("--scale=2,1e9", "than a PNG can have, 2,147,483,647"),
        ("--size=2000000", "has 2,000,000x1,555,556 pixels: these alone take 37,333 GB"),
        ("--size=9x99999999999", "than a PNG can have"),
    ],
)
def test_sizes_that_no_machine_has_memory_for(infer, photos, tmp_path, option, told):
    assert_refused(infer([photos / "a.png", photos / "trip"], option), "a.png", told, "--scale")
    assert not (tmp_path / "out").exists()


def test_a_size_that_is_too_large_for_one_image_stays_with_it(infer, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("data.memory.memory_of_machine", lambda: 12 * 18 * 14)
    code, _, stderr = infer([photos / "a.png", photos / "b.jpg"], "--scale", "2")
    assert code == 1 and files(tmp_path / "out") == {"a.png"} and stderr.count("\n") == 1 and "b.jpg" in stderr


def test_a_result_that_is_too_large_for_its_format_stays_alone(infer, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(LARGEST_SIDES, "WEBP", 17)  # a.png becomes 18x14
    code, _, stderr = infer([photos / "a.png", photos / "b.jpg"], "--scale", "2", "--ext", "webp")
    assert code == 1 and files(tmp_path / "out") == {"b.webp"} and stderr.count("\n") == 1
    assert f"error: the result of {photos / 'a.png'} has 18x14 pixels, and a .webp file holds 17" in stderr


@pytest.mark.parametrize("name", ["res.gif", "res.BMP", "res.tif", "res.jp2", "res.heic"])
def test_an_output_of_a_format_that_is_not_written(infer, photos, tmp_path, name):
    words = f"{Path(name).suffix} is not written", ".png, .jpg, .jpeg, .webp"
    assert_refused(infer(photos / "a.png", out=tmp_path / name), *words)
    (tmp_path / name).mkdir()  # a folder of the user's may be called so
    assert infer(photos / "a.png", out=tmp_path / name)[0] == 0


def test_a_file_whose_name_begins_as_an_option_does(infer, photos, monkeypatch):
    monkeypatch.chdir(photos)
    Path("a.png").rename("-dash.png")
    assert_refused(infer("-dash.png"), "write ./-dash.png")
    assert infer("./-dash.png")[0] == 0


def test_a_notice_of_what_is_read_otherwise(infer, tmp_path, make_image):
    make_image(9, 7).save(tmp_path / "a.gif", save_all=True, append_images=[make_image(9, 7, 1)])
    make_image(9, 7).save(tmp_path / "b.png", icc_profile=b"garbage")
    code, _, stderr = infer([tmp_path / "a.gif", tmp_path / "b.png"])
    first, second = stderr.splitlines()
    assert code == 0 and first == f"notice: {tmp_path}/a.gif: of its 2 frames only the first is read"
    assert second.startswith(f"notice: {tmp_path}/b.png: its colour profile is damaged")


def test_no_folder_is_left_where_nothing_was_written(infer, photos, tmp_path):
    for file in (*photos.rglob("*.png"), *photos.rglob("*.jpg")):
        file.write_text("no image")
    code, stdout, _ = infer(photos, out=tmp_path / "new" / "out")
    assert code == 1 and "0 of 3 images written" in stdout and not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    assert infer(photos / "a.png", out=tmp_path / "mine")[0] == 1 and (tmp_path / "mine").exists()
