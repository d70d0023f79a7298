import multiprocessing
import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest
import torch

from data import SRDataset, train_loader


@pytest.fixture
def spec(photos):
    """The photographs as a plain folder of HR images."""
    return {"dataroot": str(photos), "l_resolution": 8, "r_resolution": 24, "augment": True}


@pytest.fixture
def images(spec):
    return SRDataset(spec, train=True)


def take(count, *arguments, **options):
    return list(islice(train_loader(*arguments, **options), count))


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch["name"] == other["name"] and torch.equal(batch["index"], other["index"])
        assert torch.equal(batch["lr"], other["lr"]) and torch.equal(batch["hr"], other["hr"])


def test_batches_do_not_depend_on_the_readers(images):
    batches = take(6, images, 3, seed=1)
    assert batches[0]["lr"].shape == (3, 3, 8, 8) and batches[0]["hr"].shape == (3, 3, 24, 24)
    assert_equal(batches, take(6, images, 3, seed=1, workers=2))
    assert_equal(batches[4:], take(2, images, 3, seed=1, start_step=4))


def test_processes_share_a_batch(images):
    whole = take(3, images, 4, seed=1)
    halves = zip(*(take(3, images, 2, seed=1, rank=rank, world=2) for rank in range(2)), strict=True)
    joined = [{key: a[key] + b[key] if key == "name" else torch.cat([a[key], b[key]]) for key in a} for a, b in halves]
    assert_equal(whole, joined)


def test_weights_say_how_often_images_come(spec):
    """In an epoch of six, of weights whose sum is 7: image 2 comes 3/7 times, 3 15/7 times, those of no pattern 6/7."""
    weighted = SRDataset(spec | {"weights": {"1": 0, "2": 0.5, "3": 2.5}}, train=True)
    epochs = [Counter(batch["name"]) for batch in take(40, weighted, 6, seed=1, workers=2)]
    counts = {name: {epoch[name] for epoch in epochs} for name in "1234567"}
    assert counts == {"1": {0}, "2": {0, 1}, "3": {2, 3}} | {name: {0, 1} for name in "4567"}


def test_weight_0_is_as_if_the_image_were_not_there(spec, photos):
    left_out = take(5, SRDataset(spec | {"weights": {"[25]": 0}}, train=True), 4, seed=1)
    for name in ("2.png", "5.png"):
        (photos / name).unlink()
    assert_equal(left_out, take(5, SRDataset(spec, train=True), 4, seed=1))


@pytest.mark.skipif(sys.platform != "linux", reason="a reader cannot tell who sent a signal")
def test_only_the_parent_ends_readers(images):
    """A signal to all processes of a job, from elsewhere, leaves the readers alive."""
    batches = iter(train_loader(images, 2, seed=1, workers=2))
    found = list(islice(batches, 2))  # one of each reader, so both are at work
    readers = multiprocessing.active_children()
    for name in ("-INT", "-TERM"):
        subprocess.run(["kill", name, *(str(reader.pid) for reader in readers)], check=True)
    found += islice(batches, 19)
    assert_equal(found, take(21, images, 2, seed=1))
    assert len(readers) == 2 and all(reader.is_alive() for reader in readers)
    for reader in readers:
        reader.terminate()
        reader.join(timeout=10)
        assert reader.exitcode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a reader cannot tell who sent a signal")
def test_a_thread_from_a_readers_first_moment_does_not_end_it(spec, pytestconfig):
    """Libraries start such threads after a fork; the signal goes to any thread that does not block it."""
    script = (
        "import multiprocessing, os, subprocess, threading, time\n"
        "from itertools import islice\n"
        "from data import SRDataset, train_loader\n"
        "multiprocessing.set_start_method('fork')\n"
        "start = lambda: [threading.Thread(target=time.sleep, args=(60,), daemon=True).start() for _ in range(4)]\n"
        "os.register_at_fork(after_in_child=start)\n"
        f"batches = iter(train_loader(SRDataset({spec!r}, train=True), 2, seed=1, workers=2))\n"
        "list(islice(batches, 2))\n"
        "readers = multiprocessing.active_children()\n"
        "for _ in range(5):\n"
        "    subprocess.run(['kill', *(str(reader.pid) for reader in readers)], check=True)\n"
        "list(islice(batches, 19))\n"
        "assert len(readers) == 2 and all(reader.is_alive() for reader in readers)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_readers_end_when_the_parent_fails(spec, pytestconfig):
    script = (
        "from data import SRDataset, train_loader\n"
        f"batches = iter(train_loader(SRDataset({spec!r}, train=True), 2, seed=1, workers=2))\n"
        "next(batches)\n"
        "1 / 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_more_readers_than_cores_are_the_users_choice(images, recwarn):
    train_loader(images, 2, seed=0, workers=999)
    assert not recwarn.list
