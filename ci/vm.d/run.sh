# shellcheck shell=bash disable=SC2154  # vm_d is ci/vm's, qemu is build.sh's
# ci/vm run and shell: one boot of the guest, one command, its output and exit code.

# The emulated machine's devices, each behind a root port of its own where it is a PCIe device, so each is an IOMMU group of its own.
# guest-bind knows them by vendor and device id. TMP is replaced by the run's temporary directory.
# shellcheck disable=SC2054  # the commas are QEMU's
devices=(
    # An NVMe controller whose controller memory buffer (BAR 2) is a target for peer DMA.
    -device pcie-root-port,id=rp1,slot=1,chassis=1
    -drive if=none,id=disk,file=TMP/nvme.img,format=raw
    -device nvme,bus=rp1,serial=tidegate,drive=disk,cmb_size_mb=16
    # Plain shared memory in BAR 2: the target that behaves best.
    -object memory-backend-memfd,id=shared,size=16M,share=on
    -device pcie-root-port,id=rp2,slot=2,chassis=2
    -device ivshmem-plain,bus=rp2,memdev=shared
    # VRAM in BAR 0; what is written there is what the screen shows.
    -device pcie-root-port,id=rp3,slot=3,chassis=3
    -device bochs-display,bus=rp3,vgamem=16M
    # A real network controller (82576) at one end of a wire. Frames wait on it while there is no buffer for them (not so with
    # hubport, which delivers all that wait as soon as there is one).
    -netdev dgram,id=near,local.type=unix,local.path=TMP/near,remote.type=unix,remote.path=TMP/far
    -device pcie-root-port,id=rp4,slot=4,chassis=4
    -device igb,bus=rp4,netdev=near
    # Two DMA engines for proofs: slow, no reset, every address bit. Conventional PCI, so on the root bus.
    -device edu,dma_mask=0xffffffffffff
    -device edu,dma_mask=0xffffffffffff
)

# The wire's other end: a second 82576.
# shellcheck disable=SC2054
far_end=(
    -netdev dgram,id=far,local.type=unix,local.path=TMP/far,remote.type=unix,remote.path=TMP/near
    -device pcie-root-port,id=rp5,slot=5,chassis=5
    -device igb,bus=rp5,netdev=far
)

# Or, with --beside, a program of the host: it binds TMP/far and sends to TMP/near, one datagram a frame. What went by stands in
# TMP/wire.pcap, QEMU's monitor (QMP) listens at TMP/monitor, and what the guest writes into the virtio port tidegate.beside comes
# out of TMP/port, and back. The guest's writes wait until somebody has connected there.
# shellcheck disable=SC2054
beside_end=(
    -object filter-dump,id=pcap,netdev=near,file=TMP/wire.pcap
    -qmp unix:TMP/monitor,server=on,wait=off
    -chardev socket,id=beside,path=TMP/port,server=on,wait=off
    -device virtserialport,chardev=beside,name=tidegate.beside
)

# With the demo nvme-gpu: the NVMe controller's drive takes its time, so that commands are in flight whenever the stream is
# interrupted, and there is a second controller, whose memory buffer is a target. Its drive holds nothing.
# shellcheck disable=SC2034,SC2054
nvme_demo=(
    -set drive.disk.throttling.iops-total=250
    -drive 'if=none,id=other,file.driver=null-co,file.size=1M,format=raw'
    -device pcie-root-port,id=rp6,slot=6,chassis=6
    -device nvme,bus=rp6,serial=other,drive=other,cmb_size_mb=16
)

# With --numa: two nodes, each with a CPU, half of the memory and a host bridge of its own with an edu behind it. MEMORY is half of the memory.
# shellcheck disable=SC2054
numa_machine=(
    -object memory-backend-ram,id=node0,size=MEMORY -numa node,nodeid=0,cpus=0,memdev=node0
    -object memory-backend-ram,id=node1,size=MEMORY -numa node,nodeid=1,cpus=1,memdev=node1
    -numa dist,src=0,dst=1,val=21
    -device pxb-pcie,id=bridge0,bus=pcie.0,bus_nr=64,numa_node=0
    -device pcie-root-port,id=rp10,bus=bridge0,slot=10,chassis=10
    -device edu,bus=rp10,dma_mask=0xffffffffffff
    -device pxb-pcie,id=bridge1,bus=pcie.0,bus_nr=128,numa_node=1
    -device pcie-root-port,id=rp11,bus=bridge1,slot=11,chassis=11
    -device edu,bus=rp11,dma_mask=0xffffffffffff
)

