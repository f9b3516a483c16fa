#!/bin/bash
# The first process of a machine's namespaces, see machine.py: make a root file system
# that is a copy-on-write view of this one, and become systemd in it.
#
#     boot.sh WORK TREE...    WORK and the TREEs are found inside under the same paths
#
# With LOWER=DIR it is a view of the root file system DIR, with another systemd in it.
set -e
work=$1
root=$work/root
mkdir "$work/upper" "$root"
mount --make-rprivate /
mount -t tmpfs -o size=256m tmpfs "$work/upper"
mkdir "$work"/upper/{changes,work}
mount -t overlay overlay \
    -o "lowerdir=${LOWER:-/},upperdir=$work/upper/changes,workdir=$work/upper/work" "$root"
mount -t proc proc "$root/proc"
# Read-only, or systemd-sysctl would set what is shared with the machine outside.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root"/dev/{pts,shm}
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
: > "$root/dev/console"
for tree; do
    mkdir -p "$root$tree"
    mount --bind "$tree" "$root$tree"
    # For services with a user of their own.
    above=$tree
    while above=$(dirname "$above") && [ "$above" != / ]; do chmod o+x "$root$above"; done
done
# Units that this machine has installed are no concern of the tests.
mount --bind "$work/units" "$root/etc/systemd/system"
: > "$root/etc/machine-id"
mkdir "$root/old"
cd "$root"
pivot_root . old
cd /
umount -l /old
exec env -i container=reborn PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    /lib/systemd/systemd --system --unit=test.target --log-target=journal --show-status=0
