# What a guest in slot 1 can and cannot do. Each check prints "CHECK name ok|FAIL what was seen".

# STATUS NAME WORDS COMMAND...: the command ends with that status, and what it prints has the words.
check() {
    expected=$1 name=$2 words=$3 verdict=FAIL
    shift 3
    timeout 10 "$@" >/tmp/seen 2>&1
    status=$?
    [ "$status" -eq "$expected" ] && grep -qi "$words" /tmp/seen && verdict=ok
    # Unquoted, so that it is one line.
    echo "CHECK $name $verdict" $(tail -c 400 /tmp/seen) "(status $status)"
}
can() { check 0 "$@"; }
cannot() { check 1 "$@"; }

# NAME BIT: the driver and QEMU have agreed on this feature (virtio 1.2, section 5.1.3).
feature() {
    can "$1" 1 cut -c "$(($2 + 1))" /sys/bus/virtio/devices/virtio0/features
}

set -f # what commands print is no pattern
echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad
echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
ip link set lo up
ip link set eth0 up
ip addr add 10.1.0.2/24 dev eth0
ip addr add fd00:10:1::2/64 dev eth0
ip route add default via 10.1.0.1
ip route add default via fd00:10:1::1
mkdir /etc
echo "nameserver 10.1.0.1" >/etc/resolv.conf

feature checksum-offload 0
feature segmentation-offload 11
feature segmentation-offload-6 12

can gateway-ping "1 packets received" ping -c 1 -W 5 10.1.0.1
can gateway-ping-6 "1 packets received" ping -c 1 -W 5 fd00:10:1::1
can name-allowed "Address: 203.0.113.10" nslookup -type=a github.com 8.8.8.8
can name-allowed-6 "Address: 2001:db8:113::10" nslookup -type=aaaa github.com 2001:4860:4860::8888
cannot name-denied NXDOMAIN nslookup -type=a evil.example 8.8.8.8
can web "this is github.com" wget -q -O - http://github.com/
can web-6 "this is github.com" wget -q -O - "http://[2001:db8:113::10]/"

# `cat` writes to the socket itself, in pieces that fill super-frames; `nc` would write 1 KiB each.
dd if=/dev/urandom of=/tmp/sent bs=1M count=4 2>/dev/null
can upload "" sh -c "nc 203.0.113.10 9000 -e cat /tmp/sent && md5sum </tmp/sent"
can download "" sh -c "wget -q -O - http://203.0.113.10:9001/offered | md5sum"

cannot neighbour-ping "100% packet loss" ping -c 1 -W 1 10.2.0.2
cannot neighbour-tcp "timed out" nc -w 1 10.2.0.2 22
# Ended from outside (128 + SIGTERM): with -T, busybox 1.35's static wget crashes when time is up.
check 143 metadata "connecting to 169.254.169.254" timeout 1 wget -O - http://169.254.169.254/
cannot dns-over-tls "timed out" nc -w 1 1.1.1.1 853
