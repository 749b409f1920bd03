# A web server with several processes, its port shared by SO_REUSEPORT; load generators and clients, with TLS and without.
. /apps/net_lib.sh
serve() {
    certificate
    mkdir -p /tmp/web && cd /tmp/web || exit 1
    head -c 300000 /dev/zero | tr '\0' x >large
    echo "hello world" >index.html
    cat >nginx.conf <<'C'
worker_processes 2;
pid /tmp/web/pid;
error_log /tmp/web/error.log;
events { worker_connections 512; }
http {
    access_log off;
    sendfile on;
    tcp_nopush on;
    ssl_certificate /shared/cert.pem;
    ssl_certificate_key /shared/key.pem;
    server {
        listen 8080 reuseport; listen [::]:8080 ipv6only=on; listen 8443 ssl http2 reuseport;
        root /tmp/web;
    }
}
C
    nginx -c /tmp/web/nginx.conf
}
use() {
    up 8080 8443
    echo "$at server" >>/etc/hosts
    curl -s "http://$host:8080/"
    curl -s "http://$host:8080/large" | wc -c
    curl -s -r 100-199 http://server:8080/large | wc -c
    wget -q -O - http://server:8080/large | md5sum
    fetch() { curl -s --cacert /shared/cert.pem "$@"; }
    fetch https://server:8443/
    fetch -w '%{http_version}\n' -o /dev/null https://server:8443/large
    fetch --http1.1 -w '%{http_version} %{size_download}\n' -o /dev/null https://server:8443/large
    wget -q --ca-certificate=/shared/cert.pem -O - https://server:8443/large | md5sum
    curl -s "https://$host:8443/" || echo "not trusted: $?"
    # Many at a time over one connection.
    fetch -Z --parallel-max 20 -o /dev/null -w '%{http_code}\n' "https://server:8443/large?[1-40]" 2>/dev/null | sort | uniq -c
    wrk -t2 -c64 -d1 "http://$host:8080/" | errors
    wrk -t2 -c64 -d1 "http://$host:8080/large" | errors
    wrk -t2 -c32 -d1 "https://$host:8443/" | errors
    wrk -t2 -c16 -d1 "https://$host:8443/large" | errors
    wrk -t1 -c16 -d1 -H 'Connection: close' "http://$host:8080/" | errors
}
play
if [ "$role" = both ]; then
    alone
    curl -s 'http://[::1]:8080/'
    nginx -c /tmp/web/nginx.conf -s quit 2>/dev/null
    for _ in $(seq 100); do [ -e /tmp/web/pid ] || break; sleep 0.1; done
    curl -s http://127.0.0.1:8080/ || echo "refused: $?"
fi
