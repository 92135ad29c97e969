//! How the screen looks: 80 columns and 24 lines are enough, more show more.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize as _},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Clear, Paragraph, Row as TableRow, Table, TableState},
};

use super::{
    sample::{Cost, Rate},
    screen::{Row, Screen, Seen},
};

/// From so many columns on there is room for what else is known of a slot.
const WIDE: u16 = 104;
/// How many lines the tables in the middle have, with their title.
const MIDDLE: u16 = 7;

const TITLE: Style = Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD);
const BAD: Style = Style::new().fg(Color::Red);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
const WHERE: Style = Style::new().fg(Color::Yellow);

const KEYS: &[(&str, &str)] = &[
    ("q, Ctrl-C", "end"),
    ("↑ ↓, k j", "another slot"),
    ("Enter, Esc", "all that there is of the slot, and back"),
    ("/", "only what has these letters; Enter keeps them, Esc forgets them"),
    ("s", "sort by number, name, egress, ingress, drops"),
    ("p, space", "stand still, and go on"),
    ("?, h", "these lines"),
];

/// Draws all of it.
pub(super) fn screen(screen: &Screen, frame: &mut Frame<'_>) {
    let alarms = screen.now().alarms.len().min(2) as u16;
    let [head, wrong, body, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(alarms),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    self::head(screen, frame, head);
    let lines = screen.now().alarms.iter().map(|alarm| Line::styled(format!("! {alarm}"), BAD));
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), wrong);
    match &screen.detail {
        Some(slot) => of_slot(screen, slot, frame, body),
        None => overview(screen, frame, body),
    }
    self::foot(screen, frame, foot);
    if screen.shows_help {
        help(frame);
    }
}

