//! The live page in a browser, while a flood runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::floods::{Floods, config};
use crate::lab::{Lab, SERVER, eventually};
use crate::traffic::{address, visit};

#[test]
fn the_page_shows_floods_while_they_run() {
    let mut lab = Lab::up(&[]);
    lab.start(&config());
    let clients = lab.spawn("client", || {
        for _ in 0..300 {
            // That they get through is for other tests; here they are something to show.
            let _ = visit(address(SERVER[0], 80));
            thread::sleep(Duration::from_millis(100));
        }
    });
    let floods = Floods::start(&lab);
    let mut page = Page::default();
    let is_shown = eventually(Duration::from_secs(60), || {
        page = browse(&lab, "light", &[]);
        page.syn_rate("web") > 500.0
            && page.syn_rate("mail") > 100.0
            && page.samples() > 5
            && page.clients("web") > 0.0
            && page.names_a_drop()
            && ["web", "mail"].iter().all(|service| page.headline(service).contains("under attack ("))
            && page.row("prefixes", "<td>198.18.9.0/24</td>").is_some()
    });
    assert!(is_shown, "{page:#?}");
    assert!(page.html.contains("data-state=\"live\""), "{page:#?}");
    assert!(page.html.contains("outside up") && page.html.contains("inside up"), "{page:#?}");
    assert!(page.headline("six").starts_with("six: quiet"), "{page:#?}");
    for (service, kind) in [("web", "spoofed SYN flood"), ("mail", "SYN flood from few sources")] {
        let headline = page.headline(service);
        let state = format!("{service}: under attack ({kind}) for ");
        assert!(headline.starts_with(&state) && headline.contains(", challenging, "), "{page:#?}");
        let event = page.row("attacks", &format!("<td>{kind}</td><td>{service}</td>"));
        assert!(event.is_some_and(|event| event.contains(", goes on</td>")), "{event:?}: {page:#?}");
    }
    assert!(page.headline("web").contains("clients a second get through"), "{page:#?}");
    let heavy = page.row("prefixes", "<td>198.18.7.0/24</td>");
    assert!(heavy.is_some_and(|row| row.contains("<td class=\"of-all\">mail</td>")), "{page:#?}");

    let mut dark = browse(&lab, "dark", &["--blink-settings=preferredColorScheme=0"]);
    for (page, name) in [(&mut page, "light"), (&mut dark, "dark")] {
        // A browser that the flood leaves no time says so: a complaint counts if it comes again.
        let scheme = if name == "dark" { "--blink-settings=preferredColorScheme=0" } else { "--disable-gpu" };
        for _ in 0..2 {
            if !complaints(page).is_empty() {
                *page = browse(&lab, name, &[scheme]);
            }
        }
        assert!(complaints(page).is_empty(), "{name}: {:#?}", complaints(page));
        assert_is_picture(&page.picture, WIDTH, HEIGHT);
    }
    assert_ne!(fs::read(&page.picture).unwrap(), fs::read(&dark.picture).unwrap(), "two schemes");
    floods.stop();
    clients.join().unwrap();
    lab.stop();
}

/// The page's files without their data: what it looks like when synwall is gone.
fn complaints(page: &Page) -> Vec<&String> {
    page.console.iter().filter(|line| line.contains("CONSOLE")).collect()
}

#[test]
fn the_page_says_that_synwall_does_not_answer() {
    let lab = Lab::up(&[]);
    let files = concat!(env!("CARGO_MANIFEST_DIR"), "/src/control/page");
    let server = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", files, "10910"];
    lab.script(&[&["spawn", "box", "files"], &server[..]].concat());
    let mut page = Page::default();
    let is_told = eventually(Duration::from_secs(60), || {
        page = browse(&lab, "silent", &[]);
        page.html.contains("data-state=\"silent\"")
    });
    assert!(is_told && page.html.contains("synwall does not answer"), "{page:#?}");
}

/// What the browser made of the page.
#[derive(Debug, Default)]
struct Page {
    html: String,
    console: Vec<String>,
    picture: PathBuf,
}

impl Page {
    /// What it says of a service, as text.
    fn headline(&self, service: &str) -> String {
        let item = between(&self.html, &format!("data-service=\"{service}\""), "</li>");
        let text = item.split_once('>').unwrap_or_default().1;
        text.replace("<b>", "").replace("</b>", "").replace("&nbsp;", "\u{a0}")
    }

    /// SYNs a second as the headline says it.
    fn syn_rate(&self, service: &str) -> f64 {
        let headline = self.headline(service);
        headline.split(", ").find_map(|part| number(part.strip_suffix("\u{a0}SYN/s")?)).unwrap_or(0.0)
    }

    /// Clients a second that get through, as the headline says it.
    fn clients(&self, service: &str) -> f64 {
        let headline = self.headline(service);
        let words = headline.split(", ").find(|part| part.ends_with("get through"));
        words.and_then(|words| number(words.split(" of ").next()?)).unwrap_or(0.0)
    }

    /// The first row of a table that has these cells.
    fn row(&self, table: &str, cells: &str) -> Option<&str> {
        let rows = between(&self.html, &format!("<table id=\"{table}\""), "</table>");
        rows.split("<tr>").find(|row| row.contains(cells))
    }

    /// Samples in the chart of SYNs.
    fn samples(&self) -> u32 {
        between(&self.html, "data-samples=\"", "\"").parse().unwrap_or(0)
    }

    /// Random sources are bogus now and then, so that there is something to drop.
    fn names_a_drop(&self) -> bool {
        between(&self.html, "id=\"legend-drops\"", "</ul>").contains("bogus address")
    }
}

/// Opens the page in Chromium in the box's namespace, lets four seconds pass on its clock, and takes a picture.
fn browse(lab: &Lab, name: &str, options: &[&str]) -> Page {
    let profile = lab.state().join(format!("chromium-{name}"));
    let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png"));
    let _ = fs::remove_file(&picture);
    let output = lab
        .command("box", "timeout")
        .args(["60", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
        .args(["--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr"])
        .args(["--virtual-time-budget=4000", "--dump-dom"])
        .arg(format!("--window-size={WIDTH},{HEIGHT}"))
        .args(options)
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg("http://127.0.0.1:10910/")
        .output()
        .unwrap();
    let html = String::from_utf8_lossy(&output.stdout).into_owned();
    let console = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
    Page { html, console, picture }
}

/// The first piece of `text` after `begin` and before `end`.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    text.split_once(begin).and_then(|(_, rest)| rest.split_once(end)).unwrap_or_default().0
}

/// A count as the page writes it: `17`, `8.8`, `120 k`, `1.2 M`.
fn number(text: &str) -> Option<f64> {
    let (digits, unit) = text.split_once('\u{a0}').unwrap_or((text, ""));
    let factor = match unit {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        _ => return None,
    };
    digits.parse::<f64>().ok().map(|value| value * factor)
}

/// Asserts a PNG of this size with something on it: a plain surface of this size is less than 10 kB.
fn assert_is_picture(file: &Path, width: u32, height: u32) {
    let png = fs::read(file).unwrap();
    let at = |offset: usize| u32::from_be_bytes(png[offset..offset + 4].try_into().unwrap());
    assert_eq!((&png[..8], &png[12..16]), (&b"\x89PNG\r\n\x1a\n"[..], &b"IHDR"[..]), "{}", file.display());
    assert_eq!((at(16), at(20)), (width, height));
    assert!(png.len() > 40_000, "{} is blank or nearly so: {} octets", file.display(), png.len());
}

/// Of the window, in pixels: both tables are within it.
const WIDTH: u32 = 1280;
const HEIGHT: u32 = 1080;
