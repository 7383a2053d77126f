#!/usr/bin/env bash
# Measures a machine with a GPU completely, once, within LIMIT seconds: tests/gpu/run_all.sh OUT. See docs/gpu-run.md.
#
# The parts run in the order of what they are worth. Each has a time of its own, writes what it finds as it finds it, and
# may fail without the others: OUT/summary.txt gets a line for each as it ends. Nothing is downloaded, and nothing of the
# device's settings is touched. Written for Bash 4 and newer.
#
# Environment: PYTHON (python3), MODELS (where random models go: OUT/models), LLAMA_BENCH (llama.cpp's llama-bench, built
# for this GPU; without it its parts are left out), LIMIT (720).
set -uo pipefail
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3} models=${MODELS:-$out/models} limit=${LIMIT:-720}
seven=$models/random-7b-q4km.gguf
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
: >"$out/summary.txt"

# part NAME SECONDS COMMAND …: runs COMMAND for at most SECONDS, or what is left of LIMIT.
part() {
    local name=$1 most=$2 left=$((limit - SECONDS)) began=$SECONDS status
    shift 2
    if [ "$left" -lt 2 ]; then
        echo "$name: left out, the time is up" >>"$out/summary.txt"
        return
    fi
    timeout --kill-after=5 "$((left < most ? left : most))" "$@" >"$out/$name.txt" 2>"$out/$name.log" </dev/null
    status=$?
    case $status in
    0) status=done ;;
    124 | 137) status="out of time" ;;
    *) status="failed with $status: $(grep -v '…' "$out/$name.log" | grep . | tail -n 1 | cut -c -200)" ;;
    esac
    echo "$name: $((SECONDS - began)) s, $status" >>"$out/summary.txt"
}
bench() { # bench NAME SECONDS OPTION …: every figure goes to OUT/NAME.txt as it is measured, a JSON object a line
    local name=$1 most=$2
    shift 2
    part "$name" "$most" "$python" -m aprtui bench gpu --dir "$models" --json "$@"
}
measured_peer() { # measured_peer NAME SECONDS OPTION …
    local name=$1 most=$2
    shift 2
    [ -n "${LLAMA_BENCH:-}" ] && part "$name" "$most" "$LLAMA_BENCH" -m "$seven" -ngl 99 -fa 0,1 -o jsonl "$@"
}

part device 10 nvidia-smi
part doctor 60 "$python" -m aprtui doctor
# Is what it computes right? A small model, both modes, every stage against its own inputs.
part trace 30 "$python" -m aprtui trace --tokens 1,2,3,4,5,6,7,8 --decode-from 4 --backend cuda --mode q8 \
    --save-tensor-dir "$out/capture"
part replay 30 "$python" -m aprtui replay "$out/capture" --json
bench small 60 --shape tiny --rounds 2 --prompt 64 --decode 32 --soak 200
bench 7b 240 --rounds 3 --soak 0
measured_peer llama-cpp 60 -p 512 -n 128 -r 3
bench 1.5b 60 --shape 1.5b --rounds 3 --soak 0
bench long 60 --rounds 1 --prompt 16384 --decode 64 --soak 0
bench soak 60 --shape 1.5b --rounds 1 --decode 512 --soak 10000
part tests 150 "$python" -m pytest tests/gpu -q -p no:cacheprovider -k "not sanitizer and not benchmark"
part kernels 90 "$python" -m pytest tests/kernels -q -k device
part sanitizers 120 "$python" -m pytest tests/gpu -q -p no:cacheprovider -k sanitizer
cat "$out/summary.txt"
