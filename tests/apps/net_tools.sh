# Small servers and their clients: memcached, socat, openssl, iperf3.
. /apps/net_lib.sh
serve() {
    certificate
    memcached -u root -l 0.0.0.0 -p 11211 -U 11211 -d
    # Whatever comes is sent back once it has ended; it is told apart by its sum.
    socat TCP-LISTEN:9000,reuseaddr,fork EXEC:'md5sum' &
    socat TCP6-LISTEN:9001,reuseaddr,fork,ipv6only=1 EXEC:'md5sum' &
    socat UDP-RECVFROM:9002,reuseaddr,fork EXEC:'tr a-z A-Z' &
    openssl s_server -accept 4433 -key /shared/key.pem -cert /shared/cert.pem -www >/dev/null 2>&1 &
    iperf3 -s -D
}
use() {
    up 11211 9000 4433 5201
    ask() { printf 'set k 0 0 5\r\nhello\r\nget k\r\nquit\r\n' | socat -t 5 - "TCP:$at:11211"; }
    ask | tr -d '\r'
    python3 - "$at" <<'P'
import socket, sys, threading
# Several clients, requests in batches.
def client(n):
    s = socket.create_connection((sys.argv[1], 11211)); f = s.makefile("rwb")
    for i in range(20):
        f.write(b"".join(b"set %d:%d:%d 0 0 100\r\n%s\r\n" % (n, i, j, b"v" * 100) for j in range(50))); f.flush()
        for j in range(50): assert f.readline() == b"STORED\r\n"
    f.write(b"get %d:19:49\r\n" % n); f.flush(); f.readline(); got.append(f.readline() == b"v" * 100 + b"\r\n")
got = []
threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print("memcached", got.count(True))
P
    head -c 3000000 /dev/zero | tr '\0' d >data
    socat -t 10 - "TCP:$at:9000" <data
    for _ in $(seq 50); do
        echo datagram | socat -t 0.5 - "UDP:$at:9002" >answer
        [ -s answer ] && break
    done
    cat answer
    page() { (printf 'GET / HTTP/1.0\r\n\r\n'; sleep 0.5) | openssl s_client -connect "$at:4433" -CAfile /shared/cert.pem -verify_return_error -quiet 2>/dev/null; }
    page | head -1 | tr -d '\r'
    for way in "-n 100M" "-n 100M -R" "-n 50M --bidir" "-n 50M -P 4" "-n 5M -u -b 100M -l 1400"; do
        # The server ends its test a moment after the client.
        for _ in $(seq 50); do
            # shellcheck disable=SC2086
            iperf3 -c "$at" $way >report 2>&1 && break
            sleep 0.1
        done
        echo "iperf3 $way: $(grep -c -E 'sender|receiver' report)"
    done
}
play
if [ "$role" = both ]; then
    alone
    socat -t 10 - 'TCP6:[::1]:9001' <data
fi
