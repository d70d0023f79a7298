#!/bin/sh
# sh run.sh         train the face configuration with sparse momentum, on all GPUs there are or the CPU, then validate it
#                   (options of sr.py may follow: sh run.sh --set datasets.train.batch_size=8)
# sh run.sh demo    prepare, train, validate and infer with a small network and photographs, in minutes on a CPU
# sh run.sh test    the checks of the code, then the whole test suite (options of pytest may follow: -m 'not slow')
# sh run.sh test-long    thousands of damaged files and dozens of kills, in half an hour (docs/reliability.md)
# Packages go to .venv; SMFDM_PYTHON=python uses an environment of yours as it is.
set -eu
cd "$(dirname "$0")"

find_python() {
    for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.10 or newer was found; install one, or name it: PYTHON=/path/to/python3 sh run.sh" >&2
    exit 2
}

# install FILE: the virtual environment with these requirements; quick where they are installed already.
install() {
    if [ -n "${SMFDM_PYTHON:-}" ]; then
        python=$SMFDM_PYTHON
        return
    fi
    if [ ! -x .venv/bin/python ]; then
        creator=$(find_python)
        echo "making a virtual environment in .venv"
        "$creator" -m venv .venv || {
            rm -rf .venv
            echo "error: $creator cannot make virtual environments; install its venv package (Debian: python3-venv)" >&2
            exit 2
        }
    fi
    python=.venv/bin/python
    stamp=.venv/installed.$(cat requirements.txt benchmarks/requirements.txt "$1" | cksum | cut -d ' ' -f 1)
    if [ ! -e "$stamp" ]; then
        echo "installing $1"
        "$python" -m pip install --quiet --disable-pip-version-check -r "$1"
        touch "$stamp"
    fi
}

train_faces() {
    install requirements.txt
    config=config/faces_16_128.yaml
    processes=$("$python" -c 'import torch; print(max(torch.cuda.device_count(), 1))')
    launch() { "$python" -m torch.distributed.run --standalone --nproc_per_node "$processes" sr.py "$@"; }
    [ "$processes" -gt 1 ] || launch() { "$python" sr.py "$@"; }
    launch -p train -c $config -r auto --sparse --density 0.15 "$@"
    launch -p val -c $config -r auto "$@"
}

demo() {
    install requirements.txt
    rm -rf demo experiments/demo
    "$python" data/demo.py --out demo
    "$python" sr.py -p train -c config/demo.yaml
    "$python" sr.py -p val -c config/demo.yaml -r auto
    "$python" infer.py -r experiments/demo/checkpoint -i demo/unseen.png -o demo/result
    cat <<END

An image the network has not seen:  demo/unseen.png -> demo/result/unseen.png (the truth: demo/unseen_truth.png)
LR, bicubic, result and truth:      experiments/demo/results/
A page of it all, with the numbers: experiments/demo/results/report.html
The sparse checkpoint:              experiments/demo/checkpoint/
Loss, masks and pictures over time: .venv/bin/tensorboard --logdir experiments/demo/tb_logger
END
}

run_tests() {
    install tests/requirements.txt
    "$python" -m ruff check --quiet .
    "$python" -m ruff format --quiet --check . || {
        echo "error: not formatted as all else: ruff format . mends it" >&2
        exit 1
    }
    types=$(mktemp)
    "$python" -m mypy >"$types" 2>&1 &  # half a minute where nothing is cached: beside the tests, which wait now and then
    checking=$!
    tested=0
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "$python" -m pytest -n auto --maxprocesses 8 --dist worksteal "$@" || tested=$?
    checked=0
    wait "$checking" || checked=$?
    cat "$types"
    rm -f "$types"
    [ "$tested" -ne 0 ] || tested=$checked
    return "$tested"
}

run_long_tests() {
    install tests/requirements.txt
    SMFDM_LONG_TESTS=1 "$python" -m pytest tests/fuzz --durations=0 "$@"
}

case ${1:-} in
    "" | -*) train_faces "$@" ;;
    demo) demo ;;
    test) shift && run_tests "$@" ;;
    test-long) shift && run_long_tests "$@" ;;
    *)
        echo "error: sh run.sh $1: unknown; use sh run.sh, sh run.sh demo, sh run.sh test or sh run.sh test-long" >&2
        exit 2
        ;;
esac
