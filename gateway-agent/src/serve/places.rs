//! Places for connections, of which there are so many, and for each client
//! address fewer: nobody takes them all. Touched when a connection begins and
//! when it ends, and by no request.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Parts of the table of addresses: two cores seldom want the same one.
const SHARDS: usize = 64;

/// Places for connections, shared by all cores.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    all: Arc<AtomicUsize>,
    by_address: Arc<Addresses>,
}

#[derive(Debug)]
struct Addresses(Vec<Mutex<HashMap<u128, u32>>>);

/// One connection's.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

/// One of an address's.
#[derive(Debug)]
pub(crate) struct Seat {
    addresses: Arc<Addresses>,
    key: u128,
}

impl Places {
    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.all.load(Relaxed)
    }

    /// One of `most`, if one is free.
    pub(crate) fn take(&self, most: usize) -> Option<Place> {
        let place = Place(self.all.clone());
        let taken = self.all.fetch_add(1, Relaxed);
        (taken < most).then_some(place)
    }

    /// One of an address's `most`, if one is free.
    pub(crate) fn seat(&self, address: IpAddr, most: u32) -> Option<Seat> {
        let key = key(address);
        let mut shard = self.by_address.shard(key);
        let taken = shard.entry(key).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        Some(Seat {
            addresses: self.by_address.clone(),
            key,
        })
    }
}

/// An IPv4 address, or the /64 of an IPv6 address: less is handed out to nobody,
/// so what is behind one is one client.
fn key(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        // The upper half is never empty where the address is one of a client.
        IpAddr::V6(address) => address.to_bits() >> 64 << 64 | 1,
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Addresses {
    fn shard(&self, key: u128) -> MutexGuard<'_, HashMap<u128, u32>> {
        // Spread by all bits that differ between clients.
        let mixed = (key ^ key >> 64) as u64;
        let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        let shard = self.0[mixed as usize % SHARDS].lock();
        shard.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut shard = self.addresses.shard(self.key);
        if let Some(taken) = shard.get_mut(&self.key) {
            *taken -= 1;
            if *taken == 0 {
                shard.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn there_are_so_many_places_and_a_freed_one_can_be_taken() {
        let places = Places::default();
        let mut taken: Vec<_> = (0..10).map_while(|_| places.take(10)).collect();
        assert_eq!(taken.len(), 10);
        assert!(places.take(10).is_none());
        taken.pop();
        assert!(places.take(10).is_some());
    }

    #[test]
    fn an_address_has_fewer_and_they_are_its_own() {
        let places = Places::default();
        let one = address("192.0.2.1");
        let mut taken: Vec<_> = (0..3).map_while(|_| places.seat(one, 3)).collect();
        assert_eq!(taken.len(), 3);
        assert!(places.seat(one, 3).is_none());
        // It is the same one when it is written as IPv6.
        assert!(places.seat(address("::ffff:192.0.2.1"), 3).is_none());
        assert!(places.seat(address("192.0.2.2"), 3).is_some());
        taken.pop();
        assert!(places.seat(one, 3).is_some());
    }

    #[test]
    fn what_is_behind_one_64_is_one_client() {
        let places = Places::default();
        let _seat = places.seat(address("2001:db8::1"), 1).expect("it is free");
        assert!(places.seat(address("2001:db8::ffff:2"), 1).is_none());
        assert!(places.seat(address("2001:db8:0:1::1"), 1).is_some());
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let places = Places::default();
        for n in 0..1000_u32 {
            drop(places.seat(std::net::Ipv4Addr::from_bits(n).into(), 1));
        }
        let known: usize = places
            .by_address
            .0
            .iter()
            .map(|shard| shard.lock().expect("no panic").len())
            .sum();
        assert_eq!(known, 0);
    }
}
