# Small servers and their clients: memcached, socat, openssl, iperf3.
set -u
cd /tmp
# Tries until the server has come up.
again() { for _ in $(seq 100); do "$@" >out 2>/dev/null && [ -s out ] && break; sleep 0.1; done; cat out; }
memcached -u root -l 127.0.0.1 -p 11211 -U 0 -d
ask() { printf 'set k 0 0 5\r\nhello\r\nget k\r\nquit\r\n' | socat -t 5 - TCP:127.0.0.1:11211; }
again ask | tr -d '\r'
head -c 3000000 /dev/urandom >data
socat -u TCP-LISTEN:9000,reuseaddr OPEN:copy,creat &
for _ in $(seq 100); do socat -u OPEN:data TCP:127.0.0.1:9000 2>/dev/null && break; sleep 0.1; done
wait $!
cmp data copy && echo "tcp: the same"
socat -u TCP6-LISTEN:9001,reuseaddr OPEN:copy6,creat &
for _ in $(seq 100); do socat -u OPEN:data 'TCP6:[::1]:9001' 2>/dev/null && break; sleep 0.1; done
wait $!
cmp data copy6 && echo "tcp6: the same"
socat UDP-RECVFROM:9002,fork EXEC:'tr a-z A-Z' &
server=$!
answer() { echo datagram | socat -t 0.5 - UDP:127.0.0.1:9002; }
again answer
kill $server
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost 2>/dev/null
openssl s_server -accept 4433 -key key.pem -cert cert.pem -www >/dev/null 2>&1 &
server=$!
page() { (printf 'GET / HTTP/1.0\r\n\r\n'; sleep 0.5) | openssl s_client -connect localhost:4433 -CAfile cert.pem -verify_return_error -quiet; }
again page | head -1 | tr -d '\r'
kill $server
for way in "" -R; do
    iperf3 -s -1 -B 127.0.0.1 >/dev/null &
    for _ in $(seq 100); do iperf3 -c 127.0.0.1 -n 200M $way >report 2>/dev/null && break; sleep 0.1; done
    wait $!
    grep -c -E 'sender|receiver' report
done
