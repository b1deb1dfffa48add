#!/bin/bash
# The two commands name the packages that are missing where they may not install them, and ask nothing of the network
# where all are there. A folder of stand-ins plays the machine: its packages, its user, its sudo.
. "$(dirname "$0")/common.sh"
mkdir -p "$work/bin" "$work/repository" && cp -r "$tests/../jobs" "$work/repository/" && cd "$work/repository" || exit 1

# command_is NAME BODY: what NAME does on that machine.
command_is() { printf '#!/bin/bash\n%s\n' "$2" > "$work/bin/$1" && chmod +x "$work/bin/$1"; }

# Prints what a script says on that machine up to its build; the exit code is in $code.
script() {
    PATH=$work/bin:$PATH bash "jobs/$1.sh" > "$work/out" 2> "$work/err" < /dev/null
    code=$?
}

command_is dpkg-query 'case " $MISSING " in *" ${*: -1} "*) exit 1 ;; esac; printf installed'
command_is apt-get 'echo "apt-get $*" >> "$CALLS"; echo "E: no network" >&2; exit 100'
command_is cmake 'echo "CMake Error: no compiler"; exit 1'
command_is id 'echo $USER_ID'
command_is sudo 'exit 1'
export CALLS=$work/calls MISSING="libyaml-dev gnuplot-nox" USER_ID=1000

for name in quickstart test; do
    script $name
    [ $code = 1 ] && [ ! -s "$work/out" ] && [ ! -e "$CALLS" ] || die "$name: exit $code: $(cat "$work/out" "$work/err")"
    diff - "$work/err" <<END || die "$name without the right to install"
jobs/$name.sh: these packages are missing, and only root may install them: libyaml-dev gnuplot-nox
Run as root: apt-get install --no-install-recommends libyaml-dev gnuplot-nox
then start this again.
END
done
say "without the right to install: the missing packages and the command that installs them"

USER_ID=0
for name in quickstart test; do
    script $name
    [ $code = 1 ] && grep -q '^E: no network' "$work/err" || die "$name: exit $code: $(cat "$work/err")"
    grep -q 'could not install them .*: libyaml-dev gnuplot-nox$' "$work/err" || die "$name offline: $(cat "$work/err")"
done
say "without network: the missing packages and what apt-get said"

rm -f "$CALLS"
MISSING=libcmocka-dev
script quickstart # needs no tests
[ $code = 1 ] && [ ! -e "$CALLS" ] && grep -q 'the build failed: build/release.log' "$work/err" &&
    grep -q 'no compiler' "$work/err" || die "quickstart: exit $code: $(cat "$work/err")"
MISSING=
script test
[ $code = 1 ] && [ ! -e "$CALLS" ] && grep -q 'the build failed: build/test.log' "$work/err" ||
    die "test: exit $code: $(cat "$work/err" "$CALLS")"
say "with every package there apt-get is not called; a build that fails says why and where its log is"
