import io

import numpy as np
import pytest
import torch
from PIL import Image

from data.errors import DataError
from data.images import (
    FORMATS,
    LARGEST_SIDES,
    centre_square,
    encode,
    encode_png,
    image_extensions,
    read_picture,
    read_rgb,
    read_rgba,
    resize,
    save_png,
)
from data.tensors import to_image, to_tensor, to_uint8

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def read_grey(path):
    """The grey levels of an image that must have come out grey."""
    pixels = np.asarray(read_rgb(path))
    assert pixels.shape[2] == 3
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


# ---- modes


def test_rgb_is_kept(tmp_path, picture):
    picture(20, 10).save(tmp_path / "a.png")
    assert np.array_equal(read_rgb(tmp_path / "a.png"), picture(20, 10))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read_grey(tmp_path / f"a.{suffix}"), RAMP)


def test_16_bit_grey_rounds_to_the_nearest_level(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (30, 30), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.abs(read_grey(tmp_path / "a.png") - values / 257).max() <= 0.5


def test_big_endian_16_bit_grey(tmp_path):
    Image.frombytes("I;16B", (16, 16), (RAMP.astype(">u2") * 257).tobytes()).save(tmp_path / "a.tif")
    assert np.array_equal(read_grey(tmp_path / "a.tif"), RAMP)


def test_16_bit_values_in_32_bit_integers(tmp_path):
    Image.fromarray(RAMP.astype(np.int32) * 257).save(tmp_path / "a.tif")
    assert Image.open(tmp_path / "a.tif").mode == "I"
    assert np.array_equal(read_grey(tmp_path / "a.tif"), RAMP)


def test_8_bit_values_in_32_bit_integers(tmp_path):
    Image.fromarray(RAMP.astype(np.int32)).save(tmp_path / "a.tif")
    assert np.array_equal(read_grey(tmp_path / "a.tif"), RAMP)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_dark_16_bit_files_stay_dark(tmp_path, suffix):
    dark = np.tile(np.uint16([0, 100, 255]), (2, 1))
    file = tmp_path / f"a.{suffix}"
    if suffix == "pgm":  # which Pillow gives with 32 bits
        file.write_bytes(b"P5 3 2 65535\n" + dark.astype(">u2").tobytes())
        assert Image.open(file).mode == "I"
    else:
        Image.fromarray(dark).save(file)
    assert read_grey(file).tolist() == [[0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_floating_point_grey(tmp_path, white):
    Image.fromarray((RAMP / 255 * white).astype(np.float32)).save(tmp_path / "a.tif")
    assert np.array_equal(read_grey(tmp_path / "a.tif"), RAMP)


def test_floating_point_overshoot_is_clipped(tmp_path):
    Image.fromarray(np.array([[-0.1, 0.0, 0.5, 1.0, 1.2]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert read_grey(tmp_path / "a.tif").tolist() == [[0, 0, 128, 255, 255]]


@pytest.mark.parametrize("values", [[0.0, np.nan], [-1.0, 1.0], [0.0, 1e9], [0, 70000], [-5, 9]])
def test_ranges_without_a_known_white_are_refused(tmp_path, values):
    dtype = np.int32 if isinstance(values[0], int) else np.float32
    Image.fromarray(np.array([values], dtype=dtype)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: pixels from .* no known white"):
        read_rgb(tmp_path / "a.tif")


def test_grey_bilevel_and_palette(tmp_path, picture):
    Image.fromarray(RAMP).save(tmp_path / "grey.png")
    assert np.array_equal(read_grey(tmp_path / "grey.png"), RAMP)
    Image.fromarray(RAMP > 99).save(tmp_path / "bilevel.png")
    assert np.array_equal(read_grey(tmp_path / "bilevel.png"), (RAMP > 99) * 255)
    indexed = picture(30, 20).quantize(16)
    indexed.save(tmp_path / "palette.png")
    colours = np.array(indexed.getpalette(), dtype=np.uint8).reshape(-1, 3)
    assert np.array_equal(read_rgb(tmp_path / "palette.png"), colours[np.asarray(indexed)])


def test_cmyk(tmp_path):
    inks = bytes([0, 0, 0, 0, 255, 0, 0, 0, 0, 255, 0, 0, 0, 0, 255, 0, 0, 0, 0, 255])
    Image.frombytes("CMYK", (5, 1), inks).save(tmp_path / "a.tif")
    expected = [[[255, 255, 255], [0, 255, 255], [255, 0, 255], [255, 255, 0], [0, 0, 0]]]
    assert np.asarray(read_rgb(tmp_path / "a.tif")).tolist() == expected


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_alpha_is_composited_over_white(tmp_path, picture, suffix):
    colour = np.asarray(picture(16, 16)).astype(float)
    image = picture(16, 16)
    image.putalpha(Image.fromarray(RAMP))
    image.save(tmp_path / f"a.{suffix}", lossless=True, exact=True)
    alpha = RAMP[..., None] / 255
    assert np.abs(np.asarray(read_rgb(tmp_path / f"a.{suffix}")) - (colour * alpha + 255 * (1 - alpha))).max() <= 0.51


def test_alpha_apart_keeps_the_stored_colour(tmp_path, picture):
    image = picture(16, 16)
    image.putalpha(Image.fromarray(RAMP))
    image.save(tmp_path / "a.png")
    rgb, alpha = read_rgba(tmp_path / "a.png")
    assert np.array_equal(rgb, picture(16, 16))
    assert np.array_equal(alpha, RAMP)


def test_no_alpha(tmp_path, picture):
    picture(8, 8).save(tmp_path / "a.png")
    assert read_rgba(tmp_path / "a.png")[1] is None


def test_transparent_colour_of_palette_grey_and_16_bit_files(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "grey.png", transparency=7)
    assert read_grey(tmp_path / "grey.png")[0, 6:9].tolist() == [6, 255, 8]
    palette = Image.fromarray(RAMP % 4).convert("P")
    palette.save(tmp_path / "palette.png", transparency=2)
    assert np.array_equal(read_rgba(tmp_path / "palette.png")[1], np.where(RAMP % 4 == 2, 0, 255))
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "deep.png", transparency=7 * 257)
    assert read_grey(tmp_path / "deep.png")[0, 6:9].tolist() == [6, 255, 8]


# ---- orientation


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).swapaxes(0, 1)),
        (8, np.rot90),
    ],
)
def test_exif_orientation(tmp_path, picture, orientation, upright):
    stored = picture(12, 7)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "a.png"), upright(np.asarray(stored)))


