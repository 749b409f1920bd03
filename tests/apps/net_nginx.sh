# A web server with several processes, its port shared by SO_REUSEPORT, and a load generator.
set -eu
chmod 755 /tmp
mkdir -p /tmp/web && cd /tmp/web
head -c 300000 /dev/zero | tr '\0' x >large
echo "hello world" >index.html
cat >nginx.conf <<'E'
worker_processes 2;
pid /tmp/web/pid;
error_log /tmp/web/error.log;
events { worker_connections 512; }
http {
    access_log off;
    sendfile on;
    tcp_nopush on;
    server { listen 127.0.0.1:8080 reuseport; listen [::1]:8080; root /tmp/web; }
}
E
nginx -c /tmp/web/nginx.conf
for _ in $(seq 100); do curl -sf http://127.0.0.1:8080/ >/dev/null && break; sleep 0.1; done
curl -s http://127.0.0.1:8080/
curl -s 'http://[::1]:8080/'
curl -s http://localhost:8080/large | wc -c
curl -s -r 100-199 http://127.0.0.1:8080/large | wc -c
# Errors are only counted where there are any.
wrk -t2 -c64 -d2 http://127.0.0.1:8080/ | grep -E 'Socket errors|Non-2xx' || echo "no errors"
wrk -t2 -c64 -d1 http://127.0.0.1:8080/large | grep -E 'Socket errors|Non-2xx' || echo "no errors"
nginx -c /tmp/web/nginx.conf -s quit 2>/dev/null
for _ in $(seq 100); do [ -e pid ] || break; sleep 0.1; done
curl -s http://127.0.0.1:8080/ || echo "refused: $?"
