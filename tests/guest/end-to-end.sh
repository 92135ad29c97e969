# Runs tests of netguard's own on this kernel, in the root file system that is on the disk. Each of their lines is libtest's:
# "test NAME ... ok".
mkdir -p /root
mount -t ext4 /dev/vda /root || exit
for filesystem in dev proc sys; do
    mount -o bind /$filesystem /root/$filesystem
done
mount -t bpf bpf /root/sys/fs/bpf
mount -t tmpfs tmpfs /root/run
# The kernel asks for modules where its first process lives.
mkdir -p /sbin
printf '#!/bin/sh\nexec chroot /root /sbin/modprobe "$@"\n' >/sbin/modprobe
chmod +x /sbin/modprobe
chroot /root /bin/sh /end-to-end
