"""What infer.py writes, how it is called, and how a run goes on where it stopped."""

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms

import infer
from core.command_line import WAITING
from core.inference.file_progress import FileProgress
from data.image_files import PIECE, ImageFiles, walk_images

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(small_checkpoint, tmp_path, capsys):
    """run(inputs, out, *options) -> (exit code, stdout, stderr); results go to the folder `out` of tmp_path."""

    def run(inputs, *options, out=tmp_path / "out"):
        paths = [str(path) for path in (inputs if isinstance(inputs, list) else [inputs])]
        try:
            code = infer.main(["-r", str(small_checkpoint), "-i", *paths, "-o", str(out), "--device", "cpu", *options])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def image(tmp_path, make_image):
    make_image(9, 7, 1).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def pixels(file):
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


def grey(file):
    return np.asarray(Image.open(file).convert("L")).astype(int)


def names(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


# ---------------------------------------------------------------------------------------------------------------------
# One file as the output.


def test_a_file_as_output(run, image, tmp_path):
    assert run(image)[0] == 0
    formats = {"one.png": "PNG", "deep/two.jpg": "JPEG", "three.webp": "WEBP"}
    for out in formats:
        assert run(image, out=tmp_path / out)[0] == 0
    assert {out: Image.open(tmp_path / out).format for out in formats} == formats
    usual = pixels(tmp_path / "out" / "a.png")
    assert np.array_equal(pixels(tmp_path / "one.png"), usual)
    assert abs(pixels(tmp_path / "deep" / "two.jpg") - usual).mean() < 4  # of the colours, which are kept as they are
    assert abs(grey(tmp_path / "three.webp") - grey(tmp_path / "one.png")).mean() < 6
    (tmp_path / "folder.png").mkdir()  # what is a folder already is one
    assert run(image, out=tmp_path / "folder.png")[0] == 0 and (tmp_path / "folder.png" / "a.png").is_file()


@pytest.mark.parametrize(
    ("inputs", "out", "options", "words"),
    [
        (["a.png", "a.png"], "x.png", [], "for one input"),
        (["."], "x.png", [], "for one input"),
        (["a.png"], "x.png", ["--ext", "webp"], "--ext webp says otherwise"),
        (["a.png"], "x.png", ["--suffix", "_x"], "give a folder"),
        (["a.png"], "x.png", ["--scale", "2,4"], "give a folder"),
        (["a.png"], "a.png", [], "is an input and would be overwritten; give another --output\n"),
        (["a.png"], ".", [], "is an input and would be overwritten; give another --output, or --suffix\n"),
        (["a.png"], "x", ["--quality", "80"], "PNG loses nothing"),
        (["a.png"], "x", ["--ext", "gif"], "invalid choice"),
        (["a.png"], "x", ["--ext", "jpg", "--quality", "101"], "1 to 100"),
        (["a.png"], "x", ["--suffix", "a/b"], "file name"),
        (["a.png"], "x", ["--scale", "2,half"], "2,half"),
        (["a.png"], "x", ["--scale", "2,0.5"], "1 or more"),
        (["a.png"], "x", ["--scale", "2,3,2.0"], "2,3,2.0 names a magnification twice"),
        (["a.png"], "x", ["--size", "16384x9", "--ext", "webp"], "16,384x9 pixels, and a .webp file holds 16,383"),
        (["a.png"], "x.jpg", ["--size", "65501x9"], "a .jpg file holds 65,500 on a side; write a PNG (--ext png, or"),
    ],
)
def test_refusals(run, image, tmp_path, inputs, out, options, words):
    before = image.read_bytes()
    code, stdout, stderr = run([tmp_path / name for name in inputs], *options, out=tmp_path / out)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1) and words in stderr
    assert names(tmp_path) == {"a.png"} and image.read_bytes() == before


# ---------------------------------------------------------------------------------------------------------------------
# Formats and what files tell beside pixels.


def test_names_and_formats(run, image, tmp_path):
    for options in (["--ext", "jpg"], ["--ext", "webp", "--suffix", "_x4"], ["--suffix", "_x4"]):
        assert run(image, *options)[0] == 0
    assert names(tmp_path / "out") == {"a.jpg", "a_x4.webp", "a_x4.png"}
    sizes = []
    for quality in ("20", "95"):
        assert run(image, "--ext", "jpg", "--quality", quality)[0] == 0
        sizes.append((tmp_path / "out" / "a.jpg").stat().st_size)
    assert sizes[0] < 0.7 * sizes[1]


def test_results_beside_inputs(run, image, tmp_path):
    """With a suffix, OUT may be the input folder: what is a result already is no input of the next run."""
    for _ in range(2):
        code, stdout, _ = run(tmp_path, "--suffix", "_x4", out=tmp_path)
        assert code == 0 and "1 of 1 images" in stdout
    assert names(tmp_path) == {"a.png", "a_x4.png"}


def test_jpeg_lays_transparency_on_white(run, tmp_path, make_image):
    clear = make_image(8, 8)
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    assert run(tmp_path / "clear.png", "--ext", "jpg")[0] == 0
    assert pixels(tmp_path / "out" / "clear.jpg").min() > 250