fn head(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let now = screen.now();
    let state = match (&screen.trouble, screen.is_paused) {
        (Some(trouble), _) => Span::styled(format!(" {trouble}"), BAD),
        (None, true) => Span::styled(" standing still", WHERE),
        (None, false) => Span::styled(format!(" since {}", now.since), FAINT),
    };
    let one = Line::from(vec![
        Span::styled(format!("netguard {}", now.instance), TITLE),
        Span::raw(format!(" {} slots, policy {},", now.slots.len(), now.generation)),
        state,
    ]);
    let sum = |of: fn(&Row<'_>) -> Rate| screen.sum(of);
    let known = |of: fn(&super::sample::Slot) -> Option<u64>| {
        let all: Option<Vec<u64>> = now.slots.iter().map(of).collect();
        all.map(|all| all.iter().sum::<u64>())
    };
    let share: Option<f64> = screen
        .costs()
        .map(|(_, cost)| cost.map(|it| it.share))
        .fold(None, |sum, share| share.map_or(sum, |share| Some(sum.unwrap_or_default() + share)));
    let two = [
        both("egress", sum(|row| row.egress)),
        both("ingress", sum(|row| row.ingress)),
        format!("drops {}/s", short(sum(|row| row.drops).packets)),
    ];
    let mut three = vec![format!("queries {}/s", short(sum(|row| row.queries).packets))];
    for (what, count) in [("pins", known(|it| it.pins)), ("flows", known(|it| it.flows))] {
        if let Some(count) = count {
            three.push(format!("{what} {}", short(count as f64)));
        }
    }
    if let Some(share) = share {
        three.push(format!("CPU {:.1} %", share * 100.0));
    }
    if now.records_lost > 0 {
        three.push(format!("{} records lost", short(now.records_lost as f64)));
    }
    frame.render_widget(
        Paragraph::new(vec![one, Line::raw(two.join("  ")), Line::raw(three.join("  "))]),
        area,
    );
}

fn both(way: &str, rate: Rate) -> String {
    format!("{way} {}/s {}bit/s", short(rate.packets), short(rate.bits))
}

fn overview(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    // A line for each slot, as far as a third of the room is left for drops.
    let wanted = u16::try_from(screen.rows().len() + 2).unwrap_or(u16::MAX);
    let lines = wanted.min(area.height.saturating_sub(MIDDLE) / 3 * 2).max(3);
    let [slots, middle, drops] = Layout::vertical([
        Constraint::Length(lines),
        Constraint::Length(MIDDLE),
        Constraint::Fill(1),
    ])
    .areas(area);
    self::slots(screen, frame, slots);
    let thirds = [Constraint::Fill(1), Constraint::Fill(1), Constraint::Length(28)];
    let [left, centre, right] = Layout::horizontal(thirds).spacing(1).areas(middle);
    reasons(screen, None, frame, left);
    denied(screen, None, frame, centre);
    programs(screen, frame, right);
    self::drops(screen, None, frame, drops);
}

fn of_slot(screen: &Screen, name: &str, frame: &mut Frame<'_>, area: Rect) {
    let Some(slot) = screen.now().slot(name) else { return };
    let [facts, middle, drops] = Layout::vertical([
        Constraint::Length(5),
        Constraint::Length(MIDDLE + 2),
        Constraint::Fill(1),
    ])
    .areas(area);
    let facts_of = |count: super::sample::Count| {
        format!("{} packets, {}B", short(count.packets as f64), short(count.bytes as f64))
    };
    let number = |count: Option<u64>| count.map_or("-".to_owned(), |it| short(it as f64));
    let lines = vec![
        Line::raw(format!("interfaces  {}", slot.interfaces.join(" "))),
        Line::raw(format!(
            "egress      {}    ingress  {}",
            facts_of(slot.egress),
            facts_of(slot.ingress)
        )),
        Line::raw(format!(
            "dropped     {}    queries  {}",
            facts_of(slot.dropped()),
            short(slot.queries.packets as f64)
        )),
        Line::raw(format!("pins        {}    flows  {}", number(slot.pins), number(slot.flows))),
    ];
    frame.render_widget(Paragraph::new(lines).block(title(format!("Slot {name}"))), facts);
    let halves = [Constraint::Fill(1), Constraint::Fill(1)];
    let [left, right] = Layout::horizontal(halves).spacing(1).areas(middle);
    reasons(screen, Some(name), frame, left);
    denied(screen, Some(name), frame, right);
    self::drops(screen, Some(name), frame, drops);
}

fn slots(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let is_wide = area.width >= WIDE;
    let mut names = vec!["slot", "egress/s", "bit/s", "ingress/s", "bit/s", "queries/s", "drops/s"];
    names.push("dropped");
    if is_wide {
        names.extend(["pins", "flows"]);
    }
    let numbers = std::iter::repeat_n(Constraint::Length(9), names.len() - 1);
    let widths = [Constraint::Fill(1)].into_iter().chain(numbers);
    let head = names.iter().enumerate().map(|(index, name)| aligned(index, (*name).to_owned()));
    let rows = screen.rows().into_iter().map(|row| {
        let mut cells = vec![
            row.slot.name.clone(),
            short(row.egress.packets),
            short(row.egress.bits),
            short(row.ingress.packets),
            short(row.ingress.bits),
            short(row.queries.packets),
            short(row.drops.packets),
            short(row.slot.dropped().packets as f64),
        ];
        if is_wide {
            let known = |count: Option<u64>| count.map_or("-".to_owned(), |it| short(it as f64));
            cells.extend([known(row.slot.pins), known(row.slot.flows)]);
        }
        let style = if row.drops.packets > 0.0 { BAD } else { Style::new() };
        TableRow::new(cells.into_iter().enumerate().map(|(index, cell)| aligned(index, cell)))
            .style(style)
    });
    let table = Table::new(rows, widths)
        .header(TableRow::new(head).style(FAINT))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(title("Slots".to_owned()));
    let mut state = TableState::new().with_selected(screen.selected_line());
    frame.render_stateful_widget(table, area, &mut state);
}

/// Words to the left, numbers to the right.
fn aligned(column: usize, text: String) -> Cell<'static> {
    let alignment = if column == 0 { Alignment::Left } else { Alignment::Right };
    Cell::new(Line::raw(text).alignment(alignment))
}

