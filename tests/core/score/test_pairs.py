"""Which names belong together, as the tools write them."""

import pytest

from core.errors import UserError
from core.score.pairs import find_pairs
from data import DataError


@pytest.fixture
def folder(tmp_path):
    """folder(name, files) -> a folder with these files, empty."""

    def make(name, files):
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).touch()
        return tmp_path / name

    return make


def names(pairs, root):
    return {(pair.sr.name, pair.hr.name) for pair in pairs}


@pytest.mark.parametrize(
    ("sr", "hr"),
    [
        ("baby.png", "baby.png"),
        ("baby.jpg", "baby.PNG"),
        ("baby_out.png", "baby.png"),  # Real-ESRGAN
        ("0801x4.png", "0801.png"),  # DIV2K
        ("0801x4_SwinIR.png", "0801.png"),
        ("0801_x4_out.png", "0801.png"),
        ("img_001x4_bicubic.png", "img_001.png"),
        ("img_001_RealESRGAN_x4plus.png", "img_001.png"),
        ("baby_EDSR_Lx4_DF2K-123.png", "baby_EDSR_Lx4_DF2K-123_GT.png"),
        ("baby_EDSR_Lx4.png", "baby.png"),
        ("0_12_sr.png", "0_12_hr.png"),  # SR3, IDM, and -p val here
        ("img_001_SRF_4_SRCNN.png", "img_001_SRF_4_HR.png"),  # Set5
        ("baby.png", "baby_GT.png"),
        ("a.b-c d_sr.png", "a.b-c d.png"),
        ("fox2_out.png", "fox2.png"),
        ("maxx3_out.png", "maxx3.png"),
        ("SR_0801.png", "HR_0801.png"),
        ("sr-0801_x4.png", "gt-0801.png"),
        ("0801_out.png", "hr_0801.png"),
        ("out_baby.png", "baby.png"),
        ("out_baby.png", "baby_GT.png"),
    ],
)
def test_names_that_belong_together(folder, sr, hr):
    (pair,) = find_pairs(folder("sr", [sr]), folder("hr", [hr]))
    assert (pair.name, pair.sr.name, pair.hr.name, pair.lr) == (sr, sr, hr, None)


@pytest.mark.parametrize(
    ("sr", "hr"),
    [
        ("0_12_sr.png", "0_1_hr.png"),
        ("0_12.png", "0.png"),
        ("b.png", "a.png"),
        ("ab.png", "a.png"),
        ("a.png", "a_b.png"),
        ("SR_1.png", "HR_2.png"),
        ("SR1.png", "HR1.png"),
        ("dog_1.png", "HR_1.png"),
        ("1.png", "lr_1.png"),
    ],
)
def test_names_that_do_not(folder, sr, hr):
    with pytest.raises(UserError, match="belongs to 1 of"):
        find_pairs(folder("sr", [sr]), folder("hr", [hr]))


def test_the_nearest_name_counts(folder):
    hr = folder("hr", ["a.png", "a_b.png", "a_b_c.png", "fox1.png", "fox2.png"])
    sr = folder("sr", ["a_x4.png", "a_b_x4.png", "a_b_c_x4.png", "fox1.png", "fox2.png"])
    assert names(find_pairs(sr, hr), sr) == {
        ("a_x4.png", "a.png"), ("a_b_x4.png", "a_b.png"), ("a_b_c_x4.png", "a_b_c.png"),
        ("fox1.png", "fox1.png"), ("fox2.png", "fox2.png"),
    }  # fmt: skip


def test_one_folder_of_results_truths_and_sources(folder):
    mixed = folder("results", [f"0_{n}_{kind}.png" for n in (1, 2, 10) for kind in ("hr", "sr", "lr", "inf")])
    pairs = find_pairs(mixed, mixed, mixed)
    assert [pair.name for pair in pairs] == ["0_10_sr.png", "0_1_sr.png", "0_2_sr.png"]
    for pair in pairs:
        assert pair.hr.name == pair.name.replace("_sr", "_hr") and pair.lr.name == pair.name.replace("_sr", "_lr")


def test_one_folder_whose_names_begin_with_what_they_are(folder):
    mixed = folder("results", [f"{kind}_0{n}.png" for n in (1, 2) for kind in ("hr", "sr", "lr")])
    pairs = [(pair.sr.name, pair.hr.name, pair.lr.name) for pair in find_pairs(mixed, mixed, mixed)]
    assert pairs == [(f"sr_0{n}.png", f"hr_0{n}.png", f"lr_0{n}.png") for n in (1, 2)]
    photos = ["out_of_town.png", "target_practice.png"]
    assert len(find_pairs(folder("sr", photos), folder("hr", photos))) == 2
    photos = folder("photos", [*photos, "dog.png"])
    assert len(find_pairs(photos, photos)) == 3


def test_folders_in_folders_where_there_is_no_image_above(folder):
    hr, sr = folder("hr", ["a/1.png", "b/1.png"]), folder("sr", ["a/1_out.png", "b/1_out.png"])
    assert [(pair.name, pair.hr.parent.name) for pair in find_pairs(sr, hr)] == [
        ("a/1_out.png", "a"),
        ("b/1_out.png", "b"),
    ]
    folder("hr", ["c.png"]), folder("sr", ["c.png"])
    assert [pair.name for pair in find_pairs(sr, hr)] == ["c.png"]


def test_single_files_whatever_their_names(folder):
    sr, hr = folder("sr", ["result.png"]) / "result.png", folder("hr", ["truth.png"]) / "truth.png"
    assert find_pairs(sr, hr) == [("result.png", sr, hr, None)]
    with pytest.raises(UserError, match="a file beside a folder"):
        find_pairs(sr.parent, hr)


def test_what_is_missing_or_twice_is_named(folder, tmp_path):
    hr = folder("hr", [f"{n}.png" for n in range(9)])
    with pytest.raises(UserError, match=r"in .*sr belongs to 7 of .*hr by its name: 2.png, 3.png, 4.png and 4 more"):
        find_pairs(folder("sr", ["0.png", "1.png"]), hr)
    with pytest.raises(UserError, match=r"in .*lr belongs to 8 of .*hr by its name: 1.png"):
        find_pairs(folder("whole", [f"{n}.png" for n in range(9)]), hr, folder("lr", ["0x4.png"]))
    with pytest.raises(UserError, match=r"0_x4.png and .*0x2.png both belong to .*0.png; keep one"):
        find_pairs(folder("twice", ["0_x4.png", "0x2.png"]), folder("one", ["0.png"]))
    with pytest.raises(UserError, match=r"out_0.png and .*sr_0.png both belong to .*hr_0.png; keep one"):
        find_pairs(folder("both", ["sr_0.png", "out_0.png", "dog.png"]), folder("pair", ["hr_0.png", "dog.png"]))
    with pytest.raises(UserError, match=r"sr_0.png may belong to .*0.png or .*hr_0.png"):
        find_pairs(folder("role", ["sr_0.png"]), folder("hr_and", ["0.png", "hr_0.png", "dog.png"]))
    with pytest.raises(UserError, match=r"0.webp may belong to .*0.jpg or .*0.png"):
        find_pairs(folder("any", ["0.webp"]), folder("two", ["0.png", "0.jpg"]))
    with pytest.raises(UserError, match="nowhere: no such folder"):
        find_pairs(tmp_path / "nowhere", hr)
    with pytest.raises(DataError, match="File name too long"):
        find_pairs(hr, tmp_path / ("a" * 300))
    with pytest.raises(UserError, match="empty: no image in it"):
        find_pairs(folder("empty", ["notes.txt", ".hidden.png"]), hr)
