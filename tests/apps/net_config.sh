# Configuring a network namespace of one's own, by ioctl (net-tools) and by rtnetlink (iproute2).
exec unshare -Urnm bash -c '
set -u
lines() { sed -E "s/[[:space:]]+/ /g; s/ $//; s/ linkdown//; s/ (DOWN|UNKNOWN|UP)( |$)/ /; s/flags=.* mtu/mtu/; / (ether|loop|RX|TX|inet6 fe80).*/d; /valid_lft|link\//d; /^$/d"; }
try() { echo "== $*"; "$@" 2>&1 | lines; }
try ifconfig lo
try ifconfig lo up
try ifconfig lo mtu 1400
try ifconfig lo
ip link add nic0 type bridge 2>/dev/null || ip link add nic0 type dummy
try route add -net 10.9.0.0 netmask 255.255.0.0 dev nic0
try ifconfig nic0 10.1.2.3 netmask 255.255.255.0
try ifconfig nic0:1 192.168.7.8
try ifconfig nic0 add fd00::5/64
try ip -br -4 addr
try ip -4 route
try route add default gw 10.1.2.9
try route add -net 10.9.0.0 netmask 255.255.0.0 dev nic0
try route add -host 10.8.0.1 reject
try route -A inet6 add fd01::/64 dev nic0
try ip -4 route
try ip -6 route show fd01::/64
try route -n
try route del default
try route del default
# Linux lists them by a hash.
arps() { try arp -n | sort; sed -E "s/ +/ /g" /proc/net/arp | sort; try ip -4 neigh | sort; }
try arp -i nic0 -s 10.1.2.8 02:00:00:00:00:08
try arp -s 10.1.2.9 02:00:00:00:00:09 temp
arps
try arp -n 10.1.2.8
try arp -n 10.1.2.77
try arp -s 10.77.2.8 02:00:00:00:00:08
try arp -i nic7 -s 10.1.2.8 02:00:00:00:00:08
try arp -i lo -s 10.1.2.8 02:00:00:00:00:08
try arp -s 10.1.2.3 02:00:00:00:00:08
try arp -d 10.1.2.8
try arp -d 10.1.2.8
arps
try arp -d 10.1.2.9
arps
try ifconfig nic0:1 down
try ifconfig nic0 del fd00::5/64
try ip -br -4 addr
try ifconfig nic0 0.0.0.0
try ip -br -4 addr
try ip -4 route
try ifconfig nic0 broadcast 10.1.2.7
try ifconfig nic0 down
try ip link set nic0 name nic1 mtu 1300
try ifconfig nic1
try ifconfig nic7 up
echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
try ip -6 addr
ip addr add fd00::7/64 dev lo 2>/dev/null || echo refused
'