@pytest.mark.parametrize("extension", ["png", "jpg", "webp"])
def test_metadata(run, tmp_path, make_image, extension):
    """EXIF is kept, but for the orientation, which is applied, and what it says of the pixels; colours are sRGB."""
    exif = Image.Exif()
    exif.update({ExifTags.Base.Make: "Maker", ExifTags.Base.Orientation: 6, ExifTags.Base.ImageWidth: 9})
    exif.get_ifd(ExifTags.IFD.Exif).update({ExifTags.Base.ExposureTime: 0.01, ExifTags.Base.ExifImageWidth: 9})
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({ExifTags.GPS.GPSLatitudeRef: "N"})
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    make_image(9, 7).save(tmp_path / "tagged.jpg", exif=exif, icc_profile=profile)
    make_image(9, 7).save(tmp_path / "plain.jpg")
    assert run([tmp_path / "tagged.jpg", tmp_path / "plain.jpg"], "--ext", extension)[0] == 0
    tagged, plain = (Image.open(tmp_path / "out" / f"{name}.{extension}") for name in ("tagged", "plain"))
    assert tagged.size == (25, 32)  # upright
    kept = tagged.getexif()
    assert kept[ExifTags.Base.Make] == "Maker"
    assert not {ExifTags.Base.Orientation, ExifTags.Base.ImageWidth} & kept.keys()
    assert dict(kept.get_ifd(ExifTags.IFD.Exif)) == {ExifTags.Base.ExposureTime: 0.01}
    assert dict(kept.get_ifd(ExifTags.IFD.GPSInfo)) == {ExifTags.GPS.GPSLatitudeRef: "N"}
    described = ImageCms.ImageCmsProfile(BytesIO(tagged.info["icc_profile"]))
    assert "sRGB" in described.profile.profile_description
    assert not plain.getexif() and "icc_profile" not in plain.info


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_left_out(run, tmp_path, make_image):
    make_image(9, 7).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(256)))
    assert run(tmp_path / "a.jpg", "--ext", "jpg")[0] == 0
    assert not Image.open(tmp_path / "out" / "a.jpg").getexif()


# ---------------------------------------------------------------------------------------------------------------------
# Sheets.


def test_a_sheet_shows_bicubic_and_result(run, image, tmp_path):
    assert run(image, "--compare", "--scale", "4")[0] == 0
    assert names(tmp_path / "out") == {"a.png", "a_compare.png"}
    sheet, result = pixels(tmp_path / "out" / "a_compare.png"), pixels(tmp_path / "out" / "a.png")
    bicubic = np.asarray(Image.open(image).resize((36, 28), Image.Resampling.BICUBIC)).astype(int)
    assert np.array_equal(sheet[-28:, :36], bicubic)
    places = [x for x in range(36, sheet.shape[1] - 35) if np.array_equal(sheet[-28:, x : x + 36], result)]
    assert len(places) == 1
    assert sheet[:-28].min() < 100  # labels


def test_a_sweep(run, image, tmp_path):
    (code, stdout, _), scales = run(image, "--scale", "2,4,6.5"), (2, 4, 6.5)
    assert code == 0 and "3 of 3 images" in stdout
    assert names(tmp_path / "out") == {"a_x2.png", "a_x4.png", "a_x6.5.png", "a_sweep.png"}
    for scale in scales:
        result = Image.open(tmp_path / "out" / f"a_x{scale:g}.png")
        assert result.size == (round(9 * scale), round(7 * scale))
        run(image, "--scale", str(scale), out=tmp_path / "single")
        assert np.array_equal(pixels(tmp_path / "single" / "a.png"), np.asarray(result))
    strip = pixels(tmp_path / "out" / "a_sweep.png")
    assert np.array_equal(strip[-46:, -58:], pixels(tmp_path / "out" / "a_x6.5.png"))
    enlarged = np.asarray(Image.open(image).resize((58, 46), Image.Resampling.BICUBIC))
    assert np.array_equal(strip[-46:, :58], enlarged) and strip.shape[1] >= 4 * 58


# ---------------------------------------------------------------------------------------------------------------------
# Long runs.


def test_a_stopped_run_goes_on(run, tmp_path, make_image):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        make_image(8, 8, ord(name)).save(folder / f"{name}.png")
    assert run(folder / "b.png")[0] == 0
    (tmp_path / "out" / "b.png").write_bytes(b"left as it is")
    code, stdout, _ = run(folder, "--skip-existing")
    assert code == 0 and "2 of 3 images written" in stdout and "1 there already" in stdout
    assert (tmp_path / "out" / "b.png").read_bytes() == b"left as it is"
    code, stdout, _ = run(folder, "--skip-existing")
    assert code == 0 and "0 of 3 images written" in stdout and "3 there already" in stdout
    (tmp_path / "out" / "a_compare.png").touch()
    code, stdout, _ = run(folder, "--skip-existing", "--compare")  # those that lack their sheet are made again
    assert code == 0 and "2 of 3 images written" in stdout


