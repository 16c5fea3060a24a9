#!/bin/bash
# Makes what a VM is given: images/vmlinuz and initramfs archives (uncompressed: unpacking costs a software CPU more than copying).
#   leaf.cpio   busybox and /init: the last level
#   small.cpio  leaf + the kernel modules: a guest without guests, with disks
#   l1.cpio     small + Debian's QEMU, kernel and leaf.cpio as its guest
#   l1-deep.cpio  the same with l1.cpio as its guest, for one level more
set -euo pipefail
. "$(dirname "$0")/lib.sh"

STAGE=$NESTBOX_CACHE/stage
BUSYBOX=$UNPACKED/busybox-static/bin/busybox
APPLETS="sh ash awk base64 cat chmod cp cpio cut date dd df dmesg echo env expr false free grep gunzip gzip halt head hexdump hostname id insmod kill ln
	ls lsmod lspci md5sum mkdir mkfifo mknod mount mv nc nproc od poweroff printf ps pwd readlink reboot rm rmmod sed seq setsid sha256sum sleep sort
	stat stty sync tail tar tee test time timeout top touch tr true tty umount uname uniq uptime usleep vi wc which xargs yes"
MODULES="kvm kvm_intel kvm_amd virtio_pci virtio_blk virtio_rng virtio_console virtio_net virtio_balloon virtio_mmio"
FIRMWARE="qboot.rom bios-microvm.bin bios-256k.bin linuxboot_dma.bin linuxboot.bin multiboot_dma.bin multiboot.bin pvh.bin kvmvapic.bin"

kernel_package() { awk '$1 ~ /^linux-image-/ { print $1; exit }' "$LOCK"; }

# Module files in load order, dependencies first, from modules.dep's rules as recorded in the modules themselves.
module_order()
{
	local name=$1 file dep
	case " $done_modules " in *" $name "*) return ;; esac
	file=$(find "$moddir" \( -name "$name.ko" -o -name "${name//_/-}.ko" \) -print -quit)
	if [ -z "$file" ]; then
		grep -qE "/(${name}|${name//_/-})\.ko$" "$moddir/modules.builtin" && return
		die "kernel module $name is in neither $moddir nor the kernel"
	fi
	for dep in $(readelf -p .modinfo "$file" | sed -n 's/.*] *depends=\(.*\)/\1/p' | tr ',' ' '); do
		module_order "$dep"
	done
	done_modules+=" $name"
	printf '%s %s\n' "$name" "$file"
}

stage_leaf()
{
	local root=$STAGE/leaf applet
	mkdir -p "$root"/{bin,dev,proc,sys,tmp,run,etc,lib,root,mnt}
	cp "$BUSYBOX" "$root/bin/busybox"
	for applet in $APPLETS; do
		ln -s busybox "$root/bin/$applet"
	done
	install -m 755 "$NESTBOX_ROOT/tools/guest/init" "$root/init"
}

stage_modules()
{
	local root=$STAGE/modules name file dep pkg=$1
	mkdir -p "$root/lib/modules"
	moddir=$(echo "$UNPACKED/$pkg"/lib/modules/*)
	for name in $MODULES; do
		done_modules=
		module_order "$name" | while read -r dep file; do
			[ -e "$root/lib/modules/$dep.ko" ] || cp "$file" "$root/lib/modules/$dep.ko"
			printf '%s\n' "$dep" >>"$root/lib/modules/$name.order"
		done
	done
}

stage_qemu()
{
	local root=$STAGE/qemu so path file pkg=$1
	mkdir -p "$root"/{usr/bin,usr/share/qemu,usr/lib/x86_64-linux-gnu,lib64,images}
	cp "$UNPACKED/qemu-system-x86/usr/bin/qemu-system-x86_64" "$root/usr/bin/"
	"$NESTBOX_ROOT/tools/guest/closure.sh" "$root/usr/bin/qemu-system-x86_64" | while read -r so path; do
		cp -L "$path" "$root/usr/lib/x86_64-linux-gnu/$so"
	done
	mv "$root/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$root/lib64/" 2>/dev/null ||
		cp -L "$UNPACKED/libc6/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$root/lib64/"
	for file in $FIRMWARE; do
		path=$(find -L "$UNPACKED"/{qemu-system-data,seabios,qemu-system-x86} -name "$file" -type f -print -quit 2>/dev/null || true)
		[ -z "$path" ] || cp -L "$path" "$root/usr/share/qemu/$file"
	done
	cp "$UNPACKED/$pkg"/boot/vmlinuz-* "$root/images/vmlinuz"
}

# pack DIRECTORY ARCHIVE: a reproducible newc archive (sorted, root-owned, no times).
pack()
{
	find "$1" -exec touch -h -d @0 {} +
	(cd "$1" && find . -mindepth 1 | LC_ALL=C sort | "$BUSYBOX" cpio -o -H newc -R 0:0 --renumber-inodes --ignore-devno) >"$2.part" 2>/dev/null
	mv "$2.part" "$2"
}

# with_child ARCHIVE CHILD: leaf + modules + qemu + CHILD as the guest that this level starts. The kernel unpacks archives one after the other.
with_child()
{
	rm -rf "$STAGE/child"
	mkdir -p "$STAGE/child/images"
	cp "$2" "$STAGE/child/images/child.cpio"
	pack "$STAGE/child" "$STAGE/child.cpio"
	cat "$STAGE/leaf.cpio" "$STAGE/modules.cpio" "$STAGE/qemu.cpio" "$STAGE/child.cpio" >"$1.part"
	mv "$1.part" "$1"
}

fingerprint() { cat "$LOCK" "$NESTBOX_ROOT"/tools/guest/{init,image.sh} | sha256sum | cut -d' ' -f1; }

main()
{
	local pkg stamp=$IMAGES/fingerprint now
	[ -s "$LOCK" ] || die "no packages in $NESTBOX_CACHE; run tools/guest/fetch.sh first"
	now=$(fingerprint)
	if [ "$(cat "$stamp" 2>/dev/null)" = "$now" ]; then
		say "guest images are up to date in $IMAGES"
		return
	fi
	pkg=$(kernel_package)
	rm -rf "$STAGE" "$stamp"
	mkdir -p "$STAGE" "$IMAGES"
	say "staging busybox and modules of $pkg"
	stage_leaf
	stage_modules "$pkg"
	say "staging qemu-system-x86_64 and its libraries"
	stage_qemu "$pkg"
	say "packing"
	pack "$STAGE/leaf" "$STAGE/leaf.cpio"
	pack "$STAGE/modules" "$STAGE/modules.cpio"
	pack "$STAGE/qemu" "$STAGE/qemu.cpio"
	cp "$STAGE/leaf.cpio" "$IMAGES/leaf.cpio"
	cat "$STAGE/leaf.cpio" "$STAGE/modules.cpio" >"$IMAGES/small.cpio"
	with_child "$IMAGES/l1.cpio" "$IMAGES/leaf.cpio"
	with_child "$IMAGES/l1-deep.cpio" "$IMAGES/l1.cpio"
	cp "$STAGE/qemu/images/vmlinuz" "$IMAGES/vmlinuz"
	rm -rf "$STAGE"
	printf '%s\n' "$now" >"$stamp"
	ls -l "$IMAGES"
}

main "$@"
