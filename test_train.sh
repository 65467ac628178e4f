#!/bin/sh
# The whole job on any machine: install, train on the example zip with the embedded base, sample, show before and after.
#
#   sh test_train.sh          with a virtual environment of its own; Linux, Python >= 3.11
#   sh test_train.sh --cog    through `cog train` and `cog run`, in a container; needs Docker and cog
set -eu
cd "$(dirname "$0")"

name=demo; number=1
while [ -e "outputs/$name" ]; do number=$((number + 1)); name=demo-$number; done
out=outputs/$name

if [ "${1:-}" = "--cog" ]; then
    command -v docker >/dev/null && command -v cog >/dev/null || {
        echo "error: --cog needs docker and cog (https://github.com/replicate/cog) on the PATH" >&2; exit 2; }
    mkdir -p "$out"
    cog train -i input_images=@assets/examples/robot.zip \
        -i config="$(cat configs/demo.yaml)" -o "$out/weights"
    cog run -i prompt="a photo of TOK on a blue background" -i lora=@"$out/weights" -i seed=0 -o "$out/sample.png"
    echo "weights and sample: $out"
    exit 0
fi
[ $# -eq 0 ] || { echo "usage: sh test_train.sh [--cog]" >&2; exit 2; }

python=.venv/bin/python
if [ ! -e .venv/ready ] && [ ! -e .venv/demo-ready ]; then
    if [ ! -x $python ]; then
        for candidate in python3 python3.13 python3.12 python3.11; do
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
            candidate=
        done
        [ -n "$candidate" ] || { echo "error: Python >= 3.11 is needed on the PATH" >&2; exit 2; }
        "$candidate" -m venv .venv
    fi
    echo "== installing into .venv (once)"
    $python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    touch .venv/demo-ready
fi

echo "== training on assets/examples/robot.zip"
$python train.py assets/examples/robot.zip --config configs/demo.yaml --output "$out"

echo "== sampling with it"
$python predict.py "a photo of TOK on a blue background" --weights "$out/weights.safetensors" --num_outputs 2 --seed 0 \
    --output "$out/images"

echo "== the same prompts and seeds before and after, with similarities"
$python -m tools.before_after "$out/weights.safetensors" --photos "$out/dataset/images" --output "$out/before_after.png"

echo
echo "before and after:  $out/before_after.png"
echo "the LoRA:          $out/weights.safetensors"
echo "everything else:   $out/"
