#!/bin/bash
# Checkpoints of a program that is killed at any instant, and what inspect and export make of them.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
saver=$(dirname "$STEMMA")/mpi_checkpoint
[ -x "$saver" ] || die "$saver is not built"

# A killed save loses nothing: the newest checkpoint loads, and its step is not before the one that stood there when the
# ranks were killed. Their number changes from start to start.
newest() { find run -name 'step-*.h5' 2> /dev/null | sort | tail -n 1 | sed 's/.*step-0*//; s/\.h5//'; }
loaded=0
partials=0
for round in 1 2 3 4 5 6 7 8; do
    ranks=$((round % 3 + 1))
    how=$([ $((round % 2)) = 0 ] && echo save-until-killed || echo save-in-background-until-killed)
    "$MPIRUN" -n $ranks "$saver" "$how" run > saver.out 2>&1 &
    launcher=$!
    for ((tries = 0; tries < 200; tries++)); do # until it has saved something, and then some random time
        [ -z "$(find run -name 'step-*.h5' -newer saver.out 2> /dev/null)" ] || break
        sleep 0.05
    done
    sleep 0.$((RANDOM % 800 + 100))
    before=$(newest)
    # shellcheck disable=SC2046
    kill -9 $(pgrep -P $launcher)
    wait $launcher 2> /dev/null
    [ -n "$before" ] || die "round $round: nothing was saved: $(cat saver.out)"
    partials=$((partials + $(find run -name '*.partial' | wc -l)))
    succeeds $((4 - ranks)) "$saver" load-newest run
    loaded=$(cut -d' ' -f1 out)
    [ "$loaded" -ge "$before" ] || die "round $round: step $loaded loads, but $before was complete"
    ! grep -q refused out || die "round $round: $(cat out)"
    [ "$(find run -name 'step-*.h5' | wc -l)" -le 3 ] || die "round $round: $(ls -A run)"
done
say "8 savers were killed, every other one in the background, $partials in the middle of a file; each time the newest checkpoint loaded"

# inspect
ckpt=$(find run -name 'step-*.h5' | sort | tail -n 1)
succeeds 0 "$STEMMA" inspect "$ckpt"
for words in "^checkpoint of step $loaded, saved by stemma " '^hashes: all match$' '^  run: { seed: 7 }$' \
    '^parameters/model.norm.weight  *float64  ' '^optimizer/exp_avg_sq/lm_head.weight  *float64  *\[' \
    '^model/config.json  *text '; do
    grep -q -- "$words" out || die "inspect does not print $words: $(cat out)"
done
cp "$ckpt" damaged.h5
# the last byte of the file is optimizer state or the table of hashes
size=$(stat -c %s damaged.h5)
printf 'stemma' | dd of=damaged.h5 bs=1 seek=$((size - 6)) conv=notrunc 2> dd.err
refused 2 'damaged.h5: damaged: ..' 0 "$STEMMA" inspect damaged.h5
head -c 5000 "$ckpt" > short.h5
refused 2 "short.h5: truncated: has 5000 bytes, expected $size" 0 "$STEMMA" inspect short.h5
refused 2 'absent.h5: cannot be read: No such file or directory' 0 "$STEMMA" inspect absent.h5
refused 2 '.: found a folder, expected an HDF5 file, ..' 0 "$STEMMA" inspect .
printf 'words\n' > text.h5
refused 2 'text.h5: cannot be read as HDF5: ..' 0 "$STEMMA" inspect text.h5
succeeds 0 "$STEMMA" inspect "$fixtures/parity/llama/grad_grpo.h5"
grep -q '^grad/model.norm.weight  *float64  *\[48\] ' out || die "inspect of a gradient prints $(cat out)"
say "inspect shows checkpoints and results, and names what is damaged"

# export: a second export of the first one's folder is equal, byte for byte
for dtype in float32 bfloat16; do
    succeeds 0 "$STEMMA" export "$ckpt" --to $dtype --dtype $dtype
    succeeds 0 "$STEMMA" export $dtype --to again --dtype $dtype
    cmp $dtype/model.safetensors again/model.safetensors || die "$dtype: a second export differs"
    cmp $dtype/config.json again/config.json || die "$dtype: a second export differs"
    grep -q "\"$dtype\"" $dtype/config.json || die "$dtype/config.json: $(cat $dtype/config.json)"
    [ -z "$(find $dtype again -name '*.part')" ] || die "export leaves $(find $dtype again -name '*.part')"
done
refused 2 'text.h5: found a file that is no checkpoint, ..' 0 "$STEMMA" export text.h5 --to x
refused 2 'absent: cannot be read: No such file or directory; ..' 0 "$STEMMA" export absent --to x
refused 1 'text.h5/x: cannot make the folder: Not a directory' 0 "$STEMMA" export "$ckpt" --to text.h5/x
[ ! -e x ] || die "a refused export leaves a folder"
say "export writes folders that read back the same"
