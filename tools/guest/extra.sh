#!/bin/bash
# Two more initramfs archives, made after image.sh's:
#   agent.cpio   small.cpio + Debian's qemu-guest-agent with its libraries, virtiofs, vsock: a guest for `nestbox exec` and shares
#   kvm.cpio     the kernel modules of `nestbox kvm`'s guest in /modules, and their order; the command adds /init itself
set -euo pipefail
. "$(dirname "$0")/lib.sh"

STAGE=$NESTBOX_CACHE/stage-extra
BUSYBOX=$UNPACKED/busybox-static/bin/busybox
# A word after a colon is the module's option.
KVM_MODULES="virtio_pci virtio_console virtiofs overlay kvm:halt_poll_ns=0 kvm_intel virtio_rng tun vhost_net virtio_net vmw_vsock_virtio_transport vhost_vsock"
AGENT_MODULES="virtiofs vmw_vsock_virtio_transport"
APT=(-q)

fetch_agent()
{
	local apt=$NESTBOX_CACHE/apt name=qemu-guest-agent file
	[ ! -e "$UNPACKED/$name/.complete" ] || return 0
	# As in fetch.sh, which has fetched lists of its own if the machine has none.
	[ -n "$(apt-cache madison $name 2>/dev/null)" ] ||
		APT+=(-o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt" -o Debug::NoLocking=1)
	(cd "$PACKAGES" && apt-get "${APT[@]}" download $name)
	file=$(cd "$PACKAGES" && ls -t ${name}_*.deb | head -n 1)
	rm -rf "$UNPACKED/$name"
	mkdir -p "$UNPACKED/$name"
	dpkg-deb -x "$PACKAGES/$file" "$UNPACKED/$name"
	touch "$UNPACKED/$name/.complete"
}

module_file() { find "$moddir" \( -name "$1.ko" -o -name "${1//_/-}.ko" \) -print -quit; }

# Prints module names, dependencies first, as recorded in the modules themselves.
module_order()
{
	local file dep
	case " $done_modules " in *" $1 "*) return ;; esac
	file=$(module_file "$1")
	if [ -z "$file" ]; then
		grep -qE "/(${1}|${1//_/-})\.ko$" "$moddir/modules.builtin" && return
		die "kernel module $1 is in neither $moddir nor the kernel"
	fi
	for dep in $(readelf -p .modinfo "$file" | sed -n 's/.*] *depends=\(.*\)/\1/p' | tr ',' ' '); do
		module_order "$dep"
	done
	done_modules+=" $1"
}

stage_kvm()
{
	local root=$STAGE/kvm m option
	moddir=$(echo "$UNPACKED/$(awk '$1 ~ /^linux-image-/ { print $1; exit }' "$LOCK")"/lib/modules/*)
	mkdir -p "$root/modules"
	done_modules=
	for m in $KVM_MODULES; do module_order "${m%%:*}"; done
	for m in $done_modules; do
		cp "$(module_file "$m")" "$root/modules/$m.ko"
		option=$(printf '%s\n' $KVM_MODULES | sed -n "s/^$m:/ /p")
		printf '%s%s\n' "$m" "$option" >>"$root/modules/order"
	done
}

stage_agent()
{
	local root=$STAGE/agent so path
	mkdir -p "$root"/{usr/sbin,usr/lib/x86_64-linux-gnu,lib64,run,var/run}
	cp "$UNPACKED/qemu-guest-agent/usr/sbin/qemu-ga" "$root/usr/sbin/"
	[ -z "$("$NESTBOX_ROOT/tools/guest/closure.sh" --missing "$root/usr/sbin/qemu-ga")" ] || die "libraries of qemu-ga are missing in $UNPACKED"
	"$NESTBOX_ROOT/tools/guest/closure.sh" "$root/usr/sbin/qemu-ga" | while read -r so path; do
		cp -L "$path" "$root/usr/lib/x86_64-linux-gnu/$so"
	done
	cp -L "$UNPACKED/libc6/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$root/lib64/"
	mkdir -p "$root/lib/modules"
	for so in $AGENT_MODULES; do
		done_modules=
		module_order "$so"
		for path in $done_modules; do
			cp "$(module_file "$path")" "$root/lib/modules/$path.ko"
			printf '%s\n' "$path" >>"$root/lib/modules/$so.order"
		done
	done
}

pack() # DIRECTORY ARCHIVE, as in image.sh
{
	find "$1" -exec touch -h -d @0 {} +
	(cd "$1" && find . -mindepth 1 | LC_ALL=C sort | "$BUSYBOX" cpio -o -H newc -R 0:0 --renumber-inodes --ignore-devno) >"$2.part" 2>/dev/null
	mv "$2.part" "$2"
}

fingerprint() { cat "$IMAGES/fingerprint" "$NESTBOX_ROOT/tools/guest/extra.sh" | sha256sum | cut -d' ' -f1; }

main()
{
	local stamp=$IMAGES/fingerprint-extra now
	now=$(fingerprint)
	[ "$(cat "$stamp" 2>/dev/null)" != "$now" ] || return 0
	fetch_agent
	rm -rf "$STAGE" "$stamp"
	mkdir -p "$STAGE"
	stage_kvm
	stage_agent
	pack "$STAGE/agent" "$STAGE/agent.cpio"
	cat "$IMAGES/small.cpio" "$STAGE/agent.cpio" >"$IMAGES/agent.cpio.part"
	mv "$IMAGES/agent.cpio.part" "$IMAGES/agent.cpio"
	pack "$STAGE/kvm" "$IMAGES/kvm.cpio"
	rm -rf "$STAGE"
	printf '%s\n' "$now" >"$stamp"
	ls -l "$IMAGES"
}

main "$@"
