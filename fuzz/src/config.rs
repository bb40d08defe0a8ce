//! The configuration: any text is a configuration, or mistakes with places in the text.

use synwall::config::Config;

/// Parses `octets` as a configuration. A valid one makes a policy and is the same after being shown.
pub fn run(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    match Config::parse("fuzz", text) {
        Ok(config) => {
            let shown = config.to_toml();
            assert_eq!(Config::parse("shown", &shown).as_ref(), Ok(&config), "{shown}");
            let policy = config.policy(1500).expect("a valid configuration makes a policy");
            assert!(config.policy_after(&policy).is_ok());
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            let lines = text.split('\n').count();
            for (line, column) in error.problems.iter().filter_map(|problem| problem.position) {
                assert!((1..=lines).contains(&line) && column >= 1, "{error}");
            }
            assert!(!error.to_string().is_empty());
        }
    }
}
