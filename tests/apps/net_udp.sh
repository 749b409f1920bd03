# Datagrams at a rate: $RATE packets a second are answered; and of a tenth of that, sent evenly, hardly any is lost.
. /apps/net_lib.sh
serve() { /guest/udp_echo serve 7007 & }
use() {
    /guest/udp_echo use "$at" 7007 50000 "$RATE"
    /guest/udp_echo pace "$at" 7007 "$((RATE / 10))" 2000 10
}
play
[ "$role" = both ] && kill $!
exit 0
