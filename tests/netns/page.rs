//! The live page in a browser, while a flood runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::lab::{Lab, SERVER, eventually};
use crate::traffic::{address, visit};

#[test]
fn the_page_shows_a_flood_while_it_runs() {
    let mut lab = Lab::protected(&[]);
    lab.script(&["flood", "120"]);
    let clients = lab.spawn("client", || {
        for _ in 0..300 {
            // That they get through is for other tests; here they are something to show.
            let _ = visit(address(SERVER[0], 80));
            thread::sleep(Duration::from_millis(100));
        }
    });
    let mut page = Page::default();
    let is_shown = eventually(Duration::from_secs(60), || {
        page = browse(&lab, "light", &[]);
        page.syn_rate() > 1000.0 && page.samples() > 5 && page.clients() > 0.0 && page.names_a_drop()
    });
    assert!(is_shown, "{page:#?}");
    assert!(page.html.contains("data-state=\"live\""), "{page:#?}");
    assert!(page.headline.starts_with("four: "), "{page:#?}");
    assert!(page.headline.contains("challenging every SYN"), "{page:#?}");
    assert!(page.headline.contains("clients a second get through"), "{page:#?}");
    assert!(page.html.contains("outside up") && page.html.contains("inside up"), "{page:#?}");

    let dark = browse(&lab, "dark", &["--blink-settings=preferredColorScheme=0"]);
    for (page, name) in [(&page, "light"), (&dark, "dark")] {
        let complaints: Vec<_> = page.console.iter().filter(|line| line.contains("CONSOLE")).collect();
        assert!(complaints.is_empty(), "{name}: {complaints:#?}");
        assert_is_picture(&page.picture, 1280, 900);
    }
    assert_ne!(fs::read(&page.picture).unwrap(), fs::read(&dark.picture).unwrap(), "two schemes");
    clients.join().unwrap();
    lab.stop();
}

/// The page's files without their data: what it looks like when synwall is gone.
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
    headline: String,
    console: Vec<String>,
    picture: PathBuf,
}

impl Page {
    /// SYNs a second as the headline says it.
    fn syn_rate(&self) -> f64 {
        self.headline.split(", ").find_map(|part| number(part.strip_suffix("\u{a0}SYN/s")?)).unwrap_or(0.0)
    }

    /// Clients a second that get through, as the headline says it.
    fn clients(&self) -> f64 {
        let words = self.headline.split(", ").find(|part| part.ends_with("get through"));
        words.and_then(|words| number(words.split(" of ").next()?)).unwrap_or(0.0)
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
        .args(["--virtual-time-budget=4000", "--window-size=1280,900", "--dump-dom"])
        .args(options)
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg("http://127.0.0.1:10910/")
        .output()
        .unwrap();
    let html = String::from_utf8_lossy(&output.stdout).into_owned();
    let console = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
    let headline = between(&html, "data-service=\"four\"", "</li>").split_once('>').unwrap_or_default().1;
    let headline = headline.replace("<b>", "").replace("</b>", "").replace("&nbsp;", "\u{a0}");
    Page { headline, html, console, picture }
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
