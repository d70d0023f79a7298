import io
import multiprocessing
import os
import pickle
import shutil
import sys
import traceback
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data import DataError, Draw, SRDataset, TrainStream
from data.images import encode_png
from data.names import pair_names
from data.prepare_data import prepare
from data.stores import LmdbStore


def spec(**keys):
    return {"l_resolution": 8, "r_resolution": 24, "datatype": "img", "augment": True, "data_len": -1, **keys}


def as_tensor(image):
    """Pixels in [-1, 1], by hand."""
    return np.asarray(image, dtype=np.float64).transpose(2, 0, 1) / 127.5 - 1


def assert_same_pixels(tensor, image):
    np.testing.assert_allclose(tensor.numpy(), as_tensor(image), atol=1e-6)


def write_lmdb(folder, values):
    with lmdb.open(str(folder), map_size=1 << 24) as env, env.begin(write=True) as txn:
        for key, value in values.items():
            txn.put(key.encode(), value)
    return folder


@pytest.fixture(params=["folder", "lmdb"])
def prepared(request, tmp_path, photos):
    """A spec of seven prepared pairs, as folders and as an LMDB."""
    as_lmdb = request.param == "lmdb"
    root = prepare(photos, tmp_path / request.param, (8, 24), as_lmdb=as_lmdb).folder
    return spec(dataroot=str(root), datatype="lmdb" if as_lmdb else "img")


@pytest.fixture
def folders(tmp_path, photos):
    """The root of seven prepared pairs in folders."""
    return prepare(photos, tmp_path / "faces", (8, 24)).folder


def assert_error(*say, of):
    with pytest.raises(DataError) as caught:
        of()
    traceback.clear_frames(caught.tb)  # a failed DataLoader left to the cycle collector waits 10 s for its workers
    message = str(caught.value)
    assert "\n" not in message
    for words in say:
        assert str(words) in message


# ---- what a sample is


def test_pairs(prepared, folders):
    dataset = SRDataset(prepared, train=False)
    assert len(dataset) == 7
    for i, sample in enumerate(dataset):
        assert sample.keys() == {"lr", "hr", "index", "name"}
        assert (sample["index"], sample["name"]) == (i, f"0000{i + 1}")
        assert sample["lr"].dtype == sample["hr"].dtype == torch.float32
        assert (sample["lr"].shape, sample["hr"].shape) == ((3, 8, 8), (3, 24, 24))
        assert_same_pixels(sample["lr"], Image.open(folders / f"lr_8/0000{i + 1}.png"))
        assert_same_pixels(sample["hr"], Image.open(folders / f"hr_24/0000{i + 1}.png"))


def test_data_len_takes_the_first_by_name(prepared):
    first = SRDataset({**prepared, "data_len": 3}, train=False)
    assert [sample["name"] for sample in first] == ["00001", "00002", "00003"]
    assert len(SRDataset({**prepared, "data_len": 50}, train=False)) == 7
    assert_error("datasets.val.data_len", of=lambda: SRDataset({**prepared, "data_len": 0}, train=False))


def test_weights_are_those_of_the_first_pattern_that_fits(prepared):
    """Of the images 00001 ... 00007."""
    patterns = {"*2": 0.5, "0000[1-4]": 3, "*7": 0}
    dataset = SRDataset({**prepared, "weights": patterns}, train=True)
    assert [sample["name"] for sample in dataset] == ["00001", "00002", "00003", "00004", "00005", "00006"]
    assert dataset.weights.tolist() == [3, 0.5, 3, 3, 1, 1]
    first = SRDataset({**prepared, "weights": {"*1": 0, **patterns}, "data_len": 4}, train=True)
    assert [(sample["index"], sample["name"]) for sample in first] == [(0, "00002"), (1, "00003"), (2, "00004")]
    assert first.weights.tolist() == [0.5, 3, 3]
    assert torch.equal(first[2]["hr"], dataset[3]["hr"])
    assert SRDataset({**prepared, "weights": {}}, train=True).weights is None


