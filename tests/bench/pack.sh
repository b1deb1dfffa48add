#!/usr/bin/env bash
# Packs the program and what gpu.sh runs, with the libraries that they load, for an x86-64 Linux that has an NVIDIA driver, cuBLAS
# and this repository, but neither Open MPI nor HDF5.
#
#   bash tests/bench/pack.sh BUILD OUT.tar.xz        where BUILD was built, with CUDA and the tests, and Debian's Open MPI
#   tar xJf OUT.tar.xz -C FOLDER; . FOLDER/env.sh; bash tests/bench/gpu.sh [PART ..]        there; env.sh sets BUILD
#
# The C and C++ libraries and CUDA's are that machine's own.
set -euo pipefail
[ $# = 2 ] || { echo "pack.sh: found $# arguments, expected BUILD OUT.tar.xz" >&2; exit 2; }
build=$1 archive=$2
plugins=/usr/lib/x86_64-linux-gnu
for each in "$build/bin/stemma" "$build/bin/libstemma_cuda.so" "$plugins/openmpi/lib/openmpi3" "$plugins/pmix2/lib/pmix"; do
    [ -e "$each" ] || { echo "pack.sh: $each: not found; expected a build with CUDA, and Debian's Open MPI" >&2; exit 2; }
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder"/{lib/openmpi,lib/pmix,share,build/bin}

# The libraries that files load, but those of the C and C++ compilers and of CUDA.
libraries() {
    ldd "$@" 2> /dev/null | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
        grep -vE '/(ld-linux[^/]*|lib(c|m|dl|pthread|rt|resolv|util|stdc\+\+|gcc_s|cuda[a-z]*|cublas[a-zA-Z]*))\.so'
}

tests=$(sed -n '/^of_backends="/,/"$/p' "$(dirname "$0")/gpu.sh" | tr -d '"' | sed 's/^of_backends=//')
for name in $tests; do
    cp "$build/bin/unit_$name" "$folder/build/bin/"
done
cp "$build"/bin/{stemma,libstemma_cuda.so,bench_attend,mpi_transport} "$folder/build/bin/"
for name in mpirun orted h5diff h5dump; do
    cp -L "$(command -v $name)" "$folder/build/bin/"
done
cp -L "$plugins"/openmpi/lib/openmpi3/*.so "$folder/lib/openmpi/"
cp -L "$plugins"/pmix2/lib/pmix/*.so "$folder/lib/pmix/"
cp -rL /usr/share/openmpi "$plugins/pmix2/share/pmix" "$folder/share/"
strip "$folder"/build/bin/*
# shellcheck disable=SC2046 # one word a library
cp -L $(libraries "$folder"/build/bin/* "$folder"/lib/*/*.so) "$folder/lib/"

cat > "$folder/env.sh" << 'END'
packed=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export BUILD=$packed/build PATH=$packed/build/bin:$PATH
export LIBRARIES_BESIDE=${LD_LIBRARY_PATH:-} # what other programs go on with
export LD_LIBRARY_PATH=$packed/lib:/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export OPAL_PREFIX=$packed OMPI_MCA_mca_base_component_path=$packed/lib/openmpi
export PMIX_INSTALL_PREFIX=$packed PMIX_MCA_mca_base_component_path=$packed/lib/pmix
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp # others would need what is not packed
export OMPI_MCA_plm_rsh_agent=/bin/false # no other hosts, and no ssh to look for
END
ln -s build/bin "$folder/bin" # where mpirun looks for orted
tar -cf "$archive" -I 'xz -T0 -2' -C "$folder" . # the last tenth of its size would take minutes
ls -l "$archive"
