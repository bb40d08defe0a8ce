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
            Span::raw(format!("  up {}  {key}", duration(status.uptime_seconds))),
        ]);
        let all = status.flows.iter().filter(|(state, _)| *state != "syn_sent").map(|(_, count)| count).sum();
        let flows = Line::from(format!("flows {} {}", bar(all, status.flow_table_capacity), flow_counts(status)));
        let problem = status.problems.first().map(|problem| {
            let more = status.problems.len().saturating_sub(1);
            let rest = if more == 0 { String::new() } else { format!(" (and {more} more)") };
            Line::from(format!("{problem}{rest}")).fg(colour)
        });
        Paragraph::new(vec![first, flows, problem.unwrap_or_default()])
    }

    fn draw_services(&self, frame: &mut Frame<'_>, area: Rect) {
        let widths = [
            Constraint::Min(10),
            Constraint::Length(9),
            Constraint::Length(12),
            Constraint::Length(8),
            Constraint::Length(9),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(18),
            Constraint::Length(8),
        ];
        let heading = ["service", "mode", "state", "SYN/s", "cookie/s", "valid/s", "conn/s", "half-open", "drop/s"];
        let table = Table::new(self.status.services.iter().map(|service| self.row(service)), widths)
            .header(Row::new(heading).bold())
            .row_highlight_style(Style::new().reversed())
            .block(Block::new().borders(Borders::TOP));
        let mut state = TableState::new().with_selected(Some(self.selected));
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn row(&self, service: &Service) -> Row<'static> {
        let before = self.service_before(&service.name);
        let rate = |value: &dyn Fn(&Service) -> u64| {
            let was = before.map(value);
            was.and_then(|was| self.rate(value(service), was)).map_or("-".to_owned(), |rate| number(rate.round() as u64))
        };
        let counter = |name: &'static str| rate(&move |service: &Service| service.counter(name));
        let connections =
            |service: &Service| service.counter("flows_proxied").saturating_add(service.counter("flows_direct"));
        let is_changed = service.mode != service.configured_mode;
        let state = match (service.under_attack, service.state) {
            (true, _) => Cell::new(format!("{} !", service.state.label())).fg(Color::Red),
            (false, State::Quiet) => Cell::new(service.state.label()).fg(Color::Green),
            (false, State::Challenging | State::Pressure) => Cell::new(service.state.label()).fg(Color::Yellow),
        };
        let half_open = format!("{} {}", bar(service.half_open, service.max_half_open), number(service.half_open));
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
        let line = |(reason, rate): (String, f64)| Line::from(format!("{reason:<24} {:>8}", number(rate.ceil() as u64)));
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
            if event.ended.is_none() && event.kind.is_attack() { Line::from(text).fg(Color::Red) } else { Line::from(text) }
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