def test_patterns_of_weights_that_decide_nothing(prepared):
    def error(*say, **keys):
        assert_error("datasets.train.weights", *say, of=lambda: SRDataset({**prepared, **keys}, train=True))

    root = prepared["dataroot"]
    error(f"no image of {root} fits 'xyz*'", "as '00001'", weights={"0*": 2, "xyz*": 1})
    error("'00001.png'", "without extension", weights={"00001.png": 1})
    error("earlier patterns fit all that '00003' fits", weights={"*[1-3]": 2, "00003": 0})
    error(f"no image of {root} is left", weights={"*": 0})
    error(f"no image of {root} is left", weights={"*[12]": 0}, data_len=2)


def test_patterns_of_weights_know_upper_and_lower_case(tmp_path, picture):
    for name in ("Cat", "dog"):
        picture(24, 24).save(tmp_path / f"{name}.png")
    assert SRDataset(spec(dataroot=tmp_path, weights={"C*": 2}), train=True).weights.tolist() == [2, 1]
    wrong = spec(hr_dataroot=tmp_path, weights={"c*": 2})
    assert_error(f"no image of {tmp_path} fits 'c*'", of=lambda: SRDataset(wrong, train=True))


def test_order_does_not_depend_on_the_order_of_writing(tmp_path, picture):
    names = ["b", "00010", "a", "00002", "Z"]
    for order in (names, names[::-1]):
        folder = tmp_path / order[0]
        folder.mkdir()
        for name in order:
            picture(24, 24).save(folder / f"{name}.png")
        values = {f"hr_24_{name}": encode_png(picture(24, 24)) for name in order}
        write_lmdb(tmp_path / f"{order[0]}_lmdb", {"length": b"5", **values})
        for keys in ({"dataroot": folder}, {"dataroot": tmp_path / f"{order[0]}_lmdb", "datatype": "lmdb"}):
            assert SRDataset(spec(**keys), train=False).store.names == ["00002", "00010", "Z", "a", "b"]


def test_hr_only_folder_equals_prepared_images(photos, prepared):
    plain, ready = SRDataset(spec(dataroot=photos), train=False), SRDataset(prepared, train=False)
    for made, stored in zip(plain, ready, strict=True):
        assert torch.equal(made["hr"], stored["hr"])
        assert torch.equal(made["lr"], stored["lr"])


@pytest.mark.parametrize("form", ["mode HR", "no lr folder"])
def test_lr_made_on_the_fly(folders, form):
    for path in (folders / "lr_8").iterdir():
        Image.new("RGB", (8, 8)).save(path)
        path.unlink() if form == "no lr folder" else None
    if form == "no lr folder":
        (folders / "lr_8").rmdir()
    dataset = SRDataset(spec(dataroot=folders, mode="HR" if form == "mode HR" else "LRHR"), train=False)
    hr = Image.open(folders / "hr_24/00002.png")
    assert_same_pixels(dataset[1]["hr"], hr)
    assert_same_pixels(dataset[1]["lr"], hr.resize((8, 8), Image.Resampling.BICUBIC))


def test_published_lmdb(tmp_path, picture):
    values = {"length": b"11"}
    for i in range(11):
        values[f"hr_24_{i:05d}"] = encode_png(picture(24, 24, i))
        values[f"lr_8_{i:05d}"] = encode_png(picture(8, 8, i))
        values[f"sr_8_24_{i:05d}"] = encode_png(picture(24, 24, i + 50))
    dataset = SRDataset(spec(dataroot=write_lmdb(tmp_path / "db", values), datatype="lmdb"), train=False)
    assert len(dataset) == 11
    assert_same_pixels(dataset[10]["hr"], picture(24, 24, 10))
    assert_same_pixels(dataset[10]["lr"], picture(8, 8, 10))


def good_lmdb(picture):
    """The entries of an LMDB of four pairs."""
    halves = {"hr_24": encode_png(picture(24, 24)), "lr_8": encode_png(picture(8, 8))}
    return {"length": b"4", **{f"{half}_0000{i}": png for i in range(4) for half, png in halves.items()}}


def test_lmdb_length_that_lags_behind(tmp_path, picture):
    root = write_lmdb(tmp_path / "db", {**good_lmdb(picture), "length": b"3"})
    assert len(SRDataset(spec(dataroot=root, datatype="lmdb"), train=False)) == 4


