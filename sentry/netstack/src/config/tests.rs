use super::*;
use crate::Prefix;
use chitin_abi::Errno;
use chitin_abi::netdevice::*;
use chitin_abi::rtnetlink::*;
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

thread_local! {
    static STEPS: Cell<usize> = const { Cell::new(0) };
}

/// So many entries of a table are looked at.
pub(super) fn step(count: usize) {
    STEPS.set(STEPS.get() + count);
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn eth(name: &str) -> Link {
    Link {
        index: 0,
        name: name.to_owned(),
        kind: LinkKind::Veth,
        flags: IFF_BROADCAST | IFF_MULTICAST | IFF_UP | IFF_RUNNING | IFF_LOWER_UP,
        mtu: 1500,
        max_mtu: 0,
        hw_type: ARPHRD_ETHER,
        hw_addr: [2, 0, 0, 0, 0, 1],
        broadcast: [0xff; 6],
        ..Link::loopback()
    }
}

fn up(config: &Config, link: u32, up: bool) {
    let change = LinkChange { flags: (IFF_UP, if up { IFF_UP } else { 0 }), ..LinkChange::default() };
    config.link_change(link, &change).unwrap();
}

fn config() -> (Config, u32) {
    let config = Config::new(None);
    up(&config, LO, true);
    let eth0 = config.link_add(eth("eth0")).unwrap();
    let mut v4 = Address::new(eth0, ip("10.1.2.3"), 24);
    v4.broadcast = Some("10.1.2.255".parse().unwrap());
    config.addr_add(v4, false).unwrap();
    config.addr_add(Address::new(eth0, ip("fd00::3"), 64), false).unwrap();
    config.addr_add(Address::new(eth0, ip("fe80::3"), 64), false).unwrap();
    (config, eth0)
}

fn shown(config: &Config) -> Vec<String> {
    let name = |r: &RouteEntry| match r.kind {
        RTN_LOCAL => "local ",
        RTN_BROADCAST => "broadcast ",
        RTN_MULTICAST => "multicast ",
        _ => "",
    };
    let routes = config.routes();
    routes.iter().map(|r| format!("{}{}/{}", name(r), r.dst.addr, r.dst.len)).collect()
}

#[test]
fn lo_has_what_linux_gives_it() {
    let config = Config::new(None);
    assert!(config.routes().is_empty());
    assert_eq!(config.source_for(ip("127.0.0.1")), Err(Errno::ENETUNREACH));
    up(&config, LO, true);
    let expected =
        ["broadcast 127.255.255.255/32", "local 127.0.0.1/32", "local 127.0.0.0/8", "local ::1/128"];
    let mut got = shown(&config);
    got.sort();
    let mut expected = expected.map(str::to_owned);
    expected.sort();
    assert_eq!(got, expected);
    assert!(
        config.is_local(ip("127.9.9.9")) && config.is_local(ip("::1")) && !config.is_local(ip("10.1.2.3"))
    );
    assert_eq!(config.source_for(ip("127.9.9.9")), Ok(ip("127.0.0.1")));
    let any = config.route(ip("0.0.0.0"), None, 0, 0).unwrap();
    assert_eq!((any.dst, any.is_local(), any.link), (ip("127.0.0.1"), true, LO));
    up(&config, LO, false);
    // What is this host's own stays that, and is not to be reached.
    assert!(config.is_local(ip("127.0.0.1")) && !config.is_local(ip("::1")));
    assert_eq!(config.source_for(ip("127.0.0.1")), Err(Errno::ENETUNREACH));
    up(&config, LO, true);
    assert_eq!(config.routes().len(), 4);
}

#[test]
fn addresses_bring_routes_and_take_them_along() {
    let (config, eth0) = config();
    let got = shown(&config);
    for wanted in [
        "local 10.1.2.3/32",
        "broadcast 10.1.2.255/32",
        "10.1.2.0/24",
        "local fd00::3/128",
        "fd00::/64",
        "fe80::/64",
        "multicast ff00::/8",
    ] {
        assert_eq!(got.iter().filter(|r| *r == wanted).count(), 1, "{wanted}: {got:?}");
    }
    assert_eq!(config.addr_add(Address::new(eth0, ip("10.1.2.3"), 24), false), Err(Errno::EEXIST));
    assert_eq!(config.addr_add(Address::new(99, ip("10.1.2.3"), 24), false), Err(Errno::ENODEV));
    config.addr_add(Address::new(eth0, ip("10.1.2.4"), 24), false).unwrap();
    let second = config.addresses().into_iter().find(|a| a.addr == ip("10.1.2.4")).unwrap();
    assert_ne!(second.flags & IFA_F_SECONDARY, 0);
    config.addr_del(eth0, ip("10.1.2.3"), 24).unwrap();
    assert!(!config.is_local(ip("10.1.2.3")) && config.is_local(ip("10.1.2.4")));
    assert_eq!(config.source_for(ip("10.1.2.9")), Ok(ip("10.1.2.4")), "the secondary one took its place");
    assert_eq!(config.addr_del(eth0, ip("10.1.2.3"), 24), Err(Errno::EADDRNOTAVAIL));
    config.link_del(eth0).unwrap();
    assert_eq!(config.routes().len(), 4, "{:?}", shown(&config));
    assert_eq!(config.addresses().len(), 2);
}

#[test]
fn a_link_goes_in_as_many_steps_as_it_has_addresses() {
    let count = |addresses: u32| {
        let (config, eth0) = config();
        for n in 1..=addresses {
            let own = Ipv4Addr::from_bits(0x0a14_0000 + n);
            config.addr_add(Address::new(eth0, own.into(), 16), false).unwrap();
        }
        let other = config.link_add(eth("eth1")).unwrap();
        let from = RouteEntry {
            prefsrc: Some(ip("10.20.0.1")),
            ..RouteEntry::new(Prefix::host(ip("10.9.9.9")), other)
        };
        config.route_add(from, RouteMode::New).unwrap();
        STEPS.set(0);
        config.link_del(eth0).unwrap();
        assert!(!shown(&config).iter().any(|route| route.starts_with("10.9.9.9")), "it began there");
        STEPS.get()
    };
    let (few, many) = (count(100), count(1000));
    assert!(many < 12 * few, "{few} steps with 100, {many} with 1000");
}

#[test]
fn a_link_comes_up_in_as_many_steps_as_it_has_addresses() {
    let count = |addresses: u32| {
        let (config, eth0) = config();
        let routes = |config: &Config| config.routes().len();
        let before = routes(&config);
        for n in 1..=addresses {
            let own = Ipv4Addr::from_bits(0x0a14_0000 + n * 256);
            config.addr_add(Address::new(eth0, own.into(), 24), false).unwrap();
            let own = Ipv6Addr::from_bits((0xfd01 << 112) + u128::from(n) * (1 << 64));
            config.addr_add(Address::new(eth0, own.into(), 64), false).unwrap();
        }
        let (grown, order) = (routes(&config), shown(&config));
        assert!(grown >= before + 4 * addresses as usize);
        let v4 =
            |list: &[String]| list.iter().filter(|route| !route.contains(':')).cloned().collect::<Vec<_>>();
        up(&config, eth0, false);
        STEPS.set(0);
        up(&config, eth0, true);
        assert_eq!(v4(&shown(&config)), v4(&order), "the same as one by one");
        // Whatever is there is not added again.
        up(&config, eth0, true);
        STEPS.get()
    };
    let (few, many) = (count(20), count(200));
    assert!(many < 12 * few, "{few} steps with 20, {many} with 200");
}

#[test]
fn lookups() {
    let (config, eth0) = config();
    let default = RouteEntry::new(Prefix::any(true), eth0).via(ip("10.1.2.1"));
    config.route_add(default.clone(), RouteMode::New).unwrap();
    assert_eq!(config.route_add(default, RouteMode::New), Err(Errno::EEXIST));
    let far = config.route(ip("8.8.8.8"), None, 0, 0).unwrap();
    assert_eq!((far.link, far.next_hop(), far.src, far.mtu), (eth0, ip("10.1.2.1"), ip("10.1.2.3"), 1500));
    let near = config.route(ip("10.1.2.77"), None, 0, 0).unwrap();
    assert_eq!((near.next_hop(), near.kind), (ip("10.1.2.77"), RTN_UNICAST));
    let own = config.route(ip("10.1.2.3"), None, 0, 0).unwrap();
    assert_eq!((own.is_local(), own.link, own.owner, own.src), (true, LO, eth0, ip("10.1.2.3")));
    assert_eq!(config.route(ip("10.1.2.255"), None, 0, 0).unwrap().kind, RTN_BROADCAST);
    let group = config.route(ip("224.1.1.1"), None, 0, 0).unwrap();
    assert_eq!((group.kind, group.link), (RTN_MULTICAST, eth0));
    assert_eq!(config.route(ip("255.255.255.255"), None, eth0, 0).unwrap().kind, RTN_BROADCAST);
    assert_eq!(config.route(ip("fd01::1"), None, 0, 0), Err(Errno::ENETUNREACH));
    assert_eq!(config.source_for(ip("fd00::9")), Ok(ip("fd00::3")));
    assert_eq!(config.route(ip("fe80::9"), None, eth0, 0).unwrap().src, ip("fe80::3"));
    assert_eq!(config.route(ip("ff02::1"), None, eth0, 0).unwrap().src, ip("fe80::3"));
    let not_near = RouteEntry::new(Prefix::of(ip("192.168.0.0"), 16), eth0).via(ip("172.16.0.1"));
    assert_eq!(config.route_add(not_near, RouteMode::New), Err(Errno::ENETUNREACH));
    for (kind, error) in [
        (RTN_BLACKHOLE, Errno::EINVAL),
        (RTN_UNREACHABLE, Errno::EHOSTUNREACH),
        (RTN_PROHIBIT, Errno::EACCES),
    ] {
        let dst = Prefix::host(ip("9.9.9.9"));
        config.route_add(RouteEntry { kind, ..RouteEntry::new(dst, 0) }, RouteMode::Replace).unwrap();
        assert_eq!(config.route(ip("9.9.9.9"), None, 0, 0), Err(error));
    }
    config.route_del(RT_TABLE_MAIN, true, |r| r.dst.len == 32).unwrap();
    assert!(config.route(ip("9.9.9.9"), None, 0, 0).is_ok());
}

#[test]
fn rules_choose_tables() {
    let (config, eth0) = config();
    let table = 100;
    let route = RouteEntry { table, ..RouteEntry::new(Prefix::any(true), eth0) };
    config.route_add(route, RouteMode::New).unwrap();
    assert_eq!(config.route(ip("8.8.8.8"), None, 0, 0), Err(Errno::ENETUNREACH));
    let rule = Rule { mark: Some((7, u32::MAX)), ..Rule::table(true, 1000, table) };
    config.rule_add(rule.clone()).unwrap();
    assert_eq!(config.rule_add(rule), Err(Errno::EEXIST));
    assert!(config.route(ip("8.8.8.8"), None, 0, 7).is_ok());
    assert_eq!(config.route(ip("8.8.8.8"), None, 0, 8), Err(Errno::ENETUNREACH));
    config.rule_del(|r| r.priority == 1000).unwrap();
    assert_eq!(config.rule_del(|r| r.priority == 1000), Err(Errno::ENOENT));
}

#[test]
fn changes_are_told() {
    let config = Config::new(None);
    let told = Arc::new(Mutex::new(Vec::new()));
    let told2 = told.clone();
    config.listen(move |change| told2.lock().push(format!("{change:?}")));
    up(&config, LO, true);
    let all = told.lock().join("\n");
    assert!(all.starts_with("Link(") && all.contains("Address(") && all.contains("Route("), "{all}");
    assert_eq!(told.lock().len(), 1 + 2 + 4);
}

#[test]
fn what_guests_add_is_bounded() {
    let (config, eth0) = config();
    let mut last = Ok(());
    for n in 0..10_000_u32 {
        let dst = Prefix::host(IpAddr::V4((0x0b00_0000 + n).into()));
        last = config.route_add(RouteEntry::new(dst, eth0), RouteMode::New);
    }
    assert_eq!(last, Err(Errno::ENOBUFS));
    assert!(config.routes().len() <= MAX_ROUTES);
}

/// There are as many tables as numbers: none stays without routes.
#[test]
fn tables_go_with_their_last_route() {
    let config = Config::new(None);
    up(&config, LO, true);
    let tables = || config.tables.read().routes.len();
    let before = tables();
    let route = |table| RouteEntry { table, ..RouteEntry::new(Prefix::of(ip("10.9.0.0"), 16), LO) };
    for table in 1000..1100 {
        assert_eq!(config.route_add(route(table), RouteMode::Change), Err(Errno::ENOENT));
        config.route_add(route(table), RouteMode::New).unwrap();
        assert_eq!(config.route_add(route(table), RouteMode::New), Err(Errno::EEXIST));
        config.route_del(table, true, |_| true).unwrap();
    }
    assert_eq!(tables(), before);
    let link = config.link_add(eth("eth0")).unwrap();
    config
        .route_add(RouteEntry { table: 77, ..RouteEntry::new(Prefix::any(true), link) }, RouteMode::New)
        .unwrap();
    config.link_del(link).unwrap();
    assert_eq!(tables(), before);
}

#[test]
fn the_ways_of_routes_are_counted() {
    let config = Config::new(None);
    up(&config, LO, true);
    let hop = NextHop { link: LO, gateway: None, weight: 0, flags: 0 };
    let route = |n: u32, hops: usize| RouteEntry {
        metric: n,
        hops: vec![hop.clone(); hops],
        ..RouteEntry::new(Prefix::of(ip("10.9.0.0"), 16), LO)
    };
    assert_eq!(config.route_add(route(1, MAX_HOPS + 1), RouteMode::New), Err(Errno::ENOBUFS));
    let added =
        (1..200).take_while(|n| config.route_add(route(*n, MAX_HOPS), RouteMode::New).is_ok()).count();
    assert!((30..100).contains(&added), "{added}");
}

/// What is local is what the local table says, however its routes come and go.
#[test]
fn local_addresses_follow_their_routes() {
    let config = Config::new(None);
    up(&config, LO, true);
    let own = ip("10.7.7.7");
    let route = |protocol| RouteEntry {
        table: RT_TABLE_LOCAL,
        kind: RTN_LOCAL,
        scope: RT_SCOPE_HOST,
        protocol,
        ..RouteEntry::new(Prefix::host(own), LO)
    };
    config.route_add(route(3), RouteMode::New).unwrap();
    config.route_add(route(4), RouteMode::Prepend).unwrap();
    config.route_del(RT_TABLE_LOCAL, true, |r| r.dst == Prefix::host(own)).unwrap();
    assert!(config.is_local(own), "one of two is left");
    config.route_add(route(5), RouteMode::Replace).unwrap();
    config.route_add(route(6), RouteMode::Change).unwrap();
    assert!(config.is_local(own));
    config.route_del(RT_TABLE_LOCAL, true, |r| r.dst == Prefix::host(own)).unwrap();
    assert!(!config.is_local(own), "what was replaced is gone");
    assert_eq!(config.input_kind(own, LO), None);
}
