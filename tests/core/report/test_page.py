"""What the page tells: means, differences and verdicts, histograms, and pictures that are what the files are."""

import base64
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ttest_rel

from core.report.columns import base_of, columns_of, image_cells, summary_rows
from core.report.embedding import data_uri, error_map, thumbnail
from core.report.histograms import BINS, HEIGHT, WIDTH, histogram
from core.report.page import render
from core.report.runs import Run, read_runs
from core.report.tables import ROWS

PSNR, SHARPNESS = (next(row for row in ROWS if row.key == key) for key in ("psnr", "sharpness"))


def picture_in(uri):
    return Image.open(BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,"))))


def columns_with(**values):
    """Columns of runs of which a measurement has these values."""
    runs = [
        Run.of(
            name,
            {"of_sets": {}, "per_image": [{"name": str(n), "psnr": value} for n, value in enumerate(numbers)]},
        )
        for name, numbers in values.items()
    ]
    return columns_of(runs)


def test_a_single_run_is_compared_with_bicubic_and_several_with_the_first(make_run, report_of):
    folders = [make_run("A", 2), make_run("B", 4)]
    entries = [report_of(folder)["per_image"] for folder in folders]

    columns = columns_of(read_runs(folders[:1]))
    psnr = next(row for row in summary_rows(columns) if row.measurement is PSNR)
    gain = np.mean([entry["psnr"] - entry["bicubic_psnr"] for entry in entries[0]])
    assert [column.label for column in columns] == ["Bicubic", "A"]
    assert psnr.cells[0].text == f"{np.mean([entry['bicubic_psnr'] for entry in entries[0]]):.2f}"
    assert psnr.cells[1].difference.replace("−", "-") == f"{gain:+.2f}"

    columns = columns_of(read_runs(folders))
    psnr = next(row for row in summary_rows(columns) if row.measurement is PSNR)
    loss = np.mean([b["psnr"] - a["psnr"] for a, b in zip(*entries, strict=True)])
    assert base_of(columns).label == "A" and psnr.cells[1].difference == ""
    assert psnr.cells[2].difference.replace("−", "-") == f"{loss:+.2f}" and psnr.cells[2].verdict == "worse"
    assert psnr.cells[2].deviation == f"{np.std([entry['psnr'] for entry in entries[1]]):.2f}"
    assert [cell.is_best for cell in psnr.cells].count(True) == 1


@pytest.mark.parametrize("shift", [-0.9, -0.3, 0.05, 0.3, 0.9])
def test_a_verdict_is_given_beyond_two_standard_errors(shift):
    rng = np.random.default_rng(0)
    first = rng.normal(25, 3, 30)
    second = first + rng.normal(shift, 1, 30)
    row = summary_rows(columns_with(a=first.tolist(), b=second.tolist()))[0]
    statistic = ttest_rel(second, first).statistic
    assert row.cells[1].verdict == ("" if abs(statistic) <= 2 else "better" if statistic > 0 else "worse")


def test_near_one_is_better_from_either_side():
    measures = [{"name": "x", "sharpness": 1.4, "bicubic_sharpness": 0.5}]
    columns = columns_of([Run.of("a", {"of_sets": {}, "per_image": measures})])
    (cell,) = image_cells(columns[1], columns[0], SHARPNESS)
    assert (cell.text, cell.difference, cell.verdict) == ("1.400", "+0.900", "better")


def test_distances_of_sets_are_of_whole_sets(make_run):
    run, other = read_runs([make_run("A", 2), make_run("B", 2)])
    run.report["of_sets"].update({"fid": 40.5, "bicubic_fid": 99.0})
    fid = next(row for row in summary_rows(columns_of([run])) if row.measurement.key == "fid")
    assert [cell.text for cell in fid.cells] == ["99.00", "40.50"] and fid.cells[1].is_best
    some = [each.of_these(list(run.images)[:3]) for each in (run, other)]
    assert all(row.measurement.key != "fid" for row in summary_rows(columns_of(some)))


def test_small_pictures_are_exact(make_image):
    image = make_image(128, 96)
    assert np.array_equal(picture_in(data_uri(image, 100_000)), image)


@pytest.mark.parametrize("side", [64, 300, 700])
def test_pictures_have_no_more_than_their_share(side):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))
    uri = data_uri(noise, 9_000)
    shown = picture_in(uri)
    assert len(uri) < 4 / 3 * 9_000 + 100
    assert (shown.width == side) == (side == 64)
    assert abs(np.asarray(shown, float).mean() - 127.5) < 10
    assert max(picture_in(thumbnail(noise, 48)).size) == 48