# ---- randomness


def test_flips_follow_the_seed(prepared):
    dataset = SRDataset(prepared, train=True)
    plain = dataset[2]
    flipped = 0
    for seed in range(200):
        sample = dataset[Draw(2, seed)]
        is_flipped = torch.equal(sample["hr"], plain["hr"].flip(-1))
        assert is_flipped or torch.equal(sample["hr"], plain["hr"])
        assert torch.equal(sample["lr"], plain["lr"].flip(-1) if is_flipped else plain["lr"])
        assert torch.equal(dataset[Draw(2, seed)]["hr"], sample["hr"])
        assert torch.equal(dataset[Draw(3, seed)]["hr"], dataset[3]["hr"].flip(-1)) == is_flipped
        flipped += is_flipped
    assert 70 < flipped < 130


@pytest.mark.parametrize(("augment", "train"), [(False, True), (True, False)])
def test_no_flips(prepared, augment, train):
    dataset = SRDataset({**prepared, "augment": augment}, train=train)
    assert all(torch.equal(dataset[Draw(4, seed)]["hr"], dataset[4]["hr"]) for seed in range(30))


def coordinates(width, height, cell):
    """An image whose pixels say which cell of a grid they lie in: red the column, green the row."""
    y, x = np.mgrid[:height, :width] // cell
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


def corner(tensor):
    """(column, row) that the top left pixel says it lies in."""
    return [round((value.item() + 1) * 127.5) for value in tensor[:2, 0, 0]]


@pytest.mark.parametrize("naming", ["{}", "{}x3"])
@pytest.mark.parametrize("lr_size", [(12, 10), (13, 11)])
def test_random_crops_are_aligned(tmp_path, naming, lr_size):
    (tmp_path / "hr").mkdir()
    (tmp_path / "lr").mkdir()
    coordinates(38, 32, 3).save(tmp_path / "hr/a.png")  # 12 2/3 x 10 2/3 cells
    coordinates(*lr_size, 1).save(tmp_path / "lr" / f"{naming.format('a')}.png")
    keys = spec(hr_dataroot=tmp_path / "hr", lr_dataroot=tmp_path / "lr", use_crop=True, augment=False)
    dataset = SRDataset(keys, train=True)
    corners = set()
    for seed in range(300):
        sample = dataset[Draw(0, seed)]
        assert (sample["lr"].shape, sample["hr"].shape) == ((3, 8, 8), (3, 24, 24))
        assert corner(sample["lr"]) == corner(sample["hr"])
        assert torch.equal(sample["hr"][:, ::3, ::3], sample["lr"])
        assert torch.equal(sample["hr"][:, 2::3, 2::3], sample["lr"])
        corners.add(tuple(corner(sample["lr"])))
    assert corners == {(x, y) for x in range(5) for y in range(3)}
    centre = SRDataset(keys, train=False)[0]
    assert corner(centre["lr"]) == corner(centre["hr"]) == [2, 1]


def test_crops_of_hr_images_alone(tmp_path, picture):
    image = picture(90, 61)
    (tmp_path / "hr").mkdir()
    image.save(tmp_path / "hr/a.png")
    keys = spec(hr_dataroot=tmp_path / "hr", use_crop=True, augment=False)
    centre = SRDataset(keys, train=False)[0]
    crop = image.crop((33, 18, 57, 42))
    assert_same_pixels(centre["hr"], crop)
    assert_same_pixels(centre["lr"], crop.resize((8, 8), Image.Resampling.BICUBIC))
    samples = [SRDataset(keys, train=True)[Draw(0, seed)] for seed in range(20)]
    assert len({sample["hr"].numpy().tobytes() for sample in samples}) > 15
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(image), (24, 24), axis=(0, 1))
    for sample in samples[:5]:
        pixels = ((sample["hr"].numpy() + 1) * 127.5).round()
        assert (windows == pixels).all(axis=(2, 3, 4)).any()


