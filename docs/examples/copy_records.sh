#!/bin/sh
# Copies records into an archive, one after the other, each with the fence of the lease.
#
#     quorate exec ... -- sh copy_records.sh FROM TO
#
# It asks nobody: `quorate exec` starts it with a permit, and ends it when there is none.
set -eu
from=$1
to=$2
copied=0
trap 'echo "told to stop, $copied records copied" >&2; exit 1' TERM
for record in "$from"/*; do
    name=$(basename "$record")
    { echo "fence $QUORATE_FENCE"; cat "$record"; } >"$to/.part"
    mv "$to/.part" "$to/$name" # whole, or not there
    copied=$((copied + 1))
    echo "copied $name"
    sleep 0.5 # stands for a larger record
done
