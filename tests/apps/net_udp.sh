# Datagrams at a rate: $RATE packets a second are answered.
. /apps/net_lib.sh
serve() { /guest/udp_echo serve 7007 & }
use() { /guest/udp_echo use "$at" 7007 50000 "$RATE"; }
play
[ "$role" = both ] && kill $!
exit 0
