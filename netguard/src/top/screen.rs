//! What the screen shows at a moment, and what a key or a piece of news makes of it. No I/O.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::Value;

use super::sample::{Cost, Count, Rate, Sample, Slot};

/// How many drops the list remembers.
const DROPS_MAX: usize = 1000;
/// How many names are counted; the rarest one goes for another.
const NAMES_MAX: usize = 1000;

/// All that is shown.
#[derive(Default)]
pub(super) struct Screen {
    before: Option<Sample>,
    now: Sample,
    /// The latest last.
    drops: VecDeque<Seen>,
    /// By name and slot, how often a query was denied.
    denied: BTreeMap<(String, String), u64>,
    pub(super) sort: Sort,
    pub(super) search: String,
    /// What is typed goes into the search.
    pub(super) is_searching: bool,
    pub(super) is_paused: bool,
    /// The keys are explained.
    pub(super) shows_help: bool,
    /// The slot that the keys are about.
    selected: Option<String>,
    /// Of which there is all that is known.
    pub(super) detail: Option<String>,
    /// What keeps it from being told more.
    pub(super) trouble: Option<String>,
}

/// A dropped packet, as far as the list shows it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) time: String,
    pub(super) slot: String,
    pub(super) is_egress: bool,
    pub(super) reason: String,
    /// What it was, and what is at the other end.
    pub(super) packet: String,
    pub(super) line: String,
}

/// By what slots are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// As the daemon has them.
    #[default]
    Number,
    Name,
    Egress,
    Ingress,
    Drops,
}

/// A slot's line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) slot: &'a Slot,
    pub(super) egress: Rate,
    pub(super) ingress: Rate,
    pub(super) queries: Rate,
    pub(super) drops: Rate,
}

impl Sort {
    const ALL: [Self; 5] = [Self::Number, Self::Name, Self::Egress, Self::Ingress, Self::Drops];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Name => "name",
            Self::Egress => "egress",
            Self::Ingress => "ingress",
            Self::Drops => "drops",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|it| *it == self).unwrap_or_default();
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    fn order(self, one: &Row<'_>, other: &Row<'_>) -> Ordering {
        // What is most comes first.
        let most = |of: fn(&Row<'_>) -> Rate| of(other).packets.total_cmp(&of(one).packets);
        match self {
            Self::Number => Ordering::Equal,
            Self::Name => one.slot.name.cmp(&other.slot.name),
            Self::Egress => most(|row| row.egress),
            Self::Ingress => most(|row| row.ingress),
            Self::Drops => most(|row| row.drops),
        }
    }
}

impl Seen {
    /// Reads a line of `GET /v1/drops`.
    pub(super) fn read(drop: &Value) -> Self {
        let text = |key: &str| drop[key].as_str().unwrap_or("-").to_owned();
        let end = |address: &str, port: &str| {
            let address = text(address);
            match drop[port].as_u64() {
                Some(port) if address.contains(':') => format!("[{address}]:{port}"),
                Some(port) => format!("{address}:{port}"),
                None => address,
            }
        };
        let is_egress = drop["direction"] == "egress";
        let mut packet = text("protocol");
        if drop["dst"].is_string() {
            packet += " ";
            packet += &if is_egress { end("dst", "dst_port") } else { end("src", "src_port") };
        }
        if let Some(name) = drop["name"].as_str() {
            packet += &format!(" {name}");
        }
        Self {
            time: text("time").get(11..23).unwrap_or("-").to_owned(),
            slot: text("slot"),
            is_egress,
            reason: text("reason"),
            packet,
            line: text("line"),
        }
    }

    fn has(&self, words: &str) -> bool {
        [&self.slot, &self.reason, &self.packet, &self.line].iter().any(|it| it.contains(words))
    }
}

impl Screen {
    /// What the daemon says now. While the screen stands still it stays as it was.
    pub(super) fn take_sample(&mut self, sample: Sample) {
        self.trouble = None;
        if self.is_paused {
            return;
        }
        let is_next = self.now.at > Duration::ZERO;
        let before = std::mem::replace(&mut self.now, sample);
        self.before = is_next.then_some(before);
        if self.detail.as_ref().is_some_and(|name| self.now.slot(name).is_none()) {
            self.detail = None;
        }
    }

    /// A packet was dropped.
    pub(super) fn take_drop(&mut self, drop: Seen) {
        if self.is_paused {
            return;
        }
        if self.drops.len() >= DROPS_MAX {
            self.drops.pop_front();
        }
        self.drops.push_back(drop);
    }