@pytest.mark.slow
def test_a_killed_run_goes_on(run, small_checkpoint, tmp_path, make_image):
    """What is there after a kill is whole, is left as it is, and all is there in the end as without the kill."""
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(40):
        make_image(8, 8, n).save(folder / f"{n:02d}.png")
    assert run(folder, out=tmp_path / "alone")[0] == 0
    options = ["-r", small_checkpoint, "-i", folder, "-o", tmp_path / "out", "--device", "cpu"]
    command = [sys.executable, "infer.py", *options]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums in the same order
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as killed:
        for _ in range(3):
            killed.stdout.readline()
        killed.kill()
    there = {name for name in names(tmp_path / "out") if not name.startswith(".")}
    assert 3 <= len(there) < 40
    code, stdout, _ = run(folder, "--skip-existing")
    assert code == 0 and f"{len(there)} there already" in stdout
    for name in names(tmp_path / "alone"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_a_large_folder_is_read_as_it_is_done(tmp_path):
    """Of more names than a piece has, no more than a piece is known when the first comes."""
    for n in range(PIECE + 50):
        (tmp_path / f"{n}.png").touch()
    looked, scandir = [], os.scandir

    class Scan:
        def __init__(self, folder):
            self.entries = scandir(folder)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.entries.close()

        def __iter__(self):
            for entry in self.entries:
                looked.append(entry.name)
                yield entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", Scan)
        images = walk_images(tmp_path, ImageFiles())
        next(images)
        assert len(looked) == PIECE
        assert 1 + sum(1 for _ in images) == PIECE + 50


def test_a_second_file_of_a_name_with_a_folder_between(run, tmp_path, make_image):
    folder = tmp_path / "in"
    (folder / "a.d").mkdir(parents=True)
    for name in ("a.bmp", "a.d/b.png", "a.png"):
        make_image(8, 8).save(folder / name)
    code, _, stderr = run(folder)
    assert code == 1 and f"a.png: {folder / 'a.bmp'} becomes" in stderr
    assert names(tmp_path / "out") == {"a.png", "a.d/b.png"}


@pytest.mark.parametrize("order", [["a", "a_compare"], ["a_compare", "a"]])
def test_a_sheet_is_not_overwritten_by_a_result(run, tmp_path, make_image, order):
    first, second = (tmp_path / f"{name}.png" for name in order)
    for file in (first, second):
        make_image(8, 8).save(file)
    code, stdout, stderr = run([first, second], "--compare")
    taken = tmp_path / "out" / "a_compare.png"
    again = "give it in another run, with another --output or --suffix"
    assert (code, stderr) == (1, f"left out: {second}: {first} becomes {taken} already; {again}\n")
    assert "[1/1] " in stdout and "1 of 1 images written" in stdout
    assert names(tmp_path / "out") == {f"{order[0]}.png", f"{order[0]}_compare.png"}


def test_a_name_too_long_for_its_sheet(run, tmp_path, make_image):
    file = tmp_path / f"{'x' * 250}.png"
    make_image(8, 8).save(file)
    code, stdout, stderr = run(file, "--compare")
    assert (code, stdout) == (2, "") and "_compare.png cannot be written: File name too long" in stderr


def test_a_bar_tells_the_time_left_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = FileProgress(2)
    progress.succeed("one.png")
    progress.bar.refresh()
    progress.bar.close()
    out, err = capsys.readouterr()
    assert out == "[1/2] one.png\n" and "1/2" in err and "image" in err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    FileProgress(2).succeed("one.png")
    assert capsys.readouterr() == ("[1/2] one.png\n", "")


@pytest.mark.slow
def test_processes_share_the_files(small_checkpoint, tmp_path, make_image):
    """Two processes of torchrun: each file is written once, one summary is said, and both end alike."""
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(5):
        make_image(8, 8, n).save(folder / f"{n}.png")
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "0.bmp").write_bytes(b"left out")
    options = ["-r", small_checkpoint, "-i", folder, "--device", "cpu"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

    def call(out, *before):
        command = [sys.executable, *before, "infer.py", *options, "-o", tmp_path / out]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)

    alone, shared = call("alone"), call("shared", *launch)
    assert (alone.returncode, shared.returncode) == (1, 1)
    written = [line for line in shared.stdout.splitlines() if " -> " in line]
    assert len(written) == 4 and {line.split(":")[0] for line in written} == {"process 0", "process 1"}
    assert shared.stdout.count("images written") == 1 and "4 of 6 images written" in shared.stdout
    assert shared.stderr.count("left out:") == 1 and shared.stderr.count("error: cannot read image") == 2
    assert names(tmp_path / "shared") == names(tmp_path / "alone")
    for name in names(tmp_path / "alone"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("given", "heard"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_that_wait_sleep(small_checkpoint, given, heard):
    """OpenMP itself says, once torch is loaded, how its threads wait."""
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    environment |= {"OMP_DISPLAY_ENV": "TRUE", **given}
    command = [sys.executable, "infer.py", "--about", "-r", small_checkpoint]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert f"OMP_WAIT_POLICY = '{heard}'" in done.stderr.replace('"', "'")
