# A web server of Java's library, compiled here; its pool of threads and a client of Java's own.
. /apps/net_lib.sh
serve() {
    mkdir -p /tmp/classes && ecj -17 -proc:none -d /tmp/classes /apps/Hello.java
    java -cp /tmp/classes Hello serve &
}
use() {
    up 8084
    curl -s "http://$host:8084/"
    wrk -t2 -c32 -d2 "http://$host:8084/" | errors
    mkdir -p /tmp/classes && ecj -17 -proc:none -d /tmp/classes /apps/Hello.java
    java -cp /tmp/classes Hello use "$host"
}
play
[ "$role" = both ] && kill $(jobs -p)
exit 0
