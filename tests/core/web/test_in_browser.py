"""The web page in Chromium: a photo goes in, the slider and the download come out, and nothing is fetched elsewhere."""

import os
import signal
import socket
import subprocess
import sys
from io import BytesIO
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from core.inference import upscale
from tests.core.report.browser import CHROMIUM, chromium

pytest.importorskip("gradio")
pytest.importorskip("websockets")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)"),
    pytest.mark.slow,
]
TEXT = "document.body.innerText"
SERVER = """
import sys
from core.shipped import FILES
for name in FILES:
    FILES[name] = __import__("pathlib").Path(sys.argv[1])
from core.web.__main__ import main
main(sys.argv[2:])
"""


def start(small_checkpoint, folder, root, *flags):
    """(a server with the small network in place of each that ships, its first line)."""
    environment = os.environ | {"TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SERVER, f"{small_checkpoint}_gen.safetensors", *flags]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=root, env=environment, stdout=pipe, stderr=pipe, text=True)
    return process, process.stdout.readline()


@pytest.fixture(scope="module")
def address(small_checkpoint, tmp_path_factory, pytestconfig):
    """Of a server that leaves nothing behind once it is stopped."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    flags = ["--port", str(port), "--most-pixels", "3000", "--most-bytes", "30000"]
    process, line = start(small_checkpoint, folder, pytestconfig.rootpath, *flags)
    assert line.startswith(f"open http://127.0.0.1:{port}/"), process.communicate()[1]
    other, line = start(small_checkpoint, folder, pytestconfig.rootpath, *flags)
    said = other.communicate(timeout=60)[1]
    assert not line and other.returncode == 2 and said.count("\n") == 1 and f"port {port}" in said
    yield f"http://127.0.0.1:{port}/"
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and list(folder.glob("smfdm_web_*")) == []


@pytest.fixture
def page(address, tmp_path):
    with chromium(tmp_path / "chromium") as page:
        page.open(address)
        page.wait_for("!!document.querySelector('#photo input[type=file]')")
        yield page
        assert [url for url in page.fetched() if not url.startswith((address, "blob:"))] == []


def enlarge(page, file):
    page.upload("#photo input[type=file]", file)
    page.wait_for(f"{TEXT}.includes({file.stem!r})")
    page.run("document.querySelector('#enlarge').click()")


def test_photo_to_slider_to_download(page, small_checkpoint, make_image, tmp_path):
    make_image(9, 7, 1).save(tmp_path / "wave.png")
    enlarge(page, tmp_path / "wave.png")
    page.wait_for(f"{TEXT}.includes('9x7 → 32x25 pixels')")
    [expected] = upscale(tmp_path / "wave.png", small_checkpoint, None, device="cpu")
    sources = page.wait_for(
        "(found => found.length == 2 && found)([...document.querySelectorAll('#slider img')].map((img) => img.src))"
    )
    shown = {np.asarray(Image.open(BytesIO(urlopen(source).read())).convert("RGB")).tobytes() for source in sources}
    bicubic = make_image(9, 7, 1).resize(expected.size, Image.Resampling.BICUBIC)
    assert shown == {np.asarray(bicubic).tobytes(), np.asarray(expected).tobytes()}

    folder = tmp_path / "downloads"
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    page.run("document.querySelector('#download').click()")
    done = folder / "wave_photos.png"
    for _ in range(200):
        if done.is_file():
            break
        page.run("new Promise((done) => setTimeout(done, 50))")
    assert np.array_equal(Image.open(done), expected)


def test_what_is_too_large_is_told(page, make_image, tmp_path):
    make_image(60, 60).save(tmp_path / "sixty.png")
    enlarge(page, tmp_path / "sixty.png")
    page.wait_for(f"{TEXT}.includes('The result would be made with 60x60 pixels')")


def test_a_file_of_too_many_bytes_is_told(page, tmp_path):
    (tmp_path / "many.png").write_bytes(bytes(30_001))
    page.upload("#photo input[type=file]", tmp_path / "many.png")
    page.wait_for(f"{TEXT}.includes('exceed the maximum allowed size')")
