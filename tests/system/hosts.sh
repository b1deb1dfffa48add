#!/usr/bin/env bash
# Four hosts with a rank each, joined by a network alone: the same gradients on every layout as alone, with the
# network's bandwidth limited, too. Where this machine lets nobody make virtual hosts, the test is skipped.
. "$(dirname "$0")/common.sh"
command -v h5diff > /dev/null || die "h5diff is missing (Debian: hdf5-tools)"
export VC_DIR=$work/hosts
cluster=$tests/support/vcluster.sh

skip() {
    say "skipped: $*"
    exit 77
}

[ "$(id -u)" = 0 ] || skip "virtual hosts need root"
for tool in unshare nsenter ip tc; do
    command -v $tool > /dev/null || skip "virtual hosts need $tool (Debian: util-linux, iproute2)"
done
unshare -n -u -m true 2> "$work/err" || skip "no namespaces here: $(cat "$work/err")"
trap 'bash "$cluster" down; [ -n "${KEEP:-}" ] || rm -rf "$work"' EXIT
bash "$cluster" up 4 > "$work/err" 2>&1 || skip "no virtual hosts here: $(tail -n 1 "$work/err")"

# on_hosts WORDS..: a rank on each host; all exit with 0.
on_hosts() {
    timeout 100 bash "$cluster" exec n1 "$MPIRUN" -n 4 --host n1,n2,n3,n4 --mca plm_rsh_agent "bash $cluster agent" \
        --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0 "$@" \
        > "$work/out" 2> "$work/err" < /dev/null ||
        die "on four hosts: exit code $?: $*: $(tail -n 20 "$work/out" "$work/err")"
}

# grad_on MODEL LAYOUT..: as alone.
grad_on() {
    local model=$1
    shift
    on_hosts "$STEMMA" grad "$fixtures/parity/$model" "$fixtures/parity/$model/groups.jsonl" --out "$work/hosts.h5" \
        $options "$@"
    h5diff -d 1e-13 "$work/hosts.h5" "$work/$model.h5" /grad /grad > "$work/diff" ||
        die "$model, $*: differs from one rank: $(head -n 4 "$work/diff")"
}

options="--precision float64 memory.chunk_tokens=24"
for model in llama3_rope qwen3; do # the first is tied
    succeeds 0 "$STEMMA" grad "$fixtures/parity/$model" "$fixtures/parity/$model/groups.jsonl" \
        --out "$work/$model.h5" $options
done

on_hosts hostname
[ "$(sort "$work/out" | tr '\n' ' ')" = "n1 n2 n3 n4 " ] || die "expected four hosts, found $(cat "$work/out")"
for layout in "1 4 1" "2 2 1" "2 1 2" "1 2 2"; do
    read -r pipeline suffix replica <<< "$layout"
    for model in llama3_rope qwen3; do
        grad_on $model parallel.pipeline="$pipeline" parallel.suffix="$suffix" parallel.replica="$replica"
    done
done
say "pipeline x suffix x replica 1x4x1, 2x2x1, 2x1x2, 1x2x2 on four hosts: the gradients of one rank"

layouts=$(dirname "$STEMMA")/mpi_layouts
[ -x "$layouts" ] || die "expected $layouts"
on_hosts "$layouts" a_tied_model_gives_the_same
say "every layout of four ranks and five layers on four hosts"

bash "$cluster" rate 1gbit 2> "$work/err" || skip "no limits of bandwidth here (tc): $(cat "$work/err")"
grad_on llama3_rope parallel.pipeline=2 parallel.suffix=2
grad_on qwen3 parallel.suffix=4
say "the same over 1 Gbit/s"
