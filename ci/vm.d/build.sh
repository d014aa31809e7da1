# shellcheck shell=bash disable=SC2154  # vm_d and tool are ci/vm's
# ci/vm build: the guest kernel, a static busybox and a new enough QEMU, all of it outside the work tree.

# The first release with every device that the guests use (igb 8.0, nvme with spdm_port 9.1).
qemu_floor=9.1
# How many objects the kernel of this configuration has, roughly; only the progress line uses it.
objects_expected=2050

vm_cache() { printf '%s/vm' "$(cache_dir)"; }

fragment_hash() { sha256sum "$vm_d/kernel.config" | cut -c1-12; }

# The newest cached kernel of this fragment, or nothing.
cached_kernel() {
    local found
    found=$(find "$(vm_cache)" -path "*/kernel-$(fragment_hash)-*/bzImage" 2>/dev/null | sort -V | tail -n1)
    [ -n "$found" ] && printf '%s' "$found"
}

kernel_image() {
    if [ -n "${TIDEGATE_KERNEL:-}" ]; then
        [ -r "$TIDEGATE_KERNEL" ] || die "TIDEGATE_KERNEL=$TIDEGATE_KERNEL cannot be read: name a bzImage, or unset it and run ci/vm build"
        printf '%s' "$TIDEGATE_KERNEL"
    else
        cached_kernel
    fi
}

build_kernel() {
    local update=$1 cache work source version to started
    if [ -n "${TIDEGATE_KERNEL:-}" ]; then
        say "kernel: $(kernel_image) (TIDEGATE_KERNEL)"
        return
    fi
    if [ "$update" = no ] && cached_kernel >/dev/null; then
        say "kernel: $(cached_kernel) (cached)"
        return
    fi
    started=$SECONDS
    need_packages gcc libc6-dev make perl flex bison bc libelf-dev libssl-dev xz-utils tar ca-certificates debian-archive-keyring
    cache=$(vm_cache)
    work=$cache/work
    mkdir -p "$work"
    say "looking for the newest linux-source-7.* of trixie-backports in the configured archive"
    private_apt "$work/apt-kernel" trixie-backports
    source=$(apt_in "$work/apt-kernel" cache pkgnames linux-source-7. | grep -E '^linux-source-7\.[0-9]+$' | sort -V | tail -n1)
    [ -n "$source" ] || die "trixie-backports of the configured archive has no linux-source-7.*: set TIDEGATE_KERNEL to a bzImage built with ci/vm.d/kernel.config"
    version=$(apt_in "$work/apt-kernel" cache show "$source" | sed -n 's/^Version: //p' | sort -V | tail -n1)
    to=$cache/kernel-$(fragment_hash)-$version
    if [ -f "$to/bzImage" ]; then
        say "kernel: $to/bzImage (cached, newest)"
        return
    fi
    rm -rf "$work/source" "$work/linux"
    say "fetching $source $version"
    fetch_unpacked "$work/apt-kernel" "$work/source" "$source"
    mkdir "$work/linux"
    say "unpacking"
    tar -C "$work/linux" --strip-components=1 -xf "$work/source/usr/src/$source.tar.xz"
    rm -rf "$work/source" "$work/apt-kernel"
    configure_kernel "$work/linux"
    compile_kernel "$work/linux" "$work/build.log"
    mkdir -p "$to"
    cp "$work/linux/.config" "$to/config"
    # Named last and by rename: a directory with a bzImage is a finished kernel.
    cp "$work/linux/arch/x86/boot/bzImage" "$to/bzImage.new"
    mv "$to/bzImage.new" "$to/bzImage"
    rm -rf "$work"
    say "kernel: $to/bzImage (built in $((SECONDS - started)) s)"
}

configure_kernel() {
    local tree=$1 line lost=0
    {
        make -C "$tree" tinyconfig
        (cd "$tree" && scripts/kconfig/merge_config.sh -m .config "$vm_d/kernel.config")
        make -C "$tree" olddefconfig
    } >"$tree/../configure.log" 2>&1 || die "configuring the kernel failed: see $(dirname "$tree")/configure.log"
    while IFS= read -r line; do
        case $line in
        CONFIG_*=*) grep -qxF "$line" "$tree/.config" && continue ;;
        '# CONFIG_'*' is not set') grep -q "^${line:2:${#line}-13}=" "$tree/.config" || continue ;;
        *) continue ;;
        esac
        say "kernel.config: '$line' did not survive olddefconfig"
        lost=1
    done <"$vm_d/kernel.config"
    [ "$lost" = 0 ] || die "this kernel source lacks options that the testbed needs (above); adapt ci/vm.d/kernel.config"
}