# ---- unreadable files


def assert_unreadable(path, cause):
    with pytest.raises(DataError) as caught:
        read_rgb(path)
    message = str(caught.value)
    assert str(path) in message
    assert cause in message
    assert "\n" not in message


def test_unreadable_files_are_named_in_one_line(tmp_path, picture):
    assert_unreadable(tmp_path / "missing.png", "No such file")
    (tmp_path / "text.png").write_text("no image\nat all")
    assert_unreadable(tmp_path / "text.png", "not an image")
    (tmp_path / "empty.png").touch()
    assert_unreadable(tmp_path / "empty.png", "not an image")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "gif", "bmp"])
def test_truncated_files_are_unreadable(tmp_path, picture, suffix):
    picture(64, 64).save(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"half.{suffix}").write_bytes(whole[: len(whole) // 2])
    assert_unreadable(tmp_path / f"half.{suffix}", "cannot read image")


def test_a_byte_of_a_png_that_is_not_what_was_written(tmp_path, picture):
    """Wherever it is, in the pixels, in their checksum or behind them."""
    whole = encode_png(picture(24, 24))
    for at in (*range(8, 100), *range(100, len(whole) - 12, 50), *range(len(whole) - 12, len(whole))):
        (tmp_path / "a.png").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert_unreadable(tmp_path / "a.png", "cannot read image")


def test_decompression_bombs_are_unreadable(tmp_path, picture, monkeypatch):
    picture(64, 64).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert_unreadable(tmp_path / "a.png", "exceeds limit")


def test_bytes_are_called_by_the_name_given(picture):
    assert np.array_equal(read_rgb(encode_png(picture(9, 9))), picture(9, 9))
    with pytest.raises(DataError, match=r"cannot read image key_7: not an image"):
        read_rgb(b"junk", "key_7")


def test_extensions():
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".bmp"} <= image_extensions()
    assert not {".txt", ".json", ".h5", ".mpg", ".pdf"} & image_extensions()


# ---- geometry


@pytest.mark.parametrize(("width", "height", "box"), [(9, 4, (2, 0, 6, 4)), (4, 9, (0, 2, 4, 6)), (5, 5, (0, 0, 5, 5))])
def test_centre_square(picture, width, height, box):
    image = picture(width, height)
    left, top, right, bottom = box
    assert np.array_equal(centre_square(image), np.asarray(image)[top:bottom, left:right])


def test_resize(picture):
    image = picture(30, 20)
    assert np.array_equal(resize(image, (7, 5)), image.resize((7, 5), Image.Resampling.BICUBIC))
    assert np.array_equal(resize(image, (7, 5), "bilinear"), image.resize((7, 5), Image.Resampling.BILINEAR))
    assert np.array_equal(resize(image, (30, 20)), image)


# ---- tensors


def test_tensor_range_and_layout(picture):
    image = picture(5, 3)
    tensor = to_tensor(image)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    expected = np.asarray(image).astype(np.float64).transpose(2, 0, 1) / 255 * 2 - 1
    np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-6)
    assert to_tensor(Image.new("RGB", (1, 1), "black")).unique().tolist() == [-1]
    assert to_tensor(Image.new("RGB", (1, 1), "white")).unique().tolist() == [1]