def test_shrunken_crops_show_more_of_an_image(tmp_path):
    """A ramp whose grey value is the column: its slope in a crop tells by how much the crop was made smaller."""
    (tmp_path / "hr").mkdir()
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[None, :, None], (60, 100, 3))
    Image.fromarray(ramp).save(tmp_path / "hr/a.png")
    keys = spec(hr_dataroot=tmp_path / "hr", use_crop=True, augment=False, shrink=[0.25, 0.8])
    factors, corners = [], set()
    for seed in range(100):
        sample = SRDataset(keys, train=True)[Draw(0, seed)]
        assert (sample["lr"].shape, sample["hr"].shape) == ((3, 8, 8), (3, 24, 24))
        pixels = (sample["hr"][0, 12].numpy() + 1) * 127.5
        factors.append(12 / (pixels[18] - pixels[6]))
        corners.add(round(pixels[0].item()))
        lr = (sample["lr"][0, 4].numpy() + 1) * 127.5
        assert lr[3:5].mean() == pytest.approx(pixels[9:15].mean(), abs=1.5)  # of the crop, as it is now
    assert 0.38 <= min(factors) < 0.45 and 0.7 < max(factors) < 0.87  # 24 of 60 pixels is 0.4: no more is there
    assert len(corners) > 20
    assert_same_pixels(SRDataset(keys, train=False)[0]["hr"][:, :, :1], Image.fromarray(ramp[18:42, 38:39]))


# ---- worker processes


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_the_same_samples(prepared, start):
    dataset = SRDataset(prepared, train=True)
    stream = TrainStream(len(dataset), batch_size=3, seed=0)
    dataset[0]  # an LMDB that is open already is no harm
    loader = DataLoader(dataset, batch_sampler=stream, num_workers=2, multiprocessing_context=start)
    batches = iter(loader)
    for step in range(6):
        batch, alone = next(batches), [dataset[draw] for draw in stream.batch(step)]
        assert batch["name"] == [sample["name"] for sample in alone]
        assert batch["index"].tolist() == [sample["index"] for sample in alone]
        for key in ("lr", "hr"):
            assert torch.equal(batch[key], torch.stack([sample[key] for sample in alone]))


def test_an_error_in_a_worker_is_still_one_line(folders):
    (folders / "hr_24/00004.png").write_text("no image")
    loader = DataLoader(SRDataset(spec(dataroot=folders), train=False), num_workers=2)
    assert_error("cannot read image", folders / "hr_24/00004.png", of=lambda: list(loader))


def opens_its_own_environment(store, parents):
    store.read(0)
    sys.exit(0 if store._env is not parents else 1)


def test_a_forked_process_opens_its_own_lmdb(tmp_path, picture):
    store = LmdbStore(write_lmdb(tmp_path / "db", good_lmdb(picture)), 8, 24)
    store.read(0)
    child = multiprocessing.get_context("fork").Process(target=opens_its_own_environment, args=(store, store._env))
    child.start()
    child.join()
    assert child.exitcode == 0


def test_an_open_lmdb_can_be_pickled(prepared):
    dataset = SRDataset(prepared, train=False)
    first = dataset[0]["hr"]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0]["hr"], first)


# ---- errors


def test_missing_dataroot_says_how_to_make_it(tmp_path):
    root = tmp_path / "ffhq_8_24"
    command = f"python data/prepare_data.py --path IMAGES --out {tmp_path / 'ffhq'} --size 8,24"
    assert_error("datasets.train.dataroot", root, command, of=lambda: SRDataset(spec(dataroot=root), train=True))
    lmdb_spec = spec(dataroot=root, datatype="lmdb")
    assert_error("datasets.val.dataroot", f"{command} --lmdb", of=lambda: SRDataset(lmdb_spec, train=False))
    other = spec(dataroot=tmp_path / "ffhq")
    assert_error(command, f"set it to {root}", of=lambda: SRDataset(other, train=True))
    assert_error("datasets.train.dataroot: missing", of=lambda: SRDataset(spec(), train=True))


def test_errors_name_the_section(tmp_path):
    keys = spec(dataroot=tmp_path / "no")
    assert_error("datasets.val_x.dataroot", of=lambda: SRDataset(keys, train=False, section="datasets.val_x"))