fn reasons(screen: &Screen, slot: Option<&str>, frame: &mut Frame<'_>, area: Rect) {
    let rows = screen.reasons(slot).into_iter().map(|(reason, packets, rate)| {
        let cells = [reason, short(packets as f64), format!("{}/s", short(rate))];
        TableRow::new(cells.into_iter().enumerate().map(|(index, cell)| aligned(index, cell)))
    });
    list(
        rows,
        &[Constraint::Fill(1), Constraint::Length(6), Constraint::Length(7)],
        "Drops by reason",
        frame,
        area,
    );
}

fn denied(screen: &Screen, slot: Option<&str>, frame: &mut Frame<'_>, area: Rect) {
    let rows = screen.denied(slot).into_iter().map(|(name, count)| {
        let cells = [name.to_owned(), short(count as f64)];
        TableRow::new(cells.into_iter().enumerate().map(|(index, cell)| aligned(index, cell)))
    });
    list(rows, &[Constraint::Fill(1), Constraint::Length(6)], "Denied names", frame, area);
}

fn programs(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let rows = screen.costs().map(|(name, cost)| {
        let cells = match cost {
            Some(Cost { nanoseconds, share, .. }) => {
                [format!("{nanoseconds:.0} ns"), format!("{:.1} %", share * 100.0)]
            }
            None => ["-".to_owned(), "-".to_owned()],
        };
        let name = name.strip_prefix("ng_").unwrap_or(name).to_owned();
        let cells = [name].into_iter().chain(cells).enumerate();
        TableRow::new(cells.map(|(index, cell)| aligned(index, cell)))
    });
    list(
        rows,
        &[Constraint::Fill(1), Constraint::Length(7), Constraint::Length(6)],
        "Programs",
        frame,
        area,
    );
}

fn list<'a>(
    rows: impl Iterator<Item = TableRow<'a>>,
    widths: &[Constraint],
    name: &str,
    frame: &mut Frame<'_>,
    area: Rect,
) {
    let rows = rows.take(area.height.saturating_sub(1).into());
    frame.render_widget(Table::new(rows, widths).block(title(name.to_owned())), area);
}

fn drops(screen: &Screen, slot: Option<&str>, frame: &mut Frame<'_>, area: Rect) {
    let lines = screen.drops(slot).take(area.height.saturating_sub(1).into()).map(dropped);
    let lines: Vec<_> = lines.collect();
    frame.render_widget(Paragraph::new(lines).block(title("Drops".to_owned())), area);
}

fn dropped(drop: &Seen) -> Line<'_> {
    let way = if drop.is_egress { " > " } else { " < " };
    Line::from(vec![
        Span::styled(&*drop.time, FAINT),
        Span::raw(" "),
        Span::raw(&*drop.slot).cyan(),
        Span::raw(way),
        Span::styled(&*drop.reason, BAD),
        Span::raw(format!(" {} ", drop.packet)),
        Span::styled(&*drop.line, WHERE),
    ])
}

fn foot(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let line = if screen.is_searching {
        Line::from(vec![Span::styled("/", TITLE), Span::raw(format!("{}_", screen.search))])
    } else if screen.search.is_empty() {
        let words = format!(
            "q end  ? keys  / search  p stand still  Enter slot  s sorted by {}",
            screen.sort.name()
        );
        Line::styled(words, FAINT)
    } else {
        Line::styled(format!("only what has {:?}; Esc shows all again", screen.search), WHERE)
    };
    frame.render_widget(Paragraph::new(line), area);
}

fn help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let width = area.width.min(78);
    let height = area.height.min(KEYS.len() as u16 + 2);
    let area = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    let lines = KEYS.iter().map(|(key, words)| {
        Line::from(vec![Span::styled(format!(" {key:<11}"), TITLE), Span::raw(*words)])
    });
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(Span::styled(" Keys ", TITLE));
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
}

