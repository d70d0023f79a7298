"""The command: any folders of results and truths in; a table, JSON, and the worst images out."""

import json
import logging
import re

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from core.metrics.image_metrics import measure
from core.metrics.perceptual_metrics import Lpips, PerceptualMetrics, load_perceptual_metrics
from core.processes import Processes
from core.sampling.super_resolution import Sampling
from core.score.__main__ import main
from core.validation import validate_all


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The working directory, where the page goes."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folders(tmp_path, make_image, monkeypatch):
    """(SR, HR, LR) with four images each, blurred more and more; no weights of LPIPS or FID are on this machine."""
    load_perceptual_metrics.cache_clear()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    sr, hr, lr = (tmp_path / name for name in ("sr", "hr", "lr"))
    for folder in (sr, hr, lr):
        folder.mkdir()
    for n in range(4):
        truth = make_image(48, 40, n)
        small = truth.resize((12, 10), Image.Resampling.BICUBIC)
        truth.save(hr / f"{n}.png")
        small.save(lr / f"{n}x4.png")
        factor = n + 2
        shrunk = truth.resize((48 // factor, 40 // factor), Image.Resampling.BICUBIC)
        shrunk.resize(truth.size, Image.Resampling.BICUBIC).save(sr / f"{n}x4_out.png")
    yield sr, hr, lr
    load_perceptual_metrics.cache_clear()


def pixels(file):
    return np.asarray(Image.open(file))


def score(*arguments):
    main([*map(str, arguments), "--device", "cpu"])


def test_numbers_are_those_of_the_files(folders, tmp_path, capsys):
    sr, hr, _ = folders
    score(sr, hr, "--json", tmp_path / "new" / "scores.json")
    report = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert (report["sr"], report["hr"], report["lr"]) == (str(sr), str(hr), None)
    assert [entry["name"] for entry in report["per_image"]] == [f"{n}x4_out.png" for n in range(4)]
    for n, entry in enumerate(report["per_image"]):
        files = sr / f"{n}x4_out.png", hr / f"{n}.png"
        expected = measure(*map(pixels, files))
        assert {key: entry[key] for key in expected} == pytest.approx(expected)
        assert set(entry) - set(expected) == {"name", "sr", "hr"} and entry["hr"] == str(files[1])
    for key in ("psnr", "psnr_y", "ssim", "ssim_y", "sharpness", "spectral_distance"):
        values = [entry[key] for entry in report["per_image"]]
        assert report["mean"][key] == pytest.approx(np.mean(values))
        assert report["deviation"][key] == pytest.approx(np.std(values))
    assert report["missing"].keys() == {"lr_mse", "lpips", "fid", "kid"} and report["of_sets"] == {}
    ranked = sorted(report["per_image"], key=lambda entry: entry["psnr"])
    assert report["worst"]["psnr"] == {entry["name"]: entry["psnr"] for entry in ranked[:3]}

    told = capsys.readouterr().out
    assert f"{report['mean']['psnr']:.2f} ± {report['deviation']['psnr']:.2f}  error of pixels, RGB" in told
    assert f"worst by PSNR: {ranked[0]['name']} ({ranked[0]['psnr']:.2f}), {ranked[1]['name']}" in told
    for line in ("LR consistency", "LPIPS", "FID", "KID"):
        assert "not measured: needs" in next(row for row in told.splitlines() if row.startswith(line))
    assert "of Y" not in told


def test_crop_lr_and_y(folders, tmp_path, capsys):
    sr, hr, lr = folders
    score(sr, hr, "--lr", lr, "--crop", 4, "--y", "--json", tmp_path / "scores.json")
    report = json.loads((tmp_path / "scores.json").read_text())
    for n, entry in enumerate(report["per_image"]):
        image, truth, small = pixels(sr / entry["name"]), pixels(hr / f"{n}.png"), pixels(lr / f"{n}x4.png")
        inner = truth[4:-4, 4:-4], image[4:-4, 4:-4]
        assert entry["psnr"] == pytest.approx(peak_signal_noise_ratio(*inner, data_range=255))
        assert {key: entry[key] for key in entry if key not in ("name", "sr", "hr", "lr")} == measure(
            image, truth, small, border=4
        )
    assert "lr_mse" not in report["missing"]
    told = capsys.readouterr().out
    assert "without 4 pixels along the border" in told and "PSNR of Y" in told and "worst by PSNR of Y:" in told


def test_report_shows_the_images(folders, tmp_path, capsys):
    sr, hr, lr = folders
    score(sr, hr, "--lr", lr, "--report", tmp_path / "scores.html")
    page = (tmp_path / "scores.html").read_text(encoding="utf-8")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert [image["name"] for image in data["images"]] == [f"{n}x4_out.png" for n in (3, 2, 1, 0)]  # the worst first
    assert all(image["layers"].keys() == {"lr", "hr", "bicubic", "sr0", "error0"} for image in data["images"])
    assert (
        f"written to {tmp_path / 'scores.html'}" in capsys.readouterr().out and not (tmp_path / "report.html").exists()
    )
    score(sr, hr, "--no-report")
    assert not (tmp_path / "report.html").exists()
    score(sr, hr)
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_validation_wrote_is_scored_alike(small_network, small_config, tmp_path):
    alone, log = Processes(0, 1, torch.device("cpu")), logging.getLogger("smfdm.test")
    sampling = Sampling.of(small_config.sample, small_network.schedule)
    validated = validate_all(small_network, small_config, sampling, alone, 7, log)["val"]
    results = tmp_path / "experiments" / "small" / "results"
    score(results / "sr", results / "hr", "--lr", results / "lr", "--json", tmp_path / "scores.json")
    report = json.loads((tmp_path / "scores.json").read_text())
    for key, value in report["mean"].items():
        assert validated["mean"][key] == pytest.approx(value), key


def test_lpips_and_distances_of_sets(folders, tmp_path, capsys, monkeypatch):
    class Network(torch.nn.Module):
        def forward(self, image, reference):
            return (image - reference).abs().mean()

    def features(image):
        return image.mean((0, 1))

    judges = PerceptualMetrics(Lpips(Network(), torch.device("cpu")), features, {})
    monkeypatch.setattr("core.metrics.perceptual_metrics.load_perceptual_metrics", lambda device, lpips, fid: judges)
    monkeypatch.setattr(
        "core.score.scoring.distances", lambda sr, hr: {"fid": np.abs(np.subtract(sr, hr)).max(), "kid": -1.5}
    )
    sr, hr, _ = folders
    score(sr, hr, "--json", tmp_path / "scores.json")
    report = json.loads((tmp_path / "scores.json").read_text())
    errors = {
        f"{n}x4_out.png": np.abs(pixels(sr / f"{n}x4_out.png").astype(float) - pixels(hr / f"{n}.png")).mean() / 127.5
        for n in range(4)
    }
    assert report["mean"]["lpips"] == pytest.approx(np.mean(list(errors.values())), rel=1e-5)
    assert list(report["worst"]["lpips"]) == sorted(errors, key=errors.get, reverse=True)[:3]
    means = [[features(pixels(file)) for file in sorted(folder.iterdir())] for folder in (sr, hr)]
    assert report["of_sets"] == {"fid": pytest.approx(np.abs(np.subtract(*means)).max()), "kid": -1.5}
    told = capsys.readouterr().out
    assert "KID, × 1000" in told and " -1.50  " in told and "worst by LPIPS:" in told


def test_equal_images(folders, tmp_path, capsys):
    _, hr, _ = folders
    score(hr, hr, "--json", tmp_path / "scores.json")
    report = json.loads((tmp_path / "scores.json").read_text())
    assert report["mean"]["psnr"] is None and report["mean"]["ssim"] == pytest.approx(1)
    assert " inf  error" in capsys.readouterr().out


def test_single_files(folders, capsys):
    sr, hr, _ = folders
    score(sr / "0x4_out.png", hr / "0.png")
    told = capsys.readouterr().out
    assert "0.png: 1 image\n" in told and "worst" not in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{sr}", "{lr}"], "sr/0x4_out.png has 48x40 pixels, and .*0x4.png 12x10: crop one"),
        (["{sr}", "{hr}", "--crop", "20"], "--crop 20 leaves nothing of .*0.png, which has 48x40 pixels"),
        (["{sr}", "{hr}", "--crop", "-1"], "--crop: -1 is no number of pixels|expected one argument"),
        (["{sr}", "{hr}", "--lr", "{hr}"], "has 48x40 pixels, no less than .*: give the images before enlargement"),
        (["{sr}", "{hr}", "--lpips-weights", "nowhere.pth"], "nowhere.pth: no such file of weights"),
        (["{sr}", "nowhere"], "nowhere: no such folder"),
        (["{sr}"], "required: HR"),
    ],
)
def test_bad_input_is_one_line(folders, capsys, arguments, words):
    sr, hr, lr = folders
    with pytest.raises(SystemExit) as end:
        main([argument.format(sr=sr, hr=hr, lr=lr) for argument in arguments])
    assert end.value.code == 2
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("error: ") and told.out == ""
    assert re.search(words, line)


