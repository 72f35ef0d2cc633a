#!/bin/sh
# A tour of latentkit on real encoder outputs, written as a batch script would be:
# results to files and pipes, decisions by exit status, nothing left behind.
#
#   sh sample_data/tour.sh        (latentkit must be on the PATH)

set -eu

here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step() { printf '\n== %s\n' "$*"; }

step "What is in a file, and what would be read as moments"
latentkit info "$here/healthy-f32.safetensors" --format table

step "Draw latents: the same bytes for a seed, whatever the batch size"
latentkit sample "$here/healthy-f32.safetensors" -o "$work/a.safetensors" --seed 7 --carry labels --quiet
latentkit sample "$here/healthy-f32.safetensors" -o "$work/b.safetensors" --seed 7 --carry labels --batch-size 5 --quiet
cmp "$work/a.safetensors" "$work/b.safetensors" && echo "equal"

step "Negative log-likelihood of those latents"
latentkit nll "$here/healthy-f32.safetensors" --latents "$work/a.safetensors" --format table

step "KL divergence to the prior"
latentkit kl "$here/healthy-f32.safetensors" --columns labels --format table

step "The same over a folder of shards, in a pipe: the mean KL of each digit"
# A pipe's status is that of its last command, so the result goes to a file first.
latentkit kl "$here/shards" --columns labels -o "$work/kl.csv" --quiet
awk -F, 'NR > 1 { sum[$5] += $4; count[$5]++ }
         END { for (label in sum) printf "digit %s: %.2f nats\n", label, sum[label] / count[label] }' \
    "$work/kl.csv" | sort

step "Other ranks and parameterizations: video, tokens, mean + std"
for file in video.safetensors tokens.safetensors mean-std.safetensors; do
    latentkit kl "$here/$file" --top 1 --no-header
done

step "Clamp statistics of a healthy encoder, and of a file that crosses the clamp"
latentkit stats "$here/healthy-f32.safetensors" --format table
latentkit stats "$here/synthetic-clamp.safetensors" --format table

step "Latents handed to kl by mistake are refused, with exit status 2"
status=0
latentkit kl "$work/a.safetensors" || status=$?
test "$status" -eq 2 && echo "exit status $status, as a script can rely on"
