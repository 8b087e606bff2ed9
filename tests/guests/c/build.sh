#!/bin/sh
# Builds NAME.c as a WASI 0.2 component, OUT, with what a Rust toolchain and Debian have: clang compiles,
# and Rust's own C library, linker and compiler runtime for wasm32-wasip2 do the rest.
#
#   build.sh NAME.c OUT.wasm
#
# Needs clang, the headers of wasi-libc, and `rustup target add wasm32-wasip2`.
set -eu
source=$1
out=$2

need() { # what, how to get it
    echo "the C guests need $1; $2" >&2
    exit 1
}

command -v clang >/dev/null || need clang "on Debian: apt-get install clang"
headers=/usr/include/wasm32-wasi
[ -d "$headers" ] || need "the headers of wasi-libc in $headers" "on Debian: apt-get install wasi-libc"

rustlib=$(rustc --print sysroot)/lib/rustlib
host=$(rustc -vV | sed -n 's/^host: //p')
target=$rustlib/wasm32-wasip2/lib
libc=$target/self-contained
[ -d "$libc" ] || need "Rust's target wasm32-wasip2" "run: rustup target add wasm32-wasip2"
builtins=$(ls "$target"/libcompiler_builtins-*.rlib)

object=$(mktemp)
trap 'rm -f "$object"' EXIT
clang --target=wasm32-wasi -isystem "$headers" -std=c11 -O2 -Wall -Wextra -Werror -c "$source" -o "$object"
"$rustlib/$host/bin/wasm-component-ld" --wasm-ld-path "$rustlib/$host/bin/gcc-ld/wasm-ld" \
    "$libc/crt1-command.o" "$object" -L "$libc" -lc "$builtins" -o "$out"
