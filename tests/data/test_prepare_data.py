import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import lmdb
import numpy as np
import pytest
from PIL import Image

from data import DataError, prepare_data
from data.prepare_data import main, parallel, prepare
from data.stores import errors_of_lmdb, open_lmdb
from data.writers import LmdbWriter

SCRIPT = Path(prepare_data.__file__)


def by_hand(path, size, resample=Image.Resampling.BICUBIC):
    """What an upright RGB file must become, with Pillow alone."""
    image = Image.open(path)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)).resize((size, size), resample))


def files(folder):
    """Relative name -> bytes of every visible file."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."}


def entries(folder):
    """Key -> value of an LMDB."""
    with lmdb.open(str(folder), readonly=True) as env, env.begin() as txn:
        return dict(txn.cursor().iternext())


def run(capsys, *arguments):
    """(exit code, lines on stdout, lines on stderr) of the command line."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


def assert_refused(capsys, *arguments, say):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert len(err) == 1
    assert err[0].startswith("error: ")
    for words in say:
        assert str(words) in err[0]


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--path", "", "--out", "x"], "-p/--path: is empty"),
        (["--path", "x", "--out", ""], "-o/--out: is empty"),
        (["--path", "x"], "-o/--out"),
        (["--path", "x", "--out", "x", "--n_worker", "two"], "--n_worker"),
    ],
)
def test_flags_that_are_wrong_are_refused_in_one_line(arguments, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, *arguments, say=[told, "--help"])
    assert not list(tmp_path.iterdir())


# ---- what is written


@pytest.mark.parametrize("workers", [1, 2])
def test_folders(tmp_path, photos, workers):
    summary = prepare(photos, tmp_path / "out", (8, 24), workers=workers)
    assert summary[:4] == (tmp_path / "out_8_24", 7, 7, 0)
    written = files(tmp_path / "out_8_24")
    assert written.keys() == {f"{d}/0000{i}.png" for i in range(1, 8) for d in ("lr_8", "hr_24")} | {"prepare.json"}
    for i in range(1, 8):
        for folder, size in (("lr_8", 8), ("hr_24", 24)):
            image = Image.open(tmp_path / "out_8_24" / folder / f"0000{i}.png")
            assert image.mode == "RGB"
            assert np.array_equal(image, by_hand(photos / f"{i}.png", size))


def test_bilinear(tmp_path, photos):
    prepare(photos, tmp_path / "out", (8, 24), resample="bilinear")
    made = Image.open(tmp_path / "out_8_24/hr_24/00003.png")
    assert np.array_equal(made, by_hand(photos / "3.png", 24, Image.Resampling.BILINEAR))
    assert not np.array_equal(made, by_hand(photos / "3.png", 24))


def test_an_image_of_the_right_size_is_kept_exactly(tmp_path, picture):
    (tmp_path / "in").mkdir()
    picture(24, 24).save(tmp_path / "in/a.png")
    prepare(tmp_path / "in", tmp_path / "out", (8, 24))
    assert np.array_equal(Image.open(tmp_path / "out_8_24/hr_24/0000a.png"), picture(24, 24))


def test_lmdb(tmp_path, photos):
    summary = prepare(photos, tmp_path / "out", (8, 24), as_lmdb=True, workers=2)
    assert summary[:4] == (tmp_path / "out_8_24", 7, 7, 0)
    written = entries(tmp_path / "out_8_24")
    assert written.pop(b"length") == b"7"
    names = {f"{half}_0000{i}".encode() for i in range(1, 8) for half in ("lr_8", "hr_24")}
    assert written.keys() == names
    for i in range(1, 8):
        for half, size in (("lr_8", 8), ("hr_24", 24)):
            png = io.BytesIO(written[f"{half}_0000{i}".encode()])
            assert np.array_equal(Image.open(png), by_hand(photos / f"{i}.png", size))


def test_lmdb_in_a_folder_that_is_not_utf8(tmp_path, photos):
    folder = prepare(photos, tmp_path / os.fsdecode(b"caf\xe9"), (8, 24), as_lmdb=True, workers=1).folder
    with open_lmdb(folder).begin() as txn:
        assert int(txn.get(b"length")) > 0