quote() {
    local LC_ALL=C word
    for word in "$@"; do printf " '%s'" "${word//\'/\'\\\'\'}"; done
}

# Seconds until a guest that did not begin the command counts as hung; a boot takes three, on an overloaded host a minute.
boot_limit=${TIDEGATE_BOOT_LIMIT:-100}

# QEMU splits option values at commas; a doubled comma is a comma.
comma() { printf '%s' "${1//,/,,}"; }

limit=300 console='' out='' bind=yes append='' memory=2G numa=no
extra_env=() extra_qemu=() command=() beside=()
parse() {
    while [ $# -gt 0 ]; do
        case $1 in
        --timeout | --console | --out | --env | --append | --qemu | --memory | --beside)
            [ $# -ge 2 ] || die "$1 needs a value: see ci/vm --help"
            ;;
        esac
        case $1 in
        --timeout) limit=$2 ;;
        --console) console=$2 ;;
        --out) out=$2 ;;
        --env) extra_env+=("$2") ;;
        --append) append=$2 ;;
        --qemu) extra_qemu+=("$2") ;;
        --memory) memory=$2 ;;
        --beside) beside+=("$2") ;;
        --no-bind | --numa)
            [ "$1" = --numa ] && numa=yes || bind=no
            shift
            continue
            ;;
        --)
            shift
            break
            ;;
        -*) die "unknown option $1: see ci/vm --help (a command that starts with a dash goes after --)" ;;
        *) break ;;
        esac
        shift 2
    done
    command=("$@")
    [[ $limit =~ ^[0-9]+$ ]] || die "--timeout wants whole seconds, not '$limit'"
    local pair
    for pair in "${extra_env[@]}"; do
        [[ $pair =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || die "--env wants NAME=VALUE, not '$pair'"
    done
    visible "$PWD" "the current directory"
    case ${command[0]:-} in /*) visible "${command[0]}" "the command" ;; esac
}

# The guest has its own /dev, /proc, /sys and /run, so what the host keeps there does not exist in it.
visible() {
    case $(realpath -m "$1") in
    /dev/* | /proc/* | /sys/* | /run/*) die "$2, $1, is in a directory that the guest has of its own; move it elsewhere (/tmp is fine)" ;;
    esac
}

# The script that the guest's init runs in the host's root: exact arguments, a clean environment, the same directory.
write_job() {
    local name
    local env=(HOME="${HOME:-/root}" PATH="$PATH" USER=root LOGNAME=root LANG=C.UTF-8 TMPDIR=/tmp TERM="${TERM:-dumb}"
        TIDEGATE_VM=1 TIDEGATE_OUT=/tmp/out TIDEGATE_DEVICES=/run/tidegate/devices)
    for name in RUST_BACKTRACE RUST_LOG PROPTEST_CASES; do
        [ -z "${!name:-}" ] || env+=("$name=${!name}")
    done
    printf 'cd %s || exit 126\n' "$(quote "$PWD")"
    # Not `env … CMD`: it would take a command with `=` in its name for a variable.
    # shellcheck disable=SC2016  # for the guest's shell
    printf 'exec env -i%s bash -c %s bash%s\n' "$(quote "${env[@]}" "${extra_env[@]}")" "$(quote 'exec -- "$@"')" "$(quote "$@")"
}

write_initrd() {
    local root=$tmp/initrd
    mkdir -p "$root/bin"
    cp "$(busybox_path)" "$root/bin/busybox"
    cp "$vm_d/init" "$vm_d/guest-bind" "$root/"
    chmod 755 "$root/init" "$root/guest-bind" "$root/bin/busybox"
    printf 'mode=%s\nbind=%s\n' "$1" "$bind" >"$root/config"
    cat >"$root/job"
    (cd "$root" && find . | "$(busybox_path)" cpio -o -H newc) >"$tmp/initrd.cpio" 2>/dev/null
}

# Sets `words`, QEMU's command line; the arguments connect the ports of the two modes.
machine() {
    local kernel nodes=() half ends=()
    if [ ${#beside[@]} -gt 0 ]; then ends=("${beside_end[@]}"); else ends=("${far_end[@]}"); fi
    kernel=$(kernel_image)
    if [ "$numa" = yes ]; then
        half=$(($(numfmt --from=iec "$memory") / 2)) || die "--memory wants a size such as 2G, not '$memory'"
        nodes=("${numa_machine[@]//MEMORY/$half}")
    fi
    # On a busy host the emulated timers can be late. no_timer_check: not a reason to panic. tsc=reliable: not a reason to drop the TSC.
    # nohz=off: each CPU keeps its tick, since one that slept through a late timer was seen never to wake again.
    # thread=single: with a thread for each CPU, QEMU 10.0 died in one of three runs that switch BARs off and on under
    # MMIO of the other CPU (assertion in iotlb_to_section, system/physmem.c). It costs nothing measurable here.
    words=("${qemu[@]}" -M 'q35,kernel-irqchip=split' -accel 'tcg,thread=single' -cpu max -smp 2 -m "$memory" -vga none
        -display none -monitor none -no-reboot -nodefaults
        -device 'intel-iommu,intremap=on,device-iotlb=on'
        -kernel "$kernel" -initrd "$tmp/initrd.cpio"
        -append "console=ttyS0 panic=-1 log_buf_len=1M no_timer_check tsc=reliable nohz=off intel_iommu=on iommu=nopt $append"
        -chardev "file,id=console,path=$(comma "$console")" -serial chardev:console
        # remap: the host's root may hold several file systems, whose inode numbers would collide in one share.
        -virtfs 'local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap'
        -virtfs "local,path=$(comma "$out"),mount_tag=out,security_model=none,multidevs=remap"
        "${devices[@]//TMP/$(comma "$tmp")}" -device virtio-serial-pci "${ends[@]//TMP/$(comma "$tmp")}" "$@" "${extra_qemu[@]}"
        # Last: what names no bus would be plugged into a bridge that takes root ports only.
        "${nodes[@]}")
}

prepare() {
    tmp=$(mktemp -d "${TMPDIR:-/tmp}/tidegate-vm.XXXXXX")
    pid='' clock='' aside='' began=$SECONDS
    trap finish EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    : "${console:=$tmp/console.log}" "${out:=$tmp/out}"
    : >"$console" || die "cannot write the console log $console"
    mkdir -p "$out" || die "cannot make the output directory $out"
    out=$(realpath "$out")
    # An earlier run's faults must not pass for this one's, in case this one dies before it writes its own.
    rm -f "$out/dmesg.txt"
    truncate -s 64M "$tmp/nvme.img"
    find_qemu
}

finish() {
    local process
    for process in $pid $clock $aside; do kill "$process" 2>/dev/null || true; done
    [ -z "${terminal:-}" ] || stty "$terminal"
    rm -rf "$tmp"
}

# Copies a pipe to where the caller wants it. When the caller stops reading, the rest is thrown away, so that the guest is not held up.
pump() {
    {
        cat
        cat >/dev/null
    } <"$1" 2>/dev/null
}

run_guest() {
    parse "$@"
    [ ${#command[@]} -gt 0 ] || die "run needs a command: ci/vm run -- CMD ARG.."
    prepare
    write_job "${command[@]}" | write_initrd run
    mkfifo "$tmp/stdout" "$tmp/stderr"
    machine \
        -chardev "file,id=stdout,path=$(comma "$tmp/stdout")" -device virtserialport,chardev=stdout,name=tidegate.stdout \
        -chardev "file,id=stderr,path=$(comma "$tmp/stderr")" -device virtserialport,chardev=stderr,name=tidegate.stderr \
        -chardev "file,id=status,path=$(comma "$tmp/status")" -device virtserialport,chardev=status,name=tidegate.status
    local tries=3
    until boot_once; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || die_in_guest "it hung while booting, each time"
        say "the guest hung while booting, before the command began (seen on overloaded hosts); booting it again"
    done
    answer "$code"
}

# Boots and waits for the end, whose exit code is left in `code`. Fails when the boot hung: the command did not begin, so it may be tried again.
boot_once() {
    local pumps=() ended='' hung=no
    code=0 began=$SECONDS
    : >"$tmp/status"
    pump "$tmp/stdout" &
    pumps+=($!)
    pump "$tmp/stderr" >&2 &
    pumps+=($!)
    timeout --kill-after=5 "$limit" "${words[@]}" </dev/null >"$tmp/qemu.log" 2>&1 &
    pid=$!
    if [ ${#beside[@]} -gt 0 ]; then
        TIDEGATE_BESIDE=$tmp TIDEGATE_OUT=$out "${beside[@]}" </dev/null >&2 &
        aside=$!
    fi
    # The clock must not hold the caller's stdout open: a reader at the other end would wait for it.
    sleep "$boot_limit" >/dev/null 2>&1 &
    clock=$!
    wait -n -p ended "$pid" "$clock" || code=$?
    if [ "$ended" = "$clock" ]; then
        [ -s "$tmp/status" ] || hung=yes
        [ "$hung" = no ] || kill "$pid" 2>/dev/null || true
        code=0
        wait "$pid" || code=$?
        # It may have begun just before it was stopped.
        [ ! -s "$tmp/status" ] || hung=no
    else
        kill "$clock" 2>/dev/null || true
    fi
    # Whatever the guest asked it for has been answered.
    [ -z "$aside" ] || kill "$aside" 2>/dev/null || true
    [ -z "$aside" ] || wait "$aside" || true
    pid='' clock='' aside=''
    # A QEMU that did not get as far as opening the pipes must not leave the pumps waiting.
    : <>"$tmp/stdout" <>"$tmp/stderr"
    wait "${pumps[@]}" || true
    [ "$hung" = no ]
}

# Turns what is left of the run into the exit code.
answer() {
    local code=$1 status
    status=$(sed -n 's/^exit \([0-9]*\)$/\1/p' "$tmp/status" | tail -n1)
    if [ -n "$status" ]; then
        exit "$status"
    elif [ "$code" = 124 ] || { [ "$code" = 137 ] && [ "$limit" != 0 ] && [ $((SECONDS - began)) -ge "$limit" ]; }; then
        # 137 alone could also be a QEMU that the host's kernel killed for want of memory.
        [ -s "$tmp/status" ] || say "the guest was still booting"
        say "the command ran into the time-out of $limit s; the guest was stopped (--timeout S gives it more)"
        exit 124
    fi
    die_in_guest "it died before the command ended"
}

die_in_guest() {
    say "no answer from the guest: $1; the end of its console:"
    [ ! -s "$tmp/qemu.log" ] || sed 's/^/  qemu: /' "$tmp/qemu.log" >&2
    tail -n 40 "$console" 2>/dev/null | tr -d '\r' | sed 's/^/  | /' >&2
    exit 125
}

shell_guest() {
    limit=0
    parse "$@"
    [ ${#beside[@]} = 0 ] || die "shell takes no --beside: use ci/vm run"
    [ ${#command[@]} = 0 ] || die "shell takes no command: use ci/vm run -- ${command[*]}"
    if ! [ -t 0 ] || ! [ -t 1 ]; then die "shell needs a terminal: use ci/vm run -- CMD"; fi
    prepare
    {
        printf 'stty %s\n' "$(stty size | sed 's/\(.*\) \(.*\)/rows \1 cols \2/')"
        # Without the user's own start files, which may take long under emulation and expect a writable home.
        extra_env+=('PS1=tidegate guest:\w# ')
        write_job bash --norc --noprofile -i
    } | write_initrd shell
    machine -chardev stdio,id=terminal,signal=off -device virtconsole,chardev=terminal \
        -chardev "file,id=status,path=$(comma "$tmp/status")" -device virtserialport,chardev=status,name=tidegate.status
    terminal=$(stty -g)
    local code=0
    timeout --foreground --kill-after=5 "$limit" "${words[@]}" || code=$?
    answer "$code"
}
