//! What is in force, held against what should be: programs on interfaces and entries of maps, read from the pins. Needs no
//! daemon and mends nothing, see `watch`.

use std::{collections::BTreeMap, net::IpAddr};

use aya::programs::ProgramInfo;
use netguard_common::{
    Hook, SlotId,
    maps::{self as layout, PlaceEntry, PortEntry, SIDES, ServiceEntry, Side, read_name},
};

use super::{
    Error, PinDirectory, PinnedProgram, ProgramRow,
    attach::hooks_of,
    device,
    maps::{Foreign, PolicyMaps},
    watch::look_at,
};
use crate::policy::Plan;

/// The pinned programs and maps of an instance.
pub struct InForce {
    pins: PinDirectory,
    maps: PolicyMaps,
    ids: BTreeMap<Hook, u32>,
}

/// What holds a program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The interface.
    pub interface: String,
    /// The program.
    pub program: &'static str,
    /// The kernel's number of the link; none for a filter.
    pub link: Option<u32>,
}

impl InForce {
    /// Opens them.
    ///
    /// # Errors
    ///
    /// The instance has no pins, or this process may not read them.
    pub fn open(pins: &PinDirectory) -> Result<Self, Error> {
        let mut ids = BTreeMap::new();
        for hook in Hook::ALL {
            let info = ProgramInfo::from_pin(pins.program(hook));
            let info = info.map_err(|source| Error::program(hook.program(), source))?;
            ids.insert(hook, info.id());
        }
        Ok(Self { pins: pins.clone(), maps: PolicyMaps::open(pins)?, ids })
    }

    /// The pinned program of a hook of TC.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    pub fn program(&self, hook: Hook) -> Result<PinnedProgram, Error> {
        PinnedProgram::open(&self.pins, hook)
    }

    /// The pinned programs as the kernel has them.
    ///
    /// # Errors
    ///
    /// They cannot be opened.
    pub fn programs(&self) -> Result<Vec<ProgramRow>, Error> {
        let row = |hook: &Hook| {
            let info = ProgramInfo::from_pin(self.pins.program(*hook));
            let info = info.map_err(|source| Error::program(hook.program(), source))?;
            Ok(ProgramRow::new(*hook, &info))
        };
        Hook::ALL.iter().map(row).collect()
    }

    /// What is wrong with the programs of an interface, in words.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn wrong_on(&self, ifindex: u32, port: &PortEntry) -> Result<Vec<String>, Error> {
        let wrong = look_at(&self.pins, ifindex, port, &self.ids)?;
        Ok(wrong.iter().map(ToString::to_string).collect())
    }

    /// What holds the programs of an interface.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn attached_to(&self, port: &PortEntry) -> Result<Vec<Attached>, Error> {
        let interface = read_name(&port.name);
        let row = |hook: Hook| {
            let pin = self.pins.link(interface, hook);
            let link = device::held_by(&pin).map_err(|error| Error::pin("open", &pin, error))?;
            let link = link.map(|link| link.id);
            Ok(Attached { interface: interface.to_owned(), program: hook.program(), link })
        };
        hooks_of(port).map(row).collect()
    }

    /// The first entry of each policy map, on the side that counts, that is not as the plan has it.
    ///
    /// # Errors
    ///
    /// A map cannot be read.
    pub fn differs_from(&self, plan: &Plan) -> Result<Option<(&'static str, String)>, Error> {
        let active = self.active()?;
        let plans = SIDES.map(|side| (side == active).then_some(plan));
        let foreign = self.maps.find_foreign(active, plans)?;
        Ok(foreign.map(|Foreign { map, entry }| (map, entry)))
    }

    /// What lies at an address, as the programs find it.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn place(&self, address: IpAddr) -> Result<Option<PlaceEntry>, Error> {
        self.maps.place(self.active()?, address.into())
    }

    /// What a slot's rules say of a protocol and port at an address, as the programs find it.
    ///
    /// # Errors
    ///
    /// A map cannot be read.
    pub fn rule(
        &self,
        slot: SlotId,
        address: IpAddr,
        service: (u8, u16),
    ) -> Result<Option<ServiceEntry>, Error> {
        self.maps.rule(self.active()?, slot, address.into(), service)
    }

    fn active(&self) -> Result<Side, Error> {
        let side = self.maps.active()?;
        if SIDES.contains(&side) {
            return Ok(side);
        }
        let no_side = format!("{} says side {side}, and there is none such", layout::ACTIVE);
        Err(Error::NotInForce(no_side))
    }
}