def test_lmdb_serves_readers_that_count(tmp_path, picture):
    (tmp_path / "in").mkdir()
    for i in range(12):
        picture(24, 24, i).save(tmp_path / "in" / f"{i}.png")
    prepare(tmp_path / "in", tmp_path / "out", (8, 24), as_lmdb=True)
    with lmdb.open(str(tmp_path / "out_8_24"), readonly=True, lock=False) as env, env.begin(write=False) as txn:
        for i in range(int(txn.get(b"length"))):
            png = txn.get(f"hr_24_{str(i).zfill(5)}".encode())
            assert np.array_equal(Image.open(io.BytesIO(png)), picture(24, 24, i))


def test_lmdb_grows(tmp_path):
    rng = np.random.default_rng(0)
    pairs = {f"{i:05d}": (rng.bytes(3000), rng.bytes(9000)) for i in range(300)}
    with LmdbWriter(tmp_path, (8, 24), map_size=1 << 16) as writer:
        for name, pair in pairs.items():
            writer.write(name, pair)
    written = entries(tmp_path)
    assert written.pop(b"length") == b"300"
    assert written == {
        f"{half}_{name}".encode(): content
        for name, pair in pairs.items()
        for half, content in zip(("lr_8", "hr_24"), pair, strict=True)
    }
    assert (tmp_path / "data.mdb").stat().st_size < 3 * sum(map(len, written.values()))


