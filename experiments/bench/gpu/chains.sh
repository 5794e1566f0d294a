#!/usr/bin/env bash
# Runs short chains of the toy base, on a GPU and once on the CPU: exit code, seconds and the last line of each.
#   experiments/bench/gpu/chains.sh FOLDER gpu|cpu [PYTHON]
set -u
OUT=$1 DEVICE=$2 PYTHON=${3:-python3}
SMALL="subject=toy_mug tuner.steps=40 prior.num_class_images=8 protocol.prompt_stride=8 preview.validation_steps=20"
mkdir -p "$OUT"
chain() {
    local name=$1 start=$SECONDS code
    shift
    timeout 90 "$PYTHON" -m quantbooth.programs "$@" $SMALL trainer="$DEVICE" paths.outputs="/tmp/chains/$DEVICE" >"$OUT/$name.log" 2>&1
    code=$?
    echo "$name: exit $code after $((SECONDS - start)) s: $(grep -v '^ *$' "$OUT/$name.log" | tail -1 | cut -c1-240)" | tee -a "$OUT/chains.txt"
}
chain s2 pipeline strategy=s2  # first, since the others share its quantized base and class pictures
[ "$DEVICE" = cpu ] && exit
chain s2-apart pipeline method=s2-apart &
chain s2-bf16 pipeline strategy=s2 trainer.precision=bf16-mixed &
chain lora pipeline method=lora &
chain s1-in-out-checkpointed pipeline strategy=s1 tuner=scales_in_out resources.gradient_checkpointing=true &
chain float-bf16 pipeline method=float trainer.precision=bf16-mixed &
chain qdiffusion calibrate calibration=qdiffusion quant=w4a8 calibration.rounding.iterations=2 calibration.activations.iterations=2 &
chain qlora-fp16 pipeline method=qlora trainer.precision=16-mixed &
chain batch-auto pipeline strategy=s2 protocol.batch=auto protocol.seeds=[7] &
chain uncached pipeline strategy=s1 resources.cache_latents=false tuner.steps=20 &
chain identifier tune tuner.identifier=true &
chain identifier-uncached tune tuner.identifier=true resources.cache_latents=false &
chain merged export export.merged=true strategy=s2 &
chain degradation degradation degradation.pictures=25 &
wait