def test_missing_folders_of_the_general_layout(tmp_path, photos):
    keys = spec(hr_dataroot=tmp_path / "no")
    assert_error("datasets.train.hr_dataroot", tmp_path / "no", of=lambda: SRDataset(keys, train=True))
    keys = spec(hr_dataroot=photos, lr_dataroot=tmp_path / "no")
    assert_error("datasets.train.lr_dataroot", tmp_path / "no", of=lambda: SRDataset(keys, train=True))
    keys = spec(hr_dataroot=photos, datatype="lmdb")
    assert_error("datasets.train.datatype", of=lambda: SRDataset(keys, train=True))


def test_the_other_datatype(prepared):
    other = "img" if prepared["datatype"] == "lmdb" else "lmdb"
    of = lambda: SRDataset({**prepared, "datatype": other}, train=True)  # noqa: E731
    assert_error("datasets.train.datatype", prepared["dataroot"], f"set it to {prepared['datatype']}", of=of)


def test_the_other_resolution(prepared):
    of = lambda: SRDataset({**prepared, "r_resolution": 48}, train=True)  # noqa: E731
    assert_error("hr_48", prepared["dataroot"], of=of)


def test_halves_that_do_not_match(folders, tmp_path, picture):
    for name in ("00002", "00003", "00005", "00006"):
        (folders / f"lr_8/{name}.png").unlink()
    of = lambda: SRDataset(spec(dataroot=folders), train=True)  # noqa: E731
    assert_error("lr_8", "4 HR image(s) without their LR (00002, 00003, 00005, ...)", of=of)
    (folders / "hr_24/00001.png").unlink()
    for name in ("00002", "00003", "00005", "00006"):
        (folders / f"hr_24/{name}.png").unlink()
    assert_error("1 LR image(s) without their HR (00001)", of=of)
    values = {"length": b"1", "hr_24_x": b"", "lr_8_y": b""}
    root = write_lmdb(tmp_path / "db", values)
    assert_error("(x)", root, of=lambda: SRDataset(spec(dataroot=root, datatype="lmdb"), train=True))


