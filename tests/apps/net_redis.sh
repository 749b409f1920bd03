# A database server and its clients: single requests, pipelines, a subscription.
set -eu
cd /tmp
redis-server --port 6379 --bind 127.0.0.1 --save '' --appendonly no --daemonize yes >/dev/null
for _ in $(seq 100); do redis-cli ping >/dev/null 2>&1 && break; sleep 0.1; done
redis-cli ping
redis-benchmark -q -n 5000 -c 50 -t set,get,lpush,mset | tr '\r' '\n' | sed -n 's/: [0-9.]* requests per second.*//p'
redis-benchmark -q -n 20000 -c 50 -P 16 -t set,get | tr '\r' '\n' | sed -n 's/: [0-9.]* requests per second.*//p'
for i in $(seq 2000); do echo "SET key$i value$i"; done | redis-cli --pipe | tail -1
redis-cli get key1999
redis-cli --csv subscribe news >heard &
for _ in $(seq 100); do [ "$(redis-cli publish news extra)" = 1 ] && break; sleep 0.1; done
redis-cli shutdown nosave
wait || true
sort -u heard
