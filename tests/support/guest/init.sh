#!/bin/busybox sh
# The guest's first process: prepares a Linux that a script can run in, runs it and turns it off.
/bin/busybox mkdir -p /dev /proc /sys /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*.ko; do
    [ ! -e "$module" ] || insmod "$module"
done
echo "GUEST kernel $(uname -r)"
sh /script
echo "GUEST done"
poweroff -f