def test_what_is_no_image_is_named(folders, capsys):
    sr, hr, _ = folders
    (sr / "2x4_out.png").write_text("no image")
    with pytest.raises(SystemExit):
        score(sr, hr)
    told = capsys.readouterr().err.splitlines()[-1]
    assert "2x4_out.png: not an image that Pillow knows" in told


@pytest.mark.parametrize("option", ["--json", "--report"])
@pytest.mark.parametrize("name", ["{}.png", "{}/0.png", "{}/0", "{}"])
def test_no_image_is_overwritten(folders, run_main, option, name):
    sr, hr, _ = folders
    before = {file: file.read_bytes() for file in hr.iterdir()}
    code, out, err = run_main(main, sr, hr, option, name.format(hr))
    assert (code, out, err.count("\n")) == (2, "", 1) and f"{option}: {name.format(hr)} does not end in ." in err
    assert {file: file.read_bytes() for file in hr.iterdir()} == before


@pytest.mark.parametrize(("option", "ending"), [("--json", ".json"), ("--report", ".html")])
@pytest.mark.parametrize("name", ["{}/folder", "{}/0.png/x", "{}/" + 300 * "x"])
def test_a_file_that_cannot_be_written_is_found_before(folders, capsys, monkeypatch, option, ending, name):
    sr, hr, _ = folders
    name += ending
    (hr / f"folder{ending}").mkdir()
    monkeypatch.setattr("core.score.scoring.score", lambda *_: pytest.fail("measured first"))
    with pytest.raises(SystemExit) as end:
        main([str(sr), str(hr), option, name.format(hr)])
    told = capsys.readouterr()
    assert end.value.code == 2 and told.out == "" and told.err.startswith("error: cannot write")
    assert told.err.count("\n") == 1
