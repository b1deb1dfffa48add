# tests/system/common.sh: what the system tests share. To be sourced: `. "$(dirname "$0")/common.sh"`.
#
# $STEMMA is the program. Each test works in $work, a folder of its own that goes when it ends (unless KEEP is set). A
# check that fails prints what was found beside what was expected, and ends the test.
set -u
: "${STEMMA:?expected the path of the program}"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_sharedfp=^lockedfile
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1}
MPIRUN=${MPIRUN:-mpirun}
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fixtures=$tests/fixtures
work=$(mktemp -d "${TMPDIR:-/tmp}/stemma.XXXXXX")
[ -n "${KEEP:-}" ] || trap 'rm -rf "$work"' EXIT

say() { printf '%s\n' "$*"; }

die() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# launch RANKS WORDS..: runs them alone (RANKS 0) or under mpirun, at most LIMIT_S seconds (60). Leaves stdout in
# $work/out, stderr in $work/err, the exit code in $code and that of each rank in $codes ("2 2 2"), in rank order. With
# mpirun, its own words about a rank that failed are not in $work/err.
launch() {
    local ranks=$1 rank limit=${LIMIT_S:-60}
    shift
    rm -f "$work"/code.*
    if [ "$ranks" = 0 ]; then
        timeout "$limit" "$@" > "$work/out" 2> "$work/err" < /dev/null
        code=$?
        codes=$code
        return
    fi
    # Each rank's exit code goes to a file, and mpirun sees 0: it would end the other ranks when one has failed.
    timeout "$limit" "$MPIRUN" -n "$ranks" bash -c \
        '"${@:2}"; code=$?; echo $code > "$1/code.$OMPI_COMM_WORLD_RANK"' launch "$work" "$@" \
        > "$work/out" 2> "$work/err" < /dev/null
    code=$?
    codes=
    for ((rank = 0; rank < ranks; rank++)); do
        codes="$codes${codes:+ }$(cat "$work/code.$rank" 2> /dev/null || echo none)"
    done
    [ $code != 0 ] || code=${codes%% *}
}

# succeeds RANKS WORDS..: every rank exits with 0 and nothing is on stderr.
succeeds() {
    local one
    launch "$@"
    for one in $codes; do
        [ "$one" = 0 ] || die "${*:2}: exit codes $codes at $1 ranks: $(cat "$work/err")"
    done
    [ ! -s "$work/err" ] || die "${*:2}: stderr holds: $(cat "$work/err")"
}

# refused CODE MESSAGE RANKS WORDS..: every rank exits with CODE, and stderr holds "stemma: MESSAGE" and nothing else; a
# MESSAGE that ends in ".." is the beginning of it.
refused() {
    local expected=$1 message=$2 one found
    shift 2
    launch "$@"
    for one in $codes; do
        [ "$one" = "$expected" ] ||
            die "${*:2}: exit codes $codes at $1 ranks, expected $expected on each: $(cat "$work/err")"
    done
    [ "$(wc -l < "$work/err")" = 1 ] || die "${*:2}: expected one line at $1 ranks, found: $(cat "$work/err")"
    found=$(cat "$work/err")
    case $message in
    *..) [ "${found:0:$((${#message} + 6))}" = "stemma: ${message%..}" ] ;;
    *) [ "$found" = "stemma: $message" ] ;;
    esac || die "${*:2}: found    $found
        expected stemma: $message"
}

# describe_model FOLDER: config.json of a Llama of 29 million parameters, without weights.
describe_model() {
cat > "$1/config.json" << 'END'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096, "hidden_size": 512,
 "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
 "hidden_act": "silu", "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
 "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false, "eos_token_id": 0}
END
}
