//! What `synwall top` shows: a function of two statuses and the selected service.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState};

use super::super::text::{course, duration, flow_counts, number};
use crate::control::attacks::Traffic;
use crate::control::status::{Health, Service, State, Status};

/// The screen.
pub(super) struct View {
    status: Status,
    /// The one before, for rates.
    before: Option<Status>,
    selected: usize,
    /// Why the figures are old.
    pub(super) notice: Option<String>,
}

impl View {
    pub(super) fn new(status: Status) -> View {
        View { status, before: None, selected: 0, notice: None }
    }

    /// Takes the next status.
    pub(super) fn update(&mut self, status: Status) {
        self.notice = None;
        let is_same_run = status.uptime_seconds > self.status.uptime_seconds;
        let before = std::mem::replace(&mut self.status, status);
        // Another synwall counts from zero.
        self.before = Some(before).filter(|_| is_same_run);
        self.selected = self.selected.min(self.last());
    }

    pub(super) fn select_next(&mut self) {
        self.selected = self.selected.saturating_add(1).min(self.last());
    }

    pub(super) fn select_previous(&mut self) {
        self.selected = self.selected.saturating_sub(1);
    }

    fn last(&self) -> usize {
        self.status.services.len().saturating_sub(1)
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let heights = [
            Constraint::Length(HEADER_LINES),
            Constraint::Min(4),
            Constraint::Length(8),
            Constraint::Length(6),
            Constraint::Length(1),
        ];
        let [header, services, middle, events, footer] = Layout::vertical(heights).areas(frame.area());
        let [drops, prefixes] =
            Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(middle);
        frame.render_widget(self.header(), header);
        self.draw_services(frame, services);
        frame.render_widget(boxed(self.drops(), &format!("drops a second: {}", self.name())), drops);
        frame.render_widget(boxed(self.prefixes(), &format!("sources of SYNs: {}", self.name())), prefixes);
        frame.render_widget(boxed(self.events(), "latest events"), events);
        frame.render_widget(Paragraph::new(self.footer()), footer);
    }

