# shellcheck shell=bash
# What ci/vm and ci/fresh share: messages, packages, the cache, and a private apt that leaves the machine's own lists alone.
# Messages go to stderr, always: stdout belongs to the command that somebody asked for.

say() { printf '%s: %s\n' "${tool:-ci}" "$*" >&2; }
die() {
    say "$*"
    exit 2
}

# Outside the work tree, so that a fresh clone, CI and a cleaned target directory find the kernel again.
cache_dir() { printf '%s' "${TIDEGATE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/tidegate}"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root and there is no sudo; run as root: $*"
    fi
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# need_packages NAME...: installs those that are missing; no network and no root when none is.
need_packages() {
    local name missing=()
    for name in "$@"; do installed "$name" || missing+=("$name"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "please install: ${missing[*]} (no apt-get here to do it)"
    say "installing ${missing[*]}"
    local get=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300)
    # The lists may be absent (a bare machine) or old (a 404): refresh them only when the first try fails.
    as_root "${get[@]}" install --no-install-recommends "${missing[@]}" >/dev/null 2>&1 && return 0
    as_root "${get[@]}" update >&2 || die "apt-get update failed: look at the network and at the machine's apt sources"
    as_root "${get[@]}" install --no-install-recommends "${missing[@]}" >&2 || die "could not install: ${missing[*]}"
}

os_codename() (
    . /etc/os-release
    printf '%s' "${VERSION_CODENAME:-}"
)

# The address of the Debian archive that this machine is configured with, whichever file format says so.
archive_uri() {
    local uri codename
    codename=$(os_codename)
    # shellcheck disable=SC2016  # $(..) here is apt's own syntax
    uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
        awk -v name="$codename" '$2 == name || $2 ~ /^(old)*stable$/ { print $1; exit }')
    [ -n "$uri" ] || die "no apt source for the suite '$codename' is configured on this machine, so the archive's address is unknown"
    printf '%s' "$uri"
}

# private_apt DIR SUITE...: prepares an apt of its own under DIR that knows exactly those suites of the machine's archive.
# apt_in DIR get|cache ARGUMENTS...: uses it. The machine's sources, lists and archives are neither read nor written.
private_apt() {
    local dir=$1 suite uri
    shift
    uri=$(archive_uri)
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    for suite in "$@"; do
        printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$uri" "$suite"
    done >"$dir/sources.list"
    apt_in "$dir" get update >"$dir/update.log" 2>&1 ||
        die "cannot read $* from the configured archive: see $dir/update.log (a key that is missing there: upgrade debian-archive-keyring)"
}
apt_in() {
    local dir=$1 kind=$2
    shift 2
    # The sandbox user could not enter a cache below a private home; locking would touch the machine's dpkg directory.
    "apt-$kind" -q -o APT::Get::Assume-Yes=true -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" -o Dir::Cache::archives="$dir/cache/archives" \
        -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 "$@"
}

# fetch_unpacked DIR TO PACKAGE: downloads one package by the apt under DIR and unpacks it into TO.
fetch_unpacked() {
    local dir=$1 to=$2 package=$3
    mkdir -p "$dir/deb" "$to"
    rm -f "$dir/deb/"*.deb
    (cd "$dir/deb" && apt_in "$dir" get download "$package") >&2 || die "could not download $package"
    dpkg-deb -x "$dir/deb/"*.deb "$to"
}

# A cargo of 1.85 or newer, a linker, and the C libraries that crates link.
need_cargo() {
    command -v cargo >/dev/null || need_packages cargo
    command -v cc >/dev/null || need_packages gcc libc6-dev
    need_packages libhwloc-dev libudev-dev pkg-config
    local version
    version=$(cargo --version | sed -n 's/^cargo 1\.\([0-9]*\).*/\1/p')
    [ "${version:-85}" -ge 85 ] || die "cargo is $(cargo --version), 1.85 or newer is needed: on Debian 13 apt-get install cargo, elsewhere see rustup"
}

# Where cargo puts what it builds.
target_directory() {
    (cd "$project" && cargo metadata --format-version 1 --no-deps --offline) | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

# copy_tree TO: the files as they are, committed or not, at a new TO.
copy_tree() {
    command -v git >/dev/null || need_packages git
    rm -rf "$1"
    mkdir -p "$1"
    (cd "$project" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$1" 2>/dev/null) || true
}

# hot_path_binary [PROGRAM [CFG]]: builds a program of the hot path's functions for their listings (hot-path), with a cfg if asked
# for, and prints where it is. Without position-independent code every call names its callee; --target keeps the flags from proc
# macros.
hot_path_binary() {
    local host target program=${1:-hot-path} cfg=${2:-}
    host=$(rustc -vV | sed -n 's/^host: //p')
    target=$(target_directory)/hotpath${cfg:+-$cfg}
    (cd "$project" && RUSTFLAGS="-C relocation-model=static${cfg:+ --cfg $cfg}" CARGO_TARGET_DIR=$target \
        cargo build --release --locked --quiet --target "$host" -p tidegate-bench --bin "$program") >&2
    printf '%s' "$target/$host/release/$program"
}

# loom_binary: builds core's tests for loom, once for models and mutations alike, and prints the program.
loom_binary() {
    local out
    out=$(cd "$project" && RUSTFLAGS="--cfg loom" CARGO_PROFILE_RELEASE_DEBUG=none CARGO_TARGET_DIR="$(target_directory)/loom" \
        cargo test --locked --quiet --release --no-run --message-format=json -p tidegate-core --lib) || {
        printf '%s\n' "$out" | tail -n 5 >&2
        die "core's tests do not build for loom: RUSTFLAGS='--cfg loom' cargo test -p tidegate-core --lib --release --no-run"
    }
    printf '%s\n' "$out" | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

# loom_models BINARY: the models in it, with their paths.
loom_models() { "$1" --list 2>/dev/null | sed -n 's/^\(.*::model_[a-z_]*\): test$/\1/p'; }
