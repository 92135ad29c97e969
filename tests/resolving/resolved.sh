# Runs systemd-resolved and its own client in a guest, with a bus and accounts that nobody else sees: the arguments
# are a directory of the test's own, the server to ask, the call of dbus-daemon, of systemd-resolved and of resolvectl.
set -eu
directory=$1 server=$2 bus=$3 resolved=$4 resolvectl=$5

mount --make-rprivate /
# It changes to a user of its own, which only an installed package has.
{ cat /etc/passwd; echo 'systemd-resolve:x:64998:64998::/:/usr/sbin/nologin'; } > "$directory/passwd"
{ cat /etc/group; echo 'systemd-resolve:x:64998:'; } > "$directory/group"
mount --bind "$directory/passwd" /etc/passwd
mount --bind "$directory/group" /etc/group
mount -t tmpfs none /run
mkdir -p /run/dbus /run/systemd/resolve /run/systemd/resolved.conf.d
chown 64998:64998 /run/systemd/resolve

cat > /run/bus.conf <<END
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
    <allow send_type="method_call"/>
  </policy>
</busconfig>
END
cat > /run/systemd/resolved.conf.d/test.conf <<END
[Resolve]
DNS=$server
FallbackDNS=
Domains=~.
DNSSEC=no
LLMNR=no
MulticastDNS=no
END

$bus --config-file=/run/bus.conf --nofork --nopidfile 2> "$directory/bus.log" &
bus_pid=$!
trap 'kill $bus_pid 2> /dev/null' EXIT
until test -S /run/dbus/system_bus_socket; do kill -0 $bus_pid; done
SYSTEMD_LOG_TARGET=console $resolved 2> "$directory/resolved.log" &
resolved_pid=$!
trap 'kill $resolved_pid $bus_pid 2> /dev/null' EXIT
until dig +short +time=1 +tries=1 @127.0.0.53 localhost > /dev/null; do kill -0 $resolved_pid; done

for name in github.com www.lab.example evil.example printer metadata.github.com; do
    echo "= $name"
    $resolvectl --legend=no query $name 2>&1 || true
done
echo "= MX"
$resolvectl --legend=no query --type=MX mail.lab.example 2>&1 || true
echo "= stub"
dig +short +time=5 +tries=1 @127.0.0.53 long.github.com | wc -l