    fn header(&self) -> Paragraph<'static> {
        let status = &self.status;
        let colour = match status.health {
            Health::Healthy => Color::Green,
            Health::Degraded => Color::Yellow,
            Health::Down => Color::Red,
        };
        let key = status.key_epoch.map_or("no cookie key".to_owned(), |epoch| format!("key epoch {epoch}"));
        let first = Line::from(vec![
            Span::raw(format!("synwall {}  ", status.version)),
            Span::styled(status.health.label(), Style::new().fg(colour).add_modifier(Modifier::BOLD)),
            Span::raw(format!("  up {}  {key}  {}", duration(status.uptime_seconds), status.plane.label())),
        ]);
        let all = status.flows.iter().filter(|(state, _)| *state != "syn_sent").map(|(_, count)| count).sum();
        let flows =
            Line::from(format!("flows {} {}", bar(all, status.flow_table_capacity), flow_counts(status)));
        let problem = status.problems.first().map(|problem| {
            let more = status.problems.len().saturating_sub(1);
            let rest = if more == 0 { String::new() } else { format!(" (and {more} more)") };
            Line::from(format!("{problem}{rest}")).fg(colour)
        });
        Paragraph::new(vec![first, flows, problem.unwrap_or_default()])
    }

    fn draw_services(&self, frame: &mut Frame<'_>, area: Rect) {
        let is_wide = area.width >= WIDE;
        let widths = if is_wide { [10, 9, 13, 8, 9, 8, 8, 18, 8] } else { [8, 9, 13, 6, 8, 7, 6, 9, 6] };
        let column =
            |(number, width)| if number == 0 { Constraint::Min(width) } else { Constraint::Length(width) };
        let widths = widths.into_iter().enumerate().map(column);
        let heading =
            ["service", "mode", "state", "SYN/s", "cookie/s", "valid/s", "conn/s", "half-open", "drop/s"];
        let table = Table::new(self.status.services.iter().map(|service| self.row(service, is_wide)), widths)
            .header(Row::new(heading).bold())
            .row_highlight_style(Style::new().reversed())
            .block(Block::new().borders(Borders::TOP));
        let mut state = TableState::new().with_selected(Some(self.selected));
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn row(&self, service: &Service, is_wide: bool) -> Row<'static> {
        let before = self.service_before(&service.name);
        let rate = |value: &dyn Fn(&Service) -> u64| {
            let was = before.map(value);
            was.and_then(|was| self.rate(value(service), was))
                .map_or("-".to_owned(), |rate| number(rate.round() as u64))
        };
        let counter = |name: &'static str| rate(&move |service: &Service| service.counter(name));
        let connections = |service: &Service| {
            service.counter("flows_proxied").saturating_add(service.counter("flows_direct"))
        };
        let is_changed = service.mode != service.configured_mode;
        let state = match (service.under_attack, service.state) {
            (true, _) => Cell::new(format!("{} !", service.state.label())).fg(Color::Red),
            (false, State::Quiet) => Cell::new(service.state.label()).fg(Color::Green),
            (false, State::Challenging | State::Pressure) => {
                Cell::new(service.state.label()).fg(Color::Yellow)
            }
        };
        let mut half_open = number(service.half_open);
        if is_wide {
            half_open = format!("{} {half_open}", bar(service.half_open, service.max_half_open));
        }
        Row::new([
            Cell::new(service.name.clone()),
            Cell::new(format!("{}{}", service.mode, if is_changed { "*" } else { "" })),
            state,
            Cell::new(counter("syn_received")),
            Cell::new(counter("synack_sent")),
            Cell::new(counter("cookie_valid")),
            Cell::new(rate(&connections)),
            Cell::new(half_open),
            Cell::new(rate(&Service::dropped_frames)),
        ])
    }

    /// Of the selected service, the most first.
    fn drops(&self) -> Vec<Line<'static>> {
        let Some(service) = self.service() else { return Vec::new() };
        let Some(before) = self.service_before(&service.name) else { return vec![Line::from("…")] };
        let rates = service.dropped.iter().filter_map(|(reason, count)| {
            let rate = self.rate(*count, before.dropped.get(reason).copied().unwrap_or(0))?;
            (rate > 0.0).then(|| (reason.clone(), rate))
        });
        let mut rates: Vec<(String, f64)> = rates.collect();
        rates.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        if rates.is_empty() {
            return vec![Line::from("none")];
        }
        let line = |(reason, rate): (String, f64)| {
            Line::from(format!("{reason:<24} {:>8}", number(rate.ceil() as u64)))
        };
        rates.into_iter().map(line).collect()
    }

    fn prefixes(&self) -> Vec<Line<'static>> {
        let Some(traffic) = self.traffic() else { return vec![Line::from("nothing seen")] };
        let summary = format!(
            "{} sources, {:.0}% new, {:.0}% complete",
            number(traffic.distinct_sources),
            traffic.new_source_share * 100.0,
            traffic.completed_share * 100.0
        );
        let heavy = traffic
            .top_prefixes
            .iter()
            .map(|heavy| Line::from(format!("{:<30} {:>5.1}%", heavy.prefix, heavy.share * 100.0)));
        [Line::from(summary)].into_iter().chain(heavy).collect()
    }

    fn events(&self) -> Vec<Line<'static>> {
        if self.status.recent_events.is_empty() {
            return vec![Line::from("none")];
        }
        let show = |event: &crate::control::attacks::Attack| {
            let text = format!(
                "{} on {}, {}, peak {} SYN/s",
                event.kind.label(),
                event.service,
                course(event, self.status.time),
                number(event.peak_syn_rate as u64)
            );
            if event.ended.is_none() && event.kind.is_attack() {
                Line::from(text).fg(Color::Red)
            } else {
                Line::from(text)
            }
        };
        self.status.recent_events.iter().map(show).collect()
    }

    fn footer(&self) -> Line<'static> {
        match &self.notice {
            Some(what) => Line::from(what.clone()).fg(Color::Red).bold(),
            None => Line::from("q quit   ↑↓ choose a service").dim(),
        }
    }

    fn name(&self) -> String {
        self.service().map_or(String::new(), |service| service.name.clone())
    }

    fn service(&self) -> Option<&Service> {
        self.status.services.get(self.selected)
    }

    fn traffic(&self) -> Option<&Traffic> {
        let service = self.service()?;
        self.status.traffic.iter().find(|traffic| traffic.service == service.name)
    }

    fn service_before(&self, name: &str) -> Option<&Service> {
        self.before.as_ref()?.services.iter().find(|service| service.name == name)
    }

    /// How much a second `now` has grown since the status before.
    fn rate(&self, now: u64, was: u64) -> Option<f64> {
        let time = self.status.uptime_seconds - self.before.as_ref()?.uptime_seconds;
        (time > 0.0).then(|| now.saturating_sub(was) as f64 / time)
    }
}

