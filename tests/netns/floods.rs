//! Two floods at the same time: from forged sources on one service, from two prefixes on another.

use std::net::TcpListener;

use crate::lab::{CONFIG, Lab, SERVER};
use crate::traffic::address;

/// The lab's configuration in mode adaptive, with a third service: the floods are on `web` and `mail`, `six` is quiet.
pub(crate) fn config() -> String {
    let adaptive = CONFIG.replace("mode = \"always\"", "mode = \"adaptive\"").replace("\"four\"", "\"web\"");
    adaptive + "\n[[service]]\nname = \"mail\"\naddress = \"198.18.255.2\"\nports = [25]\n"
}

/// Both of them, for a minute and a half at most.
pub(crate) struct Floods<'a> {
    lab: &'a Lab,
    _mail: TcpListener,
}

impl Floods<'_> {
    /// Some thousand SYNs a second each, so that the machine has time for whoever looks on.
    pub(crate) fn start(lab: &Lab) -> Floods<'_> {
        let mail = lab.within("server", || TcpListener::bind(address(SERVER[0], 25))).unwrap();
        hping(lab, "forged", &["--interval", "u100", "--destport", "80", "--rand-source"]);
        hping(lab, "seven", &["--interval", "u200", "--destport", "25", "--spoof", "198.18.7.7"]);
        hping(lab, "nine", &["--interval", "u400", "--destport", "25", "--spoof", "198.18.9.9"]);
        Floods { lab, _mail: mail }
    }

    /// Ends them.
    pub(crate) fn stop(self) {
        for name in ["forged", "seven", "nine"] {
            self.lab.script(&["stop", name]);
        }
    }
}

fn hping(lab: &Lab, name: &str, options: &[&str]) {
    let bounds = ["timeout", "--signal=INT", "--kill-after=2", "90"];
    let syns = ["hping3", "--quiet", "--numeric", "--syn", SERVER[0]];
    lab.script(&[&["spawn", "attacker", name], &bounds[..], &syns, options].concat());
}
