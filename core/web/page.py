"""The page, made of gradio's parts, and its server."""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read as gradio is imported
import gradio as gr
from PIL import Image

from core.errors import Interrupted, UserError, is_of_user
from core.web.enlarging import Choice, Enlarger, networks, presets_of
from core.web.work import Work
from data.images import image_extensions

OWN = "the network's own"
SCALES = {OWN: None, **{f"{scale} times larger": scale for scale in (2, 3, 4, 6, 8)}}
FONTS = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # of the visitor's machine: none is loaded
LIFETIME = 3600  # seconds that a photo and its result are kept
MOST_WAITING = 16  # visitors; one photo is computed at a time
Shown = tuple[tuple[Image.Image, Image.Image], Any, str]


def serve(enlarger: Enlarger, host: str, port: int) -> NoReturn:
    """Serves the page until a signal stops it. Raises UserError where it cannot listen there."""
    with temporary_files(), signals_raised():
        work = Work()
        page = build(enlarger, work)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                max_file_size=enlarger.limits.most_bytes,
                theme=gr.themes.Default(font=FONTS[0], font_mono=FONTS[1]),
                share=False,
                ssr_mode=False,
                run_history=False,
                pwa=False,
                footer_links=[],
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise UserError(f"cannot listen on {host}, port {port}: {error}; choose --host and --port") from None
        print(f"open {address} in a browser; Ctrl-C stops", flush=True)
        try:
            while True:
                threading.Event().wait()
        finally:
            work.stop()
            page.close(verbose=False)


@contextmanager
def temporary_files() -> Iterator[None]:
    """Inside, gradio keeps its files in a folder that is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="smfdm_web_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield


@contextmanager
def signals_raised() -> Iterator[None]:
    """Inside, SIGTERM is an exception, as Ctrl-C is, so that what is open is closed."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def build(enlarger: Enlarger, work: Work) -> gr.Blocks:
    """The page: a photo and choices on the left, the slider and the download on the right."""
    names, progress = networks(), gr.Progress()

    def enlarge(file: str | None, network: str, preset: str, size: str, progress: gr.Progress = progress) -> Shown:
        if file is None:
            raise refusal("Choose a photo first.")
        choice = Choice(network, None if preset == OWN else preset, SCALES[size])

        def tell(done: int, of: int) -> None:
            work.go_on()
            progress((done, of))

        try:
            with work.on_a_photo():
                done = enlarger.enlarge(file, choice, tell)
        except Exception as error:
            if not is_of_user(error):
                raise
            raise refusal(str(error)) from None
        result = written(done.png, f"{Path(file).stem}_{network}.png")
        return (done.bicubic, done.result), gr.DownloadButton(value=result, interactive=True), done.told

    with gr.Blocks(title="SMFDM", analytics_enabled=False, delete_cache=(LIFETIME, LIFETIME)) as page:
        gr.Markdown("# Enlarge a photo")
        with gr.Row():
            with gr.Column(scale=1):
                photo = gr.File(label="Photo", file_types=sorted(image_extensions()), elem_id="photo")
                network = gr.Dropdown(names, value=names[0], label="Network", elem_id="network")
                preset = gr.Dropdown([OWN, *presets_of(names[0])], value=OWN, label="Preset", elem_id="preset")
                size = gr.Dropdown(list(SCALES), value=OWN, label="Size", elem_id="size")
                button = gr.Button("Enlarge", variant="primary", elem_id="enlarge")
            with gr.Column(scale=3):
                slider = gr.ImageSlider(
                    label="bicubic | result", format="png", interactive=False, buttons=["fullscreen"], elem_id="slider"
                )
                told = gr.Markdown(elem_id="told")
                download = gr.DownloadButton("Download the result (PNG)", interactive=False, elem_id="download")
        hidden: dict[str, Any] = {"api_visibility": "private"}
        network.change(presets_shown, network, preset, **hidden)
        asked, shown = [photo, network, preset, size], [slider, download, told]
        button.click(enlarge, asked, shown, concurrency_limit=1, show_progress_on=slider, **hidden)
    page.queue(max_size=MOST_WAITING)
    return page


def refusal(message: str) -> gr.Error:
    """A message in the page that stays until it is closed, and no traceback in the terminal."""
    return gr.Error(message, duration=None, print_exception=False)


def presets_shown(network: str) -> Any:
    """What the list of presets becomes for another network."""
    return gr.Dropdown([OWN, *presets_of(network)], value=OWN)


def written(png: bytes, name: str) -> str:
    """The path of a new file of the page with this content."""
    folder = tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"])
    file = Path(folder, name)
    file.write_bytes(png)
    return str(file)
