//! How fast data arrives at the peer (draft-cheng-iccrg-delivery-rate-estimation, Linux's tcp_rate.c): what is sent is stamped
//! with how much had been delivered by then, and its acknowledgement tells how much has been delivered since.

use crate::env::Nanos;

/// What is noted with each piece that is sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stamp {
    /// Bytes delivered by then, and when the last of them were.
    pub delivered: u64,
    pub delivered_at: Nanos,
    /// When the oldest of what was being measured was sent.
    pub first: Nanos,
    /// There was less to send than the network would have taken.
    pub limited: bool,
}

/// The most recently sent of what an acknowledgement is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newest {
    pub stamp: Stamp,
    pub at: Nanos,
    /// Orders those sent at once.
    pub end: super::seq::Seq,
}

/// A connection's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delivery {
    /// Bytes, ever.
    pub delivered: u64,
    pub at: Nanos,
    first: Nanos,
    /// Until so much has been delivered the application is what limits; 0: it does not.
    limited: u64,
}

/// What an acknowledgement says of the path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    pub delivered: u64,
    /// Nanoseconds; 0: nothing can be said.
    pub interval: Nanos,
    pub limited: bool,
    /// [`Delivery::delivered`] when the newest was sent.
    pub prior: u64,
}

impl Delivery {
    /// The stamp of what is sent now. `idle`: nothing else is under way.
    pub fn stamp(&mut self, idle: bool, now: Nanos) -> Stamp {
        if idle {
            (self.first, self.at) = (now, now);
        }
        Stamp {
            delivered: self.delivered,
            delivered_at: self.at,
            first: self.first,
            limited: self.limited != 0,
        }
    }

    /// There is nothing to send, though more could be under way than is.
    pub fn lack(&mut self, in_flight: usize) {
        self.limited = self.delivered.saturating_add(in_flight as u64).max(1);
    }

    pub fn lacks(&self) -> bool {
        self.limited != 0
    }

    /// So many bytes have been delivered.
    pub fn take(&mut self, bytes: usize, newest: Option<Newest>, min_rtt: Nanos, now: Nanos) -> Rate {
        if bytes > 0 {
            self.delivered = self.delivered.saturating_add(bytes as u64);
            self.at = now;
        }
        if self.limited != 0 && self.delivered > self.limited {
            self.limited = 0;
        }
        let Some(newest) = newest else { return Rate::default() };
        self.first = newest.at;
        let stamp = newest.stamp;
        let sending = newest.at.saturating_sub(stamp.first);
        let acknowledging = now.saturating_sub(stamp.delivered_at);
        let interval = sending.max(acknowledging);
        // Faster than anything can be: something was acknowledged that was thought lost.
        let interval = if min_rtt != Nanos::MAX && interval < min_rtt { 0 } else { interval };
        let delivered = self.delivered.saturating_sub(stamp.delivered);
        Rate { delivered, interval, limited: stamp.limited, prior: stamp.delivered }
    }
}