def test_two_lr_images_for_one_hr_image(tmp_path, picture):
    for path, size in (("hr/a", 24), ("lr/a", 8), ("lr/ax3", 8)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        picture(size, size).save(tmp_path / f"{path}.png")
    keys = spec(hr_dataroot=tmp_path / "hr", lr_dataroot=tmp_path / "lr")
    assert_error("1 LR image(s) without their HR (ax3)", of=lambda: SRDataset(keys, train=True))


def test_folders_without_images(tmp_path, folders):
    (tmp_path / "empty").mkdir()
    assert_error("no image in", tmp_path / "empty", of=lambda: SRDataset(spec(dataroot=tmp_path / "empty"), train=True))
    for path in (folders / "hr_24").iterdir():
        path.unlink()
    assert_error("no image in", folders / "hr_24", of=lambda: SRDataset(spec(dataroot=folders), train=True))


def test_two_files_of_one_name(photos, picture):
    picture(24, 24).save(photos / "3.jpg")
    with pytest.warns(UserWarning, match=r"left out: .*3\.png: .*3\.jpg has the same name"):
        assert len(SRDataset(spec(dataroot=photos), train=True)) == 7


def test_wrong_sizes(folders, picture):
    picture(24, 23).save(folders / "hr_24/00002.png")
    picture(9, 9).save(folders / "lr_8/00003.png")
    dataset = SRDataset(spec(dataroot=folders), train=True)
    assert_error(folders / "hr_24/00002.png", "24x23", "24x24", of=lambda: dataset[1])
    assert_error(folders / "lr_8/00003.png", "9x9", "8x8", of=lambda: dataset[Draw(2, 0)])
    assert dataset[3]["hr"].shape == (3, 24, 24)


def test_general_images_that_cannot_be_cropped(tmp_path, picture):
    for half, name, size in (
        ("hr", "small", (50, 23)), ("lr", "small", (16, 7)), ("hr", "wrong", (60, 60)), ("lr", "wrong", (30, 30))
    ):  # fmt: skip
        (tmp_path / half).mkdir(exist_ok=True)
        picture(*size).save(tmp_path / half / f"{name}.png")
    keys = spec(hr_dataroot=tmp_path / "hr", lr_dataroot=tmp_path / "lr", use_crop=True)
    dataset = SRDataset(keys, train=True)
    assert_error(tmp_path / "hr/small.png", "50x23", "too small", of=lambda: dataset[0])
    assert_error(tmp_path / "lr/wrong.png", "30x30", tmp_path / "hr/wrong.png", "60x60", of=lambda: dataset[1])
    uneven = SRDataset({**keys, "l_resolution": 7}, train=True)
    assert_error("r_resolution 24", "l_resolution 7", of=lambda: uneven[1])
    whole = SRDataset({**keys, "use_crop": False}, train=True)
    assert_error(tmp_path / "lr/wrong.png", "30x30", "use_crop", of=lambda: whole[1])


def test_an_image_that_disappears_is_not_replaced(folders):
    dataset = SRDataset(spec(dataroot=folders), train=True)
    (folders / "lr_8/00004.png").unlink()
    assert_error(folders / "lr_8/00004.png", "No such file", of=lambda: dataset[Draw(3, 0)])


def test_lmdb_without_length(tmp_path, picture):
    values = good_lmdb(picture)
    del values["length"]
    root = write_lmdb(tmp_path / "db", values)
    assert_error(root, "without `length`", of=lambda: SRDataset(spec(dataroot=root, datatype="lmdb"), train=True))


def test_lmdb_with_images_missing(tmp_path, picture):
    root = write_lmdb(tmp_path / "db", {**good_lmdb(picture), "length": b"9"})
    assert_error(root, "4", "`length` 9", of=lambda: SRDataset(spec(dataroot=root, datatype="lmdb"), train=True))


def test_lmdb_with_a_damaged_image(tmp_path, picture):
    whole = good_lmdb(picture)["hr_24_00002"]
    root = write_lmdb(tmp_path / "db", {**good_lmdb(picture), "hr_24_00002": whole[: len(whole) // 2]})
    dataset = SRDataset(spec(dataroot=root, datatype="lmdb"), train=True)
    assert_error("cannot read image hr_24_00002", root, of=lambda: dataset[2])
    assert np.array_equal(dataset.store.read(1)[1], Image.open(io.BytesIO(whole)))
    with lmdb.open(str(root)) as env, env.begin(write=True) as txn:
        txn.delete(b"lr_8_00003")
    assert_error("lr_8_00003 is missing", root, of=lambda: LmdbStore.read(pickle.loads(pickle.dumps(dataset.store)), 3))


@pytest.mark.parametrize("damage", ["cut", "junk", "empty"])
def test_lmdb_that_is_damaged(tmp_path, picture, damage):
    root = write_lmdb(tmp_path / "db", good_lmdb(picture))
    whole = (root / "data.mdb").read_bytes()
    content = {"cut": whole[: len(whole) // 2], "junk": b"junk" * 5000, "empty": b""}[damage]
    (root / "data.mdb").write_bytes(content)
    assert_error(root, of=lambda: SRDataset(spec(dataroot=root, datatype="lmdb"), train=True))


def test_index_out_of_range(prepared):
    dataset = SRDataset({**prepared, "data_len": 2}, train=False)
    for index in (2, -1):
        with pytest.raises(IndexError):
            dataset[index]


def test_a_pipe_is_left_out(photos):
    os.mkfifo(photos / "pipe.png")
    with pytest.warns(UserWarning, match=r"left out: .*pipe\.png: a pipe, no file"):
        assert len(SRDataset(spec(dataroot=photos), train=True)) == 7


@pytest.fixture
def whole_pairs(tmp_path, picture):
    """whole_pairs(HR name, LR name, HR size, LR size) -> the roots of a folder of each, with this image alone."""

    def make(hr_name, lr_name, hr_size=(48, 40), lr_size=(12, 10)):
        for folder, name, size in (("HR", hr_name, hr_size), ("LR", lr_name, lr_size)):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
            (tmp_path / folder).mkdir()
            picture(*size).save(tmp_path / folder / f"{name}.png")
        return {"hr_dataroot": tmp_path / "HR", "lr_dataroot": tmp_path / "LR", "use_crop": True}

    return make


@pytest.mark.parametrize("ending", ["x4", "x4m", "x4w", "x4w1", "x4d", "_x4", "X4", "_x4_bicubic", "_x4_LR"])
def test_lr_images_of_another_scale(whole_pairs, ending):
    """As DIV2K has them, with the resolutions of another scale; no command of this project made them."""
    roots = whole_pairs("0001", f"0001{ending}")
    say = (f"images of scale x4 (0001{ending})", "the config says x3: set l_resolution to r_resolution / 4, 6,")
    assert_error(*say, of=lambda: SRDataset(spec(**roots), train=True))
    assert SRDataset(spec(**roots | {"l_resolution": 6}), train=True)[0]["lr"].shape == (3, 6, 6)


def test_a_scale_that_the_resolution_is_no_multiple_of(whole_pairs):
    roots = whole_pairs("0001", "0001x5", (50, 40), (10, 8))
    assert_error("set l_resolution to 4 and r_resolution to 20, or", of=lambda: SRDataset(spec(**roots), train=True))
    followed = SRDataset(spec(**roots | {"l_resolution": 4, "r_resolution": 20}), train=True)
    assert followed[0]["hr"].shape == (3, 20, 20)


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("0001_HR", "0001_LR"),
        ("0001-hr", "0001-lr"),
        ("0001_HR", "0001"),
        ("0001", "0001_lq"),
        ("img_001_SRF_4_HR", "img_001_SRF_4_LR"),  # Set5, Set14
        ("0001_x4_GT", "0001_x4_LR"),
        ("maxx3_hr", "maxx3_lr"),  # no factor, but a part of both
        ("HR_0001", "LR_0001"),
        ("hr-0001", "lr-0001"),
        ("gt_0001", "lq_0001x4"),  # Real-ESRGAN, BasicSR
        ("HR_0001", "0001"),
        ("0001", "LR_0001"),
        ("0001_HR", "LR_0001"),
        ("hr_maxx3", "lr_maxx3"),
        ("gt_input_7", "input_7"),
    ],
)
def test_names_that_say_which_half_they_are_of(whole_pairs, hr, lr):
    dataset = SRDataset(spec(**whole_pairs(hr, lr)) | {"l_resolution": 6}, train=False)
    assert dataset.store.names == [hr] and [file.rpartition("/")[2] for file in dataset.store.sources(0)] == [
        f"{lr}.png",
        f"{hr}.png",
    ]


def test_names_that_do_not_match_are_shown_of_both_halves(whole_pairs):
    names = ("0001", "other"), ("0001", "0002"), ("ab", "a"), ("0_1_HR", "0_12_LR"), ("HR_1", "LR_2"), ("HR1", "LR1")
    for hr, lr in (*names, ("lr_1", "hr_1"), ("dog_1", "lr_1"), ("1_dog", "2_dog")):
        roots = whole_pairs(hr, lr)
        say = (f"1 HR image(s) without their LR ({hr}), 1 LR image(s) without their HR ({lr}); add the missing",)
        assert_error(*say, of=lambda roots=roots: SRDataset(spec(**roots), train=True))


def test_the_nearest_name_counts(tmp_path, picture):
    for half, names in (("HR", ["a", "a_b", "fox1", "fox2"]), ("LR", ["a_x3", "a_b_x3", "fox1", "fox2x3"])):
        (tmp_path / half).mkdir()
        for name in names:
            picture(24, 24).save(tmp_path / half / f"{name}.png")
    store = SRDataset(spec(hr_dataroot=tmp_path / "HR", lr_dataroot=tmp_path / "LR"), train=False).store
    assert [Path(store.sources(n)[0]).name for n in range(4)] == [
        "a_x3.png",
        "a_b_x3.png",
        "fox1.png",
        "fox2x3.png",
    ]


@pytest.mark.parametrize(
    ("hr", "lr", "pairs"),
    [
        (["1", "HR_1"], ["1", "LR_1"], {"1": "1"}),
        (["1", "HR_1"], ["LR_1"], {}),
        (["hr_1", "gt_1"], ["lr_1", "lq_1"], {}),
        (["hr_1"], ["lr_1", "lq_1"], {}),
        (["1_GT", "HR_1"], ["1", "HR_1"], {"1_GT": "1", "HR_1": "HR_1"}),  # as if no word before a name counted
        (["out_1", "1"], ["out_1", "1x4"], {"out_1": "out_1", "1": "1x4"}),
        (["hr_a", "hr_a_b"], ["lr_a_x4", "lr_a_b_x4"], {"hr_a": "lr_a_x4", "hr_a_b": "lr_a_b_x4"}),
        (["gt_out_dog", "dog"], ["out_dog", "dog"], {"gt_out_dog": "out_dog", "dog": "dog"}),
        (["in/hr_1", "hr_1"], ["lr_1", "in/lr_1"], {"in/hr_1": "in/lr_1", "hr_1": "lr_1"}),
    ],
)
def test_first_words_are_left_out_where_that_tells_one_image(hr, lr, pairs):
    assert pair_names(hr, lr) == pairs


@pytest.mark.parametrize("hr_size", [(48, 40), (51, 43), (45, 37)])
def test_pairs_of_one_name_and_another_scale(whole_pairs, hr_size):
    dataset = SRDataset(spec(**whole_pairs("a", "a", hr_size)), train=True)
    assert_error("no 3-th of", "set l_resolution to r_resolution / 4, 6", of=lambda: dataset[0])


def test_pairs_that_fit_no_scale(whole_pairs):
    swapped = SRDataset(spec(**whole_pairs("a", "a", (12, 10), (48, 40))), train=True)
    assert_error("are the folders swapped?", of=lambda: swapped[0])
    for size in ((48, 40), (20, 10), (32, 24)):
        other = SRDataset(spec(**whole_pairs("a", "a", (48, 40), size)), train=True)
        assert_error("give one of 16x13, or take the pair out", of=lambda other=other: other[0])


def test_an_image_smaller_than_a_crop(whole_pairs):
    roots = whole_pairs("a", "a", (20, 40), (7, 13))
    assert_error("lower that to 18, and l_resolution to 6", of=lambda: SRDataset(spec(**roots), train=True)[0])
    followed = spec(**roots) | {"l_resolution": 6, "r_resolution": 18}
    assert SRDataset(followed, train=True)[0]["hr"].shape == (3, 18, 18)
    alone = spec(hr_dataroot=roots["hr_dataroot"], use_crop=True)
    assert_error("lower that to 20, or", of=lambda: SRDataset(alone, train=True)[0])
    assert SRDataset(alone | {"r_resolution": 20}, train=True)[0]["hr"].shape == (3, 20, 20)


@pytest.mark.parametrize("kind", ["image", "empty", "loop", "broken link"])
@pytest.mark.parametrize("key", ["dataroot", "hr_dataroot", "lr_dataroot", "lmdb"])
def test_what_is_no_folder_is_not_said_to_be_missing(tmp_path, photos, picture, kind, key):
    path = tmp_path / "there.png"
    if kind == "loop":
        path.symlink_to(path)
    elif kind == "broken link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        picture(24, 24).save(path) if kind == "image" else path.touch()
    keys = {"hr_dataroot": photos} if key == "lr_dataroot" else {}
    keys |= {"dataroot": path, "datatype": "lmdb"} if key == "lmdb" else {key: path}
    with pytest.raises(DataError) as error:
        SRDataset(spec(**keys), train=False, section="datasets.val_x")
    links = {"loop": "a link that leads to itself", "broken link": "a link to nothing"}
    told = links.get(kind, "is a file: give a folder")
    assert str(error.value).startswith(f"datasets.val_x.{'dataroot' if key == 'lmdb' else key}: ")
    assert told in str(error.value) and "there is no" not in str(error.value)


def test_images_named_as_prepared_folders(tmp_path, picture):
    picture(24, 24).save(tmp_path / "hr_001.png")
    assert SRDataset(spec(dataroot=tmp_path), train=True).store.names == ["hr_001"]
