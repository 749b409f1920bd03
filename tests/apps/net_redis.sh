# A database server and its clients: single requests, pipelines, a subscription.
. /apps/net_lib.sh
serve() { redis-server --port 6379 --bind '*' --protected-mode no --save '' --appendonly no --daemonize yes >/dev/null; }
use() {
    up 6379
    cli() { redis-cli -h "$at" "$@"; }
    bench() { redis-benchmark -h "$at" -q "$@" | tr '\r' '\n' | sed -n 's/: [0-9.]* requests per second.*//p'; }
    cli ping
    bench -n $(part 5000) -c 50 -t set,get,lpush,mset
    bench -n $(part 20000) -c 50 -P 16 -t set,get
    for i in $(seq $(part 2000)); do echo "SET key$i value$i"; done | cli --pipe | tail -1
    cli get key99
    cli --csv subscribe news >heard &
    for _ in $(seq 100); do [ "$(cli publish news extra)" = 1 ] && break; sleep 0.1; done
    cli shutdown nosave
    wait $!
    sort -u heard
}
play