compile_kernel() {
    local tree=$1 log=$2 pid started=$SECONDS told=$SECONDS objects
    nice -n 5 make -C "$tree" -j"$(nproc)" bzImage >"$log" 2>&1 &
    pid=$!
    trap 'kill "$pid" 2>/dev/null || true' EXIT
    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        objects=$(grep -cE '^  (CC|AS|LD|AR|HOSTCC) ' "$log" || true)
        if [ -t 2 ]; then
            printf '\r%s: kernel: %d of about %d objects, %d s ' "$tool" "$objects" "$objects_expected" $((SECONDS - started)) >&2
        elif [ $((SECONDS - told)) -ge 15 ]; then
            told=$SECONDS
            say "kernel: $objects of about $objects_expected objects, $((SECONDS - started)) s"
        fi
    done
    [ ! -t 2 ] || echo >&2
    trap - EXIT
    if ! wait "$pid"; then
        tail -n 30 "$log" >&2
        die "the kernel did not build: the whole log is $log"
    fi
}

# A busybox without shared libraries is all that the initramfs holds besides our scripts.
busybox_path() { printf '%s/busybox' "$(vm_cache)"; }
build_busybox() {
    local work
    [ ! -x "$(busybox_path)" ] || return 0
    work=$(vm_cache)/work-busybox
    mkdir -p "$work"
    say "fetching busybox-static"
    private_apt "$work" "$(os_codename)"
    fetch_unpacked "$work" "$work/root" busybox-static
    # Debian moved it from /bin to /usr/bin between releases.
    cp "$(find "$work/root" -path '*/bin/busybox' | head -n1)" "$(busybox_path)"
    rm -rf "$work"
}

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$2" ]; }
qemu_version() { "$@" --version 2>/dev/null | sed -n 's/.*version \([0-9.]*\).*/\1/p' | head -n1 || true; }

# Sets the array `qemu`: TIDEGATE_QEMU, the system's, or the one unpacked in the cache. Fails when none is new enough.
find_qemu() {
    local root version
    if [ -n "${TIDEGATE_QEMU:-}" ]; then
        qemu=("$TIDEGATE_QEMU")
        [ -n "$(qemu_version "${qemu[@]}")" ] || die "TIDEGATE_QEMU=$TIDEGATE_QEMU does not run"
        return 0
    fi
    qemu=(qemu-system-x86_64)
    version=$(qemu_version "${qemu[@]}")
    [ -z "$version" ] || ! at_least "$version" "$qemu_floor" || return 0
    root=$(vm_cache)/qemu-$(os_codename)
    # Some of Debian 12's libraries still live below /lib.
    qemu=(env "LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu" "$root/usr/bin/qemu-system-x86_64")
    version=$(qemu_version "${qemu[@]}")
    qemu+=(-L "$root/usr/share/qemu" -L "$root/usr/share/seabios" -L "$root/usr/lib/ipxe/qemu")
    [ -n "$version" ] && at_least "$version" "$qemu_floor"
}

qemu_name() {
    local word
    for word in "${qemu[@]}"; do
        case $word in *qemu-system-x86_64) command -v "$word" && return ;; esac
    done
    printf '%s\n' "${qemu[0]}"
}

build_qemu() {
    local candidate
    if find_qemu; then
        say "qemu: $(qemu_version "${qemu[@]}") ($(qemu_name))"
        return
    fi
    candidate=$(apt-cache policy qemu-system-x86 | sed -n 's/.*Candidate: \(.*:\)\?\([0-9.]*\).*/\2/p')
    if [ -z "$candidate" ] || at_least "$candidate" "$qemu_floor"; then
        need_packages qemu-system-x86
    fi
    if ! find_qemu; then unpack_qemu; fi
    find_qemu || die "no QEMU >= $qemu_floor: install one, or name one with TIDEGATE_QEMU"
    say "qemu: $(qemu_version "${qemu[@]}") ($(qemu_name))"
}

# Debian 12's own QEMU is too old. Its backport is unpacked, not installed, so that the machine's packages stay as they are.
unpack_qemu() {
    local root suite work deb
    suite=$(os_codename)
    root=$(vm_cache)/qemu-$suite
    work=$(vm_cache)/work-qemu
    rm -rf "$root" "$work"
    mkdir -p "$work"
    say "this release's QEMU is older than $qemu_floor: fetching the one of $suite-backports into the cache"
    private_apt "$work" "$suite" "$suite-backports"
    apt_in "$work" get install --download-only --no-install-recommends -t "$suite-backports" qemu-system-x86 >"$work/fetch.log" 2>&1 ||
        die "could not fetch QEMU from $suite-backports: see $work/fetch.log"
    for deb in "$work"/cache/archives/*.deb; do dpkg-deb -x "$deb" "$root"; done
    rm -rf "$work"
}

# build_all [--update]: a no-op of some milliseconds when everything is there.
build_all() {
    local update=no
    [ "${1:-}" != --update ] || update=yes
    [ "$(uname -m)" = x86_64 ] || die "the testbed is an x86-64 machine with VT-d; this machine is $(uname -m)"
    mkdir -p "$(vm_cache)"
    # Two builds at a time would share the work directory; the second waits and then finds everything done.
    exec {lock}>"$(vm_cache)/lock"
    flock --nonblock "$lock" || {
        say "another ci/vm build is at work: waiting for it"
        flock "$lock"
    }
    build_qemu
    build_busybox
    build_kernel "$update"
    exec {lock}>&-
}

ready() { find_qemu && [ -x "$(busybox_path)" ] && kernel_image >/dev/null; }
