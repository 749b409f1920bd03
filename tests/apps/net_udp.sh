# Datagrams at a rate: an echo of 50,000 packets a second.
. /apps/net_lib.sh
serve() { /guest/udp_echo serve 7007 & }
use() { /guest/udp_echo use "$at" 7007 50000 50000; }
play
[ "$role" = both ] && kill $!
exit 0
