# A name server and its clients: over UDP and TCP, answers that do not fit, many at a time, the library's resolver.
. /apps/net_lib.sh
serve() {
    long=$(head -c 200 /dev/zero | tr '\0' t)
    set --
    for i in $(seq 12); do set -- "$@" "--txt-record=long.test,$i$long"; done
    dnsmasq --user=root --conf-file=/dev/null --no-resolv --no-hosts --port=53 --address=/a.test/192.0.2.7 --address=/a.test/2001:db8::7 \
        --mx-host=a.test,mail.test,10 --local=/test/ --pid-file=/tmp/dnsmasq.pid "$@"
}
use() {
    up 53
    ask() { dig +time=2 +tries=3 "@$at" "$@"; }
    ask +short a.test a
    ask +short a.test aaaa
    ask +short +tcp a.test mx
    ask none.test | grep -o NXDOMAIN
    ask +short +ignore +noedns long.test txt | wc -l
    ask +short long.test txt | wc -l
    ask +short +bufsize=4096 +notcp long.test txt | wc -l
    for i in $(seq $(part 500)); do echo "n$i.a.test a"; done >names
    ask +short -f names | sort | uniq -c
    echo "nameserver $at" >/etc/resolv.conf
    getent ahosts x.a.test | awk '{print $1}' | sort -u
    python3 -c 'import socket; print(sorted({a[4][0] for a in socket.getaddrinfo("b.a.test", 80)}))'
    getent hosts none.test || echo "not there: $?"
}
play
[ "$role" = both ] && kill "$(cat /tmp/dnsmasq.pid)"
exit 0
