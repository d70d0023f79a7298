#!/bin/sh
# sh run.sh              trains the face network with sparse momentum, on all GPUs or the CPU, and validates it.
#                        It needs the data. Options of sr.py may follow: sh run.sh --set datasets.train.batch_size=8
# sh run.sh infer        enlarges images with the networks of the project: sh run.sh infer -i photo.jpg -o out/
#                        It takes seconds per image. Options of infer.py may follow: sh run.sh infer --help lists them
# sh run.sh demo         prepares photographs, trains and validates a small network in two stages, enlarges an image.
#                        It takes two to three minutes on two cores
# sh run.sh test         runs the checks of the code, then all tests. Options of pytest may follow.
#                        It takes twelve minutes on two cores, or five with -m 'not slow'
# sh run.sh test-long    tries thousands of damaged files and dozens of kills, in half an hour (docs/reliability.md)
# The first command installs packages in .venv. SMFDM_PYTHON=python uses your current environment instead.
set -eu
cd "$(dirname "$0")"

help() {
    while IFS= read -r line; do
        case $line in
            "#!"*) ;;
            "# "*) echo "${line#\# }" ;;
            *) break ;;
        esac
    done <run.sh
}

find_python() {
    for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.10 to 3.14 was found; install one, or name it: PYTHON=/path/to/python3 sh run.sh" >&2
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

super_resolve() {
    install requirements.txt
    "$python" infer.py "$@"
}

demo() {
    install requirements.txt
    rm -rf demo experiments/demo experiments/demo_one_call
    # Such a small network gains nothing from threads, and on busy cores they wait for each other: with two threads it
    # trained 1 image/s, with one thread 25.
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    "$python" data/demo.py --out demo
    "$python" sr.py -p train -c config/demo.yaml # and validates, as the next
    "$python" sr.py -p distill -c config/demo_one_call.yaml -r experiments/demo/checkpoint
    "$python" infer.py -r experiments/demo_one_call/checkpoint -i demo/unseen.png -o demo/result.png --scale 4
    "$python" -m core.report experiments/demo_one_call -o demo/report.html
    "$python" -m core.demo demo
    cat <<END

A face that the network has not seen, enlarged four times, next to bicubic and the truth:
    demo/compared.png
The report, for your browser: every image of the validation with a slider, and all numbers:
    $(pwd)/demo/report.html
The checkpoints, both sparse: a diffusion network, and the one that it became, which makes an image in one call:
    experiments/demo/checkpoint/
    experiments/demo_one_call/checkpoint/
Loss, heat maps of the layers and pictures over time:
    $python -m tensorboard.main --logdir experiments
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
    # mypy takes half a minute without a cache. It runs beside the tests, which now and then leave a core free.
    "$python" -m mypy >"$types" 2>&1 &
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
    -h | --help | help) help ;;
    "" | -*) train_faces "$@" ;;
    infer) shift && super_resolve "$@" ;;
    demo) demo ;;
    test) shift && run_tests "$@" ;;
    test-long) shift && run_long_tests "$@" ;;
    *)
        echo "error: sh run.sh $1: unknown; sh run.sh --help lists all commands" >&2
        exit 2
        ;;
esac