def test_a_panorama_is_shown_smaller_than_webp_can_have():
    assert picture_in(data_uri(Image.new("RGB", (20_000, 10)), 50_000)).size == (10_000, 5)


def test_error_map_is_the_brighter_the_larger_the_error():
    truth = Image.new("RGB", (5, 1), (100, 100, 100))
    image = truth.copy()
    for x, error in enumerate((0, 8, -30, 64, 90)):
        image.putpixel((x, 0), (100 + error, 100 + error, 100 + error))
    brightness = np.asarray(error_map(image, truth)).sum(axis=2)[0].astype(int)
    assert (np.diff(brightness[:4]) > 0).all() and brightness[3] == brightness[4]


def heights_of(path):
    return [1 - float(y) / HEIGHT for y in re.findall(r"V([\d.]+)H", path)]


@pytest.mark.parametrize("spread", [0.1, 5])
def test_bars_are_counts(spread):
    values = {name: np.exp(np.random.default_rng(n).normal(0, spread, 500)) for n, name in enumerate("ab")}
    drawn = histogram(values)
    everything = np.concatenate(list(values.values()))
    is_wide = everything.max() > 100 * everything.min()
    space = np.geomspace if is_wide else np.linspace
    counts = {
        name: np.histogram(v, space(everything.min(), everything.max(), BINS + 1))[0] for name, v in values.items()
    }
    assert drawn.is_log == is_wide == (spread == 5)
    for name, path in drawn.outlines.items():
        expected = counts[name] / max(count.max() for count in counts.values())
        assert heights_of(path) == pytest.approx(expected, abs=1e-3)
        assert path.endswith(f"V{HEIGHT}Z") and f"H{WIDTH}.0" in path
    assert histogram({"a": [2.0, 2.0]}) is None and histogram({"a": []}) is None


def test_page_tells_settings_and_what_is_missing(make_run):
    page = render(read_runs([make_run("A", 2), make_run("B", 4)]))
    assert "Not measured: LPIPS, FID" in page and "needs weights" in page
    different, common = page.split("In common")
    assert '<th scope="row">settings.noise</th><td>2</td><td>4</td>' in different
    assert "<dt>settings.seed</dt><dd>0</dd>" in common and "<dt>device</dt><dd>a CPU</dd>" in common
    assert "sample:\n  steps: 4" in page


def test_chain_has_its_frames_and_key_steps(make_run, tmp_path):
    page = render(read_runs([make_run("A", 2)]))
    frames = re.findall(
        r'<div class="frame( key)?"><img src="([^"]*)"[^>]*><p>step (\d).*?t = (\d+).*?"state">([^<]*)', page
    )
    assert [frame[0] + "".join(frame[2:]) for frame in frames] == ["214state of step 1", " key34◆ key step"]
    sr = Image.open(tmp_path / "A" / "results" / "sr" / "7_0_sr.png")
    assert np.array_equal(picture_in(frames[1][1]), sr)
    assert '<path class="key" d="M0.5 0V10M2.5 0V10"/>' in page


def test_a_report_without_its_pictures_or_settings_is_a_page_still():
    entries = [{"name": "a", "psnr": 20.5}, {"name": "b", "psnr": None}]
    report = {"mean": {}, "missing": {}, "of_sets": {}, "per_image": entries, "chain": {"shown": 3}, "settings": 1}
    page = render([Run.of("bare", report)])
    assert "20.50" in page and "<h1>Results</h1>" in page and "NaN" not in page


def test_only_the_worst_of_very_many_images_are_shown(make_run, monkeypatch):
    monkeypatch.setattr("core.report.page.MOST_IMAGES", 4)
    page = render(read_runs([make_run("A", 2)]))
    assert "The 4 worst of 6 images are shown" in page and page.count("data-number=") == 4
    assert "image0</span>" not in page and "image5</span>" in page  # the later, the noisier
