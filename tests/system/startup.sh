#!/usr/bin/env bash
# What the start of a run reads, by the system's own account of its calls: rank 0 alone reads configuration, tokenizer,
# prompts and weights, each text once; the weights are mapped, never read into memory of their own, and no page is fetched
# twice. Skipped only where no process may trace another.
. "$(dirname "$0")/common.sh"
command -v strace > /dev/null || die "expected strace (Debian: strace)"
if ! strace -o "$work/trace" true 2> "$work/err"; then
    say "skipped: no process may trace another here: $(head -n 1 "$work/err")"
    exit 77
fi
cd "$work" || exit 1
. "$tests/support/toy.sh"

# A model of some MiB in the file, of which the tied matrix is several portions.
sed -i 's/"vocab_size": 28, "hidden_size": 16, "intermediate_size": 32/"vocab_size": 9000, "hidden_size": 256, "intermediate_size": 1024/' \
    toy/config.json
input make.yaml made 0
succeeds 0 "$STEMMA" train make.yaml
succeeds 0 "$STEMMA" export "$(checkpoint made 0)" --to model --dtype bfloat16
bytes=$(stat -c %s model/model.safetensors)
sed -i 's/path: toy, init: random/path: model/' base.yaml

# calls RANK PATTERN: the calls of a rank that succeeded and match.
calls() { grep -v ' = -1 ' "trace.$1" | grep -E "$2"; }
# once RANK FILE: it is opened by this rank, once.
once() {
    local found
    found=$(calls "$1" "openat\(.*\"([^\"]*/)?$2\"" | wc -l)
    [ "$found" = 1 ] || die "rank $1 of $ranks opens $2 $found times, expected once"
}

# asked_for: the bytes of the mapped file of which rank 0 says that it will use them, page by page.
asked_for() {
    calls 0 'madvise\(.*MADV_POPULATE_READ' | sed -E 's/.*madvise\((0x[0-9a-f]+), ([0-9]+),.*/\1 \2/' |
        while read -r start n; do
            for ((page = start / 4096; page <= (start + n - 1) / 4096; page++)); do printf '%d\n' $page; done
        done
}

for ranks in 1 3; do
    input start.yaml "run$ranks" 0 'eval: { prompts: few.jsonl, every: 1, samples: 1 }\n'
    succeeds $ranks bash -c 'exec strace -f --seccomp-bpf -y -e trace=openat,mmap,read,pread64,readv,preadv,copy_file_range,madvise \
        -o "trace.${OMPI_COMM_WORLD_RANK:-0}" "$@"' trace "$STEMMA" train start.yaml
    for file in start.yaml config.json tokenizer.json prompts.jsonl few.jsonl; do once 0 $file; done

    # Mapped to look at its header, then to load it; never both at once.
    found=$(calls 0 'mmap\(.*/model\.safetensors>' | wc -l)
    [ "$found" = 2 ] || die "rank 0 of $ranks maps the weights $found times, expected once to describe them, once to load"
    ! calls 0 '(read|pread64|readv|preadv|copy_file_range)\(.*/model\.safetensors>' ||
        die "rank 0 of $ranks reads weights into memory of its own"
    if calls 0 MADV_POPULATE_READ > /dev/null; then # Linux 5.14 and later
        asked_for > pages # not all: what is used before its turn has come is left out
        asked=$(wc -l < pages) distinct=$(sort -u pages | wc -l)
        [ "$asked" -le $((distinct + 2 * $(calls 0 MADV_POPULATE_READ | wc -l))) ] ||
            die "$ranks ranks: $asked pages of the weights are fetched, of which $distinct differ"
    fi
    say "$ranks ranks: rank 0 reads each text once and maps $bytes bytes of weights"

    for ((rank = 1; rank < ranks; rank++)); do
        ! calls $rank '"([^"]*/)?(start\.yaml|config\.json|tokenizer[a-z_]*\.json|[a-z]*\.jsonl|model\.safetensors)"' |
            grep -v "run$ranks/" || die "rank $rank of $ranks opens what rank 0 alone should read"
    done
done
say "the other ranks open none of these files"
