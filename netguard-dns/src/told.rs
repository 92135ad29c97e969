//! Which name an address was last told a slot by: for whoever asks later what an address was. Opens nothing. Each slot has a
//! bounded memory of its own, in which the addresses that were told longest ago make room.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use foldhash::quality::RandomState;

/// How many addresses of one slot are remembered.
const ADDRESSES_MAX: usize = 1024;

/// What one slot was told.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    by_address: HashMap<IpAddr, Name, RandomState>,
    /// How often something was told.
    count: u64,
}

#[derive(Debug)]
struct Name {
    name: Box<str>,
    /// When it was told last, as the count of that moment.
    at: u64,
}

impl Told {
    /// Whoever panicked has left nothing half done: each entry is written at once.
    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the addresses of an answer. What is known already costs no memory anew.
    pub(crate) fn remember(&self, name: &str, addresses: &[IpAddr]) {
        let mut names = self.names();
        for address in addresses {
            names.remember(name, *address);
        }
    }

    /// The name that this address was told by last.
    pub(crate) fn name_of(&self, address: IpAddr) -> Option<String> {
        self.names().by_address.get(&address).map(|it| it.name.to_string())
    }

    /// Forgets all of it.
    pub(crate) fn clear(&self) {
        *self.names() = Names::default();
    }
}

impl Names {
    fn remember(&mut self, name: &str, address: IpAddr) {
        self.count += 1;
        let at = self.count;
        if let Some(known) = self.by_address.get_mut(&address) {
            known.at = at;
            if *known.name != *name {
                known.name = name.into();
            }
            return;
        }
        if self.by_address.len() >= ADDRESSES_MAX {
            let oldest = self.by_address.iter().min_by_key(|(_, it)| it.at);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                self.by_address.remove(&oldest);
            }
        }
        self.by_address.insert(address, Name { name: name.into(), at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> IpAddr {
        IpAddr::from(u32::try_from(number).unwrap().to_be_bytes())
    }

    #[test]
    fn the_latest_name_counts() {
        let told = Told::default();
        told.remember("one.example", &[address(1), address(2)]);
        told.remember("two.example", &[address(2)]);
        assert_eq!(told.name_of(address(1)).as_deref(), Some("one.example"));
        assert_eq!(told.name_of(address(2)).as_deref(), Some("two.example"));
        assert_eq!(told.name_of(address(3)), None);
        told.clear();
        assert_eq!(told.name_of(address(1)), None);
    }

    #[test]
    fn what_was_told_longest_ago_makes_room() {
        let told = Told::default();
        for number in 0..ADDRESSES_MAX {
            told.remember("a.example", &[address(number)]);
        }
        told.remember(
            "a.example",
            &[address(0), address(ADDRESSES_MAX), address(ADDRESSES_MAX + 1)],
        );
        assert_eq!(told.names().by_address.len(), ADDRESSES_MAX);
        for (number, is_there) in
            [(0, true), (1, false), (2, false), (3, true), (ADDRESSES_MAX, true)]
        {
            assert_eq!(told.name_of(address(number)).is_some(), is_there, "{number}");
        }
    }
}