def test_all_levels_survive_the_round_trip():
    image = Image.fromarray(np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1))
    assert np.array_equal(to_image(to_tensor(image)), image)
    assert np.array_equal(to_uint8(to_tensor(image)), image)


def test_to_uint8_clamps_and_rounds():
    levels = torch.tensor([-2.0, -1.0, -1 + 0.9 / 127.5, -1 + 1.1 / 127.5, -1 + 1.6 / 127.5, 1.0, 7.0])
    pixels = to_uint8(levels.expand(3, 1, -1).requires_grad_())
    assert pixels.dtype == np.uint8
    assert pixels.shape == (1, 7, 3)
    assert pixels[0, :, 1].tolist() == [0, 0, 1, 1, 2, 255, 255]
    for dtype in (torch.bfloat16, torch.float16):
        halves = torch.randn(3, 40, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert np.array_equal(to_uint8(halves), to_uint8(halves.float()))


def test_to_uint8_leaves_the_tensor_as_it_is():
    image = torch.linspace(-0.9, 0.9, 3 * 4 * 5).view(3, 4, 5)
    before = image.clone()
    assert np.array_equal(to_uint8(image), np.rint((before.permute(1, 2, 0).numpy() + 1) * np.float32(127.5)))
    assert torch.equal(image, before)


@pytest.mark.cuda
def test_to_uint8_is_the_same_on_a_gpu():
    image = torch.randn(3, 33, 70, generator=torch.Generator().manual_seed(0))
    expected = np.rint((image.clamp(-1, 1).permute(1, 2, 0).numpy() + 1) * np.float32(127.5))
    assert np.array_equal(to_uint8(image.cuda()), expected)


# ---- writing


def test_save_png(tmp_path, picture):
    save_png(picture(9, 7), tmp_path / "a.png")
    assert np.array_equal(Image.open(tmp_path / "a.png"), picture(9, 7))
    assert Image.open(io.BytesIO(encode_png(picture(9, 7)))).format == "PNG"
    save_png(picture(9, 7, seed=1), str(tmp_path / "a.png"))
    assert np.array_equal(Image.open(tmp_path / "a.png"), picture(9, 7, seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_save_png_into_a_missing_folder(tmp_path, picture):
    with pytest.raises(DataError, match=r"cannot write .*: No such file or directory$"):
        save_png(picture(9, 7), tmp_path / "missing" / "a.png")


# ---- colours


def matrix_profile(red, green, blue, gamma=2.2):
    """An ICC profile (v2) of RGB with these XYZ columns (D50) and a power curve."""

    def number(value):
        return round(value * 65536).to_bytes(4, "big", signed=True)

    def padded(data):
        return data + bytes(-len(data) % 4)

    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big")
    text = b"test profile\0"
    tags = {
        b"desc": b"desc" + bytes(4) + len(text).to_bytes(4, "big") + text + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + b"".join(map(number, (0.9642, 1.0, 0.8249))),
    }
    tags |= {
        name: b"XYZ " + bytes(4) + b"".join(map(number, column))
        for name, column in ((b"rXYZ", red), (b"gXYZ", green), (b"bXYZ", blue))
    }
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    offset, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + (offset + len(data)).to_bytes(4, "big") + len(content).to_bytes(4, "big")
        data += padded(content)
    head = (
        bytes(4)
        + bytes(4)
        + bytes.fromhex("02400000")
        + b"mntrRGB XYZ "
        + bytes(12)
        + b"acsp"
        + bytes(28)
        + b"".join(map(number, (0.9642, 1.0, 0.8249)))
    )
    head = head.ljust(128, b"\0")
    body = head + len(tags).to_bytes(4, "big") + table + data
    return len(body).to_bytes(4, "big") + body[4:]


SRGB_D50 = np.array(
    [[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]]
)  # columns: primaries
ADOBE_D50 = np.array([[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]])


@pytest.mark.parametrize("form", ["png", "jpg", "tif"])
def test_a_colour_profile_is_converted_to_srgb(tmp_path, form):
    colours = np.array([[200, 100, 50], [60, 160, 90], [128, 128, 128], [40, 60, 120]], dtype=np.uint8)
    image = Image.fromarray(np.repeat(np.repeat(colours[None], 16, axis=0), 16, axis=1))
    image.save(file := tmp_path / f"a.{form}", icc_profile=matrix_profile(*ADOBE_D50.T), quality=100, subsampling=0)
    read = read_rgb(file)
    linear = np.linalg.inv(SRGB_D50) @ ADOBE_D50 @ ((colours / 255) ** 2.2).T
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.clip(linear, 0, None) ** (1 / 2.4) - 0.055)
    expected = np.rint(255 * srgb.clip(0, 1)).T
    assert np.abs(np.asarray(read)[8, 8::16] - expected).max() <= 2
    assert np.abs(expected - colours).max() > 20  # it is another image without the profile
    assert "icc_profile" not in Image.open(io.BytesIO(encode_png(read))).info


def test_an_srgb_profile_changes_nothing(tmp_path, picture):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (image := picture(20, 20)).save(tmp_path / "a.png", icc_profile=profile)
    assert np.array_equal(read_rgb(tmp_path / "a.png"), image)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_a_damaged_profile_is_srgb_with_a_notice(tmp_path, picture, name):
    picture(20, 20).save(tmp_path / name, icc_profile=b"no profile")
    read = read_picture(tmp_path / name)
    assert np.array_equal(read.rgb, Image.open(tmp_path / name))
    assert read.notices == ("its colour profile is damaged: its colours are taken as sRGB",) and not read.is_tagged


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_of_an_animation_the_first_frame_is_read_with_a_notice(tmp_path, name):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if name == "a.webp" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    read = read_picture(tmp_path / name)
    assert read.notices == ("of its 3 frames only the first is read",) and read.rgb.getpixel((5, 5)) == (255, 0, 0)
    frames[0].save(tmp_path / name)
    assert read_picture(tmp_path / name).notices == ()


def test_grey_that_pillow_misreads_is_refused(tmp_path):
    """0 is white in this TIFF file, by its tag 262, and Pillow inverts 8 bits alone."""
    Image.fromarray(np.full((4, 4), 1000, dtype=np.uint16)).save(file := tmp_path / "a.tif")
    content = bytearray(file.read_bytes())
    at = content.index((262).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    assert content[at + 8] == 1
    content[at + 8] = 0
    file.write_bytes(content)
    with pytest.raises(DataError, match="Pillow misreads"):
        read_rgb(file)


@pytest.mark.parametrize("extension", [".jpg", ".webp"])
def test_the_largest_side_of_a_format(extension):
    most = LARGEST_SIDES[FORMATS[extension]]
    assert Image.open(io.BytesIO(encode(Image.new("RGB", (most, 1)), extension))).size == (most, 1)
    with pytest.raises((ValueError, OSError)):
        encode(Image.new("RGB", (most + 1, 1)), extension)
