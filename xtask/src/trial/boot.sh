#!/bin/sh
# Boots a Debian with systemd as its first process, in namespaces and a cgroup of its own: boot.sh DEBIAN WORK. What a run writes
# goes to WORK, where the next boot finds it; DEBIAN stays as it is. The caller has put this process into new namespaces, as their first.
set -e
debian=$1
work=$2

mkdir -p "$work/upper" "$work/work" "$work/root" "$work/proc"
mount -t overlay -o "lowerdir=$debian,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
cd "$work/root"

# Of the kernel's settings those of its own network only, and no device of the machine.
mount -t proc proc proc
mount -t proc proc "$work/proc"
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind "$work/proc/sys/net" proc/sys/net
mount -t sysfs -o ro sysfs sys
# As systemd mounts it.
mount -t bpf -o mode=700 bpf sys/fs/bpf
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/net
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 net/tun:10:200; do
    IFS=: read -r name major minor <<NODE
$node
NODE
    mknod -m 666 "dev/$name" c "$major" "$minor"
done
ln -s null dev/console
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp

ip link set lo up
hostname debian
echo debian > etc/hostname
mkdir -p old
pivot_root . old
exec chroot . sh -c 'umount --lazy /old && rmdir /old && exec env -i container=trial PATH=/usr/sbin:/usr/bin setpriv --bounding-set=-sys_boot,-sys_module,-sys_rawio,-sys_time /lib/systemd/systemd systemd.mask=console-getty.service' </dev/null
