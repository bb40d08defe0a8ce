//! The live page over HTTP: its files, their headers, its data.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests are tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use synwall::config::Config;
use synwall::control::http::{self, Answers, Readiness};
use synwall::control::live::Live;
use synwall::engine::Shared;
use synwall::io::PortStats;
use synwall::time::Instant;

const FILES: [(&str, &str); 8] = [
    ("/", "text/html; charset=utf-8"),
    ("/live.js", "text/javascript; charset=utf-8"),
    ("/charts.js", "text/javascript; charset=utf-8"),
    ("/words.js", "text/javascript; charset=utf-8"),
    ("/live.css", "text/css; charset=utf-8"),
    ("/live.svg", "image/svg+xml"),
    ("/uplot.js", "text/javascript; charset=utf-8"),
    ("/uplot.css", "text/css; charset=utf-8"),
];

const CONFIG: &str = r#"
[bridge]
outside = "eth0"
inside = "eth1"

[[service]]
name = "web"
address = "198.18.0.1"
ports = [80]
mode = "always"
"#;

/// A server whose history has ten samples, at the seconds 1001 to 1010 since 1970.
fn server() -> SocketAddr {
    let policy = Config::parse("", CONFIG).unwrap().policy(1500).unwrap();
    let ports = Arc::new(PortStats::new("eth0", "eth1"));
    let live = Live::new(Arc::new(Shared::new(policy, 1, [1, 2])), ports, Arc::default());
    for second in 0..=10 {
        live.sample(Duration::from_secs(1000 + second), Instant::ZERO.after(Duration::from_secs(second)));
    }
    let readiness = Readiness { outside_up: true, inside_up: true, keys: true, workers: true };
    let answers = Answers {
        metrics: Box::new(|| Ok("metrics\n".to_owned())),
        readiness: Box::new(move || readiness),
        live,
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { http::serve(listener, answers).unwrap().await })
    });
    address
}

/// The head and the body of an answer.
fn ask(address: SocketAddr, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: synwall\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn json(address: SocketAddr, path: &str) -> Value {
    let (head, body) = ask(address, "GET", path);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    serde_json::from_str(&body).unwrap()
}

fn assert_headers(path: &str, head: &str, content_type: &str) {
    assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
    for line in [
        &format!("content-type: {content_type}"),
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        assert_eq!(head.lines().filter(|found| *found == line).count(), 1, "{path}: {line} in\n{head}");
    }
}

#[test]
fn every_file_has_the_strict_headers_and_is_there_to_read_only() {
    let address = server();
    for (path, content_type) in FILES.into_iter().chain([("/live.json", "application/json")]) {
        let (head, body) = ask(address, "GET", path);
        assert_headers(path, &head, content_type);
        assert!(!body.is_empty());
        let (head, body) = ask(address, "HEAD", path);
        assert_headers(path, &head, content_type);
        assert_eq!(body, "");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            assert!(ask(address, method, path).0.starts_with("HTTP/1.1 405 "), "{method} {path}");
        }
    }
    for path in ["/index.html", "/live", "/live.js/", "/../Cargo.toml", "/page/live.js", "/favicon.ico"] {
        assert!(ask(address, "GET", path).0.starts_with("HTTP/1.1 404 "), "{path}");
    }
}

#[test]
fn the_page_asks_for_nothing_that_is_not_its_own() {
    let address = server();
    for (path, _) in FILES {
        let (_, text) = ask(address, "GET", path);
        // Names, not addresses: an SVG's namespace, and the first line of uPlot, which says where it comes from.
        let text = text.replace("http://www.w3.org/2000/svg", "");
        let text = text.replace("/*! https://github.com/leeoniya/uPlot (v1.6.32) */", "");
        for foreign in ["http:", "https:", "ws:", "wss:", "//cdn", "src=\"//", "href=\"//", "@import", "url("]
        {
            assert!(!text.contains(foreign), "{foreign} in {path}");
        }
    }
    let (_, page) = ask(address, "GET", "/");
    for part in page.split(['"', '\'']).filter(|part| part.starts_with('/')) {
        assert!(ask(address, "GET", part).0.starts_with("HTTP/1.1 200 "), "{part}");
    }
    for inline in ["<style", " style=", "<script>", " onclick", " onload", "javascript:"] {
        assert!(!page.contains(inline), "{inline}");
    }
    for path in ["/live.js", "/charts.js", "/words.js"] {
        let (_, script) = ask(address, "GET", path);
        for unsafe_use in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("]
        {
            assert!(!script.contains(unsafe_use), "{unsafe_use}: text of others is set by textContent alone");
        }
    }
}

#[test]
fn the_data_names_services_ports_and_samples() {
    let answer = json(server(), "/live.json");
    assert_eq!(answer["services"][0]["name"], "web");
    assert_eq!(answer["services"][0]["mode"], "always");
    assert_eq!(answer["services"][0]["is_challenging"], true);
    assert_eq!(answer["ports"][1]["interface"], "eth1");
    assert_eq!(answer["ports"][1]["up"], true);
    assert!(answer["time"].as_f64().unwrap() > 1_700_000_000.0);
    let series = answer["series"].as_object().unwrap();
    for (column, values) in series.iter().filter(|(column, _)| *column != "drops") {
        assert_eq!(values.as_array().unwrap().len(), 10, "{column}");
    }
    assert_eq!((&series["t"][0], &series["t"][9]), (&Value::from(1001.0), &Value::from(1010.0)));
    assert_eq!((&answer["traffic"], &answer["attacks"]), (&Value::from([(); 0]), &Value::from([(); 0])));
}

#[test]
fn after_and_service_choose_the_samples() {
    let address = server();
    let times = |query: &str| json(address, &format!("/live.json?{query}"))["series"]["t"].clone();
    assert_eq!(times("after=1008"), Value::from([1009.0, 1010.0]));
    assert_eq!(times("after=1008.5&service=web"), Value::from([1009.0, 1010.0]));
    assert_eq!(times("after=1010"), Value::from([(); 0]));
    assert_eq!(times("after=-1e300").as_array().unwrap().len(), 10);
    assert_eq!(times("service=nobody"), Value::Null);
    assert_eq!(times("unknown=1&after=1009"), Value::from([1010.0]));
    assert!(ask(address, "GET", "/live.json?after=soon").0.starts_with("HTTP/1.1 400 "));
}