def test_all_kinds_of_files_are_found_and_become_rgb(tmp_path, picture):
    root = tmp_path / "in"
    (root / "deep/er").mkdir(parents=True)
    (root / ".thumbnails").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(30, 20).save(root / "photo.JPG", exif=exif)
    picture(30, 20).convert("L").save(root / "grey.png")
    picture(30, 20).quantize(8).save(root / "palette.gif")
    picture(30, 20).convert("CMYK").save(root / "deep/cmyk.tiff")
    picture(30, 20).convert("RGBA").save(root / "deep/er/alpha.WebP")
    Image.fromarray(np.full((20, 30), 257 * 99, dtype=np.uint16)).save(root / "deep/er/deep.PNG")
    picture(30, 20).save(root / ".thumbnails/hidden.png")
    picture(30, 20).save(root / ".hidden.png")
    (root / "notes.txt").write_text("no image")
    assert prepare(root, tmp_path / "out", (5, 10)).total == 6
    made = {path.stem: Image.open(path) for path in (tmp_path / "out_5_10/hr_10").iterdir()}
    assert sorted(made) == ["0cmyk", "0deep", "0grey", "alpha", "palette", "photo"]
    assert all(image.mode == "RGB" and image.size == (10, 10) for image in made.values())
    assert (np.asarray(made["0deep"]) == 99).all()
    stored = Image.open(root / "photo.JPG")
    turned = Image.fromarray(np.rot90(np.asarray(stored), -1)).crop((0, 5, 20, 25))
    assert np.array_equal(made["photo"], turned.resize((10, 10), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("options", [["--n_worker", "1"], ["--n_worker", "2"], ["--lmdb"]])
def test_a_notice_of_what_is_read_otherwise(tmp_path, picture, capsys, options):
    root = tmp_path / "in"
    root.mkdir()
    picture(30, 20).save(root / "a.gif", save_all=True, append_images=[picture(30, 20).rotate(180)])
    picture(30, 20).save(root / "b.png", icc_profile=b"no profile")
    picture(30, 20).save(root / "c.png")
    arguments = ["--path", root, "--out", tmp_path / "out", "--size", "8,16", *options]
    code, _, err = run(capsys, *arguments)
    assert code == 0 and sorted(err) == [
        f"notice: {root}/a.gif: of its 2 frames only the first is read",
        f"notice: {root}/b.png: its colour profile is damaged: its colours are taken as sRGB",
    ]
    assert run(capsys, *arguments)[2] == []


def test_an_output_inside_the_input_is_no_input(tmp_path, photos):
    for _ in range(2):
        assert prepare(photos, photos / "out", (8, 24)).total == 7


def test_from_another_working_directory(tmp_path, photos):
    command = [sys.executable, SCRIPT, "--path", "../photos", "--out", "out", "--size", "8,24", "--n_worker", "2", "-l"]
    (tmp_path / "here").mkdir()
    done = subprocess.run(command, cwd=tmp_path / "here", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "out_8_24: 7 images, 7 of them new"
    assert entries(tmp_path / "here/out_8_24")[b"length"] == b"7"


def test_progress_without_a_terminal(tmp_path, photos, capsys, monkeypatch):
    monkeypatch.setattr(prepare_data, "SECONDS_BETWEEN_LINES", 0)
    code, out, err = run(capsys, "--path", photos, "--out", tmp_path / "out", "--size", "8,24", "--n_worker", "1")
    assert (code, err) == (0, [])
    assert [line.split(" images")[0] for line in out[:-1]] == [f"{i} of 7" for i in range(1, 8)]


# ---- unreadable files


@pytest.mark.parametrize("form", ["folder", "lmdb"])
def test_unreadable_files_are_named_counted_and_left_out(tmp_path, photos, capsys, form):
    whole = (photos / "3.png").read_bytes()
    (photos / "3.png").write_bytes(whole[: len(whole) // 2])
    (photos / "x.jpg").write_text("no image")
    arguments = ["--path", photos, "--out", tmp_path / "out", "--size", "8,24", *(["--lmdb"] if form == "lmdb" else [])]
    code, out, err = run(capsys, *arguments)
    assert code == 1
    assert out[-1] == f"{tmp_path}/out_8_24: 6 images, 6 of them new; 2 file(s) left out"
    assert len(err) == 2
    for name in ("3.png", "x.jpg"):
        assert any(line.startswith(f"left out: cannot read image {photos / name}: ") for line in err)
    if form == "lmdb":
        assert entries(tmp_path / "out_8_24")[b"length"] == b"6"
    else:
        assert len(files(tmp_path / "out_8_24")) == 2 * 6 + 1
    (photos / "3.png").write_bytes(whole)
    (photos / "x.jpg").unlink()
    assert run(capsys, *arguments)[1][-1] == f"{tmp_path}/out_8_24: 7 images, 1 of them new"


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_stops_at_an_unreadable_file(tmp_path, photos, capsys, workers):
    (photos / "x.jpg").write_text("no image")
    arguments = ("--path", photos, "--out", tmp_path / "out", "--size", "8,24", "--strict", "--n_worker", workers)
    assert_refused(capsys, *arguments, say=[photos / "x.jpg", "not an image"])


def test_nothing_readable(tmp_path, capsys):
    root, out = tmp_path / "in", tmp_path / "out"
    assert_refused(capsys, "--path", root, "--out", out, say=[root, "no such file"])
    root.mkdir()
    assert_refused(capsys, "--path", root, "--out", out, say=["no image under", root])
    (root / "a.png").write_text("no image")
    code, _, err = run(capsys, "--path", root, "--out", out)
    assert (code, err[-1]) == (2, f"error: none of the 1 images under {root} can be read")


@pytest.mark.parametrize("options", [[], ["--lmdb"], ["--strict"], ["--n_worker", "2"]])
def test_nothing_done_leaves_nothing(tmp_path, photos, capsys, options):
    """The other form may then have the same name."""
    (root := tmp_path / "in").mkdir()
    for name in "ab":
        (root / f"{name}.png").write_text("no image")
    (tmp_path / "mine_16_128").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for out in ("new/out", "mine"):
        assert run(capsys, "--path", root, "--out", tmp_path / out, *options)[0] == 2
        assert sorted(tmp_path.rglob("*")) == before
        other = [] if "--lmdb" in options else ["--lmdb"]
        assert run(capsys, "--path", photos, "--out", tmp_path / out, *other)[0] == 0
        shutil.rmtree(tmp_path / "new", ignore_errors=True)


def test_sizes_that_do_not_fit_into_memory(tmp_path, photos, capsys):
    before = sorted(tmp_path.rglob("*"))
    for size, why in (
        ("8,1000000000", "take 4,000,000,000 GB"),
        ("8,1" + "0" * 20, "than a PNG can have, 2,147,483,647"),
    ):
        assert_refused(capsys, "--path", photos, "--out", tmp_path / "out", "--size", size, say=[f"--size {size}", why])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("other", ["00001.jpg", "sub/1.png", "01.bmp"])
def test_two_sources_of_one_name(tmp_path, photos, picture, capsys, other):
    (photos / other).parent.mkdir(exist_ok=True)
    picture(30, 30).save(photos / other)
    code, out, err = run(capsys, "--path", photos, "--out", tmp_path / "out", "--size", "8,24")
    assert code == 1 and out[-1].endswith(": 7 images, 7 of them new; 1 file(s) left out")
    assert len(err) == 1 and str(photos / other) in err[0] and str(photos / "1.png") in err[0]


# ---- refusals


@pytest.mark.parametrize("size", ["16", "a,b", "24,8", "8,8", "0,8", "8,16,24", "-8,24"])
def test_impossible_sizes(tmp_path, photos, capsys, size):
    assert_refused(capsys, "--path", photos, "--out", tmp_path / "out", f"--size={size}", say=[size, "16,128"])


def test_impossible_workers(tmp_path, photos, capsys):
    assert_refused(capsys, "--path", photos, "--out", tmp_path / "out", "--n_worker", 0, say=["--n_worker 0"])


def test_other_settings_in_the_same_folder(tmp_path, photos, capsys):
    arguments = ["--path", photos, "--out", tmp_path / "out", "--size", "8,24"]
    assert run(capsys, *arguments)[0] == 0
    before = files(tmp_path / "out_8_24")
    assert json.loads(before["prepare.json"]) == {"sizes": [8, 24], "resample": "bicubic", "format": "folder"}
    assert_refused(capsys, *arguments, "--resample", "bilinear", say=["bicubic", "bilinear"])
    assert_refused(capsys, *arguments, "--lmdb", say=["folder", "lmdb"])
    assert files(tmp_path / "out_8_24") == before
    (tmp_path / "out_8_24/prepare.json").write_bytes(b"\xff\n{")
    assert_refused(capsys, *arguments, say=["was made with", tmp_path / "out_8_24"])


def test_a_folder_that_something_else_made(tmp_path, photos, capsys):
    (tmp_path / "out_8_24/hr_24").mkdir(parents=True)
    arguments = ["--path", photos, "--out", tmp_path / "out", "--size", "8,24"]
    assert_refused(capsys, *arguments, say=[tmp_path / "out_8_24", "not made by prepare_data.py"])
    (tmp_path / "file_8_24").touch()
    arguments[3] = tmp_path / "file"
    assert_refused(capsys, *arguments, say=[tmp_path / "file_8_24"])


def test_one_run_at_a_time(tmp_path, photos, capsys):
    arguments = ["--path", photos, "--out", tmp_path / "out", "--size", "8,24"]
    assert run(capsys, *arguments)[0] == 0
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", hold, tmp_path / "out_8_24/.lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert_refused(capsys, *arguments, say=["another prepare_data.py", tmp_path / "out_8_24"])
        other.communicate(b"\n")
    assert run(capsys, *arguments)[0] == 0


# ---- continuing


@pytest.mark.parametrize("as_lmdb", [False, True])
def test_finished_images_are_not_made_again(tmp_path, photos, picture, as_lmdb):
    made = prepare(photos, tmp_path / "out", (8, 24), as_lmdb=as_lmdb).folder
    read = entries if as_lmdb else files
    before = read(made)
    for path in photos.iterdir():
        path.write_text("would be unreadable now")
    picture(33, 44).save(photos / "new.png")
    assert prepare(photos, tmp_path / "out", (8, 24), as_lmdb=as_lmdb)[:4] == (made, 8, 1, 0)
    after = read(made)
    assert len(after) == len(before) + 2
    assert [key for key in before if after[key] != before[key]] == ([b"length"] if as_lmdb else [])


def test_half_of_a_pair_is_made_again(tmp_path, photos):
    made = prepare(photos, tmp_path / "out", (8, 24)).folder
    before = files(made)
    (made / "hr_24/00002.png").unlink()
    (made / "lr_8/00005.png").unlink()
    (made / "hr_24/.0123.tmp").write_bytes(b"half an im")
    assert prepare(photos, tmp_path / "out", (8, 24))[:4] == (made, 7, 2, 0)
    assert files(made) == before
    assert not list(made.rglob("*.tmp"))


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("as_lmdb", [False, True])
def test_a_killed_run_continues(tmp_path, picture, as_lmdb):
    root, made, count = tmp_path / "in", tmp_path / "out_16_128", 200
    root.mkdir()
    pictures = [picture(300, 200, i) for i in range(6)]
    for i in range(count):
        pictures[i % 6].save(root / f"{i}.bmp")
    command = [sys.executable, SCRIPT, "--path", root, "--out", tmp_path / "out", "--n_worker", "2"]
    command += ["--lmdb"] if as_lmdb else []

    def some_are_done():
        if not as_lmdb:
            return len(list(made.glob("lr_16/*.png"))) > 20
        try:
            return b"length" in entries(made)
        except lmdb.Error:  # not made yet
            return False

    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as victim:
        while not some_are_done():
            assert victim.poll() is None
            time.sleep(0.005)
        workers = children_of(victim.pid)
        victim.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, "workers outlive their killed parent"
        time.sleep(0.01)

    if as_lmdb:
        left = entries(made)
        assert 0 < int(left[b"length"]) < count
        assert len(left) == 2 * int(left[b"length"]) + 1
    else:
        left = files(made)
        assert 20 < len(left) < 2 * count
        for name, content in left.items():
            if name.endswith(".png"):
                Image.open(io.BytesIO(content)).load()

    summary = prepare(root, tmp_path / "out", (16, 128), as_lmdb=as_lmdb, workers=2)
    assert summary.total == count
    assert 0 < summary.new < count
    prepare(root, tmp_path / "reference", (16, 128), as_lmdb=as_lmdb, workers=2)
    read = entries if as_lmdb else files
    assert read(made) == read(tmp_path / "reference_16_128")
    assert not list(made.rglob("*.tmp"))


@pytest.mark.parametrize("as_lmdb", [False, True])
def test_an_interrupted_run_keeps_what_it_has(tmp_path, photos, capsys, monkeypatch, as_lmdb):
    make_pair = prepare_data.make_pair

    def interrupted(source, **kwargs):
        if source.name == "00005":
            raise KeyboardInterrupt
        return make_pair(source, **kwargs)

    arguments = ["--path", photos, "--out", tmp_path / "out", "--size", "8,24", "--n_worker", 1]
    arguments += ["--lmdb"] if as_lmdb else []
    monkeypatch.setattr(prepare_data, "make_pair", interrupted)
    code, _, err = run(capsys, *arguments)
    assert (code, len(err)) == (130, 1)
    monkeypatch.undo()
    assert run(capsys, *arguments)[1][-1] == f"{tmp_path}/out_8_24: 7 images, 3 of them new"


@pytest.mark.parametrize("free, told", [(4096, "No space left on device"), (1 << 30, "mdb_txn_commit: Input/output")])
def test_lmdb_on_a_full_disk(tmp_path, free, told, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(DataError, match=f"^LMDB {tmp_path}: {told}"), errors_of_lmdb(tmp_path):
        raise lmdb.Error("mdb_txn_commit: Input/output error")


def test_a_full_disk_is_one_line(tmp_path, photos, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    arguments = ["--path", photos, "--out", tmp_path / "out", "--size", "8,24"]
    assert run(capsys, *arguments)[0] == 0
    (tmp_path / "out_8_24/lr_8/00004.png").unlink()
    monkeypatch.setattr(os, "fsync", full)
    for workers in (1, 2):
        say = ["cannot write", "No space left on device"]
        assert_refused(capsys, *arguments, "--n_worker", workers, say=say)


# ---- the pool


def test_parallel_does_every_job_once():
    results = dict(parallel(abs, list(range(-50, 0)), workers=3))
    assert results == {-i: i for i in range(1, 51)}


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_killed_worker_is_an_error_not_a_hang(tmp_path, picture):
    """The command runs in a process of its own, so that nothing which dies here is a process of the tests."""
    (root := tmp_path / "in").mkdir()
    for i in range(40):
        picture(300, 200, i).save(root / f"{i}.bmp")
    command = [sys.executable, SCRIPT, "--path", root, "--out", tmp_path / "out", "--n_worker", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        while not (workers := children_of(run.pid)):
            assert run.poll() is None, "it ended before its workers began"
        os.kill(workers[0], signal.SIGKILL)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 2, errors
    assert len(errors.splitlines()) == 1 and "a worker process was killed" in errors, errors
