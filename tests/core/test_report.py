"""Pictures, the table and the JSON file."""

import json
import math
import os
import re

import numpy as np
import pytest
from PIL import Image

from core.report.json_files import write_json
from core.report.pictures import GAP, HEADER, comparison, grid
from core.report.tables import validation_table
from data import DataError


def test_grid_places_each_image_in_its_cell(make_image):
    rows = [[make_image(8, 6, 0), make_image(8, 6, 1)], [make_image(8, 6, 2), make_image(5, 4, 3)]]
    picture = np.asarray(grid(rows))
    assert picture.shape == (2 * 6 + GAP, 2 * 8 + GAP, 3)
    assert np.array_equal(picture[:6, 8 + GAP :], rows[0][1])
    assert np.array_equal(picture[6 + GAP : 6 + GAP + 4, 8 + GAP : 8 + GAP + 5], rows[1][1])
    assert (picture[6 : 6 + GAP] == 255).all()


def test_comparison_magnifies_lr_by_whole_pixels(make_image):
    lr, large = make_image(4, 4), [make_image(16, 16, phase) for phase in (1, 2, 3)]
    picture = np.asarray(comparison([(lr, *large)]))
    assert np.array_equal(picture[HEADER:, :16], np.asarray(lr).repeat(4, axis=0).repeat(4, axis=1))
    assert np.array_equal(picture[HEADER:, -16:], large[2])
    assert (picture[:HEADER] < 128).any()  # labels


def test_table_puts_bicubic_beside_sr():
    mean = {"psnr": 23.456, "bicubic_psnr": 21.63, "ssim": 0.61, "bicubic_ssim": 0.574, "seconds": 1.5}
    mean |= {"sharpness": 0.9126, "bicubic_sharpness": float("nan"), "seconds_warm": 1.4}
    report = {"mean": mean, "deviation": {"psnr": 2.129, "bicubic_psnr": 1, "ssim": math.nan}, "of_sets": {"kid": -0.5}}
    report |= {"missing": {"lpips": "needs this"}, "dataset": {"name": "faces"}, "images": 7, "sampling": "ddim"}
    lines = validation_table(report).splitlines()
    assert lines[0] == "faces, 7 images, ddim"
    cells = {line[:18].strip(): re.split(r"  +", line[18:].strip()) for line in lines[1:]}
    assert cells.pop("")[:2] == ["bicubic", "SR"]
    assert {name: words[:2] for name, words in cells.items()} == {
        "PSNR, dB": ["21.63 ± 1.00", "23.46 ± 2.13"],
        "SSIM": ["0.5740", "0.6100"],
        "sharpness, HR = 1": ["-", "0.913"],
        "LPIPS": ["-", "-"],
        "KID, × 1000": ["-", "-0.50"],
        "seconds per image": ["-", "1.500"],
    }
    assert cells["LPIPS"][2] == "not measured: needs this" and "the higher the better" in cells["PSNR, dB"][2]
    report["missing"] |= {"fid": "needs that", "kid": "needs that"}
    (row,) = (line for line in validation_table(report).splitlines() if "not measured" in line)
    assert row.startswith("LPIPS, FID, KID ") and "docs/measuring.md" in row and len(row.rstrip()) < 120


def test_json_is_strict_and_whole(tmp_path):
    path = tmp_path / "folder" / "metrics.json"
    write_json({"psnr": math.inf, "per_image": [{"ssim": math.nan, "name": "Käthe"}]}, path)
    assert json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail) == {
        "psnr": None,
        "per_image": [{"ssim": None, "name": "Käthe"}],
    }
    with pytest.raises(TypeError):
        write_json({"image": Image.new("L", (1, 1))}, path)
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]
    assert "Käthe" in path.read_text(encoding="utf-8")


def test_json_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(DataError, match="cannot write"):
        write_json({}, tmp_path / ("n" * 300))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot make folder"):
        write_json({}, tmp_path / "file" / "metrics.json")


def test_json_of_a_name_that_is_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write_json({"name": name, "é": 1}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": name, "é": 1}
