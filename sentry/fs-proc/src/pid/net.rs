//! /proc/PID/net: the tables of the network namespace that a process is in. What the stack does not answer for is empty
//! but for its heading.

use super::Subject;
use super::access::Access;
use super::table::{PidEntry, PidKind, PidShow};
use chitin_abi::Errno;
use chitin_kernel::inspect::ProcNet;
use chitin_vfs::Caller;

/// The stack's text for `name`, or the heading.
fn show(subject: &Subject, name: &str, heading: &str, out: &mut Vec<u8>) -> Result<(), Errno> {
    let files = subject.shared.kernel.extension::<ProcNet>();
    let net = subject.task.as_ref().map(|task| task.net());
    match files.zip(net).and_then(|(files, net)| files.0.text(&net.stack, name)) {
        Some(text) => out.extend_from_slice(&text),
        None => out.extend_from_slice(heading.as_bytes()),
    }
    Ok(())
}

macro_rules! entries {
    ($($name:literal => $heading:expr;)*) => {
        pub(super) static ENTRIES: &[PidEntry] = &[$({
            fn text(subject: &Subject, _: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
                show(subject, $name, $heading, out)
            }
            PidEntry { name: $name, perm: 0o444, kind: PidKind::Text(text as PidShow, None, Access::Any) }
        }),*];
    };
}

const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     \n";
const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
const UDP: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops            \n";
const UDP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n";
const RAW: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n";
const DEV: &str = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n";
const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT                                                       \n";
const SNMP: &str = "Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates OutTransmits
Ip: 2 64 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
Icmp: InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs InRedirects InEchos InEchoReps InTimestamps InTimestampReps InAddrMasks InAddrMaskReps OutMsgs OutErrors OutRateLimitGlobal OutRateLimitHost OutDestUnreachs OutTimeExcds OutParmProbs OutSrcQuenchs OutRedirects OutEchos OutEchoReps OutTimestamps OutTimestampReps OutAddrMasks OutAddrMaskReps
Icmp: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors
Tcp: 1 200 120000 -1 0 0 0 0 0 0 0 0 0 0 0
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
Udp: 0 0 0 0 0 0 0 0 0
UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
UdpLite: 0 0 0 0 0 0 0 0 0
";

entries! {
    "arp" => "IP address       HW type     Flags       HW address            Mask     Device\n";
    "dev" => DEV;
    "dev_mcast" => "";
    "if_inet6" => "00000000000000000000000000000001 01 80 10 80       lo\n";
    "icmp" => UDP;
    "icmp6" => UDP6;
    "igmp" => "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n";
    "ipv6_route" => "";
    "netlink" => "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n";
    "netstat" => "TcpExt: SyncookiesSent SyncookiesRecv SyncookiesFailed\nTcpExt: 0 0 0\nIpExt: InNoRoutes InTruncatedPkts InMcastPkts OutMcastPkts InBcastPkts OutBcastPkts InOctets OutOctets\nIpExt: 0 0 0 0 0 0 0 0\n";
    "packet" => "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n";
    "protocols" => "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re bi br ha uh gp em\n";
    "psched" => "000003e8 00000040 000f4240 3b9aca00\n";
    "ptype" => "Type Device      Function\n";
    "raw" => RAW;
    "raw6" => UDP6;
    "route" => ROUTE;
    "snmp" => SNMP;
    "sockstat" => "sockets: used 0\nTCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0\nUDP: inuse 0 mem 0\nUDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n";
    "sockstat6" => "TCP6: inuse 0\nUDP6: inuse 0\nUDPLITE6: inuse 0\nRAW6: inuse 0\nFRAG6: inuse 0 memory 0\n";
    "tcp" => TCP;
    "tcp6" => TCP6;
    "udp" => UDP;
    "udp6" => UDP6;
    "udplite" => UDP;
    "udplite6" => UDP6;
    "unix" => "Num       RefCount Protocol Flags    Type St Inode Path\n";
}
