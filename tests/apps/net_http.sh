# Web servers of Node, of Python's asyncio and of Go (caddy), under clients of C (wrk, curl), Go (hey) and Node.
. /apps/net_lib.sh
serve() {
    node /apps/net_http.js serve &
    python3 /apps/net_http.py &
    mkdir -p /tmp/site && head -c 200000 /dev/zero | tr '\0' y >/tmp/site/large && echo "caddy here" >/tmp/site/index.html
    HOME=/tmp caddy file-server --listen :8083 --root /tmp/site >/tmp/caddy.log 2>&1 &
}
use() {
    up 8081 8082 8083
    for port in 8081 8082 8083; do
        curl -s "http://$host:$port/"
        wrk -t2 -c32 -d1 "http://$host:$port/" | errors
        hey -n $((100 + 20 * $(part 95))) -c 20 "http://$host:$port/" | grep -E '^ *\[|Error' | sed 's/^[[:space:]]*//; s/[[:space:]]\+/ /g'
    done
    head -c 1000000 /dev/zero | tr '\0' z >body
    for port in 8081 8082; do curl -s --data-binary @body "http://$host:$port/echo" | md5sum; done
    curl -s "http://$host:8083/large" | wc -c
    node /apps/net_http.js use "$host"
}
play
# Nothing of it ends by itself.
[ "$role" = both ] && kill $(jobs -p)
exit 0