    /// A query was denied.
    pub(super) fn take_denied(&mut self, name: String, slot: String) {
        if self.is_paused {
            return;
        }
        if self.denied.len() >= NAMES_MAX
            && !self.denied.contains_key(&(name.clone(), slot.clone()))
        {
            let rarest = self.denied.iter().min_by_key(|(_, count)| **count);
            if let Some(rarest) = rarest.map(|(key, _)| key.clone()) {
                self.denied.remove(&rarest);
            }
        }
        *self.denied.entry((name, slot)).or_default() += 1;
    }

    /// What a key does. False if it ends all.
    pub(super) fn press(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return true;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return key.code != KeyCode::Char('c');
        }
        if self.is_searching {
            match key.code {
                KeyCode::Enter => self.is_searching = false,
                KeyCode::Esc => {
                    self.is_searching = false;
                    self.search.clear();
                }
                KeyCode::Backspace => drop(self.search.pop()),
                KeyCode::Char(letter) => self.search.push(letter),
                _ => {} // there is nothing else to type
            }
            return true;
        }
        match key.code {
            KeyCode::Char('q') => return false,
            KeyCode::Char('/') => self.is_searching = true,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('?' | 'h') => self.shows_help = !self.shows_help,
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Enter => self.detail = self.selected().map(|slot| slot.name.clone()),
            KeyCode::Esc if self.shows_help => self.shows_help = false,
            KeyCode::Esc if self.detail.is_some() => self.detail = None,
            KeyCode::Esc => self.search.clear(),
            _ => {} // other keys mean nothing
        }
        true
    }

    /// To another slot's line, so many further down.
    fn go(&mut self, lines: isize) {
        let rows = self.rows();
        let last = rows.len().saturating_sub(1);
        let to = self.place(&rows).unwrap_or_default().saturating_add_signed(lines).min(last);
        self.selected = rows.get(to).map(|row| row.slot.name.clone());
        if self.detail.is_some() {
            self.detail.clone_from(&self.selected);
        }
    }

    fn place(&self, rows: &[Row<'_>]) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        rows.iter().position(|row| row.slot.name == *selected)
    }

    fn selected(&self) -> Option<&Slot> {
        let rows = self.rows();
        rows.get(self.place(&rows).unwrap_or_default()).map(|row| row.slot)
    }

    pub(super) fn now(&self) -> &Sample {
        &self.now
    }

    /// The line of the selected slot among those that are shown.
    pub(super) fn selected_line(&self) -> usize {
        self.place(&self.rows()).unwrap_or_default()
    }

    /// From one sample to the next.
    fn between(&self) -> Duration {
        self.before.as_ref().map_or(Duration::ZERO, |it| self.now.at.saturating_sub(it.at))
    }

    /// How fast something grows; a slot that has just come has no rate yet.
    fn rate(&self, slot: &Slot, of: impl Fn(&Slot) -> Count) -> Rate {
        let before = self.before.as_ref().and_then(|it| it.slot(&slot.name));
        before.map_or_else(Rate::default, |old| of(slot).rate(of(old), self.between()))
    }

    fn row<'a>(&self, slot: &'a Slot) -> Row<'a> {
        Row {
            slot,
            egress: self.rate(slot, |it| it.egress),
            ingress: self.rate(slot, |it| it.ingress),
            queries: self.rate(slot, |it| it.queries),
            drops: self.rate(slot, Slot::dropped),
        }
    }

    /// The slots that are shown, in their order.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let has = |slot: &&Slot| {
            let mut words = slot.interfaces.iter().chain([&slot.name]);
            words.any(|it| it.contains(&self.search))
                || self.drops.iter().any(|drop| drop.slot == slot.name && drop.has(&self.search))
        };
        let mut rows: Vec<_> = self.now.slots.iter().filter(has).map(|it| self.row(it)).collect();
        rows.sort_by(|one, other| self.sort.order(one, other));
        rows
    }

    /// All slots together.
    pub(super) fn sum(&self, of: impl Fn(&Row<'_>) -> Rate) -> Rate {
        let rates = self.now.slots.iter().map(|slot| of(&self.row(slot)));
        rates.fold(Rate::default(), |sum, rate| Rate {
            packets: sum.packets + rate.packets,
            bits: sum.bits + rate.bits,
        })
    }

    /// Why packets are dropped, of one slot or all of them: how many so far and how fast, what is most first.
    pub(super) fn reasons(&self, slot: Option<&str>) -> Vec<(String, u64, f64)> {
        let mut sums: BTreeMap<&str, (u64, f64)> = BTreeMap::new();
        for slot in self.now.slots.iter().filter(|it| slot.is_none_or(|name| name == it.name)) {
            for ((direction, reason), count) in &slot.drops {
                let key = (direction.clone(), reason.clone());
                let rate = self.rate(slot, |it| it.drops.get(&key).copied().unwrap_or_default());
                let sum = sums.entry(reason).or_default();
                *sum = (sum.0 + count.packets, sum.1 + rate.packets);
            }
        }
        let sums = sums.into_iter();
        let mut rows: Vec<_> =
            sums.map(|(reason, (packets, rate))| (reason.to_owned(), packets, rate)).collect();
        rows.sort_by(|one, other| other.2.total_cmp(&one.2).then(other.1.cmp(&one.1)));
        rows
    }

    /// The names that are denied most often, of one slot or all of them.
    pub(super) fn denied(&self, slot: Option<&str>) -> Vec<(&str, u64)> {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for ((name, of), count) in &self.denied {
            if slot.is_none_or(|slot| slot == of) && name.contains(&self.search) {
                *sums.entry(name).or_default() += count;
            }
        }
        let mut rows: Vec<_> = sums.into_iter().collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        rows
    }

    /// The drops that are shown, the latest first.
    pub(super) fn drops(&self, slot: Option<&str>) -> impl Iterator<Item = &Seen> {
        let is_wanted =
            move |drop: &&Seen| slot.is_none_or(|slot| slot == drop.slot) && drop.has(&self.search);
        self.drops.iter().rev().filter(is_wanted)
    }

    /// What each program costs now, if the kernel measures it.
    pub(super) fn costs(&self) -> impl Iterator<Item = (&str, Option<Cost>)> {
        let time = self.between();
        self.now.programs.iter().map(move |program| {
            let before = self.before.as_ref().into_iter().flat_map(|it| &it.programs);
            let old = before.into_iter().find(|it| it.name == program.name);
            (program.name.as_str(), old.and_then(|old| program.cost(old, time)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    fn press(screen: &mut Screen, keys: &str) -> bool {
        keys.chars().all(|letter| {
            let code = match letter {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                '\u{8}' => KeyCode::Backspace,
                letter => KeyCode::Char(letter),
            };
            screen.press(KeyEvent::new(code, KeyModifiers::NONE))
        })
    }

    fn names(screen: &Screen) -> Vec<&str> {
        screen.rows().iter().map(|row| row.slot.name.as_str()).collect()
    }

    #[test]
    fn rates_are_of_the_time_between_two_samples() {
        let screen = samples::screen();
        let row = screen.rows()[0];
        assert_eq!((row.egress.packets, row.drops.packets), (1000.0, 12.0));
        assert_eq!(screen.sum(|row| row.drops).packets, 14.0);
        assert_eq!(screen.reasons(None)[0], ("cross-slot".to_owned(), 112, 12.0));
        assert_eq!(screen.reasons(Some("slot2")), [("metadata".to_owned(), 5, 2.0)]);
    }

    #[test]
    fn keys_sort_select_and_open_a_slot() {
        let mut screen = samples::screen();
        assert_eq!(names(&screen), ["slot1", "slot2"]);
        press(&mut screen, "sss");
        assert_eq!((screen.sort, names(&screen)), (Sort::Ingress, vec!["slot2", "slot1"]));
        press(&mut screen, "jj\n");
        assert_eq!(screen.detail.as_deref(), Some("slot1"));
        press(&mut screen, "k");
        assert_eq!(screen.detail.as_deref(), Some("slot2"));
        press(&mut screen, "\u{1b}");
        assert_eq!(screen.detail, None);
        assert!(!press(&mut screen, "q"));
        assert!(!screen.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    }

    #[test]
    fn a_search_narrows_slots_drops_and_names_down() {
        let mut screen = samples::screen();
        press(&mut screen, "/169.254q\u{8}");
        assert!(screen.is_searching && screen.search == "169.254");
        press(&mut screen, "\n");
        assert_eq!((names(&screen), screen.drops(None).count()), (vec!["slot2"], 1));
        assert!(screen.denied(None).is_empty());
        press(&mut screen, "\u{1b}");
        assert_eq!((names(&screen).len(), screen.denied(None).len()), (2, 2));
    }

    #[test]
    fn a_paused_screen_stands_still() {
        let mut screen = samples::screen();
        press(&mut screen, "p");
        screen.take_sample(Sample::default());
        screen.take_denied("new.example".to_owned(), "slot1".to_owned());
        assert_eq!((names(&screen).len(), screen.denied(None).len()), (2, 2));
        press(&mut screen, "p");
        screen.take_sample(Sample::default());
        assert!(names(&screen).is_empty());
    }

    #[test]
    fn a_guest_cannot_fill_the_memory() {
        let mut screen = samples::screen();
        for number in 0..NAMES_MAX * 2 {
            screen.take_denied(format!("{number}.example"), "slot1".to_owned());
        }
        assert_eq!(screen.denied.len(), NAMES_MAX);
        // What is asked for often stays.
        assert_eq!(screen.denied(None)[0].0, "evil.example");
    }
}