fn boxed(lines: Vec<Line<'static>>, title: &str) -> Paragraph<'static> {
    Paragraph::new(lines).block(Block::new().borders(Borders::TOP).title(title.to_owned()))
}

/// Ten places, filled as `part` is of `whole`; a part that is not nothing shows.
fn bar(part: u64, whole: u64) -> String {
    let filled = part.min(whole).saturating_mul(10).div_ceil(whole.max(1));
    let filled = usize::try_from(filled).unwrap_or(10).min(10);
    format!("[{}{}]", "#".repeat(filled), ".".repeat(10_usize.saturating_sub(filled)))
}

const HEADER_LINES: u16 = 3;
/// Columns of a terminal with room for bars; without them 80 will do.
const WIDE: u16 = 100;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::control::attacks::{Attack, HeavyPrefix, Kind, Totals};

    fn service(name: &str, counters: &[(&str, u64)], dropped: &[(&str, u64)]) -> Service {
        let named =
            |entries: &[(&str, u64)]| entries.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        Service {
            name: name.into(),
            mode: "adaptive".into(),
            configured_mode: "always".into(),
            state: State::Challenging,
            under_attack: true,
            backend_up: true,
            half_open: 100,
            max_half_open: 1000,
            cookies_in_flight: 0,
            counters: named(counters),
            dropped: named(dropped),
            server_options: BTreeMap::new(),
        }
    }

    fn status(uptime_seconds: f64, services: Vec<Service>) -> Status {
        let heavy = HeavyPrefix { prefix: "198.18.3.0/24".into(), share: 0.125 };
        let event = Attack {
            id: "1790000000-1".into(),
            service: "web".into(),
            kind: Kind::SpoofedSyn,
            started: 1_790_000_000.0,
            ended: None,
            peak_syn_rate: 250_000.0,
            peak_half_open: 3,
            totals: Totals::default(),
            distinct_sources: 9,
            new_source_share: 1.0,
            completed_share: 0.0,
            top_prefixes: vec![heavy.clone()],
            source_ports: 1,
            top_ports: Vec::new(),
            hop_limits: [64, 64],
        };
        Status {
            version: "1.2.3".into(),
            health: Health::Degraded,
            problems: vec!["the server of web does not answer".into(), "x".into()],
            time: 1_790_000_035.0,
            uptime_seconds,
            plane: crate::control::status::Plane { kind: "xdp".into(), mode: "native".into(), reason: None },
            ports: Vec::new(),
            services,
            unserved_dropped: BTreeMap::new(),
            flows: [("established".to_owned(), 500), ("syn_sent".to_owned(), 7)].into(),
            flow_table_capacity: 1000,
            key_epoch: Some(42),
            early_data_bytes: 0,
            workers: 1,
            traffic: vec![Traffic {
                service: "web".into(),
                distinct_sources: 123_456,
                new_source_share: 0.99,
                top_prefixes: vec![heavy],
                ..Traffic::default()
            }],
            events: vec![event.clone()],
            recent_events: vec![event],
            blocks: Vec::new(),
        }
    }

    /// The screen's lines, without the spaces at their ends.
    fn screen(view: &View) -> Vec<String> {
        screen_of(view, 110)
    }

    fn screen_of(view: &View, columns: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(columns, 26)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = buffer.content().chunks(usize::from(columns));
        lines
            .map(|cells| cells.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned())
            .collect()
    }

    fn later() -> View {
        let first = service("web", &[("syn_received", 1000), ("flows_proxied", 1)], &[("cookie_invalid", 5)]);
        let then =
            [("syn_received", 251_000), ("synack_sent", 500), ("cookie_valid", 20), ("flows_proxied", 21)];
        let second = service("web", &then, &[("cookie_invalid", 205), ("no_flow", 3)]);
        let mut view = View::new(status(60.0, vec![first, service("mail", &[], &[])]));
        view.update(status(62.0, vec![second, service("mail", &[], &[])]));
        view
    }

    #[test]
    fn two_statuses_make_rates_bars_and_words() {
        let lines = screen(&later());
        for expected in [
            "synwall 1.2.3  degraded  up 1m2s  key epoch 42  xdp native",
            "flows [#####.....] 500 of 1000: 500 established; 7 half-open",
            "the server of web does not answer (and 1 more)",
            "web                   adaptive* challenging ! 125k     250       10       10       [#.........] 100   102",
            "cookie_invalid                100",
            "no_flow                         2",
            "spoofed_syn on web, for 35s, peak 250k SYN/s",
            "q quit   ↑↓ choose a service",
        ] {
            assert!(
                lines.iter().any(|line| line.contains(expected)),
                "{expected:?} is not in\n{}",
                lines.join("\n")
            );
        }
        let prefixes = lines.iter().find(|line| line.contains("198.18.3.0/24  ")).expect("a heavy prefix");
        assert!(prefixes.ends_with(" 12.5%"), "{prefixes}");
        assert!(lines.iter().any(|line| line.ends_with("123k sources, 99% new, 0% complete")));
    }

    #[test]
    fn eighty_columns_have_room_for_every_figure() {
        let lines = screen_of(&later(), 80);
        for expected in [
            "service  mode      state         SYN/s  cookie/s valid/s conn/s half-open drop/s",
            "web      adaptive* challenging ! 125k   250      10      10     100       102",
        ] {
            assert!(
                lines.iter().any(|line| line == expected),
                "{expected:?} is not in\n{}",
                lines.join("\n")
            );
        }
    }

    #[test]
    fn the_selected_service_decides_what_is_told_and_stays_in_range() {
        let mut view = later();
        view.select_next();
        view.select_next();
        let lines = screen(&view);
        assert!(lines.iter().any(|line| line.contains("drops a second: mail")), "{}", lines.join("\n"));
        assert!(lines.iter().any(|line| line.contains("nothing seen")), "{}", lines.join("\n"));
        view.update(status(63.0, vec![service("web", &[], &[])]));
        assert!(screen(&view).iter().any(|line| line.contains("drops a second: web")));
        view.select_previous();
        view.update(status(64.0, Vec::new()));
        assert!(screen(&view).iter().any(|line| line.contains("drops a second:")));
    }

    #[test]
    fn without_two_statuses_of_one_run_there_is_no_rate_and_trouble_is_told() {
        let mut view = later();
        view.update(status(1.0, vec![service("web", &[("syn_received", 5)], &[("no_flow", 1)])]));
        let lines = screen(&view);
        assert!(lines.iter().any(|line| line.contains("challenging ! -        -  ")), "{}", lines.join("\n"));
        view.notice = Some("synwall cannot be reached".into());
        assert_eq!(screen(&view).last().unwrap(), "synwall cannot be reached");
        view.update(status(2.0, vec![service("web", &[("syn_received", 6)], &[])]));
        assert!(screen(&view).last().unwrap().starts_with("q quit"));
    }

    #[test]
    fn a_bar_shows_what_there_is() {
        assert_eq!(bar(0, 10), "[..........]");
        assert_eq!(bar(1, 1_000_000), "[#.........]");
        assert_eq!(bar(11, 10), "[##########]");
        assert_eq!(bar(0, 0), "[..........]");
    }
}