fn title(words: String) -> Block<'static> {
    Block::new().borders(Borders::TOP).border_style(FAINT).title(Span::styled(words + " ", TITLE))
}

/// At most four digits and a letter: 7, 9999, 12k, 3.4M.
fn short(value: f64) -> String {
    let mut rest = value;
    if rest < 9999.5 {
        return if rest > 0.0 && rest < 9.95 && rest.fract() > 0.05 {
            format!("{rest:.1}")
        } else {
            format!("{rest:.0}")
        };
    }
    for letter in ["k", "M", "G", "T"] {
        rest /= 1000.0;
        if rest < 9.95 {
            return format!("{rest:.1}{letter}");
        }
        if rest < 9999.5 && (rest < 999.5 || letter == "T") {
            return format!("{rest:.0}{letter}");
        }
    }
    format!("{rest:.0}T")
}

#[cfg(test)]
mod tests {
    use ratatui::{
        Terminal,
        backend::TestBackend,
        crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    };

    use super::{super::samples, *};

    fn drawn(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| super::screen(screen, frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = buffer.content.chunks(width.into()).map(|cells| {
            let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
            line.trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn press(screen: &mut Screen, code: KeyCode) {
        screen.press(KeyEvent::new(code, KeyModifiers::NONE));
    }

    #[test]
    fn eighty_columns_and_twenty_four_lines_show_all_there_is() {
        let found = drawn(&samples::screen(), 80, 24);
        assert_eq!(found, include_str!("tests/overview.txt").trim_end(), "\n{found}");
    }

    #[test]
    fn a_slot_has_a_screen_of_its_own() {
        let mut screen = samples::screen();
        press(&mut screen, KeyCode::Enter);
        let found = drawn(&screen, 80, 24);
        assert_eq!(found, include_str!("tests/slot.txt").trim_end(), "\n{found}");
    }

    #[test]
    fn a_wide_screen_shows_pins_and_flows_of_each_slot() {
        let found = drawn(&samples::screen(), 120, 30);
        let slot = found.lines().find(|line| line.starts_with("slot1")).unwrap();
        assert!(slot.split_whitespace().rev().take(2).eq(["12", "3"]), "{found}");
    }

    #[test]
    fn nothing_is_too_small_to_be_drawn() {
        let mut screen = samples::screen();
        for _ in 0..2 {
            for (width, height) in [(1, 1), (20, 5), (80, 8), (30, 24)] {
                drawn(&screen, width, height);
            }
            press(&mut screen, KeyCode::Char('?'));
            press(&mut screen, KeyCode::Enter);
        }
    }

    #[test]
    fn what_is_wrong_and_what_is_typed_is_shown() {
        let mut screen = samples::screen();
        let mut sample = screen.now().clone();
        sample.alarms = vec!["ng_xdp is gone from vm-slot1".to_owned()];
        screen.take_sample(sample);
        for letter in "/evil".chars() {
            press(&mut screen, KeyCode::Char(letter));
        }
        let found = drawn(&screen, 80, 24);
        assert!(
            found.contains("! ng_xdp is gone from vm-slot1") && found.ends_with("/evil_"),
            "{found}"
        );
        assert!(found.contains("evil.example") && !found.contains("ads.example"), "{found}");
        press(&mut screen, KeyCode::Enter);
        press(&mut screen, KeyCode::Char('p'));
        let found = drawn(&screen, 80, 24);
        assert!(
            found.contains("standing still") && found.contains("only what has \"evil\""),
            "{found}"
        );
        press(&mut screen, KeyCode::Char('?'));
        assert!(drawn(&screen, 80, 24).contains("stand still, and go on"));
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (7.0, "7"),
            (12.4, "12"),
            (9999.0, "9999"),
            (10_000.0, "10k"),
            (999_400.0, "999k"),
            (999_600.0, "1.0M"),
            (3_400_000.0, "3.4M"),
            (12e12, "12T"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
